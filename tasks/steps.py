"""Content-addressed steps: what decides a result is its key; finished outputs lie under that key and are reused.

A step's folder is `<home>/store/<stage>/<key>/`. It is built as `<key>.partial` and renamed when complete, so a
folder without the suffix is always whole. Its manifest lists every file with its SHA-256: a step whose files
were changed or lost is computed again, never trusted.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tasks import code, disk, leaves, machine, pages, tracking
from tasks.artifacts import Artifact, Dataset
from tasks.errors import StoreError
from tasks.settings import home

A = TypeVar("A", bound=Artifact)
MANIFEST = "manifest.json"
logger = logging.getLogger("evergreen.steps")
UNHASHED = "log"  # timings and histories: kept, but not part of what the step made


@dataclass(frozen=True)
class Step:
    """One unit of work before it has run. `inputs` maps a role to the key of the step that fills it."""

    stage: str
    name: str
    recipe: BaseModel
    inputs: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, and nothing of where or how it is computed."""
        return {
            "stage": self.stage,
            "name": self.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "inputs": dict(sorted(self.inputs.items())),
            "facts": json.loads(json.dumps(self.facts)),
            "code": code.digests(type(self.recipe).__module__, *self.modules),
            "libraries": {name: _release(name) for name in sorted(self.libraries)},
        }

    @property
    def key(self) -> str:
        return digest_of(self.identity)[:16]

    @property
    def title(self) -> str:
        return f"{self.stage}/{self.name}"

    @property
    def folder(self) -> Path:
        return home() / "store" / self.stage / self.key

    @property
    def partial(self) -> Path:
        return self.folder.with_name(self.key + ".partial")


@dataclass(frozen=True)
class Status:
    """Whether a step can be reused, and why or why not."""

    reused: bool
    why: str
    manifest: dict[str, Any] = field(default_factory=dict)


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, the same for the same value whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(files: Mapping[str, str]) -> str:
    """Digest of a folder from the SHA-256 of each file by relative path, without what lies under `log/`."""
    return digest_of({path: sha for path, sha in files.items() if path.split("/")[0] != UNHASHED})


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder by its relative path, the manifest left out."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / MANIFEST)
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in paths}


def status(step: Step) -> Status:
    """Looks the step up in the store: intact, damaged, half-written, or never made (and what differs since)."""
    manifest = read_manifest(step.folder)
    if manifest is None:
        if step.partial.exists():
            return Status(False, "half-written: continues where it was stopped")
        return Status(False, _difference(step))
    damaged = _damage(step.folder, manifest)
    if damaged:
        return Status(False, f"damaged, will be made again: {damaged}")
    stale = _stale_inputs(step, manifest)
    if stale:
        return Status(False, f"made from another {stale} than the one that lies there now")
    return Status(True, "nothing that decides it has changed", manifest)


def materialise(
    step: Step, kind: type[A], build: Callable[[Path], Mapping[str, Any]], *,
    resumable: bool = False, files: Sequence[str] = (),
) -> A:  # fmt: skip
    """Returns the step's artifact, building it first where the store does not hold it intact.

    `build(folder)` writes below `folder` and returns the summary; both are recorded as an MLflow run, which also keeps
    the `files` of the folder. With `resumable`, a folder left by a killed build is handed to it again as it was. A
    second process that wants the same step waits for the first. Raises StoreError when the store cannot be written, and
    whatever `build` raises.
    """
    with _writable(step), _lock(step):
        found = status(step)
        if found.reused:
            logger.info("%-22s reused", step.title)
            return _shown(_from_manifest(step.folder, kind, found.manifest, reused=True))
        logger.info("%-22s starts: %s", step.title, found.why)
        shutil.rmtree(step.folder, ignore_errors=True)
        if not resumable:
            shutil.rmtree(step.partial, ignore_errors=True)
        step.partial.mkdir(parents=True, exist_ok=True)
        started = time.time()
        with _recorded(step) as run:
            summary = dict(build(step.partial))
            run.log(summary, step.partial)
            tracking.log_files(run.id, [step.partial / name for name in files])
            _record_data(step, run.id)
        manifest = _finish(step, summary, run.id, time.time() - started)
        if kind is Dataset:
            _record(manifest, step.folder, run.id, "made")
        logger.info("%-22s done in %.0f s%s", step.title, time.time() - started, leaves.table(summary))
        return _shown(_from_manifest(step.folder, kind, manifest, reused=False))


def load(step_or_folder: Step | Path, kind: type[A]) -> A:
    """The artifact of a finished step. Raises StoreError when there is none."""
    folder = step_or_folder.folder if isinstance(step_or_folder, Step) else step_or_folder
    manifest = read_manifest(folder)
    if manifest is None:
        raise StoreError(f"{folder} holds no finished step; run the flow that makes it first")
    return _from_manifest(folder, kind, manifest, reused=True)


def find(reference: str, stage: str, kind: type[A], *, name: str = "") -> A:
    """Resolves `latest`, the start of a key, or a folder to a finished artifact of a stage (and step name).

    Raises StoreError when nothing, or more than one step, answers to it.
    """
    if "/" in reference:
        return load(Path(reference).expanduser().resolve(), kind)
    asked = f"{stage}/{name}" if name else stage
    made = [p for p in finished(stage, name) if reference == "latest" or p.name.startswith(reference)]
    if not made:
        raise StoreError(f"no finished step of {asked} answers to {reference!r}; run that stage first")
    if reference != "latest" and len(made) > 1:
        raise StoreError(f"{reference!r} is the start of {len(made)} keys of {asked}; give more of it")
    return load(made[-1], kind)


def finished(stage: str, name: str = "") -> list[Path]:
    """The folders of a stage's finished steps, oldest first."""
    folders = [p.parent for p in (home() / "store" / stage).glob(f"*/{MANIFEST}") if p.parent.suffix != ".partial"]
    named = [p for p in folders if not name or _name(p) == name]
    return sorted(named, key=lambda p: (p / MANIFEST).stat().st_mtime_ns)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError):
        return {"files": {MANIFEST: "unreadable"}, "inputs": {}}


def _recorded(step: Step) -> AbstractContextManager[tracking.Run]:
    identity = step.identity
    digests = {name: digest_of(identity[name])[:16] for name in ("inputs", "code")}
    tags = {
        "evergreen.inputs": json.dumps(identity["inputs"]),
        "evergreen.inputs_digest": digests["inputs"],
        "evergreen.code": digests["code"],
    }
    return tracking.run(stage=step.stage, name=step.name, key=step.key, params=identity["recipe"], tags=tags)


def _record_data(step: Step, run_id: str) -> None:
    """The data set that a step was made from, where it was made from one."""
    folder = home() / "store" / "data" / step.inputs.get("dataset", "-")
    manifest = read_manifest(folder)
    if manifest and "digest" in manifest:
        _record(manifest, folder, run_id, step.stage)


def _record(manifest: Mapping[str, Any], folder: Path, run_id: str, context: str) -> None:
    counts = manifest["summary"].get("files", {})
    tracking.log_dataset(run_id, digest=manifest["digest"], path=folder, counts=counts, context=context)


def _finish(step: Step, summary: dict[str, Any], run_id: str, seconds: float) -> dict[str, Any]:
    execution = summary.pop("execution", {})
    files = hash_files(step.partial)
    manifest = {
        "key": step.key,
        "identity": step.identity,
        "inputs": {role: _digest_behind(key) for role, key in step.inputs.items()},
        "digest": folder_digest(files),
        "files": files,
        "summary": json.loads(json.dumps(summary)),
        "run_id": run_id,
        "execution": {"seconds": round(seconds, 2), **execution, "machine": machine.facts()},
    }
    _write_json(step.partial / MANIFEST, manifest)
    step.partial.replace(step.folder)
    return manifest


def _shown(artifact: A) -> A:
    pages.show_step(artifact)
    return artifact


def _from_manifest(folder: Path, kind: type[A], manifest: Mapping[str, Any], *, reused: bool) -> A:
    identity = manifest["identity"]
    return kind(
        stage=identity["stage"],
        name=identity["name"],
        key=manifest["key"],
        digest=manifest["digest"],
        path=folder,
        inputs=manifest["inputs"],
        summary=manifest["summary"],
        run_id=manifest["run_id"],
        reused=reused,
    )


def _damage(folder: Path, manifest: Mapping[str, Any]) -> str:
    for path, expected in manifest["files"].items():
        if not (folder / path).is_file():
            return f"{path} is missing"
        if file_digest(folder / path) != expected:
            return f"{path} is not what was written"
    return ""


def _stale_inputs(step: Step, manifest: Mapping[str, Any]) -> str:
    changed = [role for role, key in step.inputs.items() if manifest["inputs"].get(role) != _digest_behind(key)]
    return ", ".join(changed)


def _digest_behind(key: str) -> str:
    """The content digest of the finished step with this key; the key itself where it names no step of ours."""
    for folder in (home() / "store").glob(f"*/{key}"):
        manifest = read_manifest(folder)
        if manifest and "digest" in manifest:
            return manifest["digest"]
    return key


def _difference(step: Step) -> str:
    """What differs from the newest finished step of the same name: the reason that it runs again."""
    made = finished(step.stage, step.name)
    if not made:
        return "has not run yet"
    earlier = (read_manifest(made[-1]) or {}).get("identity", {})
    return "; ".join(changes(earlier, step.identity)[:4])


def _name(folder: Path) -> str:
    return (read_manifest(folder) or {}).get("identity", {}).get("name", "")


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    words = {"recipe": "recipe {0}: {1} -> {2}", "inputs": "its input {0} runs again", "code": "code of {0} changed",
             "libraries": "library {0}: {1} -> {2}", "facts": "{0} changed"}  # fmt: skip
    found = []
    for part, sentence in words.items():
        old, new = earlier.get(part, {}), now[part]
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                found.append(sentence.format(name, _short(old.get(name)), _short(new.get(name))))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


@cache
def _release(library: str) -> str:
    """A library's version without its build tag: 2.13.0+cpu and 2.13.0+cu130 are the same release."""
    try:
        return version(library).split("+")[0]
    except PackageNotFoundError:
        return "missing"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _lock(step: Step) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(step.folder.with_name(step.key + ".lock")):
        yield


@contextmanager
def _writable(step: Step) -> Iterator[None]:
    try:
        step.folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:  # safetensors says in an error of its own that the disk is full
        remedy = disk.REMEDIES.get(disk.errno_of(error) or 0)
        if not remedy:
            raise
        where = (error.filename if isinstance(error, OSError) else None) or step.partial
        raise StoreError(f"{step.stage}: cannot write {where}: {remedy}. "
                         "Run again afterwards: finished steps are kept.") from error  # fmt: skip
