"""What is in the MLflow model registry: versions, their aliases and figures, and the folder of a model."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tasks import steps, tracking
from tasks.artifacts import Checkpoint
from tasks.errors import RegistryError
from tasks.settings import home

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.entities.model_registry import RegisteredModel as MLflowModel

STAGE = "registry"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CONTENT = "evergreen.content"  # the tag of a version that holds the key of its `checkpoint`
VERDICT = "verdict"  # the tag of a version that has been judged: one of
PASSED, PROMOTED, REFUSED, ROLLED_BACK = "passed", "promoted", "not promoted", "rolled back"


def listing(name: str | None = None) -> list[dict[str, Any]]:
    """Every version by name, the newest first. Raises RegistryError for a name that is not registered."""
    known = models()
    if name is not None and name not in known:
        raise RegistryError(f"no model is called {name!r}; {_what_exists(known)}")
    wanted = sorted(known) if name is None else [name]
    return [described(version, known[each]) for each in wanted for version in _versions(each)]


def resolve(reference: str) -> Path:
    """The folder that `from_pretrained` reads for `NAME`, `NAME@alias` or `NAME/version`.

    `NAME` alone is the champion, or the newest version where there is none. Raises RegistryError that names what
    exists.
    """
    with tracking.reachable():
        return folder_of(find(reference))


def find(reference: str) -> "ModelVersion":
    """The version that a reference names. Raises RegistryError that names what exists."""
    known = models()
    name, _, alias = reference.partition("@")
    name, _, number = name.partition("/")
    aliases = known.get(name, {})
    versions = {str(version.version): version for version in _versions(name)} if name in known else {}
    newest = next(iter(versions), None)
    wanted = number or aliases.get(alias or CHAMPION, None if alias else newest)
    if (alias and number) or wanted not in versions:
        raise RegistryError(f"no model answers to {reference!r}; {_what_exists(known)}")
    return versions[wanted]


def checkpoint(folder: Path) -> Checkpoint:
    """A registered model's folder as the artifact that the stages read; its key is its content."""
    digest = steps.folder_digest(steps.hash_files(folder))
    return Checkpoint(stage=STAGE, name=folder.parent.parent.name, key=digest[:16], digest=digest, path=folder.parent)


def described(version: "ModelVersion", aliases: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": int(version.version),
        "aliases": sorted(alias for alias, number in aliases.items() if number == str(version.version)),
        "verdict": version.tags.get(VERDICT, "undecided"),
        "metrics": _run_metrics(version.run_id),
        "data_digest": version.tags.get("data_digest", ""),
        "run_id": version.run_id or "",
    }


def _run_metrics(run_id: str | None) -> dict[str, float]:
    """The candidate's own figures; empty where somebody registered it by hand, or deleted its run for good."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        metrics = tracking.client().get_run(run_id).data.metrics
    except MlflowException:
        return {}
    return {name: value for name, value in sorted(metrics.items()) if "/" not in name}


def models() -> dict[str, dict[str, str]]:
    """The aliases (to version numbers) of every registered model. `search_model_versions` leaves them out."""
    if not tracking.exists():
        return {}
    store = tracking.client()
    found = _pages(store.search_registered_models)
    return {model.name: _aliases(store.get_registered_model(model.name)) for model in found}


def _aliases(model: "MLflowModel") -> dict[str, str]:
    """Version numbers are integers in a database and text on a server; here they are text."""
    return {alias: str(number) for alias, number in model.aliases.items()}


def _versions(name: str, more: str = "") -> list["ModelVersion"]:
    """Newest first."""
    found = _pages(tracking.client().search_model_versions, filter_string=f"name = '{name}'{more}")
    return sorted(found, key=lambda each: int(each.version), reverse=True)


def version_with(name: str, wanted: str) -> "ModelVersion | None":
    return next(iter(_versions(name, f" and tags.`{tracking.KEY}` = '{wanted}'")), None)


def aliases(name: str) -> dict[str, str]:
    """The aliases of one model; none where it is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        return _aliases(tracking.client().get_registered_model(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def aliased(name: str, alias: str) -> "ModelVersion | None":
    number = aliases(name).get(alias)
    return tracking.client().get_model_version(name, number) if number else None


def _pages(search: Callable[..., Any], **query: str) -> list[Any]:
    page = search(**query)
    found = list(page)
    while page.token:
        page = search(**query, page_token=page.token)
        found += page
    return found


def _what_exists(known: Mapping[str, Mapping[str, str]]) -> str:
    if not known:
        return "there are no models yet: `evergreen run` makes one"
    each = [_summary(name, aliases) for name, aliases in sorted(known.items())]
    return "there are: " + "; ".join(each)


def _summary(name: str, aliases: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name}/{version.version}" for version in reversed(_versions(name)))
    named = ", ".join(f"{name}@{alias}" for alias in sorted(aliases))
    return f"{versions or f'{name} without versions'}{f' ({named})' if named else ''}"


def folder_of(version: "ModelVersion") -> Path:
    """A local folder with model and tokenizer side by side, put together once from the logged model."""
    import mlflow.artifacts

    folder = home() / "registry" / version.name / steps.digest_of([version.source, version.run_id])[:16] / "model"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".resolve-", dir=folder.parent.parent) as temporary, tracking.as_default():
        logged = mlflow.artifacts.download_artifacts(version.source)
        whole = Path(temporary) / "model"
        for part in ("model", "components/tokenizer"):
            if not (Path(logged) / part).is_dir():
                raise RegistryError(
                    f"{version.name}/{version.version} has no {part}/ in {version.source}: it is no text model in "
                    "the transformers flavour; load it with mlflow"
                )
            shutil.copytree(Path(logged) / part, whole, dirs_exist_ok=True, copy_function=_link)
        whole.rename(folder)
    return folder


def origin(key: str) -> str:
    """The key of the step that made a registered model, by that of its `checkpoint`; empty where there is none."""
    if not tracking.exists():
        return ""
    found = _pages(tracking.client().search_model_versions, filter_string=f"tags.`{CONTENT}` = '{key}'")
    return next((version.tags["model_key"] for version in found if "model_key" in version.tags), "")


def _link(source: str, target: str) -> None:
    """Weights are large: a second name for the same bytes where the file system has that, a copy elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
