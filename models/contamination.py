"""Decontamination: word n-grams of training texts that also stand in evaluation or benchmark items.

Brown et al. 2020 (GPT-3), appendix C: 13-grams, blind to case and punctuation; those common in training are ignored.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.hashes import among
from models.prose import sentences
from models.shingles import Words, rolling, words

_BITS, _PROBES = 16, 4  # of the sieve, for each protected n-gram: 0.24% of the others pass it
_MOST_BITS = 2**32 - 1
_AT_ONCE = 1 << 20  # hashes of a piece
_UNKNOWN, _NOWHERE, _BEYOND = -2, -1, 2**62  # instead of an item


class Span(NamedTuple):
    """Characters `start` to `end` of a text that also stand in an item of a protected set, by its index there."""

    start: int
    end: int
    source: str
    item: int


class Overlap(NamedTuple):
    """What one of the texts shares with the protected sets."""

    document: int
    """Index in the texts asked about."""
    share: float
    """Of its words that lie in a span."""
    spans: list[Span]
    example: str
    """Its first shared n-gram, as it stands in the text."""


class _Run(NamedTuple):
    """Places of words from `start` up to `stop`; where its first n-gram stops; the item that holds this one."""

    start: int
    stop: int
    first_stop: int
    item: int


class Contamination:
    """The n-grams of protected items, and where training texts repeat them.

    An item of `width` words or more is protected by all its `width`-grams, one of at least `least_words` words as a
    whole; a shorter one is common property and is not protected. N-grams that `count` met in more than `common` texts
    are ignored as boilerplate; without `count`, none is. On disk, in a folder of its own: 16 bytes for each protected
    n-gram and each time that a text holds one. In memory: 2 bytes for each (0.5 GiB at most), 20 for each that the
    texts share, 60 for each word of the texts given at once. `find` is fast for texts that were counted before: for
    n-grams that are new to it, it reads all protected ones again.
    N-grams are compared by 64-bit hashes: among `n` n-grams of training texts and `m` protected ones, `n m / 2^64`
    false hits are expected, 0.005 for 10^10 and 10^7.
    Raises ValueError unless `1 <= least_words <= width` and `common >= 0`.
    """

    def __init__(self, folder: Path, *, width: int = 13, least_words: int = 8, common: int = 10) -> None:
        if not 1 <= least_words <= width:
            raise ValueError(f"least_words is {least_words}, it must lie between 1 and the width, {width}")
        if common < 0:
            raise ValueError(f"common is {common}, it must be 0 or more")
        self._folder, self._width, self._least_words, self._common = folder, width, least_words, common
        self._grams: dict[int, _Grams] = {}
        self._firsts: list[int] = []
        self._sources: list[tuple[str, int]] = []
        self._total: Counter[str] = Counter()
        self._counted = 0

    def protect(self, texts: Sequence[str], *, source: str) -> int:
        """Protects items, which continue those given before for this source; returns how many are long enough."""
        first = self._total.total()
        self._firsts.append(first)
        self._sources.append((source, self._total[source]))
        self._total[source] += len(texts)
        found = words(texts)
        lengths = np.repeat(np.minimum(found.sizes, self._width), found.sizes)
        owners = np.repeat(np.arange(len(texts)), found.sizes)
        for length, rolled, whole in self._rolled(found):
            kept = whole & (lengths == length)
            if kept.any():
                if length not in self._grams:
                    self._grams[length] = _Grams(self._folder / f"{length}-grams")
                self._grams[length].protect(rolled[kept], first + owners[kept])
        return int((found.sizes >= self._least_words).sum())

    def count(self, texts: Sequence[str]) -> None:
        """Counts in how many training texts each protected n-gram stands; each text is to be counted once."""
        found = words(texts)
        for length, hashes, places in self._hits(found):
            self._grams[length].count(hashes, self._counted + _owners(found, places))
        self._counted += len(texts)

    def suspects(self) -> np.ndarray:
        """The indices, among all texts that were counted, of those that `find` would report; ascending."""
        parts = [np.zeros(0, np.int64)]
        for grams in self._grams.values():
            for hashes, texts in grams.met():
                parts.append(np.unique(texts[grams.items(hashes, self._common) >= 0]))
        return np.unique(np.concatenate(parts))

    def repeated(self) -> list[tuple[str, int]]:
        """The protected items that share an n-gram with a text that was counted, by source and index there."""
        parts = [np.zeros(0, np.int64), *(grams.repeated(self._common) for grams in self._grams.values())]
        return [self._item(number) for number in np.unique(np.concatenate(parts)).tolist()]

    def find(self, texts: Sequence[str]) -> list[Overlap]:
        """The texts that share an n-gram with a protected item, in order; one that several hold goes to the first."""
        found = words(texts)
        runs = _merged(sorted(self._runs(found)))
        owners = _owners(found, np.array([run.start for run in runs], np.int64)).tolist()
        by_text = groupby(zip(owners, runs, strict=True), key=itemgetter(0))
        return [self._overlap(index, texts[index], found, [run for _, run in held]) for index, held in by_text]

    def _runs(self, found: Words) -> Iterator[_Run]:
        for length, hashes, places in self._hits(found):
            items = self._grams[length].items(hashes, self._common)
            held = items >= 0
            for place, item in zip(places[held].tolist(), items[held].tolist(), strict=True):
                yield _Run(place, place + length, place + length, item)

    def _overlap(self, document: int, text: str, found: Words, runs: Sequence[_Run]) -> Overlap:
        starts, ends = found.starts, found.ends
        spans = [Span(int(starts[run.start]), int(ends[run.stop - 1]), *self._item(run.item)) for run in runs]
        covered = sum(run.stop - run.start for run in runs)
        example = text[spans[0].start : int(ends[runs[0].first_stop - 1])]
        return Overlap(document, covered / int(found.sizes[document]), spans, example)

    def _item(self, number: int) -> tuple[str, int]:
        batch = bisect_right(self._firsts, number) - 1
        source, first = self._sources[batch]
        return source, first + number - self._firsts[batch]

    def _rolled(self, found: Words) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each length that is protected: the n-gram from every place on, and whether it ends within its text."""
        left = np.repeat(np.cumsum(found.sizes), found.sizes) - np.arange(found.hashes.size)
        for length, rolled in enumerate(rolling(found.hashes, self._width), 1):
            if length >= self._least_words:
                yield length, rolled, left >= length

    def _hits(self, found: Words) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each length: the n-grams that may be protected, and the places of their first words."""
        for length, rolled, whole in self._rolled(found):
            if length in self._grams:
                places = self._grams[length].sieve().passed(rolled)
                places = places[whole[places]]
                yield length, rolled[places], places


class _Grams:
    """The protected n-grams of one length, on disk with the item that holds each; in memory those that texts share."""

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        self._met, self._tallied = path.with_suffix(".met"), 0
        self._sieve: _Sieve | None = None
        self._hashes = np.zeros(0, np.uint64)
        self._seen, self._first = np.zeros(0, np.int32), np.zeros(0, np.int64)
        for file in (self._path, self._met):
            file.touch(exist_ok=False)

    def protect(self, hashes: np.ndarray, items: np.ndarray) -> None:
        _append(self._path, hashes, items)
        self._count += hashes.size
        self._sieve = None
        self._first[self._first == _NOWHERE] = _UNKNOWN

    def sieve(self) -> "_Sieve":
        if self._sieve is None:
            self._sieve = _Sieve(self._count)
            for hashes, _ in _pairs(self._path):
                self._sieve.add(hashes)
        return self._sieve

    def count(self, hashes: np.ndarray, texts: np.ndarray) -> None:
        """Takes n-grams that may be protected, each with the index of its text."""
        order = np.lexsort((hashes, texts))
        hashes, texts = hashes[order], texts[order]
        once = (np.diff(hashes, prepend=np.uint64(0)) != 0) | (np.diff(texts, prepend=-1) != 0)
        _append(self._met, hashes[once], texts[once])

    def met(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return _pairs(self._met)

    def repeated(self, common: int) -> np.ndarray:
        """The items that hold an n-gram which texts hold too, but not more than `common` of them."""
        self._tally()
        met = self._hashes[(self._seen > 0) & (self._seen <= common)]
        parts = [np.zeros(0, np.int64), *(items[among(hashes, met)] for hashes, items in _pairs(self._path))]
        return np.unique(np.concatenate(parts))

    def items(self, hashes: np.ndarray, common: int) -> np.ndarray:
        """The first item that holds each n-gram; negative for one that none does, or more than `common` texts."""
        self._tally()
        self._add(np.unique(hashes))
        self._look_up()
        at = np.searchsorted(self._hashes, hashes)
        return np.where(self._seen[at] <= common, self._first[at], _NOWHERE)

    def _tally(self) -> None:
        for hashes, _ in _pairs(self._met, skipped=self._tallied):
            distinct, counts = np.unique(hashes, return_counts=True)
            self._add(distinct)
            self._seen[np.searchsorted(self._hashes, distinct)] += counts.astype(np.int32)
            self._tallied += hashes.size

    def _add(self, distinct: np.ndarray) -> None:
        """Takes hashes, which are sorted, among those that texts share."""
        new = distinct[~among(distinct, self._hashes)]
        at = np.searchsorted(self._hashes, new)
        self._hashes = np.insert(self._hashes, at, new)
        self._seen, self._first = np.insert(self._seen, at, 0), np.insert(self._first, at, _UNKNOWN)

    def _look_up(self) -> None:
        unknown = np.flatnonzero(self._first == _UNKNOWN)
        if not unknown.size:
            return
        wanted, first = self._hashes[unknown], np.full(unknown.size, _BEYOND)
        for hashes, items in _pairs(self._path):
            held = among(hashes, wanted)
            np.minimum.at(first, np.searchsorted(wanted, hashes[held]), items[held])
        self._first[unknown] = np.where(first == _BEYOND, _NOWHERE, first)


def _append(path: Path, hashes: np.ndarray, numbers: np.ndarray) -> None:
    with path.open("ab") as file:
        np.column_stack((hashes, numbers.astype(np.uint64))).tofile(file)


def _pairs(path: Path, *, skipped: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with path.open("rb") as file:
        file.seek(16 * skipped)
        while (pairs := np.fromfile(file, np.uint64, 2 * _AT_ONCE)).size:
            yield pairs[::2], pairs[1::2].view(np.int64)


class _Sieve:
    """Lets pass what was added, and little else (Bloom 1970, with the double hashing of Kirsch, Mitzenmacher 2006)."""

    def __init__(self, count: int) -> None:
        self._size = np.uint64(min(max(64, _BITS * count), _MOST_BITS))
        self._bits = np.zeros(int(self._size) // 8 + 1, np.uint8)

    def add(self, hashes: np.ndarray) -> None:
        for probe in range(_PROBES):
            bit = self._bit(hashes, probe)
            for place in range(8):
                self._bits[bit[bit & 7 == place] >> 3] |= 1 << place

    def passed(self, hashes: np.ndarray) -> np.ndarray:
        """The places of the hashes that pass."""
        places = np.arange(hashes.size)
        for probe in range(_PROBES):
            bit = self._bit(hashes[places], probe)
            places = places[self._bits[bit >> 3] >> (bit & 7).astype(np.uint8) & 1 != 0]
        return places

    def _bit(self, hashes: np.ndarray, probe: int) -> np.ndarray:
        mixed = (hashes >> 32) + np.uint64(probe) * (hashes & 0xFFFFFFFF | 1)
        scaled: np.ndarray = (mixed & 0xFFFFFFFF) * self._size >> 32
        return scaled.view(np.int64)


def cut(text: str, spans: Sequence[Span]) -> tuple[str, list[str]]:
    """The text without the sentences that a span touches, and these sentences; other lines stay as they are."""
    lines: list[str] = []
    removed: list[str] = []
    offset = 0
    for line in text.split("\n"):
        parts, at = [], 0
        for sentence in sentences(line):
            start = line.index(sentence, at)
            at = start + len(sentence)
            parts.append((sentence, any(span.start < offset + at and offset + start < span.end for span in spans)))
        kept = [sentence for sentence, touched in parts if not touched]
        if len(kept) == len(parts):
            lines.append(line)
        elif kept:
            lines.append(" ".join(kept))
        removed += [sentence for sentence, touched in parts if touched]
        offset += len(line) + 1
    return "\n".join(lines).strip() if removed else text, removed


def _merged(runs: Sequence[_Run]) -> list[_Run]:
    """Runs that overlap become one."""
    merged: list[_Run] = []
    for run in runs:
        if merged and run.start < merged[-1].stop:
            merged[-1] = merged[-1]._replace(stop=max(merged[-1].stop, run.stop))
        else:
            merged.append(run)
    return merged


def _owners(found: Words, places: np.ndarray) -> np.ndarray:
    """The text in which a word stands, by its place among all words."""
    return np.searchsorted(np.cumsum(found.sizes), places, "right")
