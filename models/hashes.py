"""Arrays of 64-bit hashes as sets."""

import numpy as np


class Seen:
    """Which hashes have come by already: 8 bytes each, however many there are, and twice that while it grows."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # each sorted, and at least twice as long as the next

    def again(self, hashes: np.ndarray) -> np.ndarray:
        """For each hash whether it stood before it, here or in an earlier call."""
        order = np.argsort(hashes, kind="stable")
        ranked = hashes[order]
        first = np.ones(ranked.size, bool)
        first[1:] = ranked[1:] != ranked[:-1]
        distinct = ranked[first]
        known = np.zeros(distinct.size, bool)
        for run in self._runs:
            known |= among(distinct, run)
        again = np.ones(hashes.size, bool)
        again[order[first]] = known
        self._remember(distinct[~known])
        return again

    def distinct(self) -> np.ndarray:
        """All that have come by, sorted."""
        found = np.concatenate([np.zeros(0, np.uint64), *self._runs])
        found.sort()
        return found

    def _remember(self, fresh: np.ndarray) -> None:
        while self._runs and self._runs[-1].size < 2 * fresh.size:
            fresh = np.concatenate((self._runs.pop(), fresh))
            fresh.sort()
        if fresh.size:
            self._runs.append(fresh)


def among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which hashes stand among others, which are sorted."""
    if not known.size:
        return np.zeros(hashes.size, bool)
    found: np.ndarray = known[np.minimum(np.searchsorted(known, hashes), known.size - 1)] == hashes
    return found


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
