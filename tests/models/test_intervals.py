"""Intervals follow what the runs tell. Whether they hold the truth as often as they say is in test_coverage."""

from collections.abc import Callable

import numpy as np
import pytest

from models.estimators import Estimator, huber, lad, least_squares
from models.scaling_laws import fit
from tests.models.laws import TRUTHS, loss, runs

TRUTH = TRUTHS["chinchilla"]
FAR = {"N": np.array([1e10]), "D": np.array([5e11])}


def sample(count: int, seed: int, noise: Callable[[np.random.Generator], np.ndarray]) -> dict[str, np.ndarray]:
    columns = runs(count, seed)
    return {**columns, "L": loss("chinchilla", TRUTH, columns) * np.exp(noise(np.random.default_rng(10_000 + seed)))}


def test_a_profile_is_where_the_objective_has_risen_so_far() -> None:
    """Least squares: the constrained optimum at either end is higher by sigma^2 t^2 / 2, found by another optimiser."""
    from scipy.optimize import minimize
    from scipy.stats import t

    fitted = fit(sample(60, 1, lambda rng: 0.01 * rng.standard_normal(60)), estimator=least_squares())
    columns = {name: np.log(column) for name, column in fitted.problem.frame.raw.items()}
    x, y = columns["N"] - columns["N"].mean(), columns["D"] - columns["D"].mean()
    observed = fitted.problem.observed

    def constrained(alpha: float) -> float:
        def objective(rest: np.ndarray) -> float:
            a, b, e, beta = rest
            r = np.log(np.exp(a - alpha * x) + np.exp(b - beta * y) + e) - observed
            return 1e4 * 0.5 * float(r @ r)

        a, b, e, _, beta = fitted.theta
        return float(minimize(objective, [a, b, e, beta], method="BFGS", options={"gtol": 1e-9}).fun) / 1e4

    allowed = fitted.objective * (1 + t.ppf(0.975, 55) ** 2 / 55)
    for end in fitted.profile()["alpha"]:
        assert constrained(end) == pytest.approx(allowed, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [huber(1e-3), least_squares(), lad()], ids=lambda each: each.name)
def test_profiles_hold_the_estimate_and_widen_with_the_level(estimator: Estimator) -> None:
    fitted = fit(sample(60, 2, lambda rng: 0.01 * rng.standard_normal(60)), estimator=estimator)
    wide, narrow = fitted.profile(0.95), fitted.profile(0.5)
    for name, value in fitted.coefficients.items():
        assert wide[name][0] < narrow[name][0] < value < narrow[name][1] < wide[name][1], name


def test_the_profile_of_a_prediction_agrees_with_the_bootstrap() -> None:
    fitted = fit(sample(200, 3, lambda rng: 0.01 * rng.standard_normal(200)), estimator=least_squares())

    def predicted(c: dict[str, np.ndarray]) -> np.ndarray:
        return c["E"] + c["A"] / FAR["N"] ** c["alpha"] + c["B"] / FAR["D"] ** c["beta"]

    low, high = fitted.profile_of(predicted)
    draws = fitted.bootstrap(2000)
    again = draws.interval(draws.predict(FAR)[:, 0])
    assert low < fitted.predict(FAR)[0] < high
    assert (low, high) == pytest.approx(again, rel=0.01)


def test_what_the_runs_do_not_limit_is_open() -> None:
    """Nine runs within 3% in N and D: the floor may be nothing."""
    n, d = map(np.ravel, np.meshgrid([1e6, 1.01e6, 1.03e6], [1e7, 1.01e7, 1.03e7]))
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(9))
    fitted = fit({"N": n, "D": d, "L": loss("chinchilla", TRUTH, {"N": n, "D": d}) * noise})
    found = fitted.profile()
    low, high = found["E"]
    assert low == 0 and high > 1.5
    assert found["alpha"] == found["beta"] == (0, np.inf), "an end at the bound of the search is no limit"


def test_a_plan_has_a_profile_where_the_floor_is_nothing() -> None:
    """The fit sits at E = 0, below which there is no law to ask."""
    from models.compute_optimal import optimum

    found = []
    for seed in range(8):
        columns = runs(20, seed)
        noise = np.exp(0.03 * np.random.default_rng(seed).standard_normal(20))
        found.append(fit({**columns, "L": loss("chinchilla", {**TRUTH, "E": 0.0}, columns) * noise}, starts=64))
    at_bound = [each for each in found if each.coefficients["E"] == 0]
    assert at_bound
    low, high = at_bound[0].profile_of(lambda law: optimum(law, compute=1e20)["N"])
    assert low < optimum(at_bound[0].coefficients, compute=1e20)["N"] < high
    assert at_bound[0].profile()["E"][0] == 0


def test_draws_that_give_no_number_lie_beyond_both_ends() -> None:
    draws = fit(sample(60, 4, lambda rng: 0.01 * rng.standard_normal(60))).bootstrap(100)
    values = np.r_[np.full(10, np.nan), np.linspace(1, 2, 90)]
    assert draws.interval(values) == (-np.inf, np.inf)
    assert draws.interval(np.linspace(1, 2, 100))[0] == pytest.approx(1.02, abs=0.02)


def test_the_bootstrap_is_seeded_and_refuses_what_gives_nothing() -> None:
    fitted = fit(sample(60, 5, lambda rng: 0.01 * rng.standard_normal(60)))
    first, second, other = (fitted.bootstrap(100, seed).thetas for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    with pytest.raises(ValueError, match="10 bootstrap draws give no interval; take 100 or more"):
        fitted.bootstrap(10)
    with pytest.raises(ValueError, match="'jackknife'; there are pairs and parametric"):
        fitted.bootstrap(kind="jackknife")
