"""The pictures of a fit: what they compute, and that each is drawn for whatever runs there are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks import fit_plots
from tasks.fit_plots import Columns, Forecast

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28


def law(columns: Columns) -> np.ndarray:
    return E + A * columns["N"] ** -ALPHA + B * columns["D"] ** -BETA


def table(n: np.ndarray, d: np.ndarray) -> dict[str, np.ndarray]:
    noise = np.exp(0.004 * np.random.default_rng(0).standard_normal(len(n)))
    return {"N": n, "D": d, "C": 6 * n * d, "L": law({"N": n, "D": d}) * noise}


def isoflops() -> dict[str, np.ndarray]:
    sizes = np.geomspace(1e8, 3e9, 9)
    compute = np.repeat([1e20, 3e20, 1e21], 9)
    return table(np.tile(sizes, 3), compute / (6 * np.tile(sizes, 3)))


def grid() -> dict[str, np.ndarray]:
    n, d = np.meshgrid([1.5e5, 3e5, 6e5], [4e4, 8e4, 1.6e5])
    return table(n.ravel(), d.ravel())


def test_the_frontier_is_that_of_the_formula() -> None:
    compute = np.geomspace(1e18, 1e24, 13)
    found = fit_plots.frontier(law, compute, isoflops())
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    n = g * (compute / 6) ** (BETA / (ALPHA + BETA))
    np.testing.assert_allclose(found["N"], n, rtol=2e-3)
    np.testing.assert_allclose(found["L"], law({"N": n, "D": compute / (6 * n)}), rtol=1e-6)
    np.testing.assert_allclose(6 * found["N"] * found["D"], compute)


def test_budgets_are_runs_of_nearly_equal_flops() -> None:
    runs = isoflops()
    runs["C"] = runs["C"] * np.random.default_rng(1).uniform(0.97, 1.03, len(runs["C"]))
    found = fit_plots.budgets(runs)
    assert [sorted(group.tolist()) for group in found] == [list(range(i, i + 9)) for i in (0, 9, 18)]
    assert fit_plots.budgets(grid()) == []


@pytest.mark.parametrize("made", [isoflops, grid])
def test_every_picture_is_drawn(made: Callable[[], dict[str, np.ndarray]], tmp_path: Path) -> None:
    runs = made()
    at = 30 * float(runs["C"].max())
    compute = np.geomspace(runs["C"].min(), 2 * at, 30)
    loss = fit_plots.frontier(law, compute, runs)["L"]
    fit_plots.loss_by_compute(runs, law, tmp_path / "a" / "loss.png")
    fit_plots.contours(runs, law, tmp_path / "contours.png", compute=at)
    expected = Forecast(compute, loss, loss * 0.98, loss * 1.02)
    fit_plots.forecast(runs, expected, tmp_path / "forecast.png", at=at, actual=(at, float(loss[-5])))
    misses = np.log(law(runs)) - np.log(runs["L"])
    fit_plots.residuals(runs, misses, [f"line {i}" for i in range(len(misses))], tmp_path / "residuals.png")
    drawn = [tmp_path / "a" / "loss.png", *tmp_path.glob("*.png")]
    assert len(drawn) == 4
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 15_000 for path in drawn)


def test_a_law_that_fits_exactly_and_one_size_are_drawn(tmp_path: Path) -> None:
    runs = table(np.full(5, 1e8), np.geomspace(1e9, 1e10, 5))
    fit_plots.residuals(runs, np.zeros(5), (), tmp_path / "residuals.png")
    fit_plots.loss_by_compute(runs, law, tmp_path / "loss.png")
    fit_plots.contours(runs, law, tmp_path / "contours.png")
    assert len(list(tmp_path.glob("*.png"))) == 3
