"""Versions to and from the default remote: DVC's cache is completed before anything is sent or written."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks import checkout, commits, objects, pointers, remote, repository, steps
from tasks.errors import DataVersionError
from tasks.pointers import Pointer
from tasks.settings import home

SHOWN = 5  # names in a message


def push() -> dict[str, Any]:
    """Copies what the pointers name from DVC's cache to the default remote; returns how much it sent.

    Every object is hashed first. Raises DataVersionError where one is lost or damaged and nothing has it whole, where
    there is no remote, and where the remote cannot be used.
    """
    place = remote.required()
    with repository.lock(), repository.opened() as opened:
        named, lacking = _named(opened)
        with remote.usable(place):
            store = remote.store(opened)
            there = remote.there(store, named)
        _refuse_damaged([what for md5, what in lacking.items() if md5 not in there], place)
        sent = [md5 for md5 in named if md5 not in there]
        with remote.usable(place):
            for folders in (False, True):  # a list after its files: whoever finds it finds them all
                chosen = [md5 for md5 in sent if md5.endswith(pointers.FOLDER) is folders]
                store.add([str(pointers.object_path(md5)) for md5 in chosen], opened.fs, chosen)
    return {
        "remote": place.name,
        "url": place.shown,
        "files": sum(not md5.endswith(pointers.FOLDER) for md5 in sent),
        "bytes": sum(pointers.object_path(md5).stat().st_size for md5 in sent),
        "already_there": len(there),
    }


def pull(target: Path, revision: str = "") -> dict[str, Any]:
    """Makes a folder what its pointer names, or what the pointer of a git revision named, and then the pointer too.

    From DVC's cache, the folder, the store, or the default remote. Raises DataVersionError where something else lies
    in the folder and where nothing has an object; folder and pointer are then as they were.
    """
    with repository.lock():
        checkout.clear(target)
        present, found = pointers.read(target), pointers.files_of(target)
        before = _text(target)
        text = commits.pointer_at(revision, target) if revision else before
        if not text:
            raise DataVersionError(
                f"there is no {pointers.file_of(target)}; a run of the data stage makes it: evergreen run; or take one "
                "from git: evergreen data pull --rev REVISION"
            )
        wanted = pointers.parse(text, f"{pointers.name(target)}.dvc of {revision}", "choose another revision")
        so_already = pointers.list_md5(found) == wanted.md5 and text == before
        if not so_already or pointers.unsound(wanted):
            _refuse_forgetting(target, present, wanted)
            with repository.opened() as opened:
                gather(opened, wanted, target)
                if not (files := pointers.recorded(wanted)):
                    raise DataVersionError(f"{pointers.name(target)}.dvc names no folder; bring it with: dvc pull")
                checkout.refuse_foreign(target, found, present, files)
                checkout.place(opened, target, found, files, text)
    return {
        "name": pointers.name(target), "key": wanted.key, "md5": wanted.md5, "files": wanted.files,
        "bytes": wanted.size, "written": not so_already,
    }  # fmt: skip


def gather(opened: Any, pointer: Pointer, target: Path) -> None:
    """Completes DVC's cache with a version: from what is here, then from the default remote.

    Raises DataVersionError with what nothing has whole.
    """
    for _ in range(2):  # the list of files, then the files
        lacking = objects.mend(opened, pointer, target)
        if not lacking:
            return
        place = remote.default()
        if place is None:
            raise DataVersionError(
                f"DVC's cache lacks {_some(lacking.values())} of {pointers.name(target)}.dvc, and there is no remote "
                f"to bring it from; set one up: {remote.SET_UP}; or build it again: evergreen run"
            )
        with remote.usable(place):
            _fetch(opened, place, lacking)


def _fetch(opened: Any, place: remote.Remote, lacking: Mapping[str, str]) -> None:
    store = remote.store(opened)
    there = remote.there(store, lacking)
    objects.add(opened, {md5: store.oid_to_path(md5) for md5 in there}, store.fs)
    if damaged := [md5 for md5 in there if not pointers.is_sound(md5)]:
        for md5 in damaged:
            pointers.object_path(md5).unlink(missing_ok=True)
        raise DataVersionError(
            f"{place} has {_some(lacking[md5] for md5 in damaged)} damaged: delete {store.oid_to_path(damaged[0])} "
            "there, then run where DVC's cache is whole: evergreen data push"
        )
    if absent := [what for md5, what in lacking.items() if md5 not in there]:
        raise DataVersionError(
            f"{place} does not have {_some(absent)}; run where DVC's cache is whole: evergreen data push"
        )


def _named(opened: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Every object that a pointer names, and those that are not whole here, by MD5: what each holds."""
    named: dict[str, str] = {}
    lacking: dict[str, str] = {}
    for target in pointers.targets():
        pointer = pointers.read(target)
        if pointer.md5:
            left = objects.mend(opened, pointer, target)
            for found, these in ((named, pointers.objects(pointer)), (lacking, left)):
                found.update({md5: f"{pointers.name(target)}: {what}" for md5, what in these.items()})
    if not named:
        raise DataVersionError("nothing is versioned yet; a run of the data stage does that: evergreen run")
    return named, lacking


def _refuse_damaged(names: Iterable[str], place: remote.Remote) -> None:
    if names := list(names):
        raise DataVersionError(
            f"DVC's cache has lost or damaged {_some(names)}, and neither the folder, the store nor {place} has it "
            "whole, so nothing was pushed. Build it again: delete the folder and its pointer, then run: evergreen run"
        )


def _refuse_forgetting(target: Path, present: Pointer, wanted: Pointer) -> None:
    """A version that only the present pointer names would be lost with it."""
    if not present.md5 or present == wanted or any(made.pointer == present for made in commits.log(target)):
        return
    manifest = steps.read_manifest(home() / "store" / target.name / present.key) if present.key else None
    if not manifest or manifest.get("digest") != present.digest:
        name = pointers.name(target)
        raise DataVersionError(
            f"{name}.dvc names a version that no commit and no step in the store names, so it would be forgotten; "
            f"commit it first: git add {name}.dvc; git commit --only {name}.dvc; or delete {name}.dvc"
        )


def _text(target: Path) -> bytes:
    file = pointers.file_of(target)
    return file.read_bytes() if file.exists() else b""


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
