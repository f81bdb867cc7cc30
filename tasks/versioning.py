"""The one place that knows DVC: `data/` and its pointer, and the folders of promoted models.

A pointer's `meta` says which step made the content (`key`) and what it is (`digest`, as in the step's manifest).
Nothing that is neither what a pointer says nor what is about to be written is ever overwritten. Never commits.
"""

import configparser
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import steps
from tasks.artifacts import Dataset
from tasks.errors import DataVersionError
from tasks.settings import project

logger = logging.getLogger("evergreen.versioning")
CACHE = Path("files") / "md5"


@task(task_run_name="version the data", cache_policy=NO_CACHE)
def version_data(dataset: Dataset) -> dict[str, Any]:
    """Puts the data set into `data/` and moves `data.dvc` to it; returns the pointer's md5 and size.

    Already so: nothing is written. Raises DataVersionError where `data/` was changed by hand or is damaged, and where
    the same step gave another result than the pointer says.
    """
    with _lock():
        return _version(dataset.path, project() / "data", {"key": dataset.key, "digest": dataset.digest})


@task(task_run_name="version the weights", cache_policy=NO_CACHE)
def version_model(folder: Path, name: str) -> dict[str, Any]:
    """Copies a model folder to `models/<name>/` and points `models/<name>.dvc` to it; returns its md5 and size."""
    if not folder.is_dir():
        raise DataVersionError(f"{folder} is not a model folder; give the folder that save_pretrained wrote")
    with _lock():
        return _version(folder, project() / "models" / name, {"digest": steps.folder_digest(_contents(folder))})


def restore(step: steps.Step) -> Dataset | None:
    """The step's data set from the version that `data.dvc` names, where that is this step's and DVC can bring it.

    From `data/`, DVC's cache, or its default remote. None where the pointer is another step's, or nothing has it.
    """
    target = project() / "data"
    with _lock():
        pointer = _pointer(target)
        if pointer.get("meta", {}).get("key") != step.key:
            return None
        if not _holds(target, pointer) and not _bring(target, pointer):
            return None
    expected = pointer["meta"]["digest"]

    def build(folder: Path) -> dict[str, Any]:
        shutil.copytree(target, folder, dirs_exist_ok=True)
        found = steps.folder_digest(_contents(folder))
        if found != expected:
            raise DataVersionError(
                f"{_name(target)}: expected content {expected[:16]}..., restored {found[:16]}...; run: "
                f"dvc checkout {_name(target)}.dvc --force, or delete {target}"
            )
        summary = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        return {**summary, "execution": {"restored": _name(target) + ".dvc"}}

    return steps.materialise(step, Dataset, build)


def _version(source: Path, target: Path, meta: Mapping[str, str]) -> dict[str, Any]:
    pointer, wanted = _pointer(target), _contents(source)
    found = steps.hash_files(target) if target.exists() else {}
    if found == wanted and pointer.get("meta") == meta and _in_cache(pointer):
        return _summary(pointer)
    _refuse_other_result(target, pointer, meta)
    _refuse_foreign(target, pointer, found, wanted)
    if found != wanted:
        _replace(source, wanted, target)
    return _add(target, pointer, meta)


def _refuse_other_result(target: Path, pointer: Mapping[str, Any], meta: Mapping[str, str]) -> None:
    known = pointer.get("meta", {})
    if "key" in meta and known.get("key") == meta["key"] and known.get("digest") != meta["digest"]:
        raise DataVersionError(
            f"not deterministic: {_name(target)}.dvc says that step {meta['key']} gives "
            f"{str(known.get('digest'))[:16]}..., this build gave {meta['digest'][:16]}...; compare {target} with the "
            f"build, or delete {_name(target)}.dvc to take the new one"
        )


def _refuse_foreign(
    target: Path, pointer: Mapping[str, Any], found: Mapping[str, str], wanted: Mapping[str, str]
) -> None:
    """Whatever is in the folder must be a file of the pointer's version or of the one to be written."""
    if target.exists() and not target.is_dir():
        raise DataVersionError(f"{target} is a file where a folder belongs; move it away")
    if not found or steps.folder_digest(found) == pointer.get("meta", {}).get("digest"):
        return
    recorded = _recorded(pointer)
    for path, digest in found.items():
        if wanted.get(path) != digest and recorded.get(path) != _md5(target / path):
            state = "was changed" if path in wanted or path in recorded else "is not part of it"
            raise DataVersionError(
                f"{target / path} {state}: neither what {_name(target)}.dvc says nor what is about to be written, so "
                f"nothing was overwritten. Take back the recorded version with: dvc checkout {_name(target)}.dvc "
                f"--force; or move your version away; or delete {target}"
            )


def _replace(source: Path, wanted: Mapping[str, str], target: Path) -> None:
    """Writes beside and renames: the folder is always whole, or missing for the next run to write."""
    scratch = _repository() / "tmp" / "evergreen"
    shutil.rmtree(scratch, ignore_errors=True)
    for path in wanted:
        (scratch / "new" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, scratch / "new" / path)
    if target.exists():
        target.replace(scratch / "old")
    target.parent.mkdir(parents=True, exist_ok=True)
    (scratch / "new").replace(target)
    shutil.rmtree(scratch)


def _add(target: Path, before: Mapping[str, Any], meta: Mapping[str, str]) -> dict[str, Any]:
    """Takes the folder into DVC's cache and writes the pointer with its meta."""
    file = _pointer_file(target)
    earlier = file.read_bytes() if file.exists() else None
    with _dvc() as repo:
        repo.add(str(target))
    pointer = _pointer(target)
    known = before.get("meta", {})
    if "key" in meta and known.get("key") == meta["key"] and _summary(before)["md5"] != _summary(pointer)["md5"]:
        assert earlier is not None
        file.write_bytes(earlier)
        raise DataVersionError(
            f"not deterministic: {file.name} says {_summary(before)['md5']} for step {meta['key']}, this build gave "
            f"{_summary(pointer)['md5']}; delete {file.name} to take the new one, or look for what differs in {target}"
        )
    _write_pointer(file, {**pointer, "meta": dict(meta)})
    return _summary(pointer)


def _bring(target: Path, pointer: Mapping[str, Any]) -> bool:
    """Checks the pointer's version out of DVC's cache or pulls it from the default remote; whether that worked.

    Raises DataVersionError where something else lies in the folder.
    """
    cached = _in_cache(pointer)
    if cached:
        _refuse_foreign(target, pointer, steps.hash_files(target) if target.exists() else {}, {})
    elif target.exists() or not _setting("core", "remote"):
        return False
    from dvc.exceptions import DvcException

    try:
        with _dvc() as repo:
            (repo.checkout if cached else repo.pull)(targets=[str(_pointer_file(target))])
    except DvcException as error:
        logger.warning("%s could not be restored, it is built instead: %s", _name(target), error)
        return False
    return _holds(target, pointer)


def _holds(target: Path, pointer: Mapping[str, Any]) -> bool:
    return target.is_dir() and steps.folder_digest(_contents(target)) == pointer.get("meta", {}).get("digest")


def _contents(folder: Path) -> dict[str, str]:
    """SHA-256 of the versioned files by relative path: a step's manifest and its log stay in the store."""
    if not folder.is_dir():
        return {}
    return {
        path: digest for path, digest in steps.hash_files(folder).items() if not path.startswith(f"{steps.UNHASHED}/")
    }


def _recorded(pointer: Mapping[str, Any]) -> dict[str, str]:
    """MD5 of the files of the pointer's version by relative path; empty where the cache does not have the list."""
    file = _cached(_summary(pointer)["md5"])
    if not file.is_file():
        return {}
    return {entry["relpath"]: entry["md5"] for entry in json.loads(file.read_text(encoding="utf-8"))}


def _in_cache(pointer: Mapping[str, Any]) -> bool:
    """Whether DVC's cache has the list of files and each of them."""
    recorded = _recorded(pointer)
    return bool(recorded) and all(_cached(md5).is_file() for md5 in recorded.values())


def _cached(md5: str) -> Path:
    folder = _setting("cache", "dir") or "cache"
    return (_repository() / folder / CACHE / md5[:2] / md5[2:]).resolve()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _summary(pointer: Mapping[str, Any]) -> dict[str, Any]:
    out = (pointer.get("outs") or [{}])[0]
    return {"md5": str(out.get("md5", "")), "size": int(out.get("size", 0))}


def _pointer_file(target: Path) -> Path:
    return target.with_name(target.name + ".dvc")


def _pointer(target: Path) -> dict[str, Any]:
    import yaml

    file = _pointer_file(target)
    if not file.exists():
        return {}
    try:
        pointer = yaml.safe_load(file.read_text(encoding="utf-8"))
        _summary(pointer)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, KeyError, UnicodeDecodeError):
        raise DataVersionError(
            f"{file} is not a DVC pointer; restore it with: git checkout {file.name}, or delete it"
        ) from None
    return pointer


def _write_pointer(file: Path, pointer: Mapping[str, Any]) -> None:
    import yaml

    partial = file.with_name(file.name + ".partial")
    partial.write_text(yaml.safe_dump(dict(pointer), sort_keys=False), encoding="utf-8")
    partial.replace(file)


def _name(target: Path) -> str:
    return target.relative_to(project()).as_posix()


def _repository() -> Path:
    return project() / ".dvc"


def _setting(section: str, name: str) -> str:
    """A setting of the repository, without importing DVC: the path of a second run should cost nothing."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read([_repository() / "config", _repository() / "config.local"], encoding="utf-8")
    return parser.get(section, name, fallback="")


@contextmanager
def _dvc() -> Iterator[Any]:
    """DVC's repository, made where the project is none yet. Quiet, and never touching git's index."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    with redirect_stdout(sys.stderr):  # DVC prints; stdout belongs to whoever called
        _initialise(Repo)
        with Repo(str(project())) as repo:
            repo.scm_context.quiet = True
            yield repo


def _initialise(repository: Any) -> None:
    if (_repository() / "config").exists():
        return
    shutil.rmtree(_repository(), ignore_errors=True)  # a killed initialisation
    project().mkdir(parents=True, exist_ok=True)
    with repository.init(str(project()), no_scm=True) as made, made.config.edit("repo") as settings:
        settings["core"] |= {"analytics": False, "check_update": False}


@contextmanager
def _lock() -> Iterator[None]:
    """DVC waits three seconds for its own lock and then fails; this one waits."""
    from filelock import FileLock

    lock = project() / ".evergreen" / "versioning.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield
