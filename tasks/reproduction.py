"""A registered model made again: what is laid ready for the run, and what its steps gave against the record.

The record is the version's `lineage.json` alone: the store, the registry's files and the sources may be gone.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import catalogue, lineage, machine, pointers, registry, repository, steps, tracking, transfer, weights
from tasks.errors import DataVersionError, RegistryError
from tasks.lineage import Document
from tasks.rival import METRICS
from tasks.settings import ROOT, project

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

IDENTICAL, EQUIVALENT, DIFFERENT, FAILED = "identical", "equivalent", "different", "failed"
TOLERANCE = 0.02  # of a metric's size, at least of 1: what another rounding may move beyond the recorded interval
BEFORE_DATA = ("ingest", "validate")  # stages that do not run again where the data come from their version
AGREED = ("model_key", "model_digest", "data_key", "data_digest", "data_md5", "tokenizer_digest", lineage.PARENT)
# Settings of the caller that would lead the run to his own servers and stores.
FOREIGN = (
    "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
    "PREFECT_API_URL", "PREFECT_HOME", "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT__FLOW_RUN_ID",
)  # fmt: skip


def record_of(version: "ModelVersion") -> Document:
    """A version's document. Raises RegistryError where it has none, or where its tags contradict it."""
    recorded = lineage.read(version)
    for tag in AGREED:
        tagged, written = version.tags.get(tag), recorded["tags"].get(tag)
        if tagged != written:
            raise RegistryError(
                f"{version.name}/{version.version} has two records: its tag {tag} says {tagged}, its {lineage.FILE} "
                f"{written}; one was changed by hand, so nothing can be held against it. Put the tag right, or "
                "reproduce another version"
            )
    return recorded


@contextmanager
def checked_out(recorded: Document, folder: Path, *, present: bool) -> Iterator[Path]:
    """The recorded code: the checkout where it is at that commit and unchanged, else a git worktree below `folder`.

    With `present` the checkout as it is. Raises RegistryError for code that no commit holds, or that is not here.
    """
    code, place = recorded["code"], folder / "code"
    if present or (code["commit"] and _is_here(code)):
        yield ROOT
        return
    _refuse_unknown(code)
    done = _git("worktree", "add", "--quiet", "--detach", str(place), code["commit"])
    if done.returncode:
        raise RegistryError(
            f"the code of commit {code['commit'][:12]} cannot be checked out ({' '.join(done.stderr.split())[:200]}); "
            "bring it with `git fetch`, or take the code as it is: --with-present-code"
        )
    try:
        yield place / _git("rev-parse", "--show-prefix").stdout.strip()  # where the checkout is part of a larger one
    finally:
        _git("worktree", "remove", "--force", str(place))


def lay_data(recorded: Document, target: Path) -> bool:
    """Puts the recorded data set into the store of another home, as its finished step; whether anything had it.

    From DVC's cache, `data/`, the store or the default remote. Raises DataVersionError where the version with the
    recorded MD5 has another content than the recorded digest.
    """
    told = recorded["data"]
    pointer = pointers.Pointer(told["md5"], told["bytes"], told["files"], told["key"], told["digest"])
    if not _brought(pointer):
        return False
    folder = target / "store" / "data" / pointer.key
    for path, md5 in pointers.recorded(pointer).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pointers.object_path(md5), folder / path)
    files = steps.hash_files(folder)
    if steps.folder_digest(files) != pointer.digest:
        raise DataVersionError(
            f"data/dataset: the version {pointer.md5} has the content {steps.folder_digest(files)[:16]}, recorded is "
            f"{pointer.digest[:16]}; the record was changed, or another release counts differently. "
            "To build the data from their sources: --rebuild-data"
        )
    made = next(each for each in recorded["steps"] if each["key"] == pointer.key)
    manifest = {**made, "files": files, "run_id": "", "execution": {"seconds": 0.0, "restored": pointer.md5}}
    (folder / steps.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return True


def bring_parent(recorded: Document, parent: "ModelVersion", target: Path) -> None:
    """Registers the version that a model continues in another home's registry: with its number, and as the champion.

    Its data come along where the model's steps read them. Raises RegistryError where its weights are not those that
    its own record names.
    """
    told, folder = lineage.read(parent), catalogue.folder_of(parent)
    expected, found = told["model"]["weights"], weights.digest(folder)
    if expected != found:
        raise RegistryError(
            f"{parent.name}/{parent.version}, which {recorded['model']['step']} continues, has the weights "
            f"{found[:16]} in the registry, recorded are {expected[:16]}; promote or retrain from another version"
        )
    if any(told["data"]["key"] in step["identity"]["inputs"].values() for step in recorded["steps"]):
        lay_data(told, target)
    with _elsewhere(target):
        _register(parent, folder)


def environment(code: Path, folder: Path, data_key: str) -> dict[str, str]:
    """Of a run with another code, a home and a project of its own, and nothing of the caller's servers and stores."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {
        **kept,
        "EVERGREEN_HOME": str(folder / "home"),
        "EVERGREEN_PROJECT": str(folder / "project"),
        "EVERGREEN_DATA": data_key,
        "DVC_SITE_CACHE_DIR": str(folder / "dvc"),
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",  # or the working directory, which may be another checkout, comes first
    }


def compare(recorded: Document, store: Path) -> list[dict[str, Any]]:
    """Every recorded step beside the one of a store that stands for it, parents first.

    `same` is None where the store has none; `why` says what else differs: its code, recipe, platform. The report of
    the evaluation is the same where all its metrics are: what else it says depends on the data and models at hand.
    """
    found = _finished(store)
    rows = [_row(step, _counterpart(step, found)) for step in recorded["steps"]]
    judged = _evaluated(recorded, store)
    for step, row in zip(recorded["steps"], rows, strict=True):
        if step["key"] == recorded["evaluation"]["key"] and judged and judged == recorded["evaluation"]["rows"]:
            row["same"] = True
    return [row for row in rows if row["found"] or row["step"].split("/")[0] not in BEFORE_DATA or not _has_data(rows)]


def metrics(recorded: Document, store: Path) -> list[dict[str, Any]]:
    """The registered row's metrics beside those of the new evaluation, and whether each is near enough.

    Near is within the recorded 95% interval, or within TOLERANCE of the metric's size (at least of 1).
    """
    row = recorded["tags"].get("evergreen.row", "")
    before, now = recorded["evaluation"].get("rows", {}).get(row, {}), _evaluated(recorded, store).get(row, {})
    return [_near(name, cell, now[name]) for name, cell in before.items() if name in now]


def verdict(rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the comparison comes to: `outcome`, whether that is `reproduced`, the `first` step that differs, a sentence.

    Another digest is excused only by another platform, and then only where the metrics agree.
    """
    first = next((row for row in rows if not row["same"]), None)
    if first is None:
        apart = [row["step"] for row in rows if row["found"] != row["recorded"]]
        more = f"; {', '.join(apart)} the recorded metrics, among other findings" if apart else ""
        count = f"all {len(rows)}" if not apart else f"{len(rows) - len(apart)} of {len(rows)}"
        return _said(IDENTICAL, "", f"{count} steps gave the recorded content, bit for bit{more}")
    step = first["step"]
    if first["found"] is None:
        return _said(FAILED, step, f"the run ended before {step}")
    up_to = rows[: rows.index(first) + 1]
    moved = sorted({each for row in up_to for each in row["platform"]})
    if not moved:
        because = f" ({'; '.join(first['why'][:3])})" if first["why"] else " on the same platform"
        return _said(
            DIFFERENT, step, f"{step} gave {first['found'][:16]}, recorded is {first['recorded'][:16]}{because}"
        )
    platform = f"the platform differs ({'; '.join(moved[:4])}), and {step} is the first step with other bits"
    if not measured:
        return _said(FAILED, step, f"{platform}; the run ended before its evaluation, so no metric could be checked")
    apart = [each["metric"] for each in measured if not each["ok"]]
    if apart:
        return _said(DIFFERENT, step, f"{platform}; these metrics moved by more than that explains: {', '.join(apart)}")
    checked = f"what was checked instead are the {len(measured)} metrics of its evaluation: each is within tolerance"
    return _said(EQUIVALENT, step, f"{platform}; {checked}")


def _said(outcome: str, first: str, says: str) -> dict[str, Any]:
    return {"outcome": outcome, "reproduced": outcome in (IDENTICAL, EQUIVALENT), "first": first, "says": says}


def _register(version: "ModelVersion", folder: Path) -> None:
    """A version with the same number, tags and weights. Numbers count up, so those below it are made and deleted."""
    store, name, tags = tracking.client(), version.name, dict(version.tags)
    with tracking.run(stage=catalogue.STAGE, name=name, key=tags[tracking.KEY], params={}, tags=tags) as run:
        store.create_registered_model(name)
        with tracking.as_default():
            model_id = registry.log_model(run.id, name, folder)
            for _ in range(int(version.version)):
                store.create_model_version(name, f"models:/{model_id}", run.id, tags=tags, model_id=model_id)
    for number in range(1, int(version.version)):
        store.delete_model_version(name, str(number))
    store.set_registered_model_alias(name, catalogue.CHAMPION, str(version.version))


@contextmanager
def _elsewhere(target: Path) -> Iterator[None]:
    """Works with another home and the MLflow store in it for a while."""
    before = dict(os.environ)
    os.environ["EVERGREEN_HOME"] = str(target)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _brought(pointer: pointers.Pointer) -> bool:
    if not pointers.unsound(pointer):
        return True
    try:
        with repository.lock(), repository.opened() as opened:
            transfer.gather(opened, pointer, project() / "data")
    except DataVersionError:
        return False
    return bool(pointers.recorded(pointer))


def _finished(store: Path) -> list[dict[str, Any]]:
    manifests = map(steps.read_manifest, sorted(store.glob("*/*")))
    return [each for each in manifests if each and "identity" in each]


def _counterpart(step: Mapping[str, Any], found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The step with the recorded key, or else one of the same name."""
    named = [each for each in found if lineage.title(each) == step["step"]]
    return next((each for each in named if each["key"] == step["key"]), named[0] if named else None)


def _row(step: Mapping[str, Any], made: Mapping[str, Any] | None) -> dict[str, Any]:
    row = {"step": step["step"], "recorded": step["digest"], "found": None, "same": None, "why": [], "platform": []}
    if made is None:
        return row
    libraries = [each for each in steps.changes(step["identity"], made["identity"]) if each.startswith("library ")]
    others = [
        each for each in steps.changes(step["identity"], made["identity"])
        if each not in libraries and not each.startswith("its input ")
    ]  # fmt: skip
    platform = [*libraries, *machine.differences(step["execution"], made["execution"])]
    same = made["digest"] == step["digest"]
    return {**row, "found": made["digest"], "same": same, "why": others, "platform": platform}


def _has_data(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["found"] for row in rows if row["step"].startswith("data/"))


def _evaluated(recorded: Document, store: Path) -> dict[str, Any]:
    """The rows of the evaluation that stands for the recorded one."""
    wanted = next((each for each in recorded["steps"] if each["key"] == recorded["evaluation"]["key"]), None)
    made = _counterpart(wanted, _finished(store)) if wanted else None
    file = store / "evaluate" / (made or {}).get("key", "-") / METRICS
    return json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}


def _near(name: str, before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, Any]:
    slack = TOLERANCE * max(1.0, abs(before["mean"]))
    low, high = min(before["low"], before["mean"] - slack), max(before["high"], before["mean"] + slack)
    found = now["mean"]
    return {"metric": name, "recorded": before["mean"], "found": found, "low": low, "high": high,
            "ok": low <= found <= high}  # fmt: skip


def _is_here(code: Mapping[str, Any]) -> bool:
    return code["commit"] == lineage.head() and not code["dirty"] and not lineage.changed_code()


def _refuse_unknown(code: Mapping[str, Any]) -> None:
    remedy = "to run the code as it is now: --with-present-code. Commit before a run that is to be made again exactly"
    if not code["commit"]:
        raise RegistryError(f"the model was made by code outside of git, so its commit is not known; {remedy}")
    if code["dirty"]:
        changed = ", ".join(code["changed"][:3]) + (" ..." if len(code["changed"]) > 3 else "")
        raise RegistryError(
            f"the model was made by commit {code['commit'][:12]} with changes that no commit holds ({changed}); "
            f"{remedy}"
        )


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
