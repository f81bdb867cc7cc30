"""Checkpoints on disk: sealed when whole, verified before use, rotated, and removed when a disk took half of one."""

import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from tasks import disk
from tasks.errors import StoreError

COMPLETE = "complete.json"  # renamed into place last: what lacks it, or differs from it, is damaged
KEPT = 2
CHUNK = 4 << 20  # bytes that are read and digested at once
logger = logging.getLogger("evergreen.checkpoints")


class Stamp(BaseModel):
    """A file as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0, description="Its size.")
    xxh3: str = Field(pattern="^[0-9a-f]{32}$", description="XXH3 of its content, 128 bits: no protection from intent.")


class Seal(BaseModel):
    """The content of `complete.json`: every other file of the checkpoint by its relative path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, Stamp] = Field(min_length=1, description="By relative path.")


def step_of(checkpoint: Path) -> int:
    """The step that a folder named `checkpoint-STEP` was saved after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def numbered(folder: Path) -> list[Path]:
    """The checkpoints below a folder, damaged ones too, the newest first."""
    there = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in there if path.is_dir()), key=step_of, reverse=True)


def newest(folder: Path, *, before: float = math.inf) -> Path | None:
    """The newest intact checkpoint of a step below `before`.

    The damaged ones above it are removed with a warning: the Trainer would die on them, or load them as they are.
    """
    for checkpoint in numbered(folder):
        if step_of(checkpoint) >= before:
            continue
        why = damage(checkpoint)
        if not why:
            return checkpoint
        logger.warning("%s is passed over and removed: %s", checkpoint, why)
        shutil.rmtree(checkpoint)
    return None


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint; empty where every file is what was written."""
    try:
        seal_ = Seal.model_validate_json((checkpoint / COMPLETE).read_bytes())
        wrong = (_difference(checkpoint / name, stamp) for name, stamp in seal_.files.items())
        return next(filter(None, wrong), "")
    except FileNotFoundError:
        return f"it has no {COMPLETE}, so the run ended while it was written"
    except ValueError:
        return f"its {COMPLETE} is garbled"
    except OSError as error:
        return f"it cannot be read: {error}"


def _difference(path: Path, written: Stamp) -> str:
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != written.bytes:
        return f"{path.name} has {size:,} bytes and was written with {written.bytes:,}"
    return "" if _stamp(path) == written else f"{path.name} is not what was written: its digest differs"


def _stamp(path: Path) -> Stamp:
    digest, size, buffer = xxhash.xxh3_128(), 0, memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return Stamp(bytes=size, xxh3=digest.hexdigest())


def seal(checkpoint: Path) -> None:
    """Marks a checkpoint as whole, once it would survive a loss of power."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and not path.name.startswith(COMPLETE)]
    for path in files:
        sync(path)
    content = Seal(files={path.relative_to(checkpoint).as_posix(): _stamp(path) for path in files})
    temporary = checkpoint / f"{COMPLETE}.tmp"
    temporary.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    sync(temporary)
    temporary.replace(checkpoint / COMPLETE)
    for folder in (checkpoint, checkpoint.parent):
        sync(folder)


def sync(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(sealed: Path) -> None:
    """Leaves a checkpoint that was sealed just now and the newest sealed one before it; removes all others.

    The Trainer's own rotation counts by date, before the new checkpoint is sealed, and counts damaged ones: it may
    remove the last intact one.
    """
    others = [path for path in numbered(sealed.parent) if path != sealed]
    earlier = [path for path in others if step_of(path) < step_of(sealed) and (path / COMPLETE).exists()]
    for path in others:
        if path not in earlier[: KEPT - 1]:
            shutil.rmtree(path)


def non_finite(checkpoint: Path) -> str:
    """The first saved weight that holds a value which is no finite number; empty where there is none."""
    from safetensors import safe_open

    for path in sorted(checkpoint.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 it is no mapping
                weight = file.get_tensor(name)
                if weight.is_floating_point() and not weight.isfinite().all():
                    return name
    return ""


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Removes what is half of a checkpoint when saving it fails.

    Raises StoreError where the disk was the reason. torch, safetensors and json each raise an error of their own.
    """
    try:
        yield
    except Exception as error:
        half = [path for path in numbered(folder) if not (path / COMPLETE).exists()]
        for path in half:
            shutil.rmtree(path, ignore_errors=True)
        remedy = _remedy(error)
        if not half or not remedy:
            raise
        raise StoreError(_refused(half[0], remedy)) from error


def _remedy(error: Exception) -> str | None:
    # torch's writer of zip files is C++ and says only that its stream failed
    if isinstance(error, RuntimeError) and re.search(r"iostream|inline_container|PytorchStreamWriter", str(error)):
        return disk.REMEDIES[errno.ENOSPC]
    return disk.REMEDIES.get(disk.errno_of(error) or 0)


def _refused(half: Path, remedy: str) -> str:
    last, free = newest(half.parent), shutil.disk_usage(half.parent).free
    goes_on = f"goes on from step {step_of(last)} ({last})" if last else "starts again, as no checkpoint was whole yet"
    return (
        f"the checkpoint of step {step_of(half)} cannot be written to {half}: {remedy}. What was written of it is "
        f"removed, and {free:,} bytes are free now. Run again afterwards: training {goes_on}."
    )
