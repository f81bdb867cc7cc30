"""Whether a data set has moved from another, how far, and whether that is more than chance.

A profile holds, for each feature, its counts by bin in 64 blocks of whole groups; a group's hash alone says its block.
Blocks, because the rows of a group are not independent: a thousand replies of one circle of friends tell little more
than one, so chance must be measured over groups. Counts, because they are small, of the same size for any data, and
all that a comparison needs: a version can be compared when its data are long gone. And bins that do not depend on the
data, because then any two profiles compare exactly, in either direction.

The test swaps blocks. Did both versions come from one population, it would not matter which of the two a block's rows
are counted for; so each block is swapped or not by a fair coin, and the distance of the two is taken again: a paired
randomisation test (Fisher 1935, chapter 3). Groups that both versions hold cancel out, so what is compared are the rows
that came or went. The distance is Pearson's, to which PSI comes down where the two are near. PSI itself would raise the
alarm too often: with few groups many bins are empty, and its logarithm makes much of each.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

BLOCKS = 64
TAIL = 64  # bins that the rare names of a feature share by their hash
PER_OCTAVE = 32  # bins of a number between v and 2 v
ZERO = -(1 << 20)  # the bin of 0, below that of every positive number
LIMIT = 300_000  # counts of a feature in memory
_NOISE = 1e-12  # an index below is rounding
_AT_ONCE = 1 << 20  # resampled counts held at once: 8 MB an array


def psi(expected_counts: np.ndarray, actual_counts: np.ndarray) -> float:
    """Population stability index `sum (q - p) ln(q / p)` of shares p and q over the same bins (Siddiqi 2006).

    It is KL(p, q) + KL(q, p), the J of Jeffreys (1946), in nats. An empty bin would make it infinite, so half a count
    of the smaller sample is added to every bin of both. Raises ValueError for other than two flat arrays of as many
    counts, none negative and not all zero.
    """
    p, q = _shares(expected_counts, actual_counts)
    return float(((q - p) * np.log(q / p)).sum())


def kl(expected_counts: np.ndarray, actual_counts: np.ndarray) -> float:
    """Kullback-Leibler divergence `sum p ln(p / q)` in nats, empty bins and errors as in `psi`."""
    p, q = _shares(expected_counts, actual_counts)
    return float((p * np.log(p / q)).sum())


def jensen_shannon(expected_counts: np.ndarray, actual_counts: np.ndarray) -> float:
    """Jensen-Shannon divergence (Lin 1991) in bits, in [0, 1], empty bins and errors as in `psi`."""
    p, q = _shares(expected_counts, actual_counts)
    middle = (p + q) / 2
    return float((p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2)


def block_of(group: str) -> int:
    """The block of a group: its hash modulo 64, the same in every version."""
    return _hash(group) % BLOCKS


@lru_cache(maxsize=1 << 16)
def bin_of(value: float) -> int:
    """The bin of a number that is not negative: bin i holds (g^(i-1), g^i] with g = 2^(1/32).

    That is the grid of DDSketch (Masson et al. 2019): every number is known to 1.1%, and whole numbers up to 46 have a
    bin each. Raises ValueError for a negative or infinite number.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} has no bin; a feature is a finite number that is not negative")
    return math.ceil(PER_OCTAVE * math.log2(value)) if value else ZERO


def value_of(number: int) -> float:
    """The number that stands for a bin, at most 1.1% off any number in it."""
    return 2 * 2 ** (number / PER_OCTAVE) / (2 ** (1 / PER_OCTAVE) + 1) if number != ZERO else 0.0


@dataclass(frozen=True)
class Numeric:
    """A number of each row, word or sentence: `counts` of shape (bins, 64) over the ascending `bins` of `bin_of`."""

    bins: tuple[int, ...]
    counts: np.ndarray

    def summary(self) -> dict[str, float]:
        """Quantiles, known to 1.1%."""
        below = self.counts.sum(axis=1).cumsum()
        places = np.searchsorted(below, below[-1] * np.array([0.1, 0.5, 0.9]))
        return {name: value_of(self.bins[at]) for name, at in zip(("p10", "median", "p90"), places, strict=True)}


@dataclass(frozen=True)
class Categorical:
    """Names with their `counts` of shape (names, 64), most frequent first, and the `tail` of shape (64, 64).

    The tail holds the names beyond the listed ones by their hash. What one profile lists and the other does not is
    looked up there, so that two lists need not agree.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    tail: np.ndarray

    def tells(self, name: str) -> bool:
        """Whether the count of a name is known: it is listed, or its bin of the tail is empty."""
        return name in self.names or not self.tail[_hash(name) % TAIL].any()


Profile = Mapping[str, Numeric | Categorical]
Measure = Sequence[float] | Sequence[str] | Mapping[str, int]  # numbers, names, or how often each name occurs


def as_json(profile: Profile) -> dict[str, Any]:
    """Plain lists: `{feature: {"bins" or "names": [...], "counts": [[64 numbers], ...], "tail": likewise}}`."""
    parts = {name: vars(feature) for name, feature in profile.items()}
    return {name: {part: np.array(values).tolist() for part, values in held.items()} for name, held in parts.items()}


def from_json(plain: Mapping[str, Any]) -> dict[str, Numeric | Categorical]:
    """The profile that `as_json` wrote."""

    def feature(lists: Mapping[str, Any]) -> Numeric | Categorical:
        counts = np.array(lists["counts"], np.int64)
        if "bins" in lists:
            return Numeric(tuple(lists["bins"]), counts)
        return Categorical(tuple(lists["names"]), counts, np.array(lists["tail"], np.int64))

    return {name: feature(lists) for name, lists in plain.items()}


def collect(measured: Iterable[tuple[str, Mapping[str, Measure]]], *, names: int) -> dict[str, Numeric | Categorical]:
    """The profile of a stream, in bounded memory: of each row its group, and what each feature measures in it.

    Of the names of a feature the `names` most frequent ones are listed.
    """
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    for group, measures in measured:
        block = block_of(group)
        for feature, measure in measures.items():
            if measure:
                tallies[feature].add(block, measure)
    return {feature: tally.finish(names) for feature, tally in tallies.items()}


class _Tally:
    """Counts of one feature by block, and by bin or name.

    Past `LIMIT` counts the rarest names go to the tail, and one of them that comes back is split between list and tail:
    names frequent enough to be listed in the end are hardly ever among them.
    """

    def __init__(self) -> None:
        self.blocks: list[Counter[Any]] = [Counter() for _ in range(BLOCKS)]
        self.tail = np.zeros((TAIL, BLOCKS), np.int64)
        self.held, self.numeric = 0, False

    def add(self, block: int, measure: Measure) -> None:
        counts = self.blocks[block]
        before = len(counts)
        self.numeric = not isinstance(measure, Mapping) and not isinstance(measure[0], str)
        counts.update(map(bin_of, measure) if self.numeric else measure)
        self.held += len(counts) - before
        if self.held > LIMIT:
            self._keep(LIMIT // (2 * BLOCKS))

    def finish(self, names: int) -> Numeric | Categorical:
        if self.numeric:
            bins = sorted(set().union(*self.blocks))
            return Numeric(tuple(bins), self._counts(bins))
        listed = self._keep(names)
        return Categorical(tuple(listed), self._counts(listed), self.tail)

    def _keep(self, names: int) -> list[str]:
        """Moves all but the most frequent names to the tail."""
        total: Counter[str] = Counter()
        for counts in self.blocks:
            total.update(counts)
        ranked = sorted(total, key=lambda name: (-total[name], name))[:names]
        listed = set(ranked)
        for block, counts in enumerate(self.blocks):
            for name in counts.keys() - listed:
                self.tail[_hash(name) % TAIL, block] += counts.pop(name)
        self.held = sum(map(len, self.blocks))
        return ranked

    def _counts(self, names: Sequence[int | str]) -> np.ndarray:
        return np.array([[counts[name] for counts in self.blocks] for name in names], np.int64)


@dataclass(frozen=True)
class Moved:
    """One feature of two profiles. `moved` says that they are further apart than chance brings them at the level.

    `threshold` is `psi` by the ratio of that distance to the one found: `psi` exceeds it where the feature has moved.
    `p` is the chance of such an index, `family_p` the chance that any of all features looks as extreme as this one
    (single-step maxT, Westfall and Young 1993): the first says which features to look at, the second whether the data
    have moved at all. `blocks` is the effective number of blocks, (sum n)^2 / sum n^2 (Kish 1965), of the side that
    has fewer: below 8 nothing can be shown at 0.99. `reference` and `current` hold quantiles of a number, or the
    shares of the three names that moved most.
    """

    feature: str
    psi: float
    threshold: float
    moved: bool
    p: float
    family_p: float
    divergence: float
    blocks: float
    reference: dict[str, float]
    current: dict[str, float]


def compare(
    reference: Profile, current: Profile, *, level: float = 0.99, draws: int = 10_000, seed: int = 0
) -> list[Moved]:
    """Every feature that both profiles have, those furthest beyond chance first; `divergence` is Jensen-Shannon's.

    Raises ValueError for a level outside (0, 1), and where the draws are too few to tell it.
    """
    if not 0 < level < 1 or draws * (1 - level) < 10 * (1 - 1e-9):
        raise ValueError(f"level {level} with {draws} draws; the level lies in (0, 1), the draws are 10 / (1 - level)")
    swaps = np.random.default_rng(seed).integers(0, 2, (draws, BLOCKS)).astype(np.float64)
    pairs = {name: _aligned(name, reference[name], current[name]) for name in reference if name in current}
    nulls = {name: swapped(pair.reference, pair.current, swaps) for name, pair in pairs.items()}
    scaled = [null / limit for null in nulls.values() if (limit := _limit(null, level))]
    peaks = np.max(scaled, axis=0) if scaled else np.zeros(draws)
    found = (_moved(name, pair, nulls[name], level, peaks) for name, pair in pairs.items())
    return sorted(found, key=lambda each: (-each.psi / (each.threshold or math.inf), -each.psi, each.feature))


def swapped(reference_BK: np.ndarray, current_BK: np.ndarray, swaps_DB: np.ndarray) -> np.ndarray:
    """Distance of two versions in each draw, with the blocks swapped that are marked 1: shape (draws,).

    The distance is `sum (q - p)^2 / m`, m the shares of both together: Pearson's chi-square of two samples of n and k
    counts, by n k / (n + k). Swapping a block turns the sign of what it adds to q - p beyond its size times m, which
    holds the level also where sizes differ (the wild bootstrap of Cameron, Gelbach and Miller 2008, null imposed).
    """
    m_K = (reference_BK + current_BK).sum(axis=0) / (reference_BK.sum() + current_BK.sum())
    added_BK = current_BK / current_BK.sum() - reference_BK / reference_BK.sum()
    added_BK -= added_BK.sum(axis=1, keepdims=True) * m_K
    step = max(1, _AT_ONCE // m_K.size)
    signs_DB = 1 - 2 * swaps_DB
    parts = (signs_DB[start : start + step] @ added_BK for start in range(0, len(signs_DB), step))
    distances = np.concatenate([(apart_DK**2 / m_K).sum(axis=1) for apart_DK in parts])
    return np.where(distances < _NOISE, 0.0, distances)


class _Pair(NamedTuple):
    """One feature of both versions, blocks by shared bins, and what there is to say of each."""

    reference: np.ndarray
    current: np.ndarray
    before: dict[str, float]
    after: dict[str, float]


def _moved(name: str, pair: _Pair, null: np.ndarray, level: float, peaks: np.ndarray) -> Moved:
    expected, actual = pair.reference.sum(axis=0), pair.current.sum(axis=0)
    distance = float(swapped(pair.reference, pair.current, np.zeros((1, BLOCKS)))[0])
    index, limit = psi(expected, actual), _limit(null, level)
    p = _chance(null, distance)
    return Moved(
        feature=name, psi=index, threshold=index * limit / distance if distance else 0.0, moved=distance > limit, p=p,
        family_p=max(p, _chance(peaks, distance / limit)) if limit else p,
        divergence=jensen_shannon(expected, actual), blocks=min(map(_effective, (pair.reference, pair.current))),
        reference=pair.before, current=pair.after,
    )  # fmt: skip


def _limit(null: np.ndarray, level: float) -> float:
    return float(np.quantile(null, level, method="higher")) * (1 + 1e-9)


def _chance(null: np.ndarray, value: float) -> float:
    """The share of draws that are as large, the observed one counted among them (Phipson and Smyth 2010)."""
    return float((1 + (null >= value * (1 - 1e-9)).sum()) / (1 + null.size))


def _effective(counts_BK: np.ndarray) -> float:
    blocks = counts_BK.sum(axis=1, dtype=np.float64)
    return float(blocks.sum() ** 2 / (blocks**2).sum())


def _aligned(name: str, reference: Numeric | Categorical, current: Numeric | Categorical) -> _Pair:
    if isinstance(reference, Numeric) and isinstance(current, Numeric):
        return _in_deciles(reference, current)
    if isinstance(reference, Categorical) and isinstance(current, Categorical):
        return _in_names(reference, current)
    raise ValueError(f"{name!r} is a number in one profile and a name in the other; profile both with the same code")


def _in_deciles(reference: Numeric, current: Numeric) -> _Pair:
    """Up to ten bins that end at the deciles of the reference; where one value spans several, they are one."""
    bins = np.union1d(reference.bins, current.bins)
    left, right = (_gathered(np.searchsorted(bins, e.bins), e.counts, bins.size) for e in (reference, current))
    below = left.sum(axis=1).cumsum()
    ends = np.unique(np.searchsorted(10 * below, below[-1] * np.arange(1, 10)))
    decile = np.searchsorted(ends, np.arange(bins.size))
    left, right = (_gathered(decile, counts, ends.size + 1) for counts in (left, right))
    seen = (left + right).any(axis=1)
    return _Pair(left[seen].T, right[seen].T, reference.summary(), current.summary())


def _in_names(reference: Categorical, current: Categorical) -> _Pair:
    """A bin for each name whose count both tell; all others in the tails, by hash."""
    either = dict.fromkeys(reference.names + current.names)
    place = {name: i for i, name in enumerate(n for n in either if reference.tells(n) and current.tells(n))}
    left, right = (_placed(each, place) for each in (reference, current))
    p, q = _shares(left.sum(axis=1), right.sum(axis=1))
    top = [list(place)[i] for i in np.argsort(-((q - p) * np.log(q / p))[: len(place)], kind="stable")[:3]]
    before, after = ({name: float(c[place[name]].sum() / c.sum()) for name in top} for c in (left, right))
    seen = (left + right).any(axis=1)
    return _Pair(left[seen].T, right[seen].T, before, after)


def _placed(feature: Categorical, place: Mapping[str, int]) -> np.ndarray:
    """Counts of shape (names + 64, 64): the names with a place, then the tail with all others."""
    rows = [place.get(name, len(place) + _hash(name) % TAIL) for name in feature.names]
    counts = _gathered(np.array(rows, np.int64), feature.counts, len(place) + TAIL)
    counts[len(place) :] += feature.tail
    return counts


def _gathered(rows: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Counts added up in the rows they belong to."""
    whole = np.zeros((size, BLOCKS), np.int64)
    np.add.at(whole, rows, counts)
    return whole


def _shares(expected: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c, d = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if c.ndim != 1 or c.shape != d.shape or not (c.any() and d.any()) or min(c.min(), d.min()) < 0:
        raise ValueError(f"counts {c.tolist()} and {d.tolist()}: they must have the same bins, and be 0 or more")
    floor = 0.5 / min(c.sum(), d.sum())
    p, q = c / c.sum() + floor, d / d.sum() + floor
    return p / p.sum(), q / q.sum()


@lru_cache(maxsize=1 << 16)
def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
