"""A file of rows with what is decided about each row, while the rows themselves stay on disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models import prose
from tasks.facts import hash_of
from tasks.progress import Count
from tasks.rows import Notes, Row, RowFile, read_blocks, write
from tasks.splits import SPLITS, STRADDLING, Sides
from tasks.validate import quarantined

FIELDS = {
    "text": ("id", "group", "domain", "text", "source", "licence"),
    "instructions": ("id", "group", "kind", "prompt", "response", "source", "licence"),
    "preferences": ("id", "group", "kind", "prompt", "chosen", "rejected", "origin", "source", "licence"),
}
OPTIONAL = ("history",)
CONTENT = {"text": ("text",), "instructions": ("prompt", "response"), "preferences": ("prompt", "chosen", "rejected")}
CODES: dict[str, int] = {side: code for code, side in enumerate((*SPLITS, STRADDLING))}
TRAIN, VALIDATION, TEST = (CODES[side] for side in SPLITS)


class Sheet:
    """A file of rows with what is decided about each: its side, why it was dropped, what is cut out of it.

    In memory are 15 bytes for each row; groups and places in the order, 8 bytes each, are read when they are needed.
    """

    def __init__(self, name: str, file: RowFile, sides: Sides, seed: int, scratch: Path):
        self.name, self.file, self.split = name, file, sides
        self.kinds: dict[str, int] = {}
        self.reasons = Notes(scratch / f"{name}-reasons", len(file))
        self.cuts = Notes(scratch / f"{name}-cuts", len(file))
        self._groups, self._places = scratch / f"{name}-groups", scratch / f"{name}-places"
        self.sides, self.kind = np.zeros(len(file), np.int8), np.zeros(len(file), np.int32)
        self._read(seed)
        for straddling in np.flatnonzero(self.sides == CODES[STRADDLING]):
            self.drop(int(straddling), "dialogue between people of two sides")

    def _read(self, seed: int) -> None:
        done, progress = 0, Count(f"{self.name}: sides", len(self.file))
        with self._groups.open("wb") as groups, self._places.open("wb") as places:
            for block in read_blocks(self.file.path):
                here = slice(done, done := done + len(block))
                self.sides[here] = [CODES[self.split.side(row)] for row in block]
                self.kind[here] = [
                    self.kinds.setdefault(row.get("domain") or row["kind"], len(self.kinds)) for row in block
                ]
                np.array([hash_of(self.split.group(row)) for row in block], np.uint64).tofile(groups)
                np.array([int(prose.place(seed, row["id"])[:16], 16) for row in block], np.uint64).tofile(places)
                progress.reach(done)

    def groups(self) -> np.ndarray:
        """A hash of each row's group."""
        return np.fromfile(self._groups, np.uint64)

    def drop(self, number: int, reason: str) -> None:
        """The first reason stays."""
        self.reasons.add(number, reason)

    def on(self, side: int) -> np.ndarray:
        """The numbers of the rows on a side that are not dropped, in the file's order."""
        return np.flatnonzero((self.sides == side) & ~self.reasons.marked)

    def texts(self, numbers: np.ndarray, doing: str) -> Iterator[str]:
        """The content of rows, as it will be written; `doing` is for who looks on."""
        for number, row in zip(numbers, self._picked(numbers, doing), strict=True):
            yield self.cuts.get(number) or "\n".join(row[part] for part in CONTENT[self.name])

    def passages(self, numbers: np.ndarray, doing: str) -> Iterator[tuple[int, str]]:
        """Each part of the rows by itself, with the row's number."""
        for number, row in zip(numbers, self._picked(numbers, doing), strict=True):
            yield from ((int(number), row[part]) for part in CONTENT[self.name])

    def dropped(self) -> Iterator[Row]:
        numbers = np.flatnonzero(self.reasons.marked)
        for (_, reason), row in zip(self.reasons.sorted(), self._picked(numbers, "quarantine"), strict=True):
            yield quarantined(self.name, reason, row)

    def write(self, folder: Path) -> None:
        """The kept rows of each side in their order, with the fields that the data set promises."""
        folder.mkdir()
        written = 0
        for side in SPLITS:
            numbers = self.ordered(self.on(CODES[side]))
            rows = zip(numbers, self._picked(numbers, f"writes {side}"), strict=True)
            written += write(folder / f"{side}.jsonl", (self._final(number, row) for number, row in rows))
        assert len(self.file) == written + len(self.reasons), self.name

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by side, and by domain or kind."""
        names = sorted(self.kinds)
        found = {}
        for side in SPLITS:
            held = np.bincount(self.kind[self.on(CODES[side])], minlength=len(self.kinds))
            found[side] = {name: int(held[self.kinds[name]]) for name in names if held[self.kinds[name]]}
        return found

    def ordered(self, numbers: np.ndarray) -> np.ndarray:
        """Shuffled by a hash of the id; text with the encyclopaedia first and the other domains in turn after it."""
        shuffled = numbers[np.argsort(np.fromfile(self._places, np.uint64)[numbers], kind="stable")]
        if self.name != "text" or len(self.kinds) == 1:
            return shuffled
        ranked = {name: rank for rank, name in enumerate(sorted(self.kinds))}
        kind = np.array([ranked[name] for name in self.kinds], np.int32)[self.kind[shuffled]]
        later = kind != ranked.get("encyclopaedia", -1)
        return shuffled[np.lexsort((kind, _ranks(kind), later))]

    def _picked(self, numbers: np.ndarray, doing: str) -> Iterator[Row]:
        return Count(f"{self.name}: {doing}", len(numbers)).over(self.file.pick(numbers))

    def _final(self, number: int, row: Row) -> Row:
        final = {name: row[name] for name in FIELDS[self.name]} | {name: row[name] for name in OPTIONAL if name in row}
        final["group"] = self.split.group(row)
        text = self.cuts.get(number)
        return final if text is None else final | {"text": text}


def _ranks(kind: np.ndarray) -> np.ndarray:
    """How many of the same kind come before each."""
    order = np.argsort(kind, kind="stable")
    firsts = np.searchsorted(kind[order], np.arange(kind.max(initial=-1) + 1))
    ranks = np.zeros(kind.size, np.int32)
    ranks[order] = np.arange(kind.size) - firsts[kind[order]]
    return ranks
