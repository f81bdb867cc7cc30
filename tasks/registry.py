"""The registry: a model is logged, compared with the champion on the same items, and promoted or not, with reasons."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import catalogue, code, pages, steps, tracking
from tasks.artifacts import Checkpoint, EvaluationReport, RegisteredModel
from tasks.catalogue import CHALLENGER, CHAMPION, PREVIOUS, STAGE, VERDICT
from tasks.errors import RegistryError
from tasks.gate import ITEMS, METRICS, Gate, Items, decide, read_items
from tasks.settings import home

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

PROMOTED, REFUSED = "promoted", "not promoted"
ITEMS_DIGEST, ROW = "evergreen.items_digest", "evergreen.row"
REQUIREMENTS = ("torch", "transformers", "accelerate", "tokenizers")

logger = logging.getLogger("evergreen.registry")


def key(name: str, model: str, report: str, gate: Gate) -> str:
    """The identity of a registration, from the keys of the model and of its evaluation."""
    return steps.digest_of({"name": name, "model": model, "report": report, "gate": gate.model_dump(mode="json")})[:16]


def status(name: str, wanted: str) -> steps.Status:
    """Whether the version with this key is in the registry with a verdict."""
    found = catalogue.version_with(name, wanted) if tracking.exists() else None
    if found is None:
        return steps.Status(False, f"no version of {name} has this model, evaluation and gate")
    if VERDICT not in found.tags:
        return steps.Status(False, f"version {found.version} of {name} waits for its verdict")
    return steps.Status(True, f"is version {found.version} of {name}")


@task(task_run_name="register {name}", cache_policy=NO_CACHE)
def register(
    model: Checkpoint,
    report: EvaluationReport,
    *,
    name: str,
    gate: Gate,
    lineage: Mapping[str, str],
    evaluate_again: Callable[[Path], Items],
) -> RegisteredModel:
    """Logs and registers a model once, and moves the champion's alias to it or leaves it.

    `evaluate_again(folder)` scores the champion on the report's items where it was scored on others. Two runs at
    once wait for each other, so that one champion remains. Raises RegistryError for a name that MLflow or a folder
    cannot bear.
    """
    _check_name(name)
    wanted = key(name, model.key, report.key, gate)
    with _lock(name), tracking.reachable():
        version = catalogue.version_with(name, wanted)
        reused = version is not None and VERDICT in version.tags
        if version is None:
            version = _log_version(model, report, name, wanted, gate, lineage)
        if not reused:
            _settle(version, model.model, report.path, gate, evaluate_again)
        registered = _artifact(name, version.version, model, report, reused=reused)
    pages.show_version(registered)
    return registered


def _log_version(
    model: Checkpoint, report: EvaluationReport, name: str, wanted: str, gate: Gate, lineage: Mapping[str, str]
) -> "ModelVersion":
    """A run with the evaluation, the model logged in it, and a version of it that is the challenger."""
    store, figures = tracking.client(), _figures(report.path)
    tags = {**lineage, tracking.KEY: wanted, ITEMS_DIGEST: _yardstick(figures), ROW: gate.candidate}
    with tracking.run(stage=STAGE, name=name, key=wanted, params=gate.model_dump(mode="json"), tags=tags) as run:
        tracking.log_files(run.id, [report.path / METRICS, report.path / ITEMS])
        tracking.log_metrics(run.id, {**_all_rows(figures), **_means(figures, gate.candidate)})
        if name not in catalogue.models():
            store.create_registered_model(name)
        with tracking.as_default():
            model_id = _log_model(run.id, name, model.model)
            version = store.create_model_version(name, f"models:/{model_id}", run.id, tags=tags, model_id=model_id)
        tracking.log_metrics(run.id, _means(figures, gate.candidate), model_id)
        store.set_registered_model_alias(name, CHALLENGER, version.version)
    logger.info("registered version %s of %s", version.version, name)
    return version


def _log_model(run_id: str, name: str, folder: Path) -> str:
    """Logs a merged model with its tokenizer in the transformers flavour; returns the logged model's id.

    An unmerged adapter would be written without a complaint and come back with random weights.
    """
    import mlflow.transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as messages

    messages.disable_progress_bar()
    parts = {"model": AutoModelForCausalLM.from_pretrained(folder), "tokenizer": AutoTokenizer.from_pretrained(folder)}
    pinned = [f"{each}=={_release(each)}" for each in REQUIREMENTS]
    with tracking.quiet(), mlflow.start_run(run_id=run_id):
        logged = mlflow.transformers.log_model(parts, name=name, task="text-generation", pip_requirements=pinned)
    return logged.model_id


def _release(library: str) -> str:
    return metadata.version(library).split("+")[0]


def _settle(
    version: "ModelVersion", model: Path, report: Path, gate: Gate, evaluate_again: Callable[[Path], Items]
) -> None:
    """Decides and records. The verdict is written last: a version without one is decided by the next run."""
    champion = catalogue.aliased(version.name, CHAMPION)
    promoted = champion is not None and champion.version == version.version  # killed between the swap and its record
    if not promoted:
        items = _champion_items(champion, report, evaluate_again) if champion else None
        verdict = decide(report, items, gate)
        checks = json.dumps([check.model_dump() for check in verdict.checks])
        _tag(version, {"reasons": "\n".join(verdict.reasons), "checks": checks})
        if promoted := verdict.promote:
            _swap(version, champion, model)
    _tag(version, {VERDICT: PROMOTED if promoted else REFUSED})
    if promoted:
        tracking.client().delete_registered_model_alias(version.name, CHALLENGER)
    logger.info("version %s of %s is %s", version.version, version.name, PROMOTED if promoted else REFUSED)


def _swap(version: "ModelVersion", champion: "ModelVersion | None", model: Path) -> None:
    """Versions the weights first: whatever fails, the alias still names the champion that was."""
    from tasks.versioning import version_model

    pointer = version_model.fn(model, version.name)
    _tag(version, {f"dvc.{field}": str(value) for field, value in pointer.items()})
    if champion is not None:
        tracking.client().set_registered_model_alias(version.name, PREVIOUS, champion.version)
    tracking.client().set_registered_model_alias(version.name, CHAMPION, version.version)


def _champion_items(champion: "ModelVersion", report: Path, evaluate_again: Callable[[Path], Items]) -> Items:
    if champion.tags.get(ITEMS_DIGEST) != _yardstick(_figures(report)):
        logger.info("version %s, the champion, was scored on other items; evaluating it again", champion.version)
        return evaluate_again(catalogue.folder_of(champion))
    with TemporaryDirectory() as folder:
        items = read_items(Path(tracking.client().download_artifacts(champion.run_id, ITEMS, folder)))
    return [{"id": item["id"], "scores": item["scores"][champion.tags[ROW]]} for item in items]


def _yardstick(figures: Mapping[str, Any]) -> str:
    """Digest of the items and of the code that scores them: scores compare only where both are the same."""
    return steps.digest_of([figures["items_digest"], code.digests("models.metrics", "models.rewards")])[:16]


def _figures(report: Path) -> dict[str, Any]:
    return json.loads((report / METRICS).read_text(encoding="utf-8"))


def _all_rows(figures: Mapping[str, Any]) -> dict[str, float]:
    """`<row>/<metric>` of every model and rule, and its interval as `<row>/<metric>/low` and `/high`."""
    cells = {f"{row}/{metric}": cell for row, metrics in figures["rows"].items() for metric, cell in metrics.items()}
    flat = {name: {bound: cell[bound] for bound in ("mean", "low", "high")} for name, cell in cells.items()}
    return {name.removesuffix("/mean"): value for name, value in tracking.numbers(flat).items()}


def _means(figures: Mapping[str, Any], row: str) -> dict[str, float]:
    return {metric: cell["mean"] for metric, cell in figures["rows"][row].items()}


def _artifact(name: str, number: str, model: Checkpoint, report: EvaluationReport, *, reused: bool) -> RegisteredModel:
    found = tracking.client().get_model_version(name, number)
    described = catalogue.described(found, catalogue.models()[name])
    return RegisteredModel(
        stage=STAGE,
        name=name,
        key=found.tags[tracking.KEY],
        digest=model.digest,
        path=catalogue.folder_of(found),
        inputs={"model": model.digest, "report": report.digest},
        summary={
            **{field: described[field] for field in ("version", "aliases", "verdict")},
            "reasons": found.tags["reasons"].splitlines(),
            "checks": json.loads(found.tags["checks"]),
        },
        run_id=found.run_id,
        reused=reused,
    )


def _tag(version: "ModelVersion", tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        tracking.client().set_model_version_tag(version.name, version.version, name, value)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise RegistryError(f"{name!r} cannot name a model; use at most 64 small letters, digits and . _ -")


@contextmanager
def _lock(name: str) -> Iterator[None]:
    from filelock import FileLock

    folder = home() / "registry"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
