"""Near duplicates among millions of texts: MinHash bands on disk find the candidates, exact Jaccard similarity decides.

Broder 1997 (resemblance of shingle sets); Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3 (banding).
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

import numpy as np
from rensa import RMinHash

RECALL = 0.98  # of the pairs exactly at the threshold
LEADERS = 64  # documents that a bucket remembers: what more of them share is boilerplate
COMPARED = 32  # exact comparisons of a document at most, those with most and rarest bands in common first
_AT_ONCE = 4096  # documents: their signatures pass through Python at 5 kB each
_GAP = re.compile(r"\W")
_SEED = 42
_SLICE = 1 << 18  # characters: the arrays of a slice stay in the processor's cache
_BASE = 0xD6E8FEB86659FD93
_ODD = 0x9E3779B97F4A7C15
_CASED = 0x20000  # no cased letter and no mark that spells words has a higher code point
# Thai, Lao, Burmese, Khmer, Japanese and Chinese write no spaces: each of their characters counts as a word.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip


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
    60 bytes a document and 16 for each band that it shares with another. Every process finds the same.
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
            _append(self._sizes, sizes)
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
        sizes = np.fromfile(self._sizes, np.int64)
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
            keys = _mixed(keys + signatures[:, row :: self.rows])
        return keys

    def _meetings(self, order: np.ndarray, asked: np.ndarray, leads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in the order, each with a bucket where it meets one to be compared, as `place << 32 | bucket`, sorted.

        And how many meet in each bucket. The pairs are spilled to disk, so that they are in memory once.
        """
        with TemporaryFile(dir=self._shingles.parent) as file:
            sizes = [np.zeros(0, np.int64)]
            for path in self._keys:
                keys = np.fromfile(path, np.uint64)[order]
                ranked = np.argsort(keys)
                bounds = _bounds(keys[ranked])
                first, met = bounds[:-1], np.diff(bounds)
                useful = (met > 1) & np.logical_or.reduceat(asked[ranked], first)
                useful &= np.logical_or.reduceat(leads[ranked], first)
                buckets = sum(map(len, sizes)) + np.arange(useful.sum())
                (ranked[np.repeat(useful, met)] << 32 | np.repeat(buckets, met[useful])).tofile(file)
                sizes.append(met[useful])
            file.seek(0)
            meetings = np.fromfile(file, np.uint64)
        meetings.sort()
        return meetings, np.concatenate(sizes)


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


def shingles(texts: Sequence[str], width: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct `width`-word shingles of each text, sorted, one text after the other; and how many each has."""
    found = words(texts)
    length, ends = (np.repeat(of, found.sizes) for of in (np.minimum(found.sizes, width), np.cumsum(found.sizes)))
    hashes = np.zeros_like(found.hashes)
    for number, rolled in enumerate(rolling(found.hashes, width), 1):
        np.copyto(hashes, rolled, where=length == number)
    whole = np.arange(ends.size) + length <= ends
    hashes, owners = hashes[whole], np.repeat(np.arange(len(texts)), found.sizes)[whole]
    for start, stop in pairwise(np.searchsorted(owners, np.arange(len(texts) + 1)).tolist()):
        hashes[start:stop].sort()
    fresh = (np.diff(hashes, prepend=np.uint64(0)) != 0) | (np.diff(owners, prepend=-1) != 0)
    return hashes[fresh], np.bincount(owners[fresh], minlength=len(texts))


class Words(NamedTuple):
    """The words of several texts, one text after the other: letters, digits, marks and underscores, case folded."""

    hashes: np.ndarray
    starts: np.ndarray
    """Offset of the word's first character in its text; `ends`: after its last."""
    ends: np.ndarray
    sizes: np.ndarray
    """Words of each text."""


def rolling(hashes: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """For the lengths 1 to `width`, from every place on: one hash of so many hashes, zeros standing after the last."""
    padded = np.concatenate((hashes, np.zeros(width - 1, np.uint64)))
    rolled = np.zeros_like(hashes)
    for offset in range(width):
        rolled = (rolled ^ (rolled >> np.uint64(29))) * np.uint64(_ODD) + padded[offset : offset + hashes.size]
        yield rolled


def words(texts: Sequence[str]) -> Words:
    """Splits and hashes without an object for each word, 64 bits: `sum_i value(c_i) base^i` mod 2^64, mixed."""
    parts = [_words(pieces) for pieces in _slices(texts)]
    hashes, starts, ends, owners = (np.concatenate(column) for column in zip(_words([]), *parts, strict=True))
    return Words(hashes, starts, ends, np.bincount(owners, minlength=len(texts)))


def _slices(texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
    """Pieces of texts, with the text's index and the offset in it, in lists of about `_SLICE` characters."""
    held: list[tuple[int, int, str]] = []
    size = 0
    for index, text in enumerate(texts):
        for offset, piece in _pieces(text):
            if size + len(piece) > _SLICE and held:
                yield held
                held, size = [], 0
            held.append((index, offset, piece))
            size += len(piece) + 1
    yield held


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cuts a long text between words; a run of letters longer than a slice is cut anyway."""
    start = 0
    while len(text) - start > _SLICE:
        gap = _GAP.search(text, start + _SLICE, start + 2 * _SLICE)
        stop = gap.start() if gap else start + 2 * _SLICE
        yield start, text[start:stop]
        start = stop
    yield start, text[start:]


def _words(pieces: Sequence[tuple[int, int, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hash, start, end and text of each word."""
    indices, offsets, parts = zip(*pieces, strict=True) if pieces else ((0,), (0,), ("",))
    codes = np.frombuffer("\n".join(parts).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds, values = (table[codes] for table in _alphabet())
    joined = (kinds[1:] == 1) & (kinds[:-1] == 1)
    starts = np.flatnonzero((kinds > 0) & ~np.concatenate(([False], joined))[: kinds.size])
    ends = np.flatnonzero((kinds > 0) & ~np.concatenate((joined, [False]))[: kinds.size]) + 1
    powers, inverses = _powers()
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values * powers[: values.size])))
    hashes = _mixed((sums[ends] - sums[starts]) * inverses[starts])
    firsts = np.cumsum([0, *(len(part) + 1 for part in parts[:-1])])
    piece = np.searchsorted(firsts, starts, "right") - 1
    moved = (np.array(offsets) - firsts)[piece]
    return hashes, starts + moved, ends + moved, np.array(indices)[piece]


@cache
def _alphabet() -> tuple[np.ndarray, np.ndarray]:
    """By code point: 0 between words, 1 part of a word, 2 a word by itself; and a 64-bit value, blind to case."""
    characters = [chr(code) for code in range(_CASED)]
    folded = np.arange(0x110000, dtype=np.uint64)
    folded[:_CASED] = [ord(lower if len(lower := c.casefold()) == 1 else c) for c in characters]
    kinds = np.ones(folded.size, np.uint8)
    kinds[:_CASED] = [c.isalnum() or c == "_" or unicodedata.category(c) in ("Mn", "Mc") for c in characters]
    kinds[0xFE00:0xFE10] = 0  # variation selectors: marks, but of pictures
    for first, last in _UNSPACED:
        kinds[first : last + 1] *= 2
    return kinds, _mixed(folded * np.uint64(_ODD) + np.uint64(_SEED))


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base and of its inverse mod 2^64, for the characters of the longest slice."""
    bases = (_BASE, pow(_BASE, -1, 1 << 64))
    one, two = (np.cumprod(np.array([1] + [base] * (2 * _SLICE), np.uint64)) for base in bases)
    return one, two


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _append(path: Path, values: np.ndarray) -> None:
    with path.open("ab") as file:
        np.ascontiguousarray(values).tofile(file)
