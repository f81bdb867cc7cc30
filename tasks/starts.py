"""What a pre-training can go on from: a folder, a GGUF file, a model of the hub or the registry, a step."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import catalogue, hub_models, imported, steps, tracking, workers
from tasks.artifacts import Checkpoint, Dataset
from tasks.errors import RegistryError, StartError
from tasks.imported import CONFIG
from tasks.incumbent import data_of
from tasks.settings import Execution

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GGUF, HUB = ".gguf", "hf:"
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # as the families call them
FORMS = "a folder with config.json, a *.gguf file, hf:OWNER/NAME, a registered model or the folder of a finished step"
logger = logging.getLogger("evergreen.pretrain")


class ImportRecipe(BaseModel):
    """Which model was brought in: by the content of its files, or by its name and commit on the hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["folder", "gguf", "hub"] = Field("folder", description="How the model came.")
    digest: str = Field("", description="Of its files; empty for the hub.")
    name: str = Field("", description="On the hub.")
    commit: str = Field("", description="On the hub.")


@dataclass(frozen=True)
class Start:
    """A model that was found, before anything of it is read."""

    reference: str
    kind: Literal["folder", "gguf", "hub", "registered", "step"]
    path: Path | None = None
    version: "ModelVersion | None" = None

    @property
    def foreign(self) -> bool:
        return self.kind in ("folder", "gguf", "hub")


def found(reference: str) -> Start:
    """What a reference names; nothing is downloaded. A path goes before a registered model of the same name.

    Raises StartError where there is nothing, with what could be.
    """
    if reference.startswith(HUB):
        return Start(reference, "hub")
    path = Path(reference).expanduser()
    if path.suffix == GGUF and path.is_file():
        return Start(reference, "gguf", path)
    if (path / steps.MANIFEST).is_file():
        return _step(reference, path.resolve())
    if (path / CONFIG).is_file():
        return Start(reference, "folder", path)
    return _registered(reference, path)


def import_step(start: Start) -> steps.Step:
    """The step that brings a foreign model in, by the model's content: a moved folder is the same model."""
    if start.kind == "hub":
        name, commit = hub_models.identity(start.reference.removeprefix(HUB))
        recipe = ImportRecipe(kind="hub", name=name, commit=commit)
    else:
        assert start.path is not None
        files = imported.files(start.path)
        recipe = ImportRecipe(kind=start.kind, digest=steps.folder_digest(files))
    libraries = ("torch", "transformers", "tokenizers", *(("gguf",) if start.kind == "gguf" else ()))
    return steps.Step("pretrain", "imported", recipe, libraries=libraries, modules=("tasks.imported",))


def key(start: Start) -> str:
    """The key of the checkpoint that `begin` would give."""
    if start.version is not None:
        recorded = start.version.tags.get(catalogue.CONTENT, "")
        return recorded or catalogue.checkpoint(catalogue.folder_of(start.version)).key
    if start.kind == "step":
        assert start.path is not None
        return steps.load(start.path, Checkpoint).key
    return import_step(start).key


def begin(start: Start, execution: Execution, *, context: int) -> Checkpoint:
    """The model to go on from, imported where it is a foreign one. Raises StartError where it cannot be trained."""
    if start.version is not None:
        with tracking.reachable():
            model = catalogue.checkpoint(catalogue.folder_of(start.version))
    elif start.kind == "step":
        assert start.path is not None
        model = steps.load(start.path, Checkpoint)
    else:
        if start.kind == "folder":
            assert start.path is not None
            require_context(start.path, context)  # before a large model is read
        model = import_model(start, execution)
    require_context(model.model, context)
    return model


@task(task_run_name="import the model", cache_policy=NO_CACHE)
def import_model(start: Start, execution: Execution) -> Checkpoint:
    """A foreign model as `save_pretrained` writes it, with its tokenizer, in `model/`."""
    this = import_step(start)

    def build(folder: Path) -> dict[str, Any]:
        source = start.path or hub_models.snapshot(this.recipe.name, this.recipe.commit)  # type: ignore[attr-defined]
        return workers.call(
            imported.convert, source, folder / "model", threads=execution.threads_each,
            processes=execution.processes, label=this.title,
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build)


def seen(start: Start) -> str:
    """The key of the data that a registered model was trained on; empty for others, and where none is recorded."""
    return start.version.tags.get("data_key", "") if start.version is not None else ""


def earlier_data(start: Start, earlier: str) -> Dataset | None:
    """The data that the model has seen: those of the reference `earlier`, or by the lineage of a registered model.

    Logs what it means where they are not known.
    """
    if earlier:
        return steps.find(earlier, "data", Dataset)
    reason, data = "it is not said what the model has seen", None
    if start.version is not None and seen(start):
        name = f"{start.version.name}/{start.version.version}"
        reason, data = f"the data of {name} are lost", data_of(name, seen(start), start.version.tags["data_digest"])
    if data is None:
        logger.warning("%s: nothing is replayed and it may forget; name a data set like it with earlier", reason)
    return data


def require_context(folder: Path, context: int) -> None:
    """Raises StartError where a model has fewer positions than a window has tokens."""
    config = imported.read_object(folder / CONFIG)
    config |= config.get("text_config", {})
    longest = next((config[name] for name in POSITIONS if isinstance(config.get(name), int)), None)
    if longest and context > longest:
        raise StartError(
            f"continued.context is {context} and the model in {folder} has {longest:,} positions: set "
            f"continued.context={longest} or less"
        )


def _step(reference: str, path: Path) -> Start:
    if not (path / "model" / CONFIG).is_file():
        made = steps.load(path, Checkpoint)
        raise StartError(
            f"start: {reference} is a step of {made.stage}/{made.name}, which holds no model; give {FORMS}"
        )
    return Start(reference, "step", path)


def _registered(reference: str, path: Path) -> Start:
    try:
        with tracking.reachable():
            return Start(reference, "registered", version=catalogue.find(reference))
    except RegistryError as error:
        lies_there = path.exists() or "/" in reference
        raise StartError(f"start: {_problem(path) if lies_there else error}; give {FORMS}") from None


def _problem(path: Path) -> str:
    if (path / "adapter_config.json").is_file():
        return f"{path} holds an adapter alone: merge it into its base and save that"
    if path.is_dir():
        return f"the folder {path} holds no {CONFIG}"
    return f"{path} is a file of another kind" if path.exists() else f"there is no {path}, and no such registered model"
