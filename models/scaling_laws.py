"""Scaling laws fitted to runs: the global optimum, how sure it is, and what it says of runs to come.

    from models.scaling_laws import fit

    fitted = fit({"N": parameters, "D": tokens, "L": losses})
    fitted.coefficients, fitted.warnings, fitted.profile()
    draws = fitted.bootstrap()
    draws.interval(draws.coefficients["alpha"])

The forms are in `models.laws`, what a fit minimises in `models.estimators`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from models import diagnosis, intervals, laws
from models.estimators import Estimator, huber
from models.forms import MEANINGS, Columns, Law
from models.minimise import Problem, Pull, minimise, sharpen

FEW_RUNS = 50  # below it the objective is nearly piecewise, and a fit takes many more starts
STARTS, MANY_STARTS = 64, 512
AGREES, CORNER_AGREES = 1e-6, 1e-4  # relative difference of two objectives that count as one; where |r| has its corner
# Published exponents lie between .05 and .6. A dozen runs rarely tell an exponent from the floor E, so a fit to them
# may give its exponents a weak normal prior, which vanishes in a large sweep.
PRIOR_MEAN, PRIOR_SCALE = 0.3, 0.3
NOISE, NOISE_RUNS = 0.01, 1  # ln loss between seeds, believed as much as if one run had shown it


class Optimum(NamedTuple):
    """The best model for a budget: its parameters, its training tokens and the loss that the law predicts."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Fit:
    """A fitted law. `noise` is the standard deviation of ln L between a run and the law."""

    law: str
    estimator: str
    n: int
    coefficients: dict[str, float]
    objective: float
    starts: int
    starts_at_optimum: float = field(metadata={"description": "share of the starts that reached the best objective"})
    noise: float
    seconds: float
    theta: np.ndarray = field(repr=False)
    problem: Problem = field(repr=False)
    ends: tuple[np.ndarray, np.ndarray] = field(repr=False)  # where each start ended (starts, p), and its objective
    names: Sequence[str] = field(default=(), repr=False)  # of the runs, as warnings call them; () for run 1, run 2

    def predict(self, columns: Columns) -> np.ndarray:
        """The losses that the law gives for rows of its inputs, shape (rows,)."""
        frame = self.problem.law.frame(_arrays(columns), self.problem.frame.centre)
        return np.exp(self.problem.law.log_loss(self.theta[None], frame)[0])

    @property
    def residuals(self) -> np.ndarray:
        """ln L_hat - ln L of each run, shape (n,)."""
        return self.problem.at(self.theta[None]).residuals[0]

    @cached_property
    def diagnostics(self) -> dict[str, Any]:
        """Condition and flat direction, other optima, and the runs without which the law would move most."""
        return diagnosis.examine(self.problem, self.theta, self.objective, self.ends, self.names)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before the coefficients are used."""
        return diagnosis.warnings(self.problem, self.theta, self.diagnostics, self.starts_at_optimum, self.names)

    def bootstrap(self, draws: int = 4000, seed: int = 0, *, kind: str = "pairs") -> intervals.Draws:
        """Refits to resamples, each from the fitted coefficients.

        pairs: the runs are drawn with replacement; for sweeps of some dozens of runs and more. parametric: each draw
        takes a noise level from its posterior (scaled inverse chi-squared, so that few runs give Student-t tails) and
        adds such noise to the fitted curve and to the means of the prior; honest for a dozen runs, where resampled
        runs would leave nothing to fit. Neither allows for a law that is wrong beyond the runs.
        Raises ValueError for another kind or too few draws.
        """
        if draws < 100:
            raise ValueError(f"{draws} bootstrap draws give no interval; take 100 or more, 4000 for a publication")
        if kind == "pairs":
            return intervals.pairs(self.problem, self.theta, draws, seed)
        if kind == "parametric":
            return intervals.parametric(self.problem, self.theta, draws, seed, noise=self.noise, freedom=self._freedom)
        raise ValueError(f"no bootstrap is called {kind!r}; there are pairs and parametric")

    def profile(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """The profile-likelihood interval of each coefficient; 0 or inf where the runs set no limit."""
        return intervals.profiles(self.problem, self.theta, self.law_of.symbols, level)

    def profile_of(self, quantity: intervals.Quantity, level: float = 0.95) -> tuple[float, float]:
        """The profile-likelihood interval of a positive function of the coefficients, given by symbol as arrays."""

        def measured(thetas: np.ndarray) -> np.ndarray:
            return np.asarray(quantity(self.law_of.named(thetas, self.problem.frame)))

        return intervals.profile(self.problem, self.theta, measured, level)

    def profile_at(self, columns: Columns, level: float = 0.95) -> tuple[float, float]:
        """The profile-likelihood interval of the law's loss at one row of its inputs."""
        frame = self.law_of.frame(_arrays(columns), self.problem.frame.centre)
        return intervals.profile(
            self.problem, self.theta, lambda thetas: np.exp(self.law_of.log_loss(thetas, frame)[:, 0]), level
        )

    @property
    def law_of(self) -> Law:
        return self.problem.law

    def reach(self, columns: Columns) -> dict[str, float]:
        """How many times beyond the largest run a planned one lies, by input: what a forecast extrapolates."""
        planned = _with_compute(_arrays(columns))
        swept = _with_compute(self.problem.frame.raw)
        return {name: float(planned[name].max() / swept[name].max()) for name in swept if name in planned}

    def optimum_over(self, candidates: Sequence[tuple[float, float]], compute: float) -> tuple[int, Optimum]:
        """Which of the (N, training FLOPs per token) that exist is best for a budget, and what it gives.

        Each candidate trains on D = compute / FLOPs per token. Raises ValueError for no candidates or no budget.
        """
        if not candidates or not compute > 0:
            raise ValueError(
                f"{len(candidates)} candidates, a budget of {compute} FLOPs; give one or more, and more than 0"
            )
        sizes = np.array([size for size, _ in candidates], np.float64)
        tokens = np.array([compute / cost for _, cost in candidates])
        losses = self.predict({"N": sizes, "D": tokens})
        best = int(losses.argmin())
        return best, Optimum(float(sizes[best]), float(tokens[best]), float(losses[best]))

    @property
    def _freedom(self) -> int:
        return NOISE_RUNS + self.n - len(self.theta)


def fit(
    columns: Columns,
    law: str = "chinchilla",
    *,
    estimator: Estimator | None = None,
    prior: bool = False,
    starts: int | None = None,
    names: Sequence[str] = (),
) -> Fit:
    """Fits a law to runs by the least sum of an estimator over their log residuals; Huber(1e-3) unless told.

    `columns` holds arrays of shape (n,) by symbol: L, and the inputs of the law. From a grid of starts, the nearly
    linear coefficients by least squares (variable projection, Golub and Pereyra 1973), all at once: 64, and 512 for
    fewer than 50 runs. `prior` adds a normal prior of 0.3 +- 0.3 on the exponents, for a dozen runs. `names` is what
    messages call the runs, such as `line 7`; `run 3` unless given.
    Raises ValueError for an unknown law, a missing column, fewer runs than coefficients, values that are not
    positive, inputs that do not vary, or names that are not one for each run.
    """
    began = time.perf_counter()
    form = laws.named(law)
    raw = _checked(form, columns, names)
    frame, observed = form.frame(raw), np.log(raw["L"])
    chosen = estimator or huber()
    problem = Problem(form, frame, observed, chosen, form.bounds(frame, observed))
    count = starts or (STARTS if len(observed) >= FEW_RUNS else MANY_STARTS)
    places = form.starts(frame, observed, count)
    if not prior:
        found, values = minimise(problem, places)
    else:
        noise = NOISE
        found = places
        for _ in range(2):  # the noise sets the weight of the prior, and the fit sets the noise
            problem = replace(problem, pull=_prior(form, noise, chosen.delta))
            found, values = minimise(problem, found)
            noise = _noise(problem, found[values.argmin()])
    theta = found[values.argmin()]
    if chosen.corner:
        theta = sharpen(problem, theta)
    elif not form.quick:
        theta = minimise(replace(problem, exact=True), theta[None])[0][0]
    best = float(problem.at(theta[None]).value[0])
    agrees = CORNER_AGREES if chosen.corner else AGREES
    return Fit(
        law=law,
        estimator=chosen.description + (" with a prior on the exponents" if prior else ""),
        n=len(observed),
        coefficients={name: float(value) for name, value in form.named(theta, frame).items()},
        objective=best,
        starts=len(places),
        starts_at_optimum=float((values <= best * (1 + agrees) + chosen.nothing(len(observed))).mean()),
        noise=_noise(problem, theta),
        seconds=time.perf_counter() - began,
        theta=theta,
        problem=problem,
        ends=(found, values),
        names=tuple(names),
    )


def _prior(law: Law, noise: float, delta: float) -> Pull:
    """The prior's squares beside the estimator's terms count noise^2, and noise * delta where Huber is linear."""
    scale = np.full(len(law.theta), np.inf)
    scale[law.exponents()] = PRIOR_SCALE
    return Pull(np.full(len(scale), PRIOR_MEAN), scale, noise * min(noise, delta or noise))


def _noise(problem: Problem, theta: np.ndarray) -> float:
    """The standard deviation of ln L about the law; with a prior, seeds of runs are known to differ a little."""
    residuals = problem.at(theta[None]).residuals[0]
    known, freedom = (NOISE_RUNS, NOISE_RUNS) if problem.pull is not None else (0, 0)
    freedom += len(residuals) - len(theta)
    return float(np.sqrt((known * NOISE**2 + residuals @ residuals) / max(1, freedom)))


def _arrays(columns: Columns) -> dict[str, np.ndarray]:
    return {name: np.atleast_1d(np.asarray(column, np.float64)) for name, column in columns.items()}


def _with_compute(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if {"N", "D"} <= columns.keys() and "C" not in columns:
        return {**columns, "C": 6 * columns["N"] * columns["D"]}
    return dict(columns)


def _checked(law: Law, columns: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns that the law needs, proven to be able to fix its coefficients."""
    given = _with_compute({name: np.asarray(columns[name]) for name in columns})
    needed = ("L", *law.inputs)
    missing = [f"{name} ({MEANINGS.get(name, 'loss, nats per token')})" for name in needed if name not in given]
    if missing:
        raise ValueError(
            f"the law {law.name} needs {', '.join(missing)}; the runs have {', '.join(given) or 'nothing'}"
        )
    raw = {name: np.asarray(given[name], np.float64).ravel() for name in needed}
    lengths = {name: column.size for name, column in raw.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different lengths: {lengths}")
    if names and len(names) != lengths["L"]:
        raise ValueError(f"{len(names)} names for {lengths['L']} runs: give one for each, or none")
    for name, column in raw.items():
        bad = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
        if bad.size:
            raise ValueError(
                f"{name} of {diagnosis.called(names, bad[0])} is {column[bad[0]]}; it must be finite and "
                "positive: drop runs that diverged"
            )
    law.require(raw)
    coefficients = len(law.theta)
    distinct = len(np.unique(np.stack([raw[name] for name in law.inputs]), axis=1).T)
    if distinct < coefficients:
        raise ValueError(
            f"{lengths['L']} runs at {distinct} different {', '.join(law.inputs)} cannot fix the {coefficients} "
            f"coefficients of {law.name} ({', '.join(law.symbols)}): add runs, or fit a simpler law"
        )
    return raw
