"""The one place that knows MLflow runs: where they are kept, how a step's run opens, what it records, how it ends."""

import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import leaves, live, mlflow_store
from tasks.errors import TrackingError
from tasks.live import BATCH
from tasks.mlflow_store import EXPERIMENT, first_line
from tasks.settings import home

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY, STAGE = "evergreen.key", "evergreen.stage"
LONGEST_PARAM = 500  # characters: what every MLflow store takes whole
PARAMS = 100  # that one request may hold
MISUSE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # the caller is wrong, not the store
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}

logger = logging.getLogger("evergreen.tracking")
_experiments: dict[str, str] = {}  # the id of ours by the address of the server


@dataclass(frozen=True)
class Run:
    """An open MLflow run, addressed by its id: any thread may log to it."""

    id: str
    feed: live.Feed

    def log(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Records the summary's numbers, the pictures of `folder/log`, and what was not yet sent of its history."""
        log_metrics(self.id, leaves.numbers(summary))
        with reachable():
            self.feed.finish(folder / "log")
        log_files(self.id, sorted((folder / "log").glob("*.png")), under="plots")


@dataclass(frozen=True)
class Recorded:
    """A run of the store as it is now; `started` in milliseconds since 1970."""

    id: str
    started: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def uri() -> str:
    """`$MLFLOW_TRACKING_URI`, by default a SQLite file in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def exists() -> bool:
    """Whether there is a store to read. A home in which nothing has run has none, and reading must not make one."""
    return not uri().startswith("sqlite:///") or Path(uri().removeprefix("sqlite:///")).exists()


def client() -> "MlflowClient":
    """A client of the store, which is made on first use. Raises TrackingError when it cannot be reached."""
    from mlflow import MlflowClient

    target = uri()
    with reachable():
        mlflow_store.prepare(target)
        return MlflowClient(tracking_uri=target, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or target)


def experiment() -> str:
    """The id of the experiment that holds every run. Raises TrackingError when somebody deleted it."""
    found = client().get_experiment_by_name(EXPERIMENT)
    assert found is not None
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {EXPERIMENT!r} at {uri()} is deleted; bring it back with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found.experiment_id


@contextmanager
def run(*, stage: str, name: str, key: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Run]:
    """A run that ends FINISHED, FAILED on an exception, and KILLED when it was told to stop.

    Runs of the same key that a killed process left RUNNING are ended first. Safe in parallel threads: nothing
    here touches MLflow's active run.
    """
    store, where = client(), experiment()
    with reachable():
        _end_stale(store, where, key)
        opened = store.create_run(where, run_name=f"{stage}/{name}", tags={**tags, KEY: key, STAGE: stage})
        _log_params(store, opened.info.run_id, params)
    feed = live.Feed(opened.info.run_id, client, uri())
    try:
        with live.opened(feed):
            yield Run(opened.info.run_id, feed)
    except BaseException as error:
        feed.try_to_send()
        _end(store, opened.info.run_id, "FAILED" if isinstance(error, Exception | SystemExit) else "KILLED")
        raise
    with reachable():
        store.set_terminated(opened.info.run_id, "FINISHED")


def run_url(run_id: str) -> str:
    """Where a browser finds a run; empty where the store is no server, or does not say. Costs nothing the second time.

    To be shown, not to be relied upon: it never raises.
    """
    target = uri().rstrip("/")
    if not run_id or not target.startswith(("http:", "https:")):
        return ""
    if target not in _experiments:
        try:
            _experiments[target] = experiment()
        except Exception as error:
            logger.debug("no link to run %s: %s", run_id, first_line(error))
            return ""
    return f"{target}/#/experiments/{_experiments[target]}/runs/{run_id}"


def latest_run(key: str) -> str | None:
    """The id of the newest run of a step's key."""
    if not exists():
        return None
    found = client().search_runs([experiment()], f"tags.`{KEY}` = '{key}'", max_results=1)
    return found[0].info.run_id if found else None


def tagged(tag: str, value: str) -> list[Recorded]:
    """The runs that carry a tag, newest first."""
    store, where = client(), experiment()
    found: list[Recorded] = []
    token = None
    with reachable():
        while True:
            page = store.search_runs([where], f"tags.`{tag}` = '{value}'", page_token=token)
            found += [
                Recorded(each.info.run_id, each.info.start_time, each.data.params, each.data.metrics, each.data.tags)
                for each in page
            ]
            token = page.token
            if not token:
                return found


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    store = client()
    with reachable():
        for name, value in tags.items():
            store.set_tag(run_id, name, value)


def log_metrics(run_id: str, values: Mapping[str, float], model_id: str | None = None) -> None:
    """Final values of a run and, where `model_id` is given, of the model that was logged in it."""
    from mlflow.entities import Metric

    now = _now()
    _send(run_id, [Metric(name, value, now, 0, model_id=model_id, run_id=run_id) for name, value in values.items()])


def log_dataset(run_id: str, *, digest: str, path: Path, counts: Mapping[str, Any], context: str) -> None:
    """Records which data a run made or used (`context`), as MLflow's "Datasets used" shows it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": path.as_uri()})
    made = Dataset("data", digest[:36], "local", source, profile=json.dumps({"rows": counts})[:65_000])
    store = client()
    with reachable():
        store.log_inputs(run_id, [DatasetInput(made, [InputTag("mlflow.data.context", context)])])


def log_files(run_id: str, paths: Sequence[Path], under: str | None = None) -> None:
    store = client()
    with reachable():
        for path in paths:
            store.log_artifact(run_id, str(path), under)


def log_text(run_id: str, path: str, text: str) -> None:
    store = client()
    with reachable():
        store.log_text(run_id, text, path)


@contextmanager
def as_default() -> Iterator[None]:
    """Makes this store MLflow's own default for a while: its model API takes no client."""
    import mlflow

    target, before = uri(), os.environ.get("MLFLOW_TRACKING_URI")
    with mlflow_store.guard:
        mlflow.set_tracking_uri(target)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None)  # also removes the variable, which it had set
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def reachable() -> Iterator[None]:
    """Turns a store that cannot be reached, read or written into one TrackingError with the remedy."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DISK_ERRORS:
            raise
        if isinstance(error, MlflowException) and error.error_code in MISUSE:
            raise
        remedy = "see that it can be written and has room"
        if "out-of-date" in str(error):
            remedy = f"another MLflow made it: `mlflow db upgrade {uri()}`"
        raise TrackingError(f"the MLflow store at {uri()} fails: {first_line(error)}; {remedy}") from error


def _end_stale(store: "MlflowClient", where: str, key: str) -> None:
    stale = store.search_runs([where], f"tags.`{KEY}` = '{key}' and attributes.status = 'RUNNING'")
    for each in stale:
        store.set_terminated(each.info.run_id, "KILLED")


def _end(store: "MlflowClient", run_id: str, state: str) -> None:
    """Ends a run whose work failed; that error matters more than a store which fails as well."""
    try:
        with mlflow_store.quiet():
            store.set_terminated(run_id, state)
    except Exception as error:
        logger.warning("run %s at %s could not be ended as %s: %s", run_id, uri(), state, first_line(error))


def _log_params(store: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    texts = leaves.texts(params)
    short = [Param(name, text) for name, text in texts.items() if len(text) <= LONGEST_PARAM]
    for start in range(0, len(short), PARAMS):
        store.log_batch(run_id, params=short[start : start + PARAMS])
    if len(short) < len(texts):
        store.log_dict(run_id, dict(params), "recipe.json")


def _send(run_id: str, metrics: Sequence[Any]) -> None:
    store = client()
    with reachable():
        for start in range(0, len(metrics), BATCH):
            store.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _now() -> int:
    return round(1000 * time.time())
