"""How a store of MLflow is made on first use, once, whoever opens it; whether a server answers."""

import logging
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import TrackingError
from tasks.settings import home

EXPERIMENT = "evergreen"
FILE = "sqlite:///"

guard = threading.RLock()  # of what belongs to the process: MLflow's own default store, filters, levels of loggers
_ready: set[str] = set()


def prepare(target: str) -> None:
    """Makes the store and the experiment once. Two processes that open a fresh database together break it."""
    from filelock import FileLock

    if target in _ready:
        return
    with guard:
        check_server(target)
        home().mkdir(parents=True, exist_ok=True)
        with FileLock(home() / "mlflow.lock"), quiet():
            _make_file(target)
            _create_experiment(target)
        _ready.add(target)


def check_server(target: str) -> None:
    """Raises TrackingError where nobody answers at a web address; MLflow's own client would try for minutes."""
    if not target.startswith(("http:", "https:")):
        return
    try:
        urllib.request.urlopen(target.rstrip("/") + "/health", timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answered: a proxy or another path, and that is enough
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"no MLflow server answers at {target} ({first_line(error)}); start it, or correct MLFLOW_TRACKING_URI, "
            f"or unset it to keep the runs in {home() / 'mlflow.db'}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what MLflow, alembic and pandas say of themselves, here and nowhere else."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [each.level for each in loggers]
    with guard, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _make_file(target: str) -> None:
    """Makes a fresh SQLite store beside its place and renames it: MLflow cannot go on from a half-made one."""
    file = Path(target.removeprefix(FILE))
    if not target.startswith(FILE) or file.exists():
        return
    scratch = file.with_name(file.name + ".new")
    scratch.unlink(missing_ok=True)
    scratch.with_name(scratch.name + "-journal").unlink(missing_ok=True)
    _create_experiment(f"{FILE}{scratch}")
    scratch.replace(file)


def _create_experiment(target: str) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(tracking_uri=target)
    if store.get_experiment_by_name(EXPERIMENT) is None:
        # a tracking server knows where its artifacts belong; without one MLflow would take the working directory
        local = None if target.startswith(("http:", "https:", "databricks")) else (home() / "mlartifacts").as_uri()
        store.create_experiment(EXPERIMENT, artifact_location=local)
