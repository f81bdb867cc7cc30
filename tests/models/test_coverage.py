"""Intervals hold the truth as often as they say, by simulation."""

import numpy as np
import pytest

from models.compute_optimal import optimum, predict
from models.estimators import Estimator, huber, least_squares
from models.scaling_laws import fit
from tests.intervals import expected, held

LAW = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
SYMBOLS = ("E", "alpha", "beta")


def runs(seed: int, *, count: int, heavy: bool) -> dict[str, np.ndarray]:
    """Sizes and horizons as in Hoffmann et al.: 44e6 to 16e9 parameters, 1 to 250 tokens for each."""
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(np.log(44e6), np.log(16e9), count))
    d = n * np.exp(rng.uniform(0, np.log(250), count))
    noise = rng.standard_t(3, count) / 3**0.5 if heavy else rng.standard_normal(count)
    return {"N": n, "D": d, "L": predict(LAW, n, d) * np.exp(0.005 * noise)}


def test_the_expected_counts_are_those_of_a_binomial() -> None:
    assert 190 in expected(200) and 200 not in expected(200) and 175 not in expected(200)
    assert 200 in expected(200, slack=(0, 0.05)) and 175 in expected(200, slack=(0.05, 0))

    def counted(half: float) -> int:
        """Normal draws around 0, each with an interval of 1.96 standard deviations for half = 1.96."""
        inside = held(
            {"x": 0.0},
            lambda seed: float(np.random.default_rng(seed).normal()),
            lambda x: {"x": (x - half, x + half)},
            sets=200,
        )
        return inside["x"]

    assert counted(1.96) in expected(200) and counted(1.0) not in expected(200) and counted(4.0) not in expected(200)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "count", "heavy", "kind"),
    [
        (least_squares(), 120, False, "pairs"),
        (huber(1e-3), 120, False, "pairs"),
        (huber(1e-3), 150, True, "pairs"),
        (huber(0.01), 40, False, "parametric"),
    ],
)
def test_intervals_hold_the_law_its_optimum_and_a_run_to_come(
    estimator: Estimator, count: int, heavy: bool, kind: str
) -> None:
    """By resampling and by profile, at 95% over 60 sweeps; `run` is the loss of a new run less its prediction."""
    best = optimum(LAW, compute=1e23)
    truth = {**{name: LAW[name] for name in SYMBOLS}, "N": best["N"], "loss": best["loss"], "run": 0.0}
    truth |= {f"profile of {name}": LAW[name] for name in SYMBOLS}

    def intervals(columns: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
        *swept, planned = (
            {name: column[part] for name, column in columns.items()} for part in (slice(-1), slice(-1, None))
        )
        fitted = fit(swept[0], estimator=estimator, starts=16)
        draws = fitted.bootstrap(300, kind=kind)
        drawn = optimum(draws.coefficients, compute=1e23)
        figures = draws.coefficients | {name: drawn[name] for name in ("N", "loss")}
        figures["run"] = draws.new_runs(planned)[:, 0] - planned["L"][0]
        found = {name: draws.interval(figures[name]) for name in truth if name in figures}
        return found | {f"profile of {name}": pair for name, pair in fitted.profile().items()}

    counts = held(truth, lambda seed: runs(seed, count=count + 1, heavy=heavy), intervals, sets=60)
    assert all(number in expected(60, slack=(0.03, 0.04)) for number in counts.values()), counts
