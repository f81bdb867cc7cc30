"""How sure a fit is: refits to resamples, and the profile of the objective. For coefficients and whatever follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from models.forms import Columns
from models.minimise import Problem, Pull, Tie, gradient_of, minimise

Coefficients = Mapping[str, np.ndarray]
Quantity = Callable[[Coefficients], np.ndarray]
Measure = Callable[[np.ndarray], np.ndarray]
LADDER = np.array([0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 9, 14])  # standard deviations at which a profile is looked at
WIDENINGS, REFINEMENTS = 3, 2


@dataclass(frozen=True)
class Draws:
    """Coefficients of refits, by symbol, each of shape (draws,)."""

    coefficients: dict[str, np.ndarray]
    thetas: np.ndarray = field(repr=False)
    problem: Problem = field(repr=False)
    noise: np.ndarray = field(repr=False)  # ln L of one run about the law, one draw for each refit
    kind: str = "pairs"

    def interval(self, values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
        """The percentile interval of a figure per draw. Draws that give no number count as lying beyond both ends."""
        values = np.asarray(values, np.float64)
        known = np.where(np.isnan(values), np.inf, values)
        low = np.quantile(np.where(np.isnan(values), -np.inf, values), (1 - level) / 2, method="lower")
        return float(low), float(np.quantile(known, (1 + level) / 2, method="higher"))

    def predict(self, columns: Columns) -> np.ndarray:
        """The law's losses, shape (draws, rows): their spread is that of the curve."""
        raw = {name: np.atleast_1d(np.asarray(column, np.float64)) for name, column in columns.items()}
        frame = self.problem.law.frame(raw, self.problem.frame.centre)
        return np.exp(self.problem.law.log_loss(self.thetas, frame))

    def new_runs(self, columns: Columns) -> np.ndarray:
        """Losses of one new run for each draw, shape (draws, rows): the curve and the noise of a run."""
        return self.predict(columns) * np.exp(self.noise)[:, None]


def pairs(problem: Problem, theta: np.ndarray, draws: int, seed: int) -> Draws:
    """Runs drawn with replacement. A draw with fewer different runs than coefficients is drawn again."""
    rng = np.random.default_rng(seed)
    runs = len(problem.observed)
    weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws)
    while (poor := ((weights > 0).sum(axis=1) < len(theta))).any():
        weights[poor] = rng.multinomial(runs, np.full(runs, 1 / runs), size=int(poor.sum()))
    thetas, _ = minimise(replace(problem, weights=weights.astype(np.float64)), np.tile(theta, (draws, 1)), near=True)
    residuals = problem.at(theta[None]).residuals[0]
    wider = np.sqrt(runs / max(1, runs - len(theta)))  # residuals of a fit are smaller than the noise
    return _draws(problem, thetas, -wider * rng.choice(residuals, draws), "pairs")


def parametric(problem: Problem, theta: np.ndarray, draws: int, seed: int, *, noise: float, freedom: int) -> Draws:
    """Normal noise on the fitted curve, its level drawn with `freedom`; the prior's means move as the prior says."""
    rng = np.random.default_rng(seed)
    levels = noise * np.sqrt(freedom / rng.chisquare(freedom, draws))
    fitted = problem.at(theta[None]).local.log_loss
    observed = fitted + levels[:, None] * rng.standard_normal((draws, len(problem.observed)))
    drawn = replace(problem, observed=observed)
    if problem.pull is not None:
        spread = np.where(np.isfinite(problem.pull.scale), problem.pull.scale, 0.0)
        means = problem.pull.mean + spread * rng.standard_normal((draws, len(theta)))
        weight = levels * np.minimum(levels, problem.estimator.delta or np.inf)
        drawn = replace(drawn, pull=Pull(means, problem.pull.scale, weight))
    thetas, _ = minimise(drawn, np.tile(theta, (draws, 1)), near=True)
    return _draws(problem, thetas, levels * rng.standard_normal(draws), "parametric")


def _draws(problem: Problem, thetas: np.ndarray, noise: np.ndarray, kind: str) -> Draws:
    return Draws(problem.law.named(thetas, problem.frame), thetas, problem, noise, kind)


def profiles(
    problem: Problem, theta: np.ndarray, symbols: tuple[str, ...], level: float
) -> dict[str, tuple[float, float]]:
    """The profile interval of each coefficient, by symbol."""

    def of(symbol: str) -> Measure:
        return lambda thetas: problem.law.named(thetas, problem.frame)[symbol]

    # what is fitted as it is, and may be nothing, is looked at as it is
    return {
        symbol: _unbound(
            problem, symbol, profile(problem, theta, of(symbol), level, log=symbol not in problem.law.theta)
        )
        for symbol in symbols
    }


def _unbound(problem: Problem, symbol: str, ends: tuple[float, float]) -> tuple[float, float]:
    """A limit that is only the bound within which an exponent was sought is none: 0 or inf in its place."""
    places = [place for place in problem.law.exponents() if problem.law.theta[place] == symbol]
    if not places:
        return ends
    (low, high), (least, most) = ends, (bound[places[0]] for bound in problem.bounds)
    return (low if low > least * 1.001 else 0.0), (high if high < most * 0.999 else np.inf)


def profile(
    problem: Problem, theta: np.ndarray, measure: Measure, level: float, *, log: bool = True
) -> tuple[float, float]:
    """Values >= 0 of a function of theta (B, p) that the runs do not exclude, those with

    2 (objective - least objective) / tau below t^2. At each value all coefficients are fitted again, in the logarithm
    of the function if `log`. tau = E[psi^2] / E[psi'] makes a likelihood ratio of any estimator (Huber and Ronchetti,
    Robust Statistics, section 7.7); t is Student's, so that few runs count as few. 0 or inf where the objective never
    rises so far: a flat direction.
    """
    base = problem.at(theta[None])
    tau, bend = robust_scale(problem, base.residuals[0])
    allowed = 0.5 * tau * _student(level, len(problem.observed) - len(theta)) ** 2

    def measured(thetas: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            value = measure(thetas)
            return np.log(value) if log else value

    centre = float(measured(theta[None])[0])
    slope = gradient_of(measured, theta[None], problem.bounds)[0]
    moves = np.linalg.pinv(information(problem, theta, bend), hermitian=True) @ slope
    spread = float(np.sqrt(max(tau * slope @ moves, 1e-300)))
    if not np.isfinite(centre + spread):
        return 0.0, np.inf
    direction = moves / (slope @ moves)

    def excess(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the refits really came to lie, and by how much their objective is above the least."""
        tie = Tie(measured, values, 100 * tau / spread**2)
        found, _ = minimise(replace(problem, tie=tie), theta + (values - centre)[:, None] * direction, near=True)
        return measured(found), problem.at(found).value - base.value

    ends = [_crossing(excess, centre, sign * spread, allowed) for sign in (-1, 1)]
    low, high = np.exp(ends) if log else np.maximum(ends, 0)
    return float(low), float(high)


def robust_scale(problem: Problem, residuals: np.ndarray) -> tuple[float, float]:
    """tau = E[psi^2] / E[psi'] of an estimator at the runs' residuals, and E[psi'], smoothed over the runs' spread.

    Where psi jumps or is flat, E[psi'] is the slope of the mean of psi over a shift of all residuals.
    """
    runs, count = len(residuals), len(problem.law.theta)
    spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    width = max(spread * runs**-0.2, float(np.abs(residuals).max()) * 1e-3, 1e-12)
    estimator = problem.estimator.smoothed[-1]
    psi = estimator.slopes(residuals)[0]
    bend = float((estimator.slopes(residuals + width)[0] - estimator.slopes(residuals - width)[0]).mean()) / (2 * width)
    freedom = runs / max(1, runs - count)
    return freedom * float((psi**2).mean()) / max(bend, 1e-300), bend


def information(problem: Problem, theta: np.ndarray, bend: float) -> np.ndarray:
    """The expected curvature (p, p): E[psi'] times the sum of squared slopes of ln L."""
    local = problem.law.at(theta[None], problem.frame)
    ones = np.ones((1, len(problem.observed)))
    information = bend * local.hessian(0 * ones, ones)[0]
    if problem.pull is not None:
        information = information + np.diag(np.broadcast_to(problem.pull.precision, theta.shape))
    return information


def _crossing(
    excess: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], centre: float, spread: float, allowed: float
) -> float:
    """The value at which the excess reaches what is allowed, on the side of `spread`; infinite where it never does."""
    sign = np.sign(spread)
    inside, outside, ladder = centre, np.nan, LADDER
    for _ in range(WIDENINGS):
        at, rise = excess(centre + ladder * spread)
        inside, outside = _bracket(at, rise, inside, outside, allowed, sign)
        if np.isfinite(outside):
            break
        ladder = ladder * LADDER[-1] / LADDER[0]
    else:
        return float(sign * np.inf)
    for _ in range(REFINEMENTS):
        at, rise = excess(inside + np.linspace(0, 1, 8)[1:-1] * (outside - inside))
        inside, outside = _bracket(at, rise, inside, outside, allowed, sign)
    return 0.5 * (inside + outside)


def _bracket(
    at: np.ndarray, rise: np.ndarray, inside: float, outside: float, allowed: float, sign: float
) -> tuple[float, float]:
    """The outermost value that is allowed before the first that is not, and that one."""
    order = np.argsort(sign * at)
    for value, above in zip(at[order], rise[order], strict=True):
        if not np.isfinite(value) or sign * (value - inside) < 0:
            continue
        if above > allowed:
            nearer = value if not np.isfinite(outside) else sign * min(sign * value, sign * outside)
            return inside, float(nearer)
        inside = float(value)
    return inside, outside


def _student(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1, freedom), (1 + level) / 2))
