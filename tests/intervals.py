"""Whether intervals hold the truth as often as they say, over many simulated sets of runs."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from scipy.stats import binom

Runs = TypeVar("Runs")
Intervals = Mapping[str, tuple[float, float]]


def held(
    truth: Mapping[str, float], draw: Callable[[int], Runs], intervals: Callable[[Runs], Intervals], *, sets: int
) -> dict[str, int]:
    """How many of the `sets`, drawn by seed, have an interval that holds the truth, by name."""
    counts = dict.fromkeys(truth, 0)
    for seed in range(sets):
        found = intervals(draw(seed))
        for name, value in truth.items():
            low, high = found[name]
            counts[name] += low <= value <= high
    return counts


def expected(sets: int, *, level: float = 0.95, slack: tuple[float, float] = (0, 0), alarm: float = 1e-3) -> range:
    """The counts that intervals of this level give in all but a share `alarm` of the times.

    `slack` lowers and raises the level for intervals that are known to be narrower or wider than they say.
    """
    low, high = max(level - slack[0], 0), min(level + slack[1], 1)
    return range(int(binom.ppf(alarm / 2, sets, low)), int(binom.ppf(1 - alarm / 2, sets, high)) + 1)
