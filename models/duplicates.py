"""Near duplicates among millions of texts: MinHash bands on disk find the candidates, exact Jaccard similarity decides.

Broder 1997 (resemblance of shingle sets); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3 (banding).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

import numpy as np
from rensa import RMinHash

from models.hashes import mixed
from models.shingles import shingles

RECALL = 0.98  # of the pairs exactly at the threshold
LEADERS = 64  # documents that a bucket remembers: what more of them share is boilerplate
COMPARED = 32  # exact comparisons of a document at most, those with most and rarest bands in common first
_AT_ONCE = 4096  # documents: their signatures pass through Python at 5 kB each
_SEED = 42
_UPPER = np.uint64(0xFFFFFFFF00000000)


class Match(NamedTuple):
    """A document, the document that it is near to, and their Jaccard similarity."""

    document: int
    other: int
    similarity: float


class Sketches:
    """Near duplicates in a stream of texts, which are addressed by their running index.

    Similarity is `|A & B| / |A | B|` over the sets of `width`-word shingles, blind to case and punctuation; a text
    shorter than `width` words is one shingle; a text without a word is near to nothing. On disk, in a folder without
    other sketches: 8 bytes a word and `8 bands` bytes a document. In memory: the texts of one `add`; while searching,
    35 bytes a document and 16 for each band that it shares with another. Every process finds the same.
    Raises ValueError for a threshold outside (0, 1] or too low for so few permutations.
    """

    def __init__(self, folder: Path, *, threshold: float, width: int = 5, permutations: int = 128) -> None:
        self.bands, self.rows = banding(threshold, permutations)
        self._threshold, self._width, self._permutations = threshold, width, permutations
        self._shingles, self._sizes = folder / "shingles", folder / "sizes"
        self._keys = [folder / f"band-{band:03d}" for band in range(self.bands)]
        self._count = 0
        for path in (self._shingles, self._sizes, *self._keys):
            path.touch(exist_ok=False)

    def __len__(self) -> int:
        return self._count

    def add(self, texts: Sequence[str]) -> range:
        """Takes texts in; returns their indices."""
        first = self._count
        for start in range(0, len(texts), _AT_ONCE):
            hashes, sizes = shingles(texts[start : start + _AT_ONCE], self._width)
            _append(self._shingles, hashes)
            _append(self._sizes, sizes.astype(np.uint32))
            for path, keys in zip(self._keys, self._band_keys(hashes, sizes).T, strict=True):
                _append(path, keys)
            self._count += len(sizes)
        return range(first, self._count)

    def near(
        self, documents: range, among: range, *, progress: Callable[[int], None] = lambda done: None
    ) -> Iterator[Match]:
        """Each of `documents` that is near to one of `among`, with the nearest of those compared; in order.

        Documents of `among` alone stay. One that is in both ranges is held against those before it, and counts among
        them unless it was found itself: with the same range twice, the first of each cluster stays, and whatever is
        found is near to one that stays; with held-out texts before training texts, `near(train, everything)` clears
        the training side of both. Similarities are exact. A pair at the threshold is missed with a probability of at
        most `1 - RECALL`, one above it less. The time is linear whatever the texts have in common, by `LEADERS` and
        `COMPARED`; that costs pairs only where all their bands lie in boilerplate. `progress` is told how many of
        `documents` are decided. Raises ValueError for a range that holds more than was added.
        """
        return self._scan(documents, self._mask(documents), self._mask(among), progress)

    def _scan(
        self, documents: range, asked: np.ndarray, leads: np.ndarray, progress: Callable[[int], None]
    ) -> Iterator[Match]:
        sizes = np.fromfile(self._sizes, np.uint32)
        order = np.concatenate((np.flatnonzero(leads & ~asked & (sizes > 0)), np.flatnonzero(asked & (sizes > 0))))
        meetings, met = self._meetings(order, asked[order], leads[order])
        buckets, places = meetings.view("<u4").reshape(-1, 2).T
        leaders = _Leaders(met)
        with self._shingles.open("rb") as file:
            sets = _Sets(file, sizes, self._threshold)
            for number, (start, stop) in enumerate(pairwise(_bounds(places))):
                document, shared = int(order[places[start]]), buckets[start:stop]
                match = sets.nearest(document, leaders.of(shared))
                if asked[document] and number % _AT_ONCE == 0:
                    progress(document - documents.start)
                if asked[document] and match:
                    yield match
                elif leads[document] and not (match and match.similarity == 1):
                    leaders.add(document, shared)
        progress(len(documents))

    def _mask(self, documents: range) -> np.ndarray:
        if documents.step != 1 or not 0 <= documents.start <= documents.stop <= self._count:
            raise ValueError(f"{documents} is no part of the {self._count} documents added, range(0, {self._count})")
        mask = np.zeros(self._count, bool)
        mask[documents.start : documents.stop] = True
        return mask

    def _band_keys(self, hashes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """One hash for each document and band of its signature."""
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, self._permutations, _SEED)
        signatures = np.array(matrix.to_rows(), np.uint64)[:, : self.bands * self.rows]
        keys = np.zeros((len(sizes), self.bands), np.uint64)
        for row in range(self.rows):
            keys = mixed(keys + signatures[:, row :: self.rows])
        return keys

    def _meetings(self, order: np.ndarray, asked: np.ndarray, leads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the order, each with a bucket where it meets one to be compared, as `place << 32 | bucket`, sorted.

        And how many meet in each bucket. The pairs are spilled to disk, so that they are in memory once. Half of a key
        tells buckets apart: who meets by chance is compared and is not near.
        """
        with TemporaryFile(dir=self._shingles.parent) as file:
            sizes = [np.zeros(0, np.int64)]
            for path in self._keys:
                keys = np.fromfile(path, np.uint64)[order]
                keys &= _UPPER
                keys |= np.arange(keys.size, dtype=np.uint64)
                keys.sort()
                keys = keys[_shared(keys & _UPPER)]
                ranked, bounds = keys.view("<u4").reshape(-1, 2)[:, 0], _bounds(keys & _UPPER)
                first, met = bounds[:-1], np.diff(bounds)
                useful = np.logical_or.reduceat(asked[ranked], first) & np.logical_or.reduceat(leads[ranked], first)
                buckets = (sum(map(len, sizes)) + np.arange(useful.sum())).astype(np.uint64)
                meeting = keys[np.repeat(useful, met)] << 32 | np.repeat(buckets, met[useful])
                meeting.tofile(file)
                sizes.append(met[useful])
            file.seek(0)
            meetings = np.fromfile(file, np.uint64)
        meetings.sort()
        return meetings, np.concatenate(sizes)


def _shared(values: np.ndarray) -> np.ndarray:
    """Of sorted values which stand there more than once."""
    shared = np.zeros(values.size, bool)
    shared[1:] = values[1:] == values[:-1]
    shared[:-1] |= shared[1:]
    return shared


def _bounds(values: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins, and after the last one the end."""
    fresh = np.ones(values.size, bool)
    fresh[1:] = values[1:] != values[:-1]
    return np.append(np.flatnonzero(fresh), values.size)


class _Leaders:
    """The first documents of each bucket that stay."""

    def __init__(self, sizes: np.ndarray) -> None:
        self._room = np.minimum(sizes, LEADERS).astype(np.int16)
        self._starts = np.cumsum(self._room, dtype=np.int64) - self._room
        self._held = np.zeros_like(self._room)
        self._documents = np.zeros(self._room.sum(dtype=np.int64), np.int32)

    def of(self, buckets: np.ndarray) -> np.ndarray:
        """Those in any of the buckets; first those in most of them, a bucket counting less the more it holds."""
        counts = self._held[buckets].astype(np.int64)
        skipped = self._starts[buckets] - np.cumsum(counts) + counts
        at = np.arange(counts.sum()) + np.repeat(skipped, counts)
        documents, which = np.unique(self._documents[at], return_inverse=True)
        weights = np.bincount(which, np.repeat(1 / np.maximum(counts, 1), counts))
        return documents[np.argsort(-weights, kind="stable")]

    def add(self, document: int, buckets: np.ndarray) -> None:
        free = buckets[self._held[buckets] < self._room[buckets]]
        self._documents[self._starts[free] + self._held[free]] = document
        self._held[free] += 1


class _Sets:
    """The shingles of the documents, read from disk one document at a time."""

    def __init__(self, file: BinaryIO, sizes: np.ndarray, threshold: float) -> None:
        self._file, self._sizes, self._threshold = file, sizes, threshold
        self._starts = np.cumsum(sizes) - sizes

    def nearest(self, document: int, others: np.ndarray) -> Match | None:
        """The nearest of the first `COMPARED` others whose sizes allow the threshold; the first one of equals."""
        size, sizes = self._sizes[document], self._sizes[others]
        others = others[np.minimum(size, sizes) / np.maximum(size, sizes) >= self._threshold][:COMPARED]
        if not others.size:
            return None
        found, mine = None, self._of(document)
        for other in others.tolist():
            similarity = jaccard(mine, self._of(other))
            if similarity >= self._threshold and (found is None or similarity > found.similarity):
                found = Match(document, other, similarity)
            if similarity == 1:
                break
        return found

    def _of(self, document: int) -> np.ndarray:
        self._file.seek(8 * int(self._starts[document]))
        return np.frombuffer(self._file.read(8 * int(self._sizes[document])), np.uint64)


def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows: most rows, so fewest candidates, that still find `RECALL` of the pairs at the threshold.

    A pair of similarity s agrees in all `r` rows of at least one of `b` bands with probability `1 - (1 - s^r)^b`
    (Leskovec et al., section 3.4.2). Raises ValueError where no number of rows is enough.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, it must lie in (0, 1]")
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    raise ValueError(f"{permutations} permutations miss pairs of similarity {threshold}: raise one or the other")


def jaccard(one: np.ndarray, two: np.ndarray) -> float:
    """`|A & B| / |A | B|` of two arrays without repetitions, not both empty."""
    values = np.concatenate((one, two))
    values.sort()
    both = int(np.count_nonzero(values[1:] == values[:-1]))
    return both / (values.size - both)


def _append(path: Path, values: np.ndarray) -> None:
    with path.open("ab") as file:
        np.ascontiguousarray(values).tofile(file)
