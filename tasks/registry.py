"""The registry: a model is logged as a version with its evaluation and all that leads back to where it came from."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import catalogue, leaves, mlflow_store, steps, tracking, weights
from tasks import lineage as origins
from tasks.artifacts import Checkpoint, EvaluationReport, RegisteredModel
from tasks.catalogue import CHALLENGER, CONTENT, PASSED, STAGE, VERDICT
from tasks.errors import RegistryError
from tasks.gate import Gate
from tasks.rival import METRICS, REPORT, yardstick
from tasks.settings import home
from tasks.training import EXPORT

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

TASK = "text-generation"
PICKLED = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
GATE = "gate.json"
YARDSTICK, ROW = "evergreen.yardstick", "evergreen.row"
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
    if found.tags[VERDICT] == PASSED:
        return steps.Status(False, f"version {found.version} of {name} waits for its promotion")
    return steps.Status(True, f"is version {found.version} of {name}")


@task(task_run_name="register {name}", cache_policy=NO_CACHE)
def register(
    model: Checkpoint, report: EvaluationReport, *, name: str, gate: Gate, lineage: Mapping[str, Any]
) -> RegisteredModel:
    """Logs a model once and registers it as the challenger; the same model, evaluation and gate are one version.

    Raises RegistryError for a name that MLflow or a folder cannot bear, and for weights that are no safetensors.
    """
    _check_name(name)
    wanted = key(name, model.key, report.key, gate)
    with lock(name), tracking.reachable():
        version = catalogue.version_with(name, wanted)
        reused = version is not None and version.tags.get(VERDICT, PASSED) != PASSED
        if version is None:
            version = _log_version(model, report, name, wanted, gate, lineage)
        folder = catalogue.folder_of(version)
        if CONTENT not in version.tags:
            content = catalogue.checkpoint(folder).key
            tracking.client().set_model_version_tag(name, version.version, CONTENT, content)
        made = RegisteredModel(
            stage=STAGE, name=name, key=wanted, digest=model.digest, path=folder,
            inputs={"model": model.digest, "report": report.digest}, run_id=version.run_id, reused=reused,
        )  # fmt: skip
        return handle(version, made)


def handle(version: "ModelVersion", made: RegisteredModel) -> RegisteredModel:
    """The handle with what the registry says of the version now."""
    found = tracking.client().get_model_version(version.name, version.version)
    described = catalogue.described(found, catalogue.aliases(found.name))
    summary = {
        **{field: described[field] for field in ("version", "aliases", "verdict")},
        "reasons": found.tags.get("reasons", "").splitlines(),
        "checks": json.loads(found.tags.get("checks", "[]")),
        "skipped": found.tags.get("skipped", "").splitlines(),
    }
    return made.model_copy(update={"summary": summary})


def _log_version(
    model: Checkpoint, report: EvaluationReport, name: str, wanted: str, gate: Gate, lineage: Mapping[str, Any]
) -> "ModelVersion":
    """A run with the evaluation, the model logged in it, and a version of it that is the challenger."""
    store, figures = tracking.client(), _figures(report.path)
    tags = {**origins.tags(lineage), tracking.KEY: wanted, YARDSTICK: yardstick(report.path), ROW: gate.candidate}
    means = {**_means(figures, gate.candidate), catalogue.PARAMETERS: float(weights.parameters(model.model))}
    with tracking.run(stage=STAGE, name=name, key=wanted, params=gate.model_dump(mode="json"), tags=tags) as run:
        tracking.log_files(run.id, [report.path / each for each in REPORT])
        tracking.log_files(run.id, [path for path in (model.path / EXPORT,) if path.exists()])
        tracking.log_text(run.id, GATE, gate.model_dump_json(indent=1))
        tracking.log_text(run.id, origins.FILE, json.dumps(origins.document(lineage, tags), indent=1))
        tracking.log_metrics(run.id, {**_all_rows(figures), **means})
        if name not in catalogue.models():
            store.create_registered_model(name)
        with tracking.as_default():
            model_id = log_model(run.id, name, model.model)
            version = store.create_model_version(name, f"models:/{model_id}", run.id, tags=tags, model_id=model_id)
        tracking.log_metrics(run.id, means, model_id)
        store.set_registered_model_alias(name, CHALLENGER, version.version)
    logger.info("registered version %s of %s", version.version, name)
    return version


def log_model(run_id: str, name: str, folder: Path) -> str:
    """Logs a merged model with its tokenizer in the transformers flavour, file by file; returns the logged model's id.

    The weights are copied and never loaded. An unmerged adapter would be written without a complaint and come back
    with random weights; pickled weights would run code where they are loaded.
    """
    import mlflow.transformers
    from transformers.utils import logging as messages

    refused = [path.name for path in folder.iterdir() if path.suffix in PICKLED or path.name.startswith("adapter_")]
    if refused or not list(folder.glob("*.safetensors")):
        raise RegistryError(
            f"{folder} holds {', '.join(refused) or 'no weights'}: a registered model is merged and in safetensors; "
            "save it with merge_and_unload().save_pretrained(folder)"
        )
    messages.disable_progress_bar()
    pinned = [f"{each}=={_release(each)}" for each in REQUIREMENTS]
    with mlflow_store.quiet(), mlflow.start_run(run_id=run_id), _pipelines_by_class():
        logged = mlflow.transformers.log_model(str(folder), name=name, task=TASK, pip_requirements=pinned)
    return logged.model_id


@contextmanager
def _pipelines_by_class() -> Iterator[None]:
    """MLflow 3.17 expects the class of a task's pipeline where transformers 5 keeps its import path."""
    from transformers import TextGenerationPipeline, pipelines

    entry = pipelines.SUPPORTED_TASKS[TASK]
    path, entry["impl"] = entry["impl"], TextGenerationPipeline
    try:
        yield
    finally:
        entry["impl"] = path


def _release(library: str) -> str:
    return metadata.version(library).split("+")[0]


def _figures(report: Path) -> dict[str, Any]:
    return json.loads((report / METRICS).read_text(encoding="utf-8"))


def _all_rows(figures: Mapping[str, Any]) -> dict[str, float]:
    """`<row>/<metric>` of every model and rule, and its interval as `<row>/<metric>/low` and `/high`."""
    cells = {f"{row}/{metric}": cell for row, metrics in figures["rows"].items() for metric, cell in metrics.items()}
    flat = {name: {bound: cell[bound] for bound in ("mean", "low", "high")} for name, cell in cells.items()}
    return {name.removesuffix("/mean"): value for name, value in leaves.numbers(flat).items()}


def _means(figures: Mapping[str, Any], row: str) -> dict[str, float]:
    return {metric: cell["mean"] for metric, cell in figures["rows"][row].items()}


def number(version: "ModelVersion | None") -> str:
    """Of a version as text, which a database keeps as an integer and a server as text; empty for none."""
    return str(version.version) if version else ""


def tag(version: "ModelVersion", tags: Mapping[str, str]) -> "ModelVersion":
    """The version with the tags, which are in the store as well, the verdict last."""
    store = tracking.client()
    for name in sorted(tags, key=lambda each: each == VERDICT):
        if version.tags.get(name) != tags[name]:
            store.set_model_version_tag(version.name, version.version, name, tags[name])
    return store.get_model_version(version.name, version.version)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise RegistryError(f"{name!r} cannot name a model; use at most 64 small letters, digits and . _ -")


@contextmanager
def lock(name: str) -> Iterator[None]:
    from filelock import FileLock

    folder = home() / "registry"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
