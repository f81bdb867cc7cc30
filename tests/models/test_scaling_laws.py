import numpy as np
import pytest
from scipy.optimize import minimize

from models.scaling_laws import PRIOR_MEAN, PRIOR_SCALE, Fit, fit

LAW = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
N, D = map(np.ravel, np.meshgrid([2e5, 8e5, 3e6], [1e6, 3e6, 1e7]))


def loss(n: float | np.ndarray, d: float | np.ndarray, law: dict[str, float] = LAW) -> float | np.ndarray:
    return law["E"] + law["A"] / n ** law["alpha"] + law["B"] / d ** law["beta"]


def sweep(seed: int, noise: float = 0.01, law: dict[str, float] = LAW) -> Fit:
    return fit(N, D, loss(N, D, law) * np.exp(noise * np.random.default_rng(seed).standard_normal(N.size)))


@pytest.fixture(scope="module")
def noiseless() -> Fit:
    return fit(N, D, loss(N, D))


def test_noiseless_runs_give_the_law_back(noiseless: Fit) -> None:
    for factor in (10**0.5, 10):
        n, d = N.max() * factor, D.max() * factor
        assert noiseless.predict(n, d) == pytest.approx(loss(n, d), rel=0.002)
    assert (noiseless.alpha, noiseless.beta, noiseless.E) == pytest.approx((0.34, 0.28, 1.7), rel=0.02)
    assert noiseless.agreeing > 0.9 and not noiseless.warnings


def test_no_other_optimiser_finds_a_better_optimum() -> None:
    result = sweep(3)
    data = result.sweep
    weight = result.noise * min(result.noise, data.delta)  # of the prior, as in the last pass but for a few percent

    def objective(theta: np.ndarray) -> float:
        a, b, floor, alpha, beta = theta
        r = np.abs(np.log(np.exp(a - alpha * data.x) + np.exp(b - beta * data.y) + floor) - data.log_loss)
        huber = np.where(r <= data.delta, r**2 / 2, data.delta * (r - data.delta / 2)).sum()
        return huber + 0.5 * weight * (((theta - PRIOR_MEAN) / PRIOR_SCALE) ** 2).sum()

    low, high = data.bounds
    starts = np.random.default_rng(0).uniform(low, high, (8, 5))
    found = [minimize(objective, s, method="L-BFGS-B", bounds=list(zip(low, high, strict=True))).fun for s in starts]
    assert objective(result.theta) <= min(found) * 1.01
    assert objective(result.theta) == pytest.approx(min(found), rel=0.05)


@pytest.mark.parametrize(
    "law",
    [
        LAW,
        {"E": 0.8, "A": 3000.0, "B": 5000.0, "alpha": 0.5, "beta": 0.5},
        {"E": 1.5, "A": 20.0, "B": 20.0, "alpha": 0.2, "beta": 0.15},
    ],
)
def test_prediction_intervals_cover_a_run_with_ten_times_the_compute(law: dict[str, float]) -> None:
    n, d = N.max() * 10**0.5, D.max() * 10**0.5
    covered = 0
    for seed in range(30):
        actual = loss(n, d, law) * np.exp(0.01 * np.random.default_rng(1000 + seed).standard_normal())
        covered += sweep(seed, law=law).interval(n, d, draws=150, seed=seed).holds(actual)
    assert 26 <= covered <= 30


def test_intervals_are_seeded_and_widen_with_distance() -> None:
    result = sweep(1)
    near, far = result.interval(3e6, 1e7, seed=1), result.interval(3e7, 1e8, seed=1)
    assert near == result.interval(3e6, 1e7, seed=1) != result.interval(3e6, 1e7, seed=2)
    assert near.low < near.loss < near.high
    assert (far.high - far.low) / far.loss > 1.5 * (near.high - near.low) / near.loss


def test_optimum_is_the_least_loss_on_the_compute_line(noiseless: Fit) -> None:
    compute = 1e16
    best = noiseless.optimum(compute)
    assert 6 * best.parameters * best.tokens == pytest.approx(compute)
    line = np.geomspace(best.parameters / 100, best.parameters * 100, 2001)
    losses = [noiseless.predict(n, compute / (6 * n)) for n in line]
    assert line[int(np.argmin(losses))] == pytest.approx(best.parameters, rel=0.01)
    assert best.loss <= min(losses) + 1e-9


def test_optimum_over_sizes_that_exist(noiseless: Fit) -> None:
    ideal = noiseless.optimum(1e15).parameters
    sizes = [(ideal * factor, 6 * ideal * factor) for factor in (0.1, 0.9, 8.0)]
    index, best = noiseless.optimum_over(sizes, 1e15)
    assert index == 1 and best.tokens == pytest.approx(1e15 / sizes[1][1])
    # a size whose attention makes it ten times dearer per token loses its place
    dear = [(n, cost * (10 if i == 1 else 1)) for i, (n, cost) in enumerate(sizes)]
    assert noiseless.optimum_over(dear, 1e15)[0] != 1
    with pytest.raises(ValueError, match="0 candidates"):
        noiseless.optimum_over([], 1e15)


def test_what_the_runs_leave_open_is_named() -> None:
    # 3% wide in N and D and 2% noise: exponents and floor stay open
    n, d = map(np.ravel, np.meshgrid([1e6, 1.01e6, 1.03e6], [1e7, 1.01e7, 1.03e7]))
    narrow = fit(n, d, loss(n, d) * np.exp(0.02 * np.random.default_rng(0).standard_normal(9)))
    assert any(w.startswith("alpha") for w in narrow.warnings) and any(w.startswith("beta") for w in narrow.warnings)
    assert any("parameters" in w for w in fit(N, D, loss(1e6, D)).warnings)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((N[:4], D[:4], loss(N, D)[:4]), "4 runs cannot fix 5 coefficients"),
        ((N, D, loss(N, D)[:5]), r"\[9, 9, 5\]"),
        ((N, D, np.r_[np.nan, loss(N, D)[1:]]), "losses must be finite and positive"),
        ((np.full(9, 1e6), D, loss(N, D)), "all runs have 1000000 parameters"),
        ((N, np.full(9, 1e6), loss(N, D)), "all runs have 1000000 tokens"),
    ],
)
def test_sweeps_that_fix_no_law_are_refused(columns: tuple[np.ndarray, np.ndarray, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(*columns)


def test_five_runs_are_enough_to_fit_and_give_wide_intervals() -> None:
    few = fit(N[::2], D[::2], loss(N, D)[::2])
    n, d = N.max() * 10**0.5, D.max() * 10**0.5
    interval = few.interval(n, d)
    assert interval.holds(loss(n, d)) and interval.high - interval.low > 0.01 * few.predict(n, d)
