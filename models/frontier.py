"""Power laws of the best N and D in compute, through the best models of several budgets, with their intervals.

N_opt = k_N C^a and D_opt = k_D C^b (Hoffmann et al. 2022, 2203.15556, section 3): N parameters, D tokens, C training
FLOPs, L nats per token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.quantities import plain, positive

SHOWN = 3  # reasons of an error, at most
NAMES = ("a", "b", "k_N", "k_D")


class Point(NamedTuple):
    """The best model for one budget; `sizes` runs were compared."""

    C: float
    N: float
    D: float
    loss: float
    sizes: int


@dataclass(frozen=True)
class Frontier:
    """The power laws through the points, `n` of them, with intervals at `level`: nan where the runs allow none."""

    coefficients: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    n: int
    points: tuple[Point, ...]
    level: float
    warnings: tuple[str, ...]
    centre: float = field(repr=False)  # ln C where the lines are anchored
    lines: np.ndarray = field(repr=False)  # (draws, 4): ln N_opt and a, ln D_opt and b, there

    def predict(self, compute: float | np.ndarray) -> dict[str, float | np.ndarray]:
        """N, D and tokens per parameter for so many FLOPs."""
        C, k = positive("compute", compute, "give FLOPs, such as 1e21"), self.coefficients
        N, D = k["k_N"] * C ** k["a"], k["k_D"] * C ** k["b"]
        return plain(N=N, D=D, tokens_per_parameter=D / N)

    def interval(self, compute: float) -> dict[str, tuple[float, float]]:
        """Those of `predict`. They allow for noise, not for a power law that is wrong there."""
        away = float(np.log(positive("compute", compute, "give FLOPs, such as 1e21"))) - self.centre
        logs = self.lines[:, [0, 2]] + away * self.lines[:, [1, 3]]
        values = np.exp(np.column_stack([logs, logs[:, 1] - logs[:, 0]]))
        return dict(zip(("N", "D", "tokens_per_parameter"), _quantiles(values, self.level), strict=True))


def through(
    points: list[Point],
    log_N: np.ndarray,
    log_D: np.ndarray,
    there: np.ndarray,
    level: float,
    warnings: list[str],
) -> Frontier:
    """The lines through the points and through those of each draw, of which `there` says which exist."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a probability between 0 and 1, such as 0.95")
    if not len(log_N):
        raise ValueError("draws is 0; give some hundreds")
    log_C = np.log([point.C for point in points])
    centre = float(log_C.mean())
    log_best = np.log([[(point.N, point.D) for point in points]])
    fitted = _lines(log_C - centre, log_best[..., 0], log_best[..., 1], np.ones((1, len(points)), bool))[0]
    lines = _lines(log_C - centre, log_N, log_D, there)
    lines = lines[np.isfinite(lines).all(axis=1)]
    lost = 1 - there.mean()
    if not len(lines):
        warnings = [*warnings, "no intervals: give more than three sizes to some budget, or more runs"]
    elif lost > 0.05:
        where = f"in {lost:.0%} of the draws a best size lies at the edge of the sizes, and is left out there"
        warnings = [*warnings, f"the intervals are too narrow: {where}"]
    values = _coefficients(lines, centre)
    return Frontier(
        coefficients=dict(zip(NAMES, _coefficients(fitted[None], centre)[0].tolist(), strict=True)),
        intervals=dict(zip(NAMES, _quantiles(values, level), strict=True)),
        n=len(points),
        points=tuple(points),
        level=level,
        warnings=tuple(warnings),
        centre=centre,
        lines=lines,
    )


def _lines(c: np.ndarray, log_N: np.ndarray, log_D: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Intercepts at c = 0 and slopes of ln N and ln D on c, least squares over those `there`: (draws, 4)."""
    weight = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = weight @ c
    away = c - mean[:, None]
    spread = (weight * away**2).sum(axis=1)
    spread = np.where(there.sum(axis=1) > 1, spread, np.nan)
    parts = []
    for y in (log_N, log_D):
        slope = (weight * away * y).sum(axis=1) / spread
        parts += [(weight * y).sum(axis=1) - slope * mean, slope]
    return np.stack(parts, axis=1)


def _coefficients(lines: np.ndarray, centre: float) -> np.ndarray:
    log_N, a, log_D, b = lines.T
    return np.stack([a, b, np.exp(log_N - a * centre), np.exp(log_D - b * centre)], axis=1)


def _quantiles(values: np.ndarray, level: float) -> list[tuple[float, float]]:
    """The interval of each column; nan for no draws."""
    if not len(values):
        return [(np.nan, np.nan)] * values.shape[1]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    return list(zip(low, high, strict=True))


def logs(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """ln N, ln C, L and ln D of the rows."""
    given = [name for name in ("N", "L", "C", "D") if name in columns]
    if not {"N", "L"} <= set(given) or len(given) < 3:
        raise ValueError(f"columns {sorted(columns)}; give N, L, and C or D")
    values = {name: positive(f"column {name}", columns[name], "drop runs that diverged") for name in given}
    shapes = {name: value.shape for name, value in values.items()}
    if len(set(shapes.values())) > 1 or values["N"].ndim != 1 or not values["N"].size:
        raise ValueError(f"columns of shapes {shapes}; give rows in one dimension, as many to each column")
    x, loss = np.log(values["N"]), values["L"]
    log_C = np.log(values["C"]) if "C" in values else np.log(6 * values["D"]) + x
    return x, log_C, loss, np.log(values["D"]) if "D" in values else log_C - np.log(6) - x


def enough(number: int, what: str, warnings: list[str], remedy: str) -> None:
    if number < 2:
        more = [f"and {len(warnings) - SHOWN} more"] if len(warnings) > SHOWN else []
        why = "; ".join([*warnings[:SHOWN], *more]) or "no more"
        raise ValueError(f"{number} usable {what}, and a power law needs two; {remedy} ({why})")
