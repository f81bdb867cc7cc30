"""Rows on disk: one JSON object a line, read in blocks and picked by number, so that no file has to fit in memory."""

import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

Row = dict[str, Any]
BLOCK_ROWS, BLOCK_BYTES = 200_000, 64_000_000


def read(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from map(orjson.loads, file)


def write(path: Path, rows: Iterable[Row]) -> int:
    """Writes the rows and returns how many there were."""
    count = 0
    with path.open("wb") as file:
        for row in rows:
            count += 1
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return count


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def blocks(rows: Iterable[Row], *, most: int = BLOCK_ROWS, size: int = BLOCK_BYTES) -> Iterator[list[Row]]:
    """Consecutive rows, each block of at most `most` rows and, but for its last row, `size` bytes as JSON."""
    block: list[Row] = []
    held = 0
    for row in rows:
        block.append(row)
        held += len(orjson.dumps(row))
        if len(block) >= most or held >= size:
            yield block
            block, held = [], 0
    if block:
        yield block


class RowFile:
    """A file of rows whose rows can be read by their number, in any order. Holds 8 bytes a row in memory."""

    def __init__(self, path: Path):
        self.path = path
        self.starts = _starts(path)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[Row]:
        return read(self.path)

    def pick(self, numbers: Iterable[int]) -> Iterator[Row]:
        """The rows with these numbers, in this order."""
        if not len(self):
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for number in numbers:
                yield orjson.loads(content[self.starts[number] : self.starts[number + 1]])


def _starts(path: Path) -> np.ndarray:
    """Where each line begins, in bytes, and the end of the last."""
    found, place = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + place + 1)
            place += len(block)
    return np.concatenate(found)
