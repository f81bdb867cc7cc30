"""Where a model comes from: the steps behind it, its data's version, the code's commit, and the flow that made it.

Tags of a registered version hold what one searches for. The document, `lineage.json` of its run, holds all of it:
that is enough to make the model again when the store and its steps are gone.
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tasks import commits, machine, pointers, steps, tracking, weights
from tasks.artifacts import Artifact, Checkpoint, Dataset
from tasks.errors import RegistryError
from tasks.rival import METRICS
from tasks.settings import ROOT, home, project

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FILE, DOCUMENT = "lineage.json", "document"
PARENT = "parent_model"  # the tag that names the registered version which a model continues, as NAME/VERSION
# What a result depends on. Pointers move with every new version of data or weights, and have records of their own.
CODE = ("flows", "tasks", "models", "prefect.yaml", "pyproject.toml", "requirements.lock")
MOST = 100  # changed files that are named
NOT_CODE = (":(exclude)*.dvc", ":(exclude)models/.gitignore")

Document = dict[str, Any]


class Origin(BaseModel):
    """The flow that made something, with every parameter: what has to be run to make it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flow: str = Field("", description="Its name; empty: nobody said.")
    entrypoint: str = Field("", description="Module and function, dotted.")
    parameters: dict[str, Any] = Field({}, description="All of them, as JSON.")
    code: dict[str, Any] = Field({}, description="Commit and state of the code when it started.")


def origin() -> Origin:
    """The running flow with its parameters, defaults included; one that names nothing outside of a flow.

    To be called when the flow starts: hours later the checkout may have moved on.
    """
    import inspect

    from prefect.context import FlowRunContext
    from pydantic_core import to_jsonable_python

    context = FlowRunContext.get()
    if context is None or context.flow is None:
        return Origin(code=_code())
    function = context.flow.fn
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    parameters = to_jsonable_python({**defaults, **(context.parameters or {})})
    entrypoint = f"{function.__module__}.{function.__name__}"
    return Origin(flow=context.flow.name, entrypoint=entrypoint, parameters=parameters, code=_code())


def ancestors(keys: Iterable[str], store: Path | None = None) -> list[dict[str, Any]]:
    """The manifests of the finished steps with these keys and of all that they were made from, parents first."""
    found: dict[str, dict[str, Any]] = {}
    place = store or home() / "store"

    def visit(key: str) -> None:
        manifest = next(filter(None, map(steps.read_manifest, place.glob(f"*/{key}"))), None)
        if key in found or manifest is None or "identity" not in manifest:
            return
        for parent in manifest["identity"]["inputs"].values():
            visit(parent)
        found.setdefault(key, manifest)

    for key in keys:
        visit(key)
    return list(found.values())


def trace(model: Checkpoint, report: Artifact, dataset: Dataset, made_by: Origin | None = None) -> dict[str, Any]:
    """What leads from a registered model back to its data, code, recipes and parents.

    MLflow tags by name, and as `document` what is too long for a tag. `made_by` is the flow to run again: by
    default the one that is running.
    """
    behind = ancestors([model.key])
    told = _document(model, report, dataset, made_by if made_by and made_by.flow else origin())
    recipes = {title(each): each["identity"]["recipe"] for each in behind}
    data, code = told["data"], told["code"]
    return {
        "data_digest": dataset.digest,
        "data_key": dataset.key,
        "data_md5": data["md5"],
        **({"data_commit": data["commit"]} if data["commit"] else {}),
        "model_key": model.key,
        "model_digest": model.digest,
        "parameters": str(told["model"]["parameters"]),
        "tokenizer_digest": told["tokenizer"],
        "report_key": report.key,
        "report_digest": report.digest,
        "recipe_digest": steps.digest_of(recipes),
        "platform": machine.sentence(told["platform"]),
        "flow": told["made_by"]["flow"],
        **{f"step.{title(each).replace('/', '.')}": each["key"] for each in behind},
        **{f"parent.{role}": digest for role, digest in model.inputs.items()},
        **{tag: str(loss) for tag, loss in told["losses"].items()},
        **({"git_commit": code["commit"], "git_dirty": str(code["dirty"]).lower()} if code["commit"] else {}),
        DOCUMENT: told,
    }


def tags(traced: Mapping[str, Any]) -> dict[str, str]:
    """The part of a trace that MLflow takes as tags; what is not known has none."""
    return {name: value for name, value in traced.items() if isinstance(value, str) and value}


def document(traced: Mapping[str, Any], more: Mapping[str, str]) -> Document:
    """The whole of a trace, `more` tags of the version among its tags: what is kept as `lineage.json`."""
    return {**traced.get(DOCUMENT, {}), "tags": {**tags(traced), **more}}


def read(version: "ModelVersion") -> Document:
    """A registered version's document. Raises RegistryError where it has none, or one that cannot be read."""
    from mlflow.exceptions import MlflowException

    name = f"{version.name}/{version.version}"
    with TemporaryDirectory() as folder:
        try:
            file = Path(tracking.client().download_artifacts(version.run_id or "", FILE, folder))
            return json.loads(file.read_text(encoding="utf-8"))
        except (MlflowException, OSError, ValueError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise RegistryError(
                f"{name} has no {FILE} in its run {version.run_id or '(none)'}, so it was registered by hand or by an "
                f"older release ({said}); its tags are all there is, `evergreen models {version.name}` shows them"
            ) from None


def title(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['identity']['stage']}/{manifest['identity']['name']}"


def _document(model: Checkpoint, report: Artifact, dataset: Dataset, made_by: Origin) -> Document:
    behind = ancestors([model.key, report.key])
    by_title = {title(each): each for each in behind}
    vocabulary = next((each for name, each in by_title.items() if name.startswith("tokenizer/")), {})
    return {
        "model": {
            "step": f"{model.stage}/{model.name}",
            "key": model.key,
            "digest": model.digest,
            "weights": weights.digest(model.model),
            "parameters": weights.parameters(model.model),
        },
        "data": _data(dataset),
        "tokenizer": vocabulary.get("digest", ""),
        "parents": {role: _parent(digest, behind) for role, digest in model.inputs.items()},
        "losses": _losses(by_title),
        "evaluation": _evaluation(report),
        "code": made_by.code or _code(),
        "made_by": made_by.model_dump(mode="json", exclude={"code"}),
        "platform": machine.facts(),
        "steps": [_step(each) for each in behind],
    }


def _step(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the digests of its files, and with that of its recipe."""
    kept = ("key", "digest", "identity", "inputs", "summary", "execution", "run_id")
    recipe = steps.digest_of(manifest["identity"]["recipe"])
    return {"step": title(manifest), **{name: manifest.get(name) for name in kept}, "recipe_digest": recipe}


def _parent(digest: str, behind: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    made = next((each for each in behind if each["digest"] == digest), None)
    return {"step": title(made) if made else "", "key": made["key"] if made else "", "digest": digest}


def _data(dataset: Dataset) -> dict[str, Any]:
    """The data set as DVC knows it, with the newest commit whose pointer names it; no commit where none does."""
    files = pointers.versioned(dataset.path)
    md5 = pointers.list_md5(files)
    return {
        "key": dataset.key,
        "digest": dataset.digest,
        "md5": md5,
        "bytes": sum((dataset.path / path).stat().st_size for path in files),
        "files": len(files),
        "commit": data_commit(md5),
    }


def data_commit(md5: str) -> str:
    """The newest commit whose `data.dvc` names this version; empty where there is none."""
    made = commits.log(project() / "data")
    return next((each.sha for each in made if each.pointer and each.pointer.md5 == md5), "")


def _losses(by_title: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The loss that the scaling law foresaw and the one that pre-training, first or continued, reached."""
    wanted = (
        ("forecast_loss", "scaling/fit"), ("pretrain_loss", "pretrain/main"), ("pretrain_loss", "pretrain/continued"),
    )  # fmt: skip
    summaries = [(tag, by_title.get(step, {}).get("summary", {})) for tag, step in wanted]
    return {tag: summary["loss"] for tag, summary in summaries if "loss" in summary}


def _evaluation(report: Artifact) -> dict[str, Any]:
    file = report.path / METRICS
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    told = {name: figures[name] for name in ("items", "yardstick", "rows") if name in figures}
    return {"key": report.key, "digest": report.digest, "run_id": report.run_id, **told}


def _code() -> dict[str, Any]:
    """Commit and state of the code; no commit where it is not a git checkout."""
    changed = changed_code()
    return {"commit": head(), "dirty": bool(changed), "changed": changed}


def head() -> str:
    """The commit that is checked out; empty where the code is no git checkout."""
    return _git("rev-parse", "HEAD").strip()


def changed_code() -> list[str]:
    """The files of the code that differ from the commit, new ones included; of very many the first."""
    lines = _git("status", "--porcelain", "--", *CODE, *NOT_CODE).splitlines()
    return [line[3:] for line in lines[:MOST]]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
