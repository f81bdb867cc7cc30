"""What is in the MLflow model registry: versions, their aliases and figures, and the folder of a model."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tasks import steps, tracking
from tasks.artifacts import Checkpoint
from tasks.errors import RegistryError, UsageError
from tasks.settings import home

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.entities.model_registry import RegisteredModel as MLflowModel

logger = logging.getLogger("evergreen.registry")
STAGE = "registry"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CONTENT = "evergreen.content"  # the tag of a version that holds the key of its `checkpoint`
VERDICT = "verdict"  # the tag of a version that has been judged: one of
PASSED, PROMOTED, REFUSED, ROLLED_BACK = "passed", "promoted", "not promoted", "rolled back"
DATA = ("data_key", "data_digest", "data_md5")  # the tags that name the data that a version was trained on
LOWER = re.compile(r"loss|perplexity")  # metrics that are better when lower
PARAMETERS = "parameters"  # the metric that makes models comparable by size: tags compare as text


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


def trained_on(data: str, listed: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of a listing whose data have this key, digest or DVC MD5, or one that starts so."""
    return [each for each in listed if any(each[tag].startswith(data) for tag in DATA)]


def ranked(listed: Iterable[Mapping[str, Any]], metric: str, under: float = inf) -> list[Mapping[str, Any]]:
    """Those of a listing with fewer than `under` parameters, the best by a metric first.

    Losses and perplexities are better when lower, everything else when higher. A version without the metric is left
    out, and under a limit one whose size nobody recorded. Raises UsageError for a metric that no version has.
    """
    every = list(listed)
    known = sorted({name for each in every for name in each["metrics"]})
    if every and metric not in known:
        raise UsageError(f"no version has the metric {metric!r}; the metrics are: {', '.join(known) or 'none'}")
    measured = [each for each in every if metric in each["metrics"]]
    sized = [each for each in measured if under == inf or each["parameters"] is not None]
    if len(sized) < len(every):
        logger.warning("%d of %d versions have no %s or no recorded size: left out", len(every) - len(sized),
                       len(every), metric)  # fmt: skip
    sign = 1 if LOWER.search(metric) else -1
    fitting = [each for each in sized if under == inf or each["parameters"] < under]
    return sorted(fitting, key=lambda each: sign * each["metrics"][metric])


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
    metrics = _run_metrics(version.run_id)
    size = metrics.pop(PARAMETERS, None)
    return {
        "name": version.name,
        "version": int(version.version),
        "aliases": sorted(alias for alias, number in aliases.items() if number == str(version.version)),
        "verdict": version.tags.get(VERDICT, "undecided"),
        "parameters": None if size is None else int(size),
        "metrics": metrics,
        **{tag: version.tags.get(tag, "") for tag in DATA},
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
