"""Objects of DVC's cache: files into it, out of it, and mended where they were lost or damaged."""

import glob
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks import pointers
from tasks.errors import DataVersionError
from tasks.settings import home

logger = logging.getLogger("evergreen.versioning")


def take(repository: Any, folder: Path, files: Mapping[str, str]) -> pointers.Pointer:
    """Puts files of a folder (MD5 by relative path) into DVC's cache and returns what names them."""
    add(repository, {md5: str(folder / path) for path, md5 in files.items()}, repository.fs)
    _add_list(repository, files)
    size = sum((folder / path).stat().st_size for path in files)
    return pointers.Pointer(md5=pointers.list_md5(files), size=size, files=len(files))


def put(repository: Any, files: Mapping[str, str], folder: Path) -> None:
    """Writes files from DVC's cache below an empty folder, copied or linked as DVC's `cache.type` says.

    Raises DataVersionError where something else arrives.
    """
    from dvc_objects.fs.generic import transfer

    cache = repository.cache.local
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    sources, written = [cache.oid_to_path(md5) for md5 in files.values()], [str(folder / path) for path in files]
    transfer(cache.fs, sources, repository.fs, written, links=list(cache.cache_types))
    found = pointers.files_of(folder)
    if found != files:
        wrong = sorted(path for path in {*found, *files} if found.get(path) != files.get(path))
        raise DataVersionError(
            f"{', '.join(wrong[:5])}: what DVC's cache gave is not what it should hold; check the disk, then run again"
        )


def add(repository: Any, sources: Mapping[str, str], filesystem: Any) -> None:
    """Takes files, by the MD5 that they have, into DVC's cache, in place of damaged objects of that name."""
    cache = repository.cache.local
    for md5 in sources:
        if not pointers.is_sound(md5):
            pointers.object_path(md5).unlink(missing_ok=True)
    try:
        cache.add(list(sources.values()), filesystem, list(sources))
    except BaseException:
        for folder in {pointers.object_path(md5).parent for md5 in sources}:
            for half in folder.glob(".*.tmp"):  # DVC leaves it behind, on a disk that may be full
                half.unlink(missing_ok=True)
        raise


def mend(repository: Any, pointer: pointers.Pointer, target: Path) -> dict[str, str]:
    """Brings what DVC's cache lacks or has damaged of a version from the folder itself or from the store.

    Returns what it still lacks, by MD5: what each object should hold.
    """
    lacking = pointers.unsound(pointer)
    if pointer.md5 in lacking and (files := _listed(pointer, target)):
        _add_list(repository, files)
        lacking = {pointer.md5: pointers.LIST, **pointers.unsound(pointer)}
    found = {md5: str(file) for md5, path in lacking.items() if (file := _copy_of(md5, path, target))}
    if found:
        add(repository, found, repository.fs)
    left = {md5: path for md5, path in lacking.items() if not pointers.is_sound(md5)}
    if left != lacking:
        count = len(lacking) - len(left)
        logger.info("DVC's cache had lost or damaged %d objects of %s: mended", count, pointers.name(target))
    return left


def _add_list(repository: Any, files: Mapping[str, str]) -> None:
    from dvc_data.hashfile.tree import Tree

    tree = Tree.from_list([{"md5": md5, "relpath": path} for path, md5 in files.items()])
    tree.digest()
    add(repository, {tree.oid: tree.path}, tree.fs)


def _listed(pointer: pointers.Pointer, target: Path) -> dict[str, str]:
    """MD5 by relative path of the version's files, from a folder that holds exactly them; empty where none does."""
    for folder in _folders(pointer, target):
        files = pointers.versioned(folder)
        if pointers.list_md5(files) == pointer.md5:
            return files
    return {}


def _folders(pointer: pointers.Pointer, target: Path) -> Iterator[Path]:
    """The folders that may hold the version: by the number and size of their files, which costs no reading."""
    for folder in (target, *_in_store("*"), *_in_store("*/*")):
        sizes = [path.stat().st_size for path in pointers.kept(folder)]
        if (len(sizes), sum(sizes)) == (pointer.files, pointer.size):
            yield folder


def _copy_of(md5: str, path: str, target: Path) -> Path | None:
    """A file that is what the object should be: in the folder itself, or in that of a step that made it."""
    escaped = glob.escape(path)
    for file in (target / path, *_in_store(f"*/{escaped}"), *_in_store(f"*/*/{escaped}")):
        if file.is_file() and pointers.md5_of(file) == md5:
            return file
    return None


def _in_store(pattern: str) -> Iterator[Path]:
    """What lies in or under the folders of finished steps: `*` are those of a stage."""
    yield from sorted((home() / "store").glob(f"*/{pattern}"))
