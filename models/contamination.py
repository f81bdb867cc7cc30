"""Decontamination: word n-grams of training texts that also stand in evaluation or benchmark items.

Brown et al. 2020 (GPT-3), appendix C: 13-grams, blind to case and punctuation; those common in training are ignored.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from models.duplicates import Words, rolling, words
from models.prose import sentences

_SIEVED = np.uint64(40)  # bits that the sieve leaves out: it spares nearly all n-grams the search among the protected


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


class _Grams(NamedTuple):
    """The protected n-grams of one length, ascending; the first item that holds each; training texts that do."""

    hashes: np.ndarray
    items: np.ndarray
    seen: np.ndarray


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
    are ignored as boilerplate; without `count`, none is. Memory: 20 bytes for each protected n-gram, 60 bytes for each
    word of the texts given at once. N-grams are compared by 64-bit hashes: among `n` n-grams of training texts and `m`
    protected ones, `n m / 2^64` false hits are expected, 0.005 for 10^10 and 10^7.
    Raises ValueError unless `1 <= least_words <= width` and `common >= 0`.
    """

    def __init__(self, *, width: int = 13, least_words: int = 8, common: int = 10) -> None:
        if not 1 <= least_words <= width:
            raise ValueError(f"least_words is {least_words}, it must lie between 1 and the width, {width}")
        if common < 0:
            raise ValueError(f"common is {common}, it must be 0 or more")
        self._width, self._least_words, self._common = width, least_words, common
        self._grams: dict[int, _Grams] = {}
        self._sieve = np.zeros(1 << 24, bool)
        self._pending: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._firsts: list[int] = []
        self._sources: list[tuple[str, int]] = []
        self._total: Counter[str] = Counter()

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
                self._pending.setdefault(length, []).append((rolled[kept], first + owners[kept]))
        return int((found.sizes >= self._least_words).sum())

    def count(self, texts: Sequence[str]) -> None:
        """Counts in how many training texts each protected n-gram stands; each text is to be counted once."""
        found = words(texts)
        for length, at, places in self._hits(found):
            once = np.unique(at * len(texts) + _owners(found, places)) // len(texts)
            np.add.at(self._grams[length].seen, once, 1)

    def find(self, texts: Sequence[str]) -> list[Overlap]:
        """The texts that share an n-gram with a protected item, in order; one that several hold goes to the first."""
        found = words(texts)
        runs = _merged(sorted(self._runs(found)))
        owners = _owners(found, np.array([run.start for run in runs], np.int64)).tolist()
        by_text = groupby(zip(owners, runs, strict=True), key=itemgetter(0))
        return [self._overlap(index, texts[index], found, [run for _, run in held]) for index, held in by_text]

    def _runs(self, found: Words) -> Iterator[_Run]:
        for length, at, places in self._hits(found):
            grams = self._grams[length]
            rare = grams.seen[at] <= self._common
            for place, item in zip(places[rare].tolist(), grams.items[at[rare]].tolist(), strict=True):
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
        """For each length: which protected n-grams are met, and the places of their first words."""
        self._merge_pending()
        for length, rolled, whole in self._rolled(found):
            if length in self._grams:
                hashes = self._grams[length].hashes
                places = np.flatnonzero(whole & self._sieve[rolled >> _SIEVED])
                at = np.minimum(np.searchsorted(hashes, rolled[places]), hashes.size - 1)
                same = hashes[at] == rolled[places]
                yield length, at[same], places[same]

    def _merge_pending(self) -> None:
        for length, parts in self._pending.items():
            hashes, items = (np.concatenate(column) for column in zip(*parts, strict=True))
            seen = np.zeros(hashes.size, np.int32)
            if length in self._grams:
                known = self._grams[length]
                hashes, items = np.concatenate((known.hashes, hashes)), np.concatenate((known.items, items))
                seen = np.concatenate((known.seen, seen))
            hashes, first = np.unique(hashes, return_index=True)
            self._grams[length] = _Grams(hashes, items[first], seen[first])
            self._sieve[hashes >> _SIEVED] = True
        self._pending.clear()


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
