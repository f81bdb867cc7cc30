"""Versions through DVC: `data/` and its pointer, and the folders of promoted models.

Nothing that is neither what a pointer says nor what is about to be written is ever overwritten. A commit is made only
where it is asked for. `tasks/pointers.py`, `objects.py`, `repository.py` and `checkout.py` hold the parts.
"""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import checkout, commits, objects, pointers, remote, repository, steps, transfer
from tasks.artifacts import Dataset
from tasks.errors import DataVersionError
from tasks.pointers import Pointer
from tasks.settings import project

logger = logging.getLogger("evergreen.versioning")


@task(task_run_name="version the data", cache_policy=NO_CACHE)
def version_data(dataset: Dataset, *, commit: bool = False) -> dict[str, Any]:
    """Puts the data set into `data/` and moves `data.dvc` to it; returns the pointer's md5 and size.

    Already so: nothing is written. With `commit`, git commits the pointer, and nothing else. Raises DataVersionError
    where `data/` was changed by hand or is damaged, where the same step gave another result than the pointer says,
    and where git cannot commit.
    """
    target = project() / "data"
    with repository.lock():
        found = _version(dataset.path, target, key=dataset.key, digest=dataset.digest)
    if commit:
        commit_pointer(target)
    return found


def current_data() -> Pointer | None:
    """The version that `data.dvc` names now; None where there is none."""
    pointer = pointers.read(project() / "data")
    return pointer if pointer.digest else None


@task(task_run_name="version the weights", cache_policy=NO_CACHE)
def version_model(folder: Path, name: str) -> dict[str, Any]:
    """Copies a model folder to `models/<name>/` and points `models/<name>.dvc` to it; returns its md5 and size."""
    if not folder.is_dir():
        raise DataVersionError(f"{folder} is not a model folder; give the folder that save_pretrained wrote")
    with repository.lock():
        return _version(folder, project() / "models" / name, digest=steps.folder_digest(steps.hash_files(folder)))


def drop_model(name: str) -> None:
    """Takes away the folder and the pointer of a model that has no champion any more; DVC's cache keeps the weights.

    A folder that somebody changed stays, with a warning.
    """
    target = project() / "models" / name
    with repository.lock():
        pointer, found = pointers.read(target), pointers.files_of(target)
        if found and pointers.list_md5(found) != pointer.md5:
            logger.warning("%s was changed by hand and stays, though %s has no champion", target, name)
            return
        pointers.file_of(target).unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)


def commit_pointer(target: Path) -> str:
    """Commits one pointer to git, nothing else, and returns the commit; empty where the pointer had not changed.

    Raises DataVersionError where there is no pointer, git is missing, has no identity, or refuses.
    """
    with repository.lock():
        pointer = pointers.read(target)
        name = pointers.name(target)
        if not pointer.md5:
            raise DataVersionError(f"there is no {name}.dvc to commit; a run of the data stage makes it")
        rows = pointers.rows(pointers.counts(pointer))
        size = f" ({rows} rows)" if rows is not None else ""
        made = commits.commit(target, f"{name}: {pointer.key or pointer.digest[:16] or pointer.md5}{size}")
    if made:
        logger.info("committed %s.dvc as %s", name, made[:12])
    return made


def restore(step: steps.Step) -> Dataset | None:
    """The step's data set from the version that `data.dvc` names, where that is this step's and can be had.

    From DVC's cache, `data/` or the default remote. None where the pointer is another step's, or nothing has it.
    """
    target = project() / "data"
    with repository.lock():
        pointer = pointers.read(target)
        if pointer.key != step.key or not _brought(pointer, target):
            return None

    def build(folder: Path) -> dict[str, Any]:
        for path, md5 in pointers.recorded(pointer).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pointers.object_path(md5), folder / path)
        found = steps.folder_digest(steps.hash_files(folder))
        if found != pointer.digest:
            raise DataVersionError(
                f"data.dvc: expected content {pointer.digest[:16]}..., its files are {found[:16]}...; somebody edited "
                "the pointer: git checkout data.dvc, or delete it"
            )
        summary = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        return {**summary, "execution": {"restored": "data.dvc"}}

    return steps.materialise(step, Dataset, build)


def _brought(pointer: Pointer, target: Path) -> bool:
    """Whether DVC's cache has the whole version, after an attempt to complete it."""
    if not pointers.unsound(pointer):
        return True
    try:
        with repository.opened() as opened:
            transfer.gather(opened, pointer, target)
    except DataVersionError as error:
        if remote.default() is not None:
            logger.warning("data.dvc could not be restored, the data set is built instead: %s", error)
        return False
    return True


def _version(source: Path, target: Path, *, digest: str, key: str = "") -> dict[str, Any]:
    checkout.clear(target)
    pointer, found = pointers.read(target), pointers.files_of(target)
    so_already = pointer.meta == Pointer(key=key, digest=digest).meta and pointers.list_md5(found) == pointer.md5
    if not so_already or pointers.unsound(pointer):
        wanted = pointers.versioned(source)
        _refuse_other_result(target, pointer, Pointer(md5=pointers.list_md5(wanted), key=key, digest=digest))
        checkout.refuse_foreign(target, found, pointer, wanted)
        with repository.opened() as opened:
            pointer = replace(objects.take(opened, source, wanted), key=key, digest=digest)
            checkout.place(opened, target, found, wanted, pointers.render(target, pointer))
    return {"md5": pointer.md5, "size": pointer.size}


def _refuse_other_result(target: Path, known: Pointer, made: Pointer) -> None:
    if not made.key or known.key != made.key or (known.digest, known.md5) == (made.digest, made.md5):
        return
    name = pointers.name(target)
    field = "digest" if known.digest != made.digest else "md5"
    raise DataVersionError(
        f"not deterministic: {name}.dvc says that step {made.key} gives {field} {vars(known)[field]}, this build gave "
        f"{vars(made)[field]}; compare {target} with the build, or delete {name}.dvc to take the new one"
    )
