"""A fit says what is weak in it, and why."""

import numpy as np
import pytest

from models.estimators import least_squares
from models.extrapolation import compare
from models.scaling_laws import fit
from tests.models.laws import TRUTHS, loss, runs

TRUTH = TRUTHS["chinchilla"]


def noisy(
    columns: dict[str, np.ndarray], seed: int = 0, noise: float = 0.01, law: str = "chinchilla"
) -> dict[str, np.ndarray]:
    exact = loss(law, TRUTHS[law], columns)
    return {**columns, "L": exact * np.exp(noise * np.random.default_rng(seed).standard_normal(len(exact)))}


def test_a_wide_sweep_needs_no_warning() -> None:
    fitted = fit(noisy(runs(200)))
    assert fitted.warnings == ()
    assert fitted.diagnostics["condition"] < 1e4 and len(fitted.diagnostics["optima"]) == 1


def test_exponents_that_the_runs_leave_open_are_named() -> None:
    n, d = map(np.ravel, np.meshgrid([1e6, 1.01e6, 1.03e6], [1e7, 1.01e7, 1.03e7]))
    narrow = fit(noisy({"N": n, "D": d}, noise=0.02), prior=True)
    said = " | ".join(narrow.warnings)
    assert "alpha = " in said and "beta = " in said and "comes mostly from its prior" in said
    assert "a direction is flat" in said


def test_a_term_that_the_loss_does_not_show_is_named() -> None:
    columns = runs(60)
    flat = fit({**columns, "L": loss("chinchilla", {**TRUTH, "A": 0.0}, columns)})
    assert any(each.startswith("A is nothing") for each in flat.warnings)


def test_one_ratio_of_tokens_to_parameters_is_named() -> None:
    N = np.geomspace(1e6, 1e9, 30)
    fitted = fit(noisy({"N": N, "D": 20 * N}))
    assert any("same tokens per parameter" in each for each in fitted.warnings)


def test_a_run_that_decides_the_fit_is_named() -> None:
    columns = noisy(runs(40, seed=1), noise=0.002)
    columns["N"][11] *= 30  # a size that no other run is near, and a loss that does not belong to it
    fitted = fit(columns, estimator=least_squares())
    found = fitted.diagnostics["influence"]
    assert found[0]["run"] == 12 and found[0]["distance"] > 1
    without = fit({name: np.delete(column, 11) for name, column in columns.items()}, estimator=least_squares())
    assert found[0]["coefficients"]["alpha"] == pytest.approx(without.coefficients["alpha"], rel=1e-4)
    assert any("run 12 decides the fit" in each for each in fitted.warnings)


def test_runs_are_called_by_their_names() -> None:
    columns = noisy(runs(40, seed=1), noise=0.002)
    columns["N"][11] *= 30
    names = [f"line {place + 2}" for place in range(40)]
    fitted = fit(columns, estimator=least_squares(), names=names)
    assert fitted.diagnostics["influence"][0] | {"run": 12, "name": "line 13"} == fitted.diagnostics["influence"][0]
    assert any(each.startswith("line 13 decides the fit") for each in fitted.warnings)
    columns["L"][3] = np.nan
    with pytest.raises(ValueError, match="L of line 5 is nan"):
        fit(columns, names=names)
    with pytest.raises(ValueError, match="2 names for 40 runs"):
        fit(columns, names=names[:2])


def test_more_than_one_run_is_left_out_one_beside_the_other() -> None:
    columns = noisy(runs(50, seed=3))
    fitted = fit(columns)
    found = fitted.diagnostics["influence"]
    assert len(found) == 3 and len({each["run"] for each in found}) == 3
    out = [each["run"] - 1 for each in found]
    without = fit({name: np.delete(column, out) for name, column in columns.items()})
    assert found[-1]["coefficients"]["beta"] == pytest.approx(without.coefficients["beta"], rel=0.02)


def test_optima_that_the_runs_cannot_tell_apart_are_listed() -> None:
    """Two clouds of runs: the floor and the slow exponent trade places."""
    found = [fit(noisy(runs(9, seed=seed), seed=seed, noise=0.03)).diagnostics["optima"] for seed in range(6)]
    assert any(len(each) > 1 for each in found)
    for optima in found:
        assert sum(each["share"] for each in optima) <= 1 + 1e-9
        assert [each["objective"] for each in optima] == sorted(each["objective"] for each in optima)
        assert not optima[0]["indistinct"]


def test_the_form_that_the_runs_follow_forecasts_best() -> None:
    for law in ("chinchilla", "kaplan-nd"):
        ranked = compare(shown(noisy(runs(150, seed=5), noise=0.002, law=law)))
        assert ranked[0]["law"] == law
        assert ranked[0]["error"] < 0.5 * ranked[-1]["error"]
        assert ranked[0]["runs_below"] == 100 and ranked[0]["runs_above"] == 50 and ranked[0]["reach"] > 1


def test_more_coefficients_fit_better_below_the_cut_and_need_not_forecast_better() -> None:
    columns = noisy(runs(40, seed=6), noise=0.01)
    ranked = {each["law"]: each for each in compare(columns, ["chinchilla", "precision-aware"])}
    assert ranked["precision-aware"]["error_within"] < ranked["chinchilla"]["error_within"]
    assert ranked["precision-aware"]["error"] > ranked["chinchilla"]["error"]


def test_forms_that_the_runs_below_cannot_fix_come_last_with_the_reason() -> None:
    columns = shown(noisy(runs(9, seed=7)))
    compute = np.sort(6 * columns["N"] * columns["D"])
    ranked = compare(columns, ["chinchilla", "compute"], cut=float(compute[3]))
    assert [each["law"] for each in ranked] == ["compute", "chinchilla"]
    assert "cannot fix the 5 coefficients" in ranked[1]["reason"] and ranked[0]["runs_below"] == 4
    with pytest.raises(ValueError, match="0 of 9 runs take 1 FLOPs or less"):
        compare(columns, cut=1.0)


def shown(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: columns[name] for name in ("N", "D", "L")}
