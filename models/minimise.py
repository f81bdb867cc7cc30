"""Many fits at once: projected Newton with Levenberg-Marquardt damping, over starts and over resamples alike."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from models.estimators import Estimator
from models.forms import Frame, Law, Local

ROWS = 256  # fits per block: what it works on stays in the cache
STEPS, CORNER_STEPS = 200, 60
# The promised gain, relative to the objective, at which a fit ends. A refit need not be nearer to its optimum than a
# thousandth of a standard deviation.
EXACTLY, NEARLY = 1e-13, 1e-9
NEWTON = 1e-2  # relative gain below which the second derivative of the estimator is trusted


@dataclass(frozen=True)
class Pull:
    """A normal prior, weight / 2 * ((theta - mean) / scale)^2 beside the estimator, where scale (p,) is finite.

    `mean` is (p,) or (B, p); `weight`, what a square of the prior counts beside the runs', a number or (B,).
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray | float

    @property
    def precision(self) -> np.ndarray:
        return np.asarray(self.weight)[..., None] / self.scale**2


@dataclass(frozen=True)
class Tie:
    """strength / 2 * (quantity(theta) - value)^2: holds a function of the coefficients near a value (B,)."""

    quantity: Callable[[np.ndarray], np.ndarray]
    value: np.ndarray
    strength: float


@dataclass(frozen=True)
class Problem:
    """What is minimised: an estimator of a law's log residuals. `observed` is ln L, (n,) or (B, n).

    `weights` (B, n) count each run so many times: a resample, or a run left out.
    """

    law: Law
    frame: Frame
    observed: np.ndarray
    estimator: Estimator
    bounds: tuple[np.ndarray, np.ndarray]
    weights: np.ndarray | None = None
    pull: Pull | None = None
    tie: Tie | None = None
    exact: bool = False  # use second derivatives of the law also where they are dear

    def only(self, rows: np.ndarray | slice) -> "Problem":
        """The problem of some of the fits."""
        observed = self.observed[rows] if self.observed.ndim == 2 else self.observed
        weights = None if self.weights is None else self.weights[rows]
        pull = self.pull
        if pull is not None:
            weight = np.asarray(pull.weight)
            mean = pull.mean[rows] if pull.mean.ndim == 2 else pull.mean
            pull = replace(pull, mean=mean, weight=weight[rows] if weight.ndim else weight)
        tie = None if self.tie is None else replace(self.tie, value=self.tie.value[rows])
        return replace(self, observed=observed, weights=weights, pull=pull, tie=tie)

    def at(self, theta: np.ndarray) -> "Point":
        local = self.law.at(theta, self.frame)
        residuals = local.log_loss - self.observed
        value = self.estimator.objective(residuals, self.weights)
        if self.pull is not None:
            value = value + 0.5 * (self.pull.precision * (theta - self.pull.mean) ** 2).sum(axis=1)
        if self.tie is not None:
            value = value + 0.5 * self.tie.strength * (self.tie.quantity(theta) - self.tie.value) ** 2
        return Point(theta, local, residuals, value)

    def derivatives(self, point: "Point", newton: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (B, p) and curvature (B, p, p): exact where `newton`, else of reweighted least squares."""
        slope, bend, weight = self.estimator.slopes(point.residuals)
        if self.weights is not None:
            slope, bend, weight = slope * self.weights, bend * self.weights, weight * self.weights
        gradient = point.local.gradient(slope)
        exact = newton[:, None]
        curvature = point.local.hessian(np.where(exact, slope, 0.0), np.where(exact, bend, weight))
        if self.pull is not None:
            own = np.arange(gradient.shape[1])
            gradient = gradient + self.pull.precision * (point.theta - self.pull.mean)
            curvature[:, own, own] += self.pull.precision
        if self.tie is not None:
            slopes = gradient_of(self.tie.quantity, point.theta, self.bounds)
            off = self.tie.strength * (self.tie.quantity(point.theta) - self.tie.value)
            gradient = gradient + off[:, None] * slopes
            curvature += self.tie.strength * slopes[:, :, None] * slopes[:, None, :]
        return gradient, curvature


@dataclass(frozen=True)
class Point:
    """Coefficients (B, p), the law there, the log residuals (B, n) and the objective (B,)."""

    theta: np.ndarray
    local: Local
    residuals: np.ndarray
    value: np.ndarray


def minimise(problem: Problem, starts: np.ndarray, *, near: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients (B, p) at which each fit stops gaining, from its start, and the objectives (B,).

    `near`: the starts lie near the optima, as those of refits do, so that a corner needs less smoothing.
    Raises no error: a fit that cannot be improved returns its start.
    """
    theta, values = np.clip(starts, *problem.bounds), np.empty(len(starts))
    for first in range(0, len(theta), ROWS):
        rows = slice(first, first + ROWS)
        theta[rows], values[rows] = _block(problem.only(rows), theta[rows], near)
    return theta, values


def _block(problem: Problem, theta: np.ndarray, near: bool) -> tuple[np.ndarray, np.ndarray]:
    smoothed = problem.estimator.smoothed
    for estimator in smoothed[-2:] if near else smoothed:
        theta = _descend(replace(problem, estimator=estimator), theta, NEARLY if near else EXACTLY)
    if problem.estimator.corner:
        theta = _into_corner(problem, theta)
    return theta, problem.at(theta).value


def _into_corner(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Where |r| has its corner, an optimum passes through as many runs as there are coefficients: solved for exactly.

    The runs are those that the smoothed optimum passes nearest to. Kept where the objective falls.
    """
    start = problem.at(theta)
    size = np.abs(start.residuals)
    if problem.weights is not None:
        size = np.where(problem.weights > 0, size, np.inf)
    nearest = np.argsort(size, axis=1, kind="stable")[:, : theta.shape[1]]
    tried, point = theta, start
    for _ in range(4):
        system = np.take_along_axis(point.local.rows(), nearest[..., None], axis=1)
        through = np.take_along_axis(point.residuals, nearest, axis=1)
        tried = np.clip(tried - (np.linalg.pinv(system) @ through[..., None])[..., 0], *problem.bounds)
        point = problem.at(tried)
    return np.where((point.value < start.value)[:, None], tried, theta)


def sharpen(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """The optimum (p,) of an estimator with a corner to the last digit, from one close to it.

    Sequential linear programming: the law is replaced by its tangent inside a shrinking trust region, where the best
    move is a linear programme (its dual bounds the objective, so that the vertex is the right one).
    """
    from scipy.optimize import linprog

    runs, count = len(problem.observed), len(theta)
    over, under = (side * np.ones(runs) for side in (problem.estimator.over, problem.estimator.under))
    best, radius = problem.at(theta[None]), 1e-2
    while radius > 1e-12:
        rows = best.local.rows()[0]
        room = [np.clip(bound - best.theta[0], -radius, radius) for bound in problem.bounds]
        found = linprog(
            np.concatenate([np.zeros(count), over, under]),
            A_eq=np.hstack([rows, -np.eye(runs), np.eye(runs)]), b_eq=-best.residuals[0],
            bounds=[*zip(*room, strict=True), *([(0, None)] * (2 * runs))], method="highs",
        )  # fmt: skip
        tried = problem.at(best.theta + found.x[:count]) if found.status == 0 else best
        if tried.value[0] < best.value[0]:
            best = tried
        else:
            radius *= 0.1
    return best.theta[0]


def _descend(problem: Problem, theta: np.ndarray, enough: float) -> np.ndarray:
    theta = theta.copy()
    count = len(theta)
    damping, newton, rejected = np.full(count, 1e-3), np.zeros(count, bool), np.zeros(count, int)
    running, exact = np.arange(count), problem.law.quick or problem.exact
    part, value = problem, problem.at(theta).value
    for _ in range(CORNER_STEPS if problem.estimator.corner else STEPS):
        point = part.at(theta[running])
        gradient, curvature = part.derivatives(point, newton[running])
        step, promised = _step(theta[running], gradient, curvature, damping[running], problem.bounds)
        tried = np.clip(theta[running] + step, *problem.bounds)
        after = part.at(tried).value
        gain = value[running] - after
        better = gain > 0
        theta[running[better]], value[running[better]] = tried[better], after[better]
        small = gain <= NEWTON * np.abs(value[running])
        rejected[running] = np.where(better, 0, rejected[running] + 1)
        again = ~better & newton[running]  # the exact curvature misled: the safe one has its turn before more damping
        damping[running] = np.clip(damping[running] * np.where(better, 0.1, np.where(again, 1.0, 10.0)), 1e-12, 1e12)
        newton[running] = better & small & exact
        done = (promised <= enough * np.abs(value[running]) + 1e-32) | (rejected[running] > 14)
        if done.any():
            running = running[~done]
            if not running.size:
                break
            part = problem.only(running)
    return theta


def _step(
    theta: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, damping: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The damped step (B, p) and the gain that it promises (B,). What is pushed against its bound stays there."""
    low, high = bounds
    free = ~(((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0)))
    own = np.arange(theta.shape[1])
    scale = np.abs(curvature[:, own, own])
    curvature[:, own, own] += damping[:, None] * scale + 1e-14 * scale.max(axis=1, keepdims=True) + 1e-300
    curvature = np.where(free[:, :, None] & free[:, None, :], curvature, np.eye(len(own)))
    downhill = np.where(free, -gradient, 0.0)
    step = np.linalg.solve(curvature, downhill[..., None])[..., 0]
    return step, 0.5 * np.abs(downhill * step).sum(axis=1)


def gradient_of(
    quantity: Callable[[np.ndarray], np.ndarray], theta: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The gradient (B, p) of a function of the coefficients by central differences, one-sided at a bound."""
    batch, count = theta.shape
    moves = np.eye(count) * (1e-6 * np.maximum(1.0, np.abs(theta)))[:, None, :]
    ends = [np.clip(theta[:, None, :] + sign * moves, *bounds) for sign in (1, -1)]
    values = [quantity(end.reshape(-1, count)).reshape(batch, count) for end in ends]
    own = np.arange(count)
    return (values[0] - values[1]) / (ends[0] - ends[1])[:, own, own]
