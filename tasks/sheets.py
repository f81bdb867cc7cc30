"""A file of rows with what is decided about each row, while the rows themselves stay on disk."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models import prose
from tasks.facts import hash_of
from tasks.rows import Row, RowFile, write
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
    """A file of rows with what is decided about each: its side, why it was dropped, what is cut out of it."""

    def __init__(self, name: str, path: Path, sides: Sides, seed: int):
        self.name, self.file, self.split = name, RowFile(path), sides
        count = len(self.file)
        self.sides, self.kind = np.zeros(count, np.int8), np.zeros(count, np.int32)
        self.groups, self.places = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        self.kinds: dict[str, int] = {}
        self.reasons: dict[int, str] = {}
        self.cuts: dict[int, str] = {}
        for number, row in enumerate(self.file):
            self.sides[number] = CODES[sides.side(row)]
            self.kind[number] = self.kinds.setdefault(row.get("domain") or row["kind"], len(self.kinds))
            self.groups[number] = hash_of(sides.group(row))
            self.places[number] = int(prose.place(seed, row["id"])[:16], 16)
        for straddling in np.flatnonzero(self.sides == CODES[STRADDLING]):
            self.drop(int(straddling), "dialogue between people of two sides")

    def drop(self, number: int, reason: str) -> None:
        """The first reason stays."""
        self.reasons.setdefault(number, reason)

    def on(self, side: int) -> np.ndarray:
        """The numbers of the rows on a side that are not dropped, in the file's order."""
        return self._kept(np.flatnonzero(self.sides == side))

    def texts(self, numbers: np.ndarray) -> Iterator[str]:
        """The content of rows, as it will be written."""
        for number, row in zip(numbers, self.file.pick(numbers), strict=True):
            yield self.cuts.get(int(number)) or "\n".join(row[part] for part in CONTENT[self.name])

    def passages(self, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
        """Each part of the rows by itself, with the row's number."""
        for number, row in zip(numbers.tolist(), self.file.pick(numbers), strict=True):
            yield from ((number, row[part]) for part in CONTENT[self.name])

    def dropped(self) -> Iterator[Row]:
        numbers = sorted(self.reasons)
        for number, row in zip(numbers, self.file.pick(numbers), strict=True):
            yield quarantined(self.name, self.reasons[number], row)

    def write(self, folder: Path) -> None:
        """The kept rows of each side in their order, with the fields that the data set promises."""
        folder.mkdir()
        written = 0
        for side in SPLITS:
            numbers = self.ordered(self.on(CODES[side]))
            rows = zip(numbers.tolist(), self.file.pick(numbers), strict=True)
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

    def _kept(self, numbers: np.ndarray) -> np.ndarray:
        gone = np.fromiter(self.reasons, np.int64, len(self.reasons))
        return np.setdiff1d(numbers, gone, assume_unique=True)

    def ordered(self, numbers: np.ndarray) -> np.ndarray:
        """Shuffled by a hash of the id; text with the encyclopaedia first and the other domains in turn after it."""
        shuffled = numbers[np.argsort(self.places[numbers], kind="stable")]
        if self.name != "text":
            return shuffled
        names = sorted(self.kinds)
        kind = np.array([names.index(name) for name in self.kinds], np.int64)[self.kind[shuffled]]
        rank = np.zeros(len(shuffled), np.int64)
        for code in range(len(names)):
            rank[kind == code] = np.arange((kind == code).sum())
        later = kind != (names.index("encyclopaedia") if "encyclopaedia" in names else -1)
        return shuffled[np.lexsort((kind, rank, later))]

    def _final(self, number: int, row: Row) -> Row:
        final = {name: row[name] for name in FIELDS[self.name]} | {name: row[name] for name in OPTIONAL if name in row}
        final["group"] = self.split.group(row)
        return final | ({"text": self.cuts[number]} if number in self.cuts else {})
