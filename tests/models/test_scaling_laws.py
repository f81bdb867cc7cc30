"""The fit: its optimum, its refusals, what it says of itself, and what it makes of a dozen runs."""

import numpy as np
import pytest
from scipy.optimize import minimize

from models.estimators import huber
from models.scaling_laws import Fit, fit
from tests.models.laws import TRUTHS, loss, runs

LAW = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
GRID = dict(zip("ND", map(np.ravel, np.meshgrid([2e5, 8e5, 3e6], [1e6, 3e6, 1e7])), strict=True))
SMALL = {"estimator": huber(0.01), "prior": True}  # how the life cycle fits


def noisy(
    columns: dict[str, np.ndarray], seed: int, law: dict[str, float] = LAW, noise: float = 0.01
) -> dict[str, np.ndarray]:
    exact = loss("chinchilla", law, columns)
    return {**columns, "L": exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(exact)))}


def sweep(seed: int, law: dict[str, float] = LAW) -> Fit:
    return fit(noisy(GRID, seed, law), starts=64, **SMALL)  # of 512: the optimum is the same, sooner


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 120])
def test_no_other_optimiser_finds_a_better_optimum(count: int) -> None:
    columns = noisy(runs(count, seed=1), seed=3)
    fitted = fit(columns, estimator=huber(1e-3))
    x, y, observed = (np.log(columns[name]) for name in "NDL")

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        r = np.abs(np.logaddexp(np.logaddexp(a - alpha * x, b - beta * y), e) - observed)
        return float(np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 0.5e-3)).sum())

    rng = np.random.default_rng(0)
    starts = rng.uniform([0, 0, -1, 0, 0], [20, 20, 1, 1, 1], (8, 5))
    # scaled, as a gradient of 1e-3 per unit ends L-BFGS before it has begun
    found = [minimize(lambda t: 1e4 * objective(t), s, method="L-BFGS-B", options={"maxiter": 500}) for s in starts]
    best = min(each.fun for each in found) / 1e4
    at = [np.log(fitted.coefficients[name]) for name in "ABE"] + [
        fitted.coefficients[name] for name in ("alpha", "beta")
    ]
    assert objective(np.array(at)) == pytest.approx(fitted.objective, rel=1e-9)
    assert fitted.objective <= best * (1 + 1e-9)
    assert fitted.starts == (64 if count >= 50 else 529) and fitted.starts_at_optimum > 0.3


def test_an_odd_run_bends_least_squares_and_not_huber() -> None:
    from models.estimators import least_squares

    columns = noisy(runs(60, seed=2), seed=0, noise=0.003)
    columns["L"][7] *= 1.5
    robust, square = fit(columns), fit(columns, estimator=least_squares())
    assert abs(robust.coefficients["alpha"] - LAW["alpha"]) < 0.3 * abs(square.coefficients["alpha"] - LAW["alpha"])
    assert "Huber(delta = 0.001)" in robust.estimator and "half the sum" in square.estimator


def test_a_loss_without_a_floor_gives_none() -> None:
    law = {**LAW, "E": 0.0}
    fitted = fit(noisy(runs(100), seed=0, law=law, noise=0.001))
    assert fitted.coefficients["E"] < 0.05
    exact = fit({**runs(100), "L": loss("chinchilla", law, runs(100))})
    assert exact.coefficients["E"] == pytest.approx(0, abs=1e-8)


def test_a_planned_run_is_told_how_far_it_lies() -> None:
    reach = sweep(0).reach({"N": np.array([6e6]), "D": np.array([3e7])})
    assert reach == pytest.approx({"N": 2.0, "D": 3.0, "C": 6.0})


def test_the_life_cycles_fit_finds_the_law_in_nine_exact_runs() -> None:
    fitted = fit({**GRID, "L": loss("chinchilla", LAW, GRID)}, **SMALL)
    far = {"N": GRID["N"].max() * np.array([3, 10.0]), "D": GRID["D"].max() * np.array([3, 10.0])}
    assert fitted.predict(far) == pytest.approx(loss("chinchilla", LAW, far), rel=0.003)
    assert fitted.starts_at_optimum > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [
        LAW,
        {"E": 0.8, "A": 3000.0, "B": 5000.0, "alpha": 0.5, "beta": 0.5},
        {"E": 1.5, "A": 20.0, "B": 20.0, "alpha": 0.2, "beta": 0.15},
    ],
)
def test_nine_runs_forecast_one_with_ten_times_the_compute(law: dict[str, float]) -> None:
    far = {"N": GRID["N"].max(keepdims=True) * 10**0.5, "D": GRID["D"].max(keepdims=True) * 10**0.5}
    covered = 0
    for seed in range(24):
        actual = noisy(far, 1000 + seed, law)["L"][0]
        draws = sweep(seed, law).bootstrap(150, seed, kind="parametric")
        low, high = draws.interval(draws.new_runs(far)[:, 0])
        covered += low <= actual <= high
    assert 20 <= covered <= 24


def test_forecasts_are_seeded_and_widen_with_distance() -> None:
    fitted, points = sweep(1), {"N": np.array([3e6, 3e7]), "D": np.array([1e7, 1e8])}
    draws = [fitted.bootstrap(300, seed, kind="parametric").new_runs(points) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    near, far = np.log(draws[0]).std(axis=0)
    assert far > 1.5 * near


def test_optimum_over_sizes_that_exist() -> None:
    fitted = fit({**GRID, "L": loss("chinchilla", LAW, GRID)}, **SMALL)
    line = np.geomspace(1e5, 1e9, 2001)
    ideal = line[fitted.predict({"N": line, "D": 1e15 / (6 * line)}).argmin()]
    sizes = [(ideal * factor, 6 * ideal * factor) for factor in (0.1, 0.9, 8.0)]
    index, best = fitted.optimum_over(sizes, 1e15)
    assert index == 1 and best.tokens == pytest.approx(1e15 / sizes[1][1])
    # a size whose attention makes it ten times dearer per token loses its place
    dear = [(n, cost * (10 if i == 1 else 1)) for i, (n, cost) in enumerate(sizes)]
    assert fitted.optimum_over(dear, 1e15)[0] != 1
    with pytest.raises(ValueError, match="0 candidates"):
        fitted.optimum_over([], 1e15)


FOUR = {name: column[:4] for name, column in noisy(GRID, 0).items()}


@pytest.mark.parametrize(
    ("columns", "law", "message"),
    [
        (FOUR, "chinchilla", "4 runs at 4 different N, D cannot fix the 5 coefficients of chinchilla"),
        ({k: np.tile(v, 3) for k, v in FOUR.items()}, "chinchilla", "12 runs at 4 different N, D cannot fix"),
        ({**GRID, "L": np.ones(5)}, "chinchilla", "columns have different lengths: {'L': 5, 'N': 9, 'D': 9}"),
        ({**noisy(GRID, 0), "L": np.r_[np.ones(8), np.nan]}, "chinchilla", "L of run 9 is nan; .* drop runs that"),
        ({**noisy(GRID, 0), "D": np.r_[-1, np.ones(8)]}, "chinchilla", "D of run 1 is -1.0; it must be finite and pos"),
        ({**noisy(GRID, 0), "N": np.full(9, 1e6)}, "chinchilla", r"all runs have the same N \(parameters\), 1e\+06"),
        ({"N": GRID["N"], "L": np.ones(9)}, "chinchilla", r"needs D \(training tokens\); the runs have N, L"),
        ({"C": np.ones(9)}, "compute", r"needs L \(loss, nats per token\)"),
        (noisy(runs(40), 0) | {"U": runs(40)["D"]}, "data-constrained", r"no run reads .* more than once \(D > U\)"),
        (noisy(runs(40), 0) | {"Pa": np.full(40, 16)}, "precision-aware", r"all runs have the same Pa \(bits"),
    ],
)  # fmt: skip
def test_runs_that_fix_no_law_are_refused(columns: dict[str, np.ndarray], law: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(columns, law)


def test_compute_is_known_where_parameters_and_tokens_are() -> None:
    columns = runs(40)
    L = loss("compute", TRUTHS["compute"], columns)
    fitted = fit({"N": columns["N"], "D": columns["D"], "L": L}, "compute")
    assert fitted.coefficients["alpha"] == pytest.approx(0.16, rel=1e-8)
