"""A version put in its place: folder and pointer change together, and nothing foreign is overwritten.

Everything is in DVC's cache and written beside (`.dvc/tmp/evergreen/<name>/`) before three renames change anything.
A kill between them leaves the folder missing, or the new one with the old pointer: the next run or pull goes on from
either.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import objects, pointers
from tasks.errors import DataVersionError


def refuse_foreign(
    target: Path, found: Mapping[str, str], pointer: pointers.Pointer, wanted: Mapping[str, str]
) -> None:
    """Each file in the folder must be one of the pointer's version or of the one to be written.

    Or all of it is a version that DVC's cache has whole, as after `git checkout` of another pointer. Raises
    DataVersionError with the first file that is not.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise DataVersionError(f"{target} is no folder of its own but a file or a link; move it away")
    whole = pointers.Pointer(md5=pointers.list_md5(found))
    if whole.md5 == pointer.md5 or not pointers.unsound(whole):
        return
    recorded = pointers.recorded(pointer)
    for path, md5 in found.items():
        if md5 not in (wanted.get(path), recorded.get(path)):
            state = "was changed" if path in wanted or path in recorded else "is not part of it"
            name = pointers.name(target)
            raise DataVersionError(
                f"{target / path} {state}: neither what {name}.dvc says nor what is about to be written, so nothing "
                f"was overwritten. Take back the recorded version with: dvc checkout {name}.dvc --force; or move your "
                f"version away; or delete {target}"
            )


def place(repository: Any, target: Path, found: Mapping[str, str], wanted: Mapping[str, str], text: bytes) -> None:
    """Makes the folder the wanted files, from DVC's cache, and its pointer the text; leaves alone what is so already.

    Raises OSError where the disk is full: folder and pointer are then as they were.
    """
    clear(target)
    file, scratch = pointers.file_of(target), _scratch(target)
    new, old, pointer = (scratch / name for name in ("new", "old", "pointer"))
    scratch.mkdir(parents=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if found != wanted:
            objects.put(repository, wanted, new)
        pointer.write_bytes(text)
        if found != wanted:
            if target.exists():
                target.replace(old)
            new.replace(target)
        pointer.replace(file)
    finally:
        if old.exists() and not target.exists():
            old.replace(target)
        clear(target)


def clear(target: Path) -> None:
    """Removes what a killed process had written beside the folder."""
    shutil.rmtree(_scratch(target), ignore_errors=True)


def _scratch(target: Path) -> Path:
    return pointers.repository() / "tmp" / "evergreen" / pointers.name(target)
