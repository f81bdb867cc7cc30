from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.compute_optimal import optimum, predict
from models.isoflop import bias, bias_at, envelope, isoflop
from tests.intervals import expected, held

EQUAL = {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.34}
UNEQUAL = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.4, "beta": 0.25}
BUDGETS = np.geomspace(1e18, 1e21, 7)


def grid(
    law: dict[str, float],
    *,
    budgets: np.ndarray = BUDGETS,
    width: float = 16,
    sizes: int = 7,
    noise: float = 0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Sizes around the optimum of each budget, the largest `width` times the smallest; rows shuffled."""
    rng = np.random.default_rng(seed)
    around = np.geomspace(width**-0.5, width**0.5, sizes)
    n, c = (
        v.ravel() for v in np.broadcast_arrays(optimum(law, compute=budgets)["N"][:, None] * around, budgets[:, None])
    )
    order = rng.permutation(n.size)
    n, c = n[order], c[order]
    loss = predict(law, n, c / 6 / n) * np.exp(noise * rng.standard_normal(n.size))
    return {"N": n, "C": c, "L": loss}


def test_equal_exponents_and_centred_grids_give_the_optimum_exactly() -> None:
    found = isoflop(grid(EQUAL))
    best = optimum(EQUAL, compute=BUDGETS)
    assert found.n == len(found.points) == 7 and not found.warnings
    np.testing.assert_allclose([p.N for p in found.points], best["N"], rtol=1e-9)
    np.testing.assert_allclose([p.D for p in found.points], best["D"], rtol=1e-9)
    assert (found.coefficients["a"], found.coefficients["b"]) == pytest.approx((0.5, 0.5), abs=1e-10)
    assert found.coefficients["k_N"] * found.coefficients["k_D"] == pytest.approx(1 / 6)
    further = optimum(EQUAL, compute=1e24)
    names = ("N", "D", "tokens_per_parameter")
    assert found.predict(1e24) == pytest.approx({name: further[name] for name in names}, rel=1e-8)


def test_unequal_exponents_shift_the_vertex_as_foretold_and_leave_the_exponent() -> None:
    widths = np.array([2.0, 16, 256])
    foretold = bias(UNEQUAL, widths, sizes=7)
    for i, width in enumerate(widths):
        found = isoflop(grid(UNEQUAL, width=width))
        best = optimum(UNEQUAL, compute=BUDGETS)
        np.testing.assert_allclose([p.N for p in found.points], best["N"] * foretold["N"][i], rtol=1e-8)
        np.testing.assert_allclose([p.D for p in found.points], best["D"] * foretold["D"][i], rtol=1e-8)
        reducible = np.array([p.loss for p in found.points]) - UNEQUAL["E"]
        np.testing.assert_allclose(reducible, (best["loss"] - UNEQUAL["E"]) * foretold["loss"][i], rtol=1e-8)
        assert found.coefficients["a"] == pytest.approx(0.25 / 0.65, abs=1e-9)


def test_the_bias_has_its_sign_and_its_size() -> None:
    widths = np.array([1.5, 4, 16, 64])
    large, small = bias(UNEQUAL, widths)["N"], bias({"alpha": 0.25, "beta": 0.4}, widths)["N"]
    assert (np.diff(large) > 0).all() and large[0] > 1
    np.testing.assert_allclose(large * small, 1)
    np.testing.assert_allclose(bias(EQUAL, widths)["N"], 1)
    fine = bias(UNEQUAL, 2.0, sizes=1001)["N"]
    assert np.log(fine) == pytest.approx((0.4 - 0.25) * np.log(2) ** 2 / 40, rel=0.02)
    draws = bias({"alpha": np.array([0.4, 0.34]), "beta": np.array([0.25, 0.34])}, 16.0)["N"]
    np.testing.assert_allclose(draws, [bias(UNEQUAL, 16.0)["N"], 1])


def test_a_centre_that_drifts_bends_the_exponent_as_foretold() -> None:
    offsets = np.linspace(-1, 1, len(BUDGETS))
    best = optimum(UNEQUAL, compute=BUDGETS)["N"]
    n = (best * np.exp(offsets))[:, None] * np.geomspace(1 / 8, 8, 9)
    c = np.broadcast_to(BUDGETS[:, None], n.shape)
    found = isoflop({"N": n.ravel(), "C": c.ravel(), "L": predict(UNEQUAL, n, c / 6 / n).ravel()})
    wrong = np.polyfit(np.log(BUDGETS), np.log(bias(UNEQUAL, 64.0, offset=offsets)["N"]), 1)[0]
    assert found.coefficients["a"] - 0.25 / 0.65 == pytest.approx(wrong, abs=1e-9)
    assert abs(wrong) > 1e-3
    at = bias_at({"N": n.ravel(), "C": c.ravel(), "L": np.ones(n.size)}, UNEQUAL)
    assert (at["a"], at["b"]) == pytest.approx((wrong, -wrong), abs=1e-9)


def test_the_bias_at_a_grid_is_that_of_its_width() -> None:
    at = bias_at(grid(UNEQUAL, width=64.0), UNEQUAL)
    assert at["N"] == pytest.approx(bias(UNEQUAL, 64.0, sizes=7)["N"])
    assert at["a"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("sizes", "noise"), [(7, 0.003), (5, 0.002), (4, 0.001)])
def test_intervals_hold_the_truth_as_often_as_they_say(sizes: int, noise: float) -> None:
    truth = {"a": 0.5, "b": 0.5, "N": optimum(EQUAL, compute=1e23)["N"]}

    def intervals(columns: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
        found = isoflop(columns, draws=300)
        return {**found.intervals, "N": found.interval(1e23)["N"]}

    counts = held(truth, lambda seed: grid(EQUAL, sizes=sizes, noise=noise, seed=seed), intervals, sets=200)
    assert all(count in expected(200) for count in counts.values()), counts


def test_intervals_narrow_with_less_noise_and_are_seeded() -> None:
    columns = grid(EQUAL, noise=0.003)
    width = {noise: np.ptp(isoflop(grid(EQUAL, noise=noise)).intervals["a"]) for noise in (0.001, 0.003)}
    assert width[0.003] == pytest.approx(3 * width[0.001], rel=0.1)
    assert (
        isoflop(columns, seed=1).intervals == isoflop(columns, seed=1).intervals != isoflop(columns, seed=2).intervals
    )
    assert np.ptp(isoflop(columns, level=0.5).intervals["a"]) < 0.5 * np.ptp(isoflop(columns).intervals["a"])


def test_budgets_are_told_apart_by_a_tolerance() -> None:
    columns = grid(EQUAL)
    spread = columns["C"] * np.exp(np.random.default_rng(0).uniform(-0.04, 0.04, columns["C"].size))
    loose = isoflop({**columns, "C": spread})
    assert loose.n == 7 and loose.coefficients["a"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match=r"0 usable budgets.*of the 3 sizes that a parabola needs"):
        isoflop({**columns, "C": spread}, tolerance=1e-6)
    by_tokens = isoflop({"N": columns["N"], "D": columns["C"] / 6 / columns["N"], "L": columns["L"]})
    assert by_tokens.coefficients == pytest.approx(isoflop(columns).coefficients)


def test_budgets_without_a_least_loss_inside_are_left_out_and_named() -> None:
    columns = grid(EQUAL)
    order = np.lexsort((columns["N"], columns["C"]))
    n, c, loss = (columns[name][order].reshape(7, 7) for name in ("N", "C", "L"))
    loss[0] = loss[0].max() + loss[0].min() - loss[0]  # opens downwards
    n[1], loss[1] = n[1] / 30, predict(EQUAL, n[1] / 30, c[1] / (6 * n[1] / 30))  # far too small
    keep = np.ones((7, 7), bool)
    keep[2, 2:] = False
    found = isoflop({"N": n[keep], "C": c[keep], "L": loss[keep]})
    assert found.n == 4 and len(found.warnings) == 3
    assert "the budget of 1e+18 FLOPs is left out: its parabola opens downwards" in found.warnings[0]
    assert "is too large for its sizes" in found.warnings[1]
    assert "the budget of 1e+19 FLOPs is left out: 2 of the 3 sizes" in found.warnings[2]
    assert found.coefficients["a"] == pytest.approx(0.5, abs=1e-9)


def test_three_sizes_each_give_lines_but_no_intervals() -> None:
    found = isoflop(grid(EQUAL, sizes=3))
    assert found.coefficients["a"] == pytest.approx(0.5)
    assert np.isnan(found.intervals["a"]).all() and np.isnan(found.interval(1e22)["N"]).all()
    assert found.warnings == ("no intervals: give more than three sizes to some budget, or more runs",)
    noisy = isoflop(grid(EQUAL, sizes=4, width=3, noise=0.003, seed=3))
    assert any("the intervals are too narrow" in warning for warning in noisy.warnings)


def curves(law: dict[str, float], sizes: np.ndarray, *, noise: float = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """Every size trained from 2 to 200 tokens per parameter, 40 rows each, shuffled."""
    rng = np.random.default_rng(seed)
    n = np.repeat(sizes, 40)
    d = (sizes[:, None] * np.geomspace(2, 200, 40)).ravel()
    runs = np.repeat([f"run-{i}" for i in range(len(sizes))], 40)
    loss = predict(law, n, d) * np.exp(noise * np.repeat(rng.standard_normal(len(sizes)), 40))
    order = rng.permutation(n.size)
    return {"run": runs[order], "N": n[order], "D": d[order], "C": (6 * n * d)[order], "L": loss[order]}


def test_the_envelope_finds_the_frontier_of_the_law() -> None:
    columns = curves(EQUAL, np.geomspace(1e7, 1e10, 40))
    found = envelope(columns)
    assert found.n >= 50
    assert found.coefficients["a"] == pytest.approx(0.5, abs=0.02)
    assert found.coefficients["a"] + found.coefficients["b"] == pytest.approx(1, abs=1e-9)
    best = optimum(EQUAL, compute=np.array([p.C for p in found.points]))
    step = 1000 ** (1 / 39)  # no size in between was trained
    ratio = np.array([p.N for p in found.points]) / best["N"]
    assert ratio.max() < step and ratio.min() > 1 / step
    np.testing.assert_allclose([p.loss for p in found.points], best["loss"], rtol=2e-3)
    assert any("smallest or largest" in warning for warning in found.warnings)
    low, high = found.intervals["a"]
    assert low < 0.5 < high and high - low < 0.2
    assert found.intervals == envelope(columns).intervals


def test_the_envelope_bears_noise_between_runs() -> None:
    inside = 0
    for seed in range(30):
        low, high = envelope(curves(EQUAL, np.geomspace(1e7, 1e10, 30), noise=0.002, seed=seed), draws=100).intervals[
            "a"
        ]
        inside += low <= 0.5 <= high
    assert inside in expected(30, slack=(0, 0.05))


COLUMNS, CURVES = grid(EQUAL), curves(EQUAL, np.geomspace(1e7, 1e9, 5))
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: isoflop({"N": COLUMNS["N"], "L": COLUMNS["L"]}), r"columns \['L', 'N'\]; give N, L, and C or D"),
    (lambda: isoflop({**COLUMNS, "L": -COLUMNS["L"]}), r"column L is in 49 of 49 entries, .* drop runs that diverged"),
    (lambda: isoflop({**COLUMNS, "L": COLUMNS["L"][1:]}), r"columns of shapes .* as many to each column"),
    (lambda: isoflop({name: column[:0] for name, column in COLUMNS.items()}), r"columns of shapes"),
    (lambda: isoflop(COLUMNS, tolerance=0), r"tolerance is 0"),
    (lambda: isoflop(COLUMNS, level=95), r"level is 95; give a probability"),
    (lambda: isoflop(COLUMNS, draws=0), r"draws is 0; give some hundreds"),
    (lambda: isoflop(grid(EQUAL, budgets=BUDGETS[:1])), r"1 usable budgets, and a power law needs two; run three"),
    (lambda: envelope(COLUMNS), r"no column run among"),
    (lambda: envelope(CURVES, bins=1), r"bins is 1; a power law needs 2"),
    (lambda: envelope({**CURVES, "run": np.repeat("one", 200)}), r"run one has more than one N"),
    (lambda: envelope({**CURVES, "run": CURVES["run"][1:]}), r"column run has shape"),
    (lambda: envelope(curves(EQUAL, np.array([1e8, 1e9]))), r"0 usable C, .* train more sizes"),
    (lambda: bias(UNEQUAL, 0.5), r"9 sizes over widths of 0\.5; give 3 or more, and widths above 1"),
    (lambda: bias({"alpha": 0.3}, 2.0), r"no beta among the coefficients"),
    (lambda: isoflop(COLUMNS).predict(0), r"compute is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused_with_its_name_its_value_and_a_remedy(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
