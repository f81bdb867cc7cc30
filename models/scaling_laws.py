"""The Chinchilla law, fitted to a sweep of any size, with prediction intervals that are honest for a dozen runs.

L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, 2203.15556, equation 2): L the loss in nats per token,
N the parameters under whichever convention the runs use, D the training tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np

COEFFICIENTS = ("a", "b", "E", "alpha", "beta")  # a and b: ln of the two terms at the runs' geometric mean N and D
# Published exponents lie between .05 and .6. A dozen runs rarely tell an exponent from the floor E, so the exponents
# carry a weak normal prior, which vanishes in a large sweep.
PRIOR_MEAN = np.array([0, 0, 0, 0.3, 0.3])
PRIOR_SCALE = np.array([np.inf, np.inf, np.inf, 0.3, 0.3])
EXPONENTS = (0.05, 1.0)
NOISE, NOISE_RUNS = 0.01, 1  # log loss between seeds, believed as much as if one run had shown it
_STARTS = tuple(product((0.1, 0.3, 0.6, 0.9), (0.1, 0.3, 0.6, 0.9), (0.0, 0.3, 0.6, 0.85)))


class Prediction(NamedTuple):
    """A predicted loss and the interval that should hold the loss of one new run."""

    loss: float
    low: float
    high: float

    def holds(self, actual: float) -> bool:
        return self.low <= actual <= self.high


class Optimum(NamedTuple):
    """The best model for a budget: its parameters, its training tokens and the loss that the law predicts."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class _Sweep:
    """Runs as centred logarithms, each of shape (runs,), with what bounds the coefficients."""

    x: np.ndarray
    y: np.ndarray
    log_loss: np.ndarray
    centre: tuple[float, float]
    delta: float

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.exp(self.log_loss.min()), np.exp(self.log_loss.max())
        term = np.log(1e-4 * low), np.log(2 * high)
        pairs = np.array([term, term, (0, low), EXPONENTS, EXPONENTS])
        return pairs[:, 0], pairs[:, 1]


@dataclass(frozen=True)
class Fit:
    """A fitted law. `noise` is the standard deviation of ln L between a run and the law."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    objective: float
    agreeing: float = field(metadata={"description": "share of the starts that reached the best objective"})
    noise: float
    runs: int
    warnings: tuple[str, ...]
    theta: np.ndarray = field(repr=False)
    sweep: _Sweep = field(repr=False)

    def predict(self, parameters: float, tokens: float) -> float:
        """The loss that the law gives for N parameters after D tokens."""
        return float(self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta)

    def interval(
        self, parameters: float, tokens: float, *, draws: int = 300, seed: int = 0, level: float = 0.95
    ) -> Prediction:
        """The predicted loss with a prediction interval for one new run.

        Parametric bootstrap: each draw takes a noise level from its posterior (scaled inverse chi-squared, so that
        few runs give Student-t tails), adds such noise to the fitted curve and to the means of the prior, refits,
        and adds the noise of the new run. It allows for noise and for coefficients that the runs leave open, not
        for a law that is wrong beyond them.
        """
        thetas, noise, rng = self._resampled(draws, seed)
        x, y = np.log(parameters) - self.sweep.centre[0], np.log(tokens) - self.sweep.centre[1]
        expected = np.log(_terms(thetas, np.array([x]), np.array([y])).sum(axis=0)[:, 0])
        drawn = expected + noise * rng.standard_normal(draws)
        low, high = np.exp(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
        return Prediction(self.predict(parameters, tokens), float(low), float(high))

    def optimum(self, compute: float) -> Optimum:
        """The best N and D under C = 6 N D FLOPs (Hoffmann et al., equation 4).

        N* = G (C/6)^(beta/(alpha+beta)), D* = (C/6)^(alpha/(alpha+beta)) / G,
        G = (alpha A / (beta B))^(1/(alpha+beta)).
        """
        total = self.alpha + self.beta
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        n, d = g * (compute / 6) ** (self.beta / total), (compute / 6) ** (self.alpha / total) / g
        return Optimum(n, d, self.predict(n, d))

    def optimum_over(self, candidates: Sequence[tuple[float, float]], compute: float) -> tuple[int, Optimum]:
        """Which of the (N, training FLOPs per token) that exist is best for a budget, and what it gives.

        Each candidate trains on D = compute / FLOPs per token. Raises ValueError for no candidates or no budget.
        """
        if not candidates or not compute > 0:
            raise ValueError(
                f"{len(candidates)} candidates, a budget of {compute} FLOPs; give one or more, and more than 0"
            )
        options = [Optimum(n, compute / cost, self.predict(n, compute / cost)) for n, cost in candidates]
        best = min(range(len(options)), key=lambda i: options[i].loss)
        return best, options[best]

    def _resampled(self, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Refitted coefficients (draws, 5), the noise of each draw (draws,) and the generator for what follows."""
        rng = np.random.default_rng(seed)
        freedom = _freedom(self.runs)
        noise = self.noise * np.sqrt(freedom / rng.chisquare(freedom, draws))
        fitted = np.log(_terms(self.theta[None], self.sweep.x, self.sweep.y).sum(axis=0))
        observed = fitted + noise[:, None] * rng.standard_normal((draws, self.runs))
        finite = np.isfinite(PRIOR_SCALE)
        means = PRIOR_MEAN + np.where(finite, PRIOR_SCALE, 0) * rng.standard_normal((draws, 5))
        starts = np.repeat(self.theta[None], draws, axis=0)
        thetas, _ = _minimise(starts, self.sweep, observed, means, _weight(noise, self.sweep.delta))
        return thetas, noise, rng


def fit(
    parameters: Sequence[float] | np.ndarray,
    tokens: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    *,
    delta: float = 0.01,
) -> Fit:
    """Fits the law to runs: the least sum of Huber(delta) of ln L_hat - ln L plus the weak prior, from 64 starts.

    Hoffmann et al. take delta = 1e-3 for hundreds of runs. With a dozen that is a least-absolute fit, which passes
    exactly through as many runs as there are coefficients, so the default is the size of the noise between runs.
    Bounds: 0 <= E <= the lowest loss, exponents in [.05, 1]. What the runs leave open is named in `warnings`.
    Raises ValueError for fewer runs than coefficients, values that are not positive, or one size or horizon only.
    """
    sweep = _sweep(parameters, tokens, losses, delta)
    starts = _starts(sweep)
    noise = NOISE
    for _ in range(2):  # the noise sets the weight of the prior, and the fit sets the noise
        starts, objectives = _minimise(starts, sweep, sweep.log_loss, PRIOR_MEAN, _weight(noise, delta))
        theta = starts[objectives.argmin()]
        residuals = np.log(_terms(theta[None], sweep.x, sweep.y).sum(axis=0))[0] - sweep.log_loss
        freedom = _freedom(len(residuals))
        noise = float(np.sqrt((NOISE_RUNS * NOISE**2 + residuals @ residuals) / freedom))
    best = float(objectives.min())
    a, b, floor, alpha, beta = theta.tolist()
    return Fit(
        E=floor,
        A=float(np.exp(a + alpha * sweep.centre[0])),
        B=float(np.exp(b + beta * sweep.centre[1])),
        alpha=alpha,
        beta=beta,
        objective=best,
        agreeing=float((objectives <= best * 1.001 + 1e-9).mean()),
        noise=noise,
        runs=len(residuals),
        warnings=_warnings(theta, sweep, noise),
        theta=theta,
        sweep=sweep,
    )


def _sweep(parameters: object, tokens: object, losses: object, delta: float) -> _Sweep:
    columns = [np.asarray(column, np.float64) for column in (parameters, tokens, losses)]
    lengths = [column.size for column in columns]
    if len(set(lengths)) > 1 or min(lengths) < len(COEFFICIENTS):
        raise ValueError(f"{min(lengths)} runs cannot fix {len(COEFFICIENTS)} coefficients (columns of {lengths})")
    for name, column in zip(("parameters", "tokens", "losses"), columns, strict=True):
        if not (np.isfinite(column) & (column > 0)).all():
            raise ValueError(f"{name} must be finite and positive; drop runs that diverged: {column.tolist()}")
    for name, column in zip(("parameters", "tokens"), columns, strict=False):
        if np.unique(column).size < 2:
            raise ValueError(f"all runs have {column[0]:.0f} {name}; a law in N and D needs two values of each or more")
    n, d, log_loss = (np.log(column) for column in columns)
    return _Sweep(n - n.mean(), d - d.mean(), log_loss, (float(n.mean()), float(d.mean())), delta)


def _freedom(runs: int) -> int:
    return NOISE_RUNS + runs - len(COEFFICIENTS)


def _weight(noise: float | np.ndarray, delta: float) -> np.ndarray:
    """What the prior's squares count beside the Huber terms: noise^2, and noise * delta where Huber is linear."""
    return np.asarray(noise) * np.minimum(noise, delta)


def _starts(sweep: _Sweep) -> np.ndarray:
    """A grid over alpha, beta and E; the other two by least squares, in which they are linear. Shape (64, 5)."""
    low, high = sweep.bounds
    loss = np.exp(sweep.log_loss)
    starts = []
    for alpha, beta, share in _STARTS:
        floor = share * high[2]
        basis = np.stack([np.exp(-alpha * sweep.x), np.exp(-beta * sweep.y)], axis=1)
        terms = np.linalg.lstsq(basis, loss - floor, rcond=None)[0]
        starts.append([*np.log(np.maximum(terms, 1e-2 * high[2])), floor, alpha, beta])
    return np.clip(starts, low, high)


def _terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A/N^alpha, B/D^beta and E for coefficients (batch, 5): shape (3, batch, runs)."""
    a, b, floor, alpha, beta = (theta[:, i : i + 1] for i in range(5))
    return np.stack(np.broadcast_arrays(np.exp(a - alpha * x), np.exp(b - beta * y), floor))


def _derivatives(theta: np.ndarray, sweep: _Sweep) -> np.ndarray:
    """d ln L_hat / d theta, shape (batch, runs, 5)."""
    first, second, floor = _terms(theta, sweep.x, sweep.y)
    parts = np.stack([first, second, np.ones_like(floor), -sweep.x * first, -sweep.y * second], axis=-1)
    return parts / (first + second + floor)[..., None]


def _minimise(
    theta: np.ndarray, sweep: _Sweep, observed: np.ndarray, means: np.ndarray, weight: np.ndarray, *, steps: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises many fits at once by projected Levenberg-Marquardt; coefficients (batch, 5), objectives (batch,).

    `observed` (ln L), `means` and `weight` of the prior are shared or given per fit. Fits that no longer gain leave
    the batch.
    """
    count = len(theta)
    theta = theta.copy()
    problem = _Problem(
        sweep,
        np.broadcast_to(observed, (count, len(sweep.x))),
        np.broadcast_to(means, theta.shape),
        np.broadcast_to(weight, count)[:, None] / PRIOR_SCALE**2,
    )
    value = problem.objective(theta)
    damping = np.full(count, 1e-2)
    running = np.arange(count)
    for _ in range(steps):
        part = problem.only(running)
        tried = part.step(theta[running], damping[running])
        gain = value[running] - part.objective(tried)
        better = gain > 0
        theta[running[better]] = tried[better]
        value[running[better]] -= gain[better]
        damping[running] = np.clip(damping[running] * np.where(better, 0.25, 4), 1e-9, 1e9)
        done = (gain <= 1e-8 * value[running] + 1e-16) & (better | (damping[running] >= 1e6))
        running = running[~done]
        if not running.size:
            break
    return theta, value


@dataclass(frozen=True)
class _Problem:
    """A batch of penalised fits to one sweep: `observed` (batch, runs), `means` and `precision` (batch, 5)."""

    sweep: _Sweep
    observed: np.ndarray
    means: np.ndarray
    precision: np.ndarray

    def only(self, rows: np.ndarray) -> "_Problem":
        return _Problem(self.sweep, self.observed[rows], self.means[rows], self.precision[rows])

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        return np.log(_terms(theta, self.sweep.x, self.sweep.y).sum(axis=0)) - self.observed

    def objective(self, theta: np.ndarray) -> np.ndarray:
        penalty = 0.5 * (self.precision * (theta - self.means) ** 2).sum(axis=1)
        return _huber(self.residuals(theta), self.sweep.delta) + penalty

    def step(self, theta: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """The next coefficients (batch, 5), inside the bounds.

        The curvature is that of iteratively reweighted least squares, weight min(1, delta / |r|). A coefficient at
        a bound that the gradient pushes outwards stays there.
        """
        residuals, slopes = self.residuals(theta), _derivatives(theta, self.sweep)
        weights = np.minimum(1, self.sweep.delta / np.maximum(np.abs(residuals), 1e-300))
        weighted = (slopes * weights[..., None]).swapaxes(1, 2)
        gradient = (weighted @ residuals[..., None])[..., 0] + self.precision * (theta - self.means)
        low, high = self.sweep.bounds
        free = ~(((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0)))
        curvature = weighted @ slopes
        own = np.arange(theta.shape[1])
        curvature[:, own, own] = (curvature[:, own, own] + self.precision) * (1 + damping[:, None]) + 1e-12
        curvature = np.where(free[:, :, None] & free[:, None, :], curvature, np.eye(len(own)))
        return np.clip(theta - np.linalg.solve(curvature, np.where(free, gradient, 0)[..., None])[..., 0], low, high)


def _huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(axis=-1)


def _warnings(theta: np.ndarray, sweep: _Sweep, noise: float) -> tuple[str, ...]:
    """Coefficients that sit at a bound or that the runs tell little about, by the curvature at the optimum."""
    slopes = _derivatives(theta[None], sweep)[0]
    covariance = np.linalg.pinv(slopes.T @ slopes / noise**2 + np.diag(1 / PRIOR_SCALE**2))
    spread = np.sqrt(np.diag(covariance))
    low, high = sweep.bounds
    found = []
    columns = zip(COEFFICIENTS, theta, spread, low, high, PRIOR_SCALE, strict=True)
    for name, value, deviation, least, most, prior in columns:
        if name in "ab":
            if value <= least:
                term, what = ("A / N^alpha", "parameters") if name == "a" else ("B / D^beta", "tokens")
                found.append(f"{term} is nearly nothing: the loss does not fall with the {what} in these runs")
        elif value <= least or value >= most:
            found.append(f"{name} sits at its bound {value:.3g}")
        elif deviation > (0.7 * prior if np.isfinite(prior) else 0.5 * value):
            cause = "comes mostly from its prior" if np.isfinite(prior) else "is weakly determined"
            found.append(f"{name} = {value:.3g} +- {deviation:.2g} {cause}: sweep wider in N and D to fix it")
    return tuple(found)
