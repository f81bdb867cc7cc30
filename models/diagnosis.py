"""What is wrong, or weak, with a fit: flat directions, other optima, and runs that decide it alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.forms import Columns
from models.intervals import information, robust_scale
from models.minimise import Problem, minimise

CONDITION = 1e4  # of the coefficients' correlations: above it a direction is all but free
SAME = 1e-4  # relative difference of objectives that belong to one optimum
ONE_RATIO = 0.1  # range of ln D/N
EXACT = 1e-9  # largest residual of a law that passes through its runs: nothing is left to judge a run by
INFLUENCE_RUNS = 400  # runs that are left out one at a time, those with the largest leverage
OPTIMA = 5  # how many different ones are listed
FACTORS = ("E", "ln A", "ln B", "ln a", "ln b")
APART = 0.25  # squared distance, in standard deviations, of two ends that count as two optima
FAR, FAR_AT_LEAST = 10, 0.05  # standard deviations, and ln L, from which a run does not belong
HEAVY = 1.0  # Cook's distance from which a run counts as deciding (Cook and Weisberg 1982)


def examine(
    problem: Problem,
    theta: np.ndarray,
    objective: float,
    ends: tuple[np.ndarray, np.ndarray],
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """`condition`, `flat`, `optima` and `influence` of a fit, ready for JSON."""
    tau, bend = robust_scale(problem, problem.at(theta[None]).residuals[0])
    curvature = information(problem, theta, bend)
    condition, flat = _flat(problem, theta, curvature, tau)
    return {
        "condition": condition,
        "flat": flat,
        "optima": _optima(problem, objective, ends, curvature, tau),
        "influence": influence(problem, theta, curvature, tau, names),
    }


def influence(
    problem: Problem, theta: np.ndarray, curvature: np.ndarray, tau: float, names: Sequence[str] = (), *, most: int = 3
) -> list[dict[str, Any]]:
    """The runs without which the law would move most, one after the other: each beside those before it.

    `distance` is Cook's, (theta_without - theta)^T curvature (theta_without - theta) / (p tau); `coefficients` what
    the law is without this run and those before it. Stops where what is left cannot fix the law.
    """
    runs, count = len(problem.observed), len(theta)
    if np.abs(problem.at(theta[None]).residuals).max() < EXACT:
        return []
    found: list[dict[str, Any]] = []
    kept, at = np.ones(runs), theta
    while len(found) < most and kept.sum() - 1 >= count + 1:
        candidates = np.flatnonzero(kept)
        if len(candidates) > INFLUENCE_RUNS:
            slopes = np.abs(problem.estimator.smoothed[-1].slopes(problem.at(at[None]).residuals[0])[0])
            candidates = candidates[np.argsort(-slopes[candidates], kind="stable")[:INFLUENCE_RUNS]]
        weights = np.tile(kept, (len(candidates), 1))
        weights[np.arange(len(candidates)), candidates] = 0
        without, _ = minimise(replace(problem, weights=weights), np.tile(at, (len(candidates), 1)), near=True)
        moved = without - at
        distance = np.einsum("bp,pq,bq->b", moved, curvature, moved) / (count * max(tau, 1e-300))
        worst = int(distance.argmax())
        named = problem.law.named(without[worst], problem.frame)
        found.append(
            {"run": int(candidates[worst]) + 1, "name": called(names, candidates[worst]),
             "distance": float(distance[worst]),
             "coefficients": {name: float(value) for name, value in named.items()}}
        )  # fmt: skip
        kept, at = weights[worst], without[worst]
    return found


def warnings(
    problem: Problem, theta: np.ndarray, diagnostics: dict[str, Any], share: float, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """Sentences for a reader, the gravest first."""
    return (
        *_far(problem, theta, names),
        *_bounds(problem, theta),
        *_weak(problem, theta),
        *_starts(diagnostics["optima"], share),
        *_condition(diagnostics),
        *_influence(diagnostics["influence"]),
        *_shape(problem),
    )


def one_ratio(columns: Columns) -> bool:
    """Whether all runs have the same tokens per parameter, so that what N gives cannot be told from what D gives."""
    return {"N", "D"} <= columns.keys() and float(np.ptp(np.log(columns["D"] / columns["N"]))) < ONE_RATIO


def called(names: Sequence[str], place: int) -> str:
    """What a message calls the run at a place, counted from 0."""
    return names[place] if names else f"run {place + 1}"


def _flat(
    problem: Problem, theta: np.ndarray, curvature: np.ndarray, tau: float
) -> tuple[float, dict[str, list[float]]]:
    """The condition number of the correlations, and one standard deviation to either side in the weakest direction."""
    scale = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    weakest = max(float(values[0]), 1e-16)
    step = vectors[:, 0] / scale * np.sqrt(tau / weakest)
    ends = [problem.law.named(np.clip(theta + sign * step, *problem.bounds), problem.frame) for sign in (-1, 1)]
    flat = {name: [float(ends[0][name]), float(ends[1][name])] for name in ends[0]}
    return float(values[-1]) / weakest, flat


def _optima(
    problem: Problem, objective: float, ends: tuple[np.ndarray, np.ndarray], curvature: np.ndarray, tau: float
) -> list[dict[str, Any]]:
    """The different places at which starts ended, the best first; `indistinct` where the runs cannot reject one."""
    thetas, values = ends
    nothing = problem.estimator.nothing(len(problem.observed))
    found: list[dict[str, Any]] = []
    places: list[np.ndarray] = []
    for place in np.argsort(values):
        value = float(values[place])
        moved = np.array([thetas[place] - each for each in places]).reshape(-1, thetas.shape[1])
        close = np.einsum("bp,pq,bq->b", moved, curvature, moved) < APART * tau
        equal = np.array([value <= each["objective"] * (1 + SAME) + nothing for each in found], bool)
        if (belongs := np.flatnonzero(close | equal)).size:
            found[belongs[0]]["share"] += 1 / len(values)
            continue
        if len(found) == OPTIMA:
            break
        places.append(thetas[place])
        named = problem.law.named(thetas[place], problem.frame)
        indistinct = bool(found) and value - objective < 0.5 * tau * 3.84
        found.append(
            {"objective": value, "share": 1 / len(values), "indistinct": indistinct,
             "coefficients": {name: float(each) for name, each in named.items()}}
        )  # fmt: skip
    return found


def _bounds(problem: Problem, theta: np.ndarray) -> list[str]:
    low, high = problem.bounds
    found = []
    for name, value, least, most in zip(problem.law.theta, theta, low, high, strict=True):
        if value <= least + 1e-9 and name in FACTORS:
            found.append(f"{name.removeprefix('ln ')} is nothing: the loss does not show its term in these runs")
        elif value <= least + 1e-9 or value >= most - 1e-9:
            found.append(f"{name} sits at its bound {value:.3g}: the runs do not fix it")
    return found


def _far(problem: Problem, theta: np.ndarray, names: Sequence[str]) -> list[str]:
    """Runs that no noise of the others explains; a robust estimator hides what they do to everything else."""
    residuals = problem.at(theta[None]).residuals[0]
    if len(residuals) < 3 * len(theta):
        return []
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    far = np.flatnonzero(np.abs(residuals) > max(FAR * spread, FAR_AT_LEAST))
    if not far.size:
        return []
    worst = far[np.abs(residuals[far]).argmax()]
    others = f", and {far.size - 1} more likewise" if far.size > 1 else ""
    side, times = ("above", -residuals[worst]) if residuals[worst] < 0 else ("below", residuals[worst])
    return [
        f"{called(names, worst)} lies {np.exp(times):.3g} times {side} the law, where most runs lie within "
        f"{spread:.2%}{others}: a slip in the table, or a run that diverged"
    ]


def _weak(problem: Problem, theta: np.ndarray) -> list[str]:
    """Exponents whose standard deviation is half their value and more, or 0.7 of the prior's."""
    tau, bend = robust_scale(problem, problem.at(theta[None]).residuals[0])
    spread = np.sqrt(np.maximum(tau * np.diag(np.linalg.pinv(information(problem, theta, bend), hermitian=True)), 0))
    prior = np.inf if problem.pull is None else float(problem.pull.scale.min())
    found = []
    for place in problem.law.exponents():
        if spread[place] > 0.7 * prior:
            cause = "comes mostly from its prior"
        elif spread[place] > 0.5 * theta[place]:
            cause = "is weakly determined"
        else:
            continue
        named = f"{problem.law.theta[place]} = {theta[place]:.3g} +- {spread[place]:.2g}"
        found.append(f"{named} {cause}: sweep wider in {' and '.join(problem.law.inputs[:2])} to fix it")
    return found


def _starts(optima: Sequence[dict[str, Any]], share: float) -> list[str]:
    found = []
    if share < 0.02:
        found.append(f"only {share:.1%} of the starts reached the best objective: take more starts")
    others = [each for each in optima[1:] if each["indistinct"]]
    if others:
        shown = ", ".join(f"{name} = {value:.4g}" for name, value in others[0]["coefficients"].items())
        found.append(f"the runs cannot tell the optimum from {len(others)} other(s), such as {shown}")
    return found


def _condition(diagnostics: dict[str, Any]) -> list[str]:
    if diagnostics["condition"] < CONDITION:
        return []
    moves = "; ".join(f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in diagnostics["flat"].items())
    return [f"a direction is flat (condition {diagnostics['condition']:.2g}), one standard deviation of it: {moves}"]


def _influence(found: Sequence[dict[str, Any]]) -> list[str]:
    if not found or found[0]["distance"] < HEAVY:
        return []
    shown = ", ".join(f"{name} = {value:.4g}" for name, value in found[0]["coefficients"].items())
    return [f"{found[0]['name']} decides the fit (Cook's distance {found[0]['distance']:.1f}); without it {shown}"]


def _shape(problem: Problem) -> list[str]:
    found = []
    raw = problem.frame.raw
    if one_ratio(raw):
        found.append("all runs have the same tokens per parameter: alpha and beta cannot be told apart")
    runs, count = len(problem.observed), len(problem.law.theta)
    if runs < 4 * count and problem.pull is None:
        found.append(
            f"{runs} runs for {count} coefficients are few: resampled runs would give intervals that are too narrow or "
            "too wide; trust those by resampled noise or by profile, or fit with a prior"
        )
    return found
