"""Rows on disk: one JSON object a line, read in blocks and picked by number, so that no file has to fit in memory."""

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

Row = dict[str, Any]
T = TypeVar("T")
BLOCK_ROWS, BLOCK_BYTES = 200_000, 48_000_000
BATCH, BATCH_CHARACTERS = 4096, 8_000_000


def read(path: Path, *, holding: bytes = b"") -> Iterator[Row]:
    """The rows of a file; with `holding` only the lines in which these bytes stand."""
    with path.open("rb") as file:
        yield from map(orjson.loads, (line for line in file if holding in line) if holding else file)


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


def count(path: Path) -> int:
    """How many rows a file has."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Consecutive rows, each block of at most BLOCK_ROWS and, but for its last row, BLOCK_BYTES as JSON.

    A block is emptied when the next one is asked for, so that there is one in memory at a time.
    """
    yield from _blocks((row, len(orjson.dumps(row))) for row in rows)


def read_blocks(path: Path) -> Iterator[list[Row]]:
    """As `blocks` of `read`."""
    with path.open("rb") as file:
        yield from _blocks((orjson.loads(line), len(line)) for line in file)


def _blocks(sized: Iterable[tuple[Row, int]]) -> Iterator[list[Row]]:
    block: list[Row] = []
    held = 0
    for row, size in sized:
        block.append(row)
        held += size
        if len(block) >= BLOCK_ROWS or held >= BLOCK_BYTES:
            yield block
            block.clear()
            held = 0
    if block:
        yield block
        block.clear()


def batches(items: Iterable[T], size: Callable[[T], int] = len) -> Iterator[list[T]]:  # type: ignore[assignment]
    """Up to BATCH items or about BATCH_CHARACTERS characters at once."""
    batch: list[T] = []
    held = 0
    for item in items:
        batch.append(item)
        held += size(item)
        if len(batch) >= BATCH or held > BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


class RowFile:
    """A file of rows whose rows can be read by their number, in any order. Holds 8 bytes a row in memory."""

    def __init__(self, path: Path):
        self.path = path
        self._starts = _starts(path)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[Row]:
        return read(self.path)

    def pick(self, numbers: Sequence[int] | np.ndarray) -> Iterator[Row]:
        """The rows with these numbers, in this order."""
        with self.path.open("rb", buffering=0) as file:
            for first, last in self._stretches(np.asarray(numbers, np.int64)):
                start = self._starts[first]
                lines = os.pread(file.fileno(), self._starts[last + 1] - start, start)
                yield from map(orjson.loads, lines.splitlines())

    def _stretches(self, numbers: np.ndarray) -> Iterator[tuple[int, int]]:
        """First and last number of rows that stand one after the other, about 1 MiB of them at most."""
        for at in range(0, len(numbers), 1 << 16):
            part = numbers[at : at + (1 << 16)]
            apart = (np.diff(part) != 1) | (np.diff(self._starts[part] >> 20) != 0)
            firsts, lasts = part[np.append(True, apart)], part[np.append(apart, True)]
            yield from zip(firsts.tolist(), lasts.tolist(), strict=True)


class Notes:
    """A text beside some of the rows of a file: on disk, and in memory a byte for each row and 32 for each text."""

    def __init__(self, path: Path, rows: int):
        self.marked = np.zeros(rows, bool)
        self._path, self._end, self._pending = path, 0, list[bytes]()
        self._numbers, self._starts = array("q"), array("q")
        self._ranked = np.zeros((2, 0), np.int64)
        path.touch(exist_ok=False)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int, text: str) -> None:
        """The first text of a row stays."""
        if self.marked[number]:
            return
        self.marked[number] = True
        self._numbers.append(number)
        self._starts.append(self._end)
        self._pending.append(orjson.dumps(text, option=orjson.OPT_APPEND_NEWLINE))
        self._end += len(self._pending[-1])
        if len(self._pending) >= 1024:
            self._flush()

    def get(self, number: int) -> str | None:
        if not self.marked[number]:
            return None
        numbers, starts = self._in_order()
        return next(self._texts(starts[[np.searchsorted(numbers, number)]]))

    def sorted(self) -> Iterator[tuple[int, str]]:
        """Every text with the number of its row, in the order of the rows."""
        numbers, starts = self._in_order()
        yield from zip(numbers, self._texts(starts), strict=True)

    def _in_order(self) -> np.ndarray:
        if self._ranked.shape[1] < len(self):
            found = np.array([self._numbers, self._starts])
            self._ranked = found[:, np.argsort(found[0])]
        return self._ranked

    def _texts(self, starts: np.ndarray) -> Iterator[str]:
        self._flush()
        with self._path.open("rb") as file:
            for start in starts:
                file.seek(start)
                yield orjson.loads(file.readline())

    def _flush(self) -> None:
        if self._pending:
            with self._path.open("ab") as file:
                file.writelines(self._pending)
            self._pending.clear()


def _starts(path: Path) -> np.ndarray:
    """Where each line begins, in bytes, and the end of the last."""
    found, place = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + place + 1)
            place += len(block)
    return np.concatenate(found)
