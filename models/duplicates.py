"""Near duplicates between two sets of texts: the exact Jaccard similarity of their word shingles."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def near_duplicates(
    texts: Sequence[str], others: Sequence[str], *, threshold: float, width: int = 5
) -> dict[int, tuple[int, float]]:
    """For each text that is at least `threshold` similar to one of `others`: the index of the nearest, and how similar.

    Similarity is `|A & B| / |A | B|` over the sets of `width`-word shingles, blind to case and punctuation; a text
    shorter than `width` words is one shingle. Exact: sets that similar share one of their rarest shingles, as many as
    `|A| - ceil(threshold |A|) + 1` (prefix filter of Chaudhuri et al. 2006), so only such pairs are compared.
    Raises ValueError for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, it must lie in (0, 1]")
    vocabulary: dict[str, int] = defaultdict(count(1).__next__)
    left = [_shingles(text, width, vocabulary) for text in texts]
    right = [_shingles(text, width, vocabulary) for text in others]
    found: dict[int, tuple[int, float]] = {}
    for i, j in _candidates(left, right, threshold):
        both = np.intersect1d(left[i], right[j], assume_unique=True).size
        similarity = both / (left[i].size + right[j].size - both)
        if similarity >= threshold and similarity > found.get(i, (0, 0.0))[1]:
            found[i] = (j, similarity)
    return found


def _shingles(text: str, width: int, vocabulary: dict[str, int]) -> np.ndarray:
    """The distinct shingles as 64-bit hashes, sorted; none where there is no word."""
    words = re.findall(r"\w+", text.casefold())
    ids = np.fromiter(map(vocabulary.__getitem__, words), np.uint64, len(words))
    width = min(width, len(ids))
    places = len(ids) - width + 1 if width else 0
    hashes = np.zeros(places, np.uint64)
    for offset in range(width):
        hashes = (hashes ^ (hashes >> _SHIFT)) * _MULTIPLIER + ids[offset : offset + places]
    return np.unique(hashes)


def _candidates(left: list[np.ndarray], right: list[np.ndarray], threshold: float) -> list[tuple[int, int]]:
    """The pairs that share a shingle of their prefixes, sorted."""
    if not left or not right:
        return []
    _, inverse, counts = np.unique(np.concatenate([*left, *right]), return_inverse=True, return_counts=True)
    ends = np.cumsum([hashes.size for hashes in (*left, *right)])
    prefixes = [_prefix(ids, counts[ids], threshold) for ids in np.split(inverse, ends[:-1])]
    values, owners = _flat(prefixes[: len(left)])
    others, holders = _flat(prefixes[len(left) :])
    ranked = np.argsort(others, kind="stable")
    others, holders = others[ranked], holders[ranked]
    start, stop = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
    return sorted({
        (int(owners[at]), int(j)) for at in np.flatnonzero(stop > start) for j in holders[start[at] : stop[at]]
    })  # fmt: skip


def _prefix(ids: np.ndarray, counts: np.ndarray, threshold: float) -> np.ndarray:
    """The rarest shingles of a set, without those that nobody else has."""
    rarest = np.lexsort((ids, counts))[: ids.size - math.ceil(threshold * ids.size - 1e-9) + 1]
    return ids[rarest[counts[rarest] > 1]]


def _flat(sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All values in one array, and beside it the index of the set each belongs to."""
    return np.concatenate(sets), np.repeat(np.arange(len(sets)), [values.size for values in sets])
