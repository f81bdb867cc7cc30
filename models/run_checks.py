"""Whether a table of runs can be what it says: losses in nats, counts as counts, C near 6 N D, no copies."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from models.units import PF_DAY

LARGEST_LOSS = 12.2  # nats: ln 200,000, what guessing among the tokens of a large vocabulary costs
LEAST_LARGE = {"N": 1e4, "D": 1e4, "U": 1e4, "C": 1e9}  # below, all of them: a unit was left out
TOKENS_PER_PARAMETER = 1e-4, 1e6
FEW_TOKENS = 0.2  # per parameter
SHOWN = 5


def check_loss(losses: np.ndarray, header: str) -> None:
    """Raises ValueError for what cannot be nats per token."""
    median = float(np.median(losses))
    if median > LARGEST_LOSS:
        raise ValueError(
            f"the median of {header!r} is {median:.4g}, and guessing among 200,000 tokens costs only "
            f"{LARGEST_LOSS} nats: is it a perplexity (take its natural logarithm), a sum over tokens (divide), "
            "or has it a decimal comma? Bits are read with --unit L=bits"
        )


def check_count(symbol: str, values: Mapping[str, np.ndarray], header: str) -> None:
    """Raises ValueError for a whole column without a unit that is likely in another one than single counts."""
    column, what = values[symbol], {"N": "parameters", "C": "FLOPs"}.get(symbol, "tokens")
    if symbol == "C":
        guess = _guess_of_compute(values)
        if column.max() < LEAST_LARGE["C"]:
            raise ValueError(
                f"the {what} in {header!r} have a unit that is not said: the largest is {column.max():.4g}. "
                f"Give it, as in --unit C={guess or 'PF-days'}; --unit C=1 takes them as they are"
            )
        return
    if column.max() < LEAST_LARGE[symbol]:
        unit, word = ("B", "billions") if symbol != "N" or column.max() < 20 else ("M", "millions")
        raise ValueError(
            f"the {what} in {header!r} look like {word} or so: the largest is {column.max():.4g}. Write "
            f"{column.max():.4g}{unit}, name the column {what}_{unit.lower()}, or give --unit {symbol}={unit}; "
            f"--unit {symbol}=1 takes them as they are"
        )
    if symbol == "D" and "N" in values:
        ratio = float(np.median(column / values["N"]))
        if not TOKENS_PER_PARAMETER[0] <= ratio <= TOKENS_PER_PARAMETER[1]:
            raise ValueError(
                f"a run has {ratio:.2g} tokens per parameter (median): the unit of N or of D is not said. "
                f"Give it, as in --unit D=B or --unit N=M; --unit D=1 takes them as they are"
            )


def _guess_of_compute(values: Mapping[str, np.ndarray]) -> str:
    """The unit in which C would be about 6 N D."""
    if not {"N", "D"} <= values.keys():
        return ""
    worth = float(np.median(6 * values["N"] * values["D"] / values["C"]))
    units = {"PF-days": PF_DAY, **{f"e{power}": 10.0**power for power in range(9, 28, 3)}}
    near = {unit: abs(math.log(worth / size)) for unit, size in units.items()}
    best = min(near, key=lambda unit: near[unit])
    return best if near[best] < math.log(3) else ""


def odd(values: Mapping[str, np.ndarray], lines: Sequence[int], place: str) -> list[str]:
    """What can be, and should be looked at."""
    found = []
    if {"N", "D", "C"} <= values.keys():
        ratio = float(np.median(values["C"] / (6 * values["N"] * values["D"])))
        if not 0.5 <= ratio <= 2:
            found.append(
                f"C is {ratio:.3g} times 6 N D (median): another unit, another way to count N, or attention and "
                "recomputation in C"
            )
    if {"N", "D"} <= values.keys() and (ratio := float(np.median(values["D"] / values["N"]))) < FEW_TOKENS:
        found.append(
            f"a run has {ratio:.2g} tokens per parameter (median), fewer than anyone trains: are N and D swapped?"
        )
    high = [f"{place} {line}: {loss:.4g}" for line, loss in zip(lines, values["L"], strict=True) if loss > LARGEST_LOSS]
    if high:
        found.append(f"more than guessing would cost was lost ({some(high)} nats): take out what diverged")
    used = np.stack([values[symbol] for symbol in sorted(values)], axis=1)
    _, first, inverse = np.unique(used, axis=0, return_index=True, return_inverse=True)
    again = [(lines[first[group]], line) for line, group in zip(lines, inverse.ravel(), strict=True)]
    twins = [f"{place} {line} as {earlier}" for earlier, line in again if earlier != line]
    if twins:
        found.append(f"some runs have the figures of others to the last digit ({some(twins)}): are they copies?")
    return found


def some(said: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = f", and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more
