"""Words and word n-grams of texts as 64-bit hashes, blind to case and punctuation, without an object for each word."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.hashes import mixed

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


class Words(NamedTuple):
    """The words of several texts, one text after the other: letters, digits, marks and underscores, case folded."""

    hashes: np.ndarray
    starts: np.ndarray
    """Offset of the word's first character in its text; `ends`: after its last."""
    ends: np.ndarray
    sizes: np.ndarray
    """Words of each text."""


def words(texts: Sequence[str]) -> Words:
    """Splits and hashes without an object for each word, 64 bits: `sum_i value(c_i) base^i` mod 2^64, mixed."""
    parts = [_words(pieces) for pieces in _slices(texts)]
    hashes, starts, ends, owners = (np.concatenate(column) for column in zip(_words([]), *parts, strict=True))
    return Words(hashes, starts, ends, np.bincount(owners, minlength=len(texts)))


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


def rolling(hashes: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """For the lengths 1 to `width`, from every place on: one hash of so many hashes, zeros standing after the last."""
    padded = np.concatenate((hashes, np.zeros(width - 1, np.uint64)))
    rolled = np.zeros_like(hashes)
    for offset in range(width):
        rolled = (rolled ^ (rolled >> np.uint64(29))) * np.uint64(_ODD) + padded[offset : offset + hashes.size]
        yield rolled


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
    hashes = mixed((sums[ends] - sums[starts]) * inverses[starts])
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
    return kinds, mixed(folded * np.uint64(_ODD) + np.uint64(_SEED))


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """The powers of the base and of its inverse mod 2^64, for the characters of the longest slice."""
    bases = (_BASE, pow(_BASE, -1, 1 << 64))
    one, two = (np.cumprod(np.array([1] + [base] * (2 * _SLICE), np.uint64)) for base in bases)
    return one, two
