"""What a saved model weighs, read from its safetensors files without torch: parameters, and a digest of the tensors."""

import hashlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

HEAD = 8  # bytes: the length of the header, little-endian
BLOCK = 1 << 20


def parameters(folder: Path) -> int:
    """The parameters of a model folder, a tied embedding once, as it is saved; 0 where it holds no safetensors."""
    return sum(prod(entry["shape"]) for _, _, entry in _tensors(folder))


def digest(folder: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors; empty where the folder holds no safetensors.

    Blind to how they are spread over files and to what else the files say: a model that was logged and came back
    has the digest that it had.
    """
    found = {
        entry["name"]: (entry["dtype"], entry["shape"], _bytes(file, start, *entry["data_offsets"]))
        for file, start, entry in _tensors(folder)
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest() if found else ""


def tensors(file: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Every tensor's entry with its file and where that file's data begin. Raises ValueError for a torn header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(HEAD), "little")
        header = json.loads(opened.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            yield file, HEAD + length, {"name": name, **entry}


def _tensors(folder: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for file in sorted(folder.glob("*.safetensors")):
        yield from tensors(file)


def _bytes(file: Path, start: int, first: int, last: int) -> str:
    hashed = hashlib.sha256()
    with file.open("rb") as opened:
        opened.seek(start + first)
        left = last - first
        while left > 0 and (block := opened.read(min(BLOCK, left))):
            hashed.update(block)
            left -= len(block)
    return hashed.hexdigest()
