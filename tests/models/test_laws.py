"""Each form: its values, its derivatives, and the coefficients that a fit gives back."""

import numpy as np
import pytest

from models.estimators import Estimator, huber, lad, least_squares, quantile
from models.laws import LAWS
from models.minimise import Problem
from models.scaling_laws import fit
from tests.models.laws import TRUTHS, loss, runs

ESTIMATORS = [huber(), least_squares(), lad(), quantile(0.5)]


def test_every_form_is_tested_here() -> None:
    assert TRUTHS.keys() == LAWS.keys() and len(LAWS) == 9
    for law in LAWS.values():
        assert TRUTHS[law.name].keys() == set(law.symbols)
        assert law.formula.startswith("L = ") and "20" in law.source


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: each.name)
@pytest.mark.parametrize("law", LAWS)
def test_noiseless_runs_give_every_coefficient_back(law: str, estimator: Estimator) -> None:
    columns = runs()
    fitted = fit({**columns, "L": loss(law, TRUTHS[law], columns)}, law, estimator=estimator)
    for symbol, value in TRUTHS[law].items():
        assert fitted.coefficients[symbol] == pytest.approx(value, rel=1e-8), symbol
    assert fitted.starts_at_optimum > 0.1
    elsewhere = runs(5, seed=9)
    assert fitted.predict(elsewhere) == pytest.approx(loss(law, TRUTHS[law], elsewhere), rel=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_derivatives_are_those_of_the_values(law: str) -> None:
    """Gradient and Hessian of sum(w ln L) by central differences, at starts and at the truth."""
    columns, form = runs(30, seed=2), LAWS[law]
    frame, observed = form.frame(columns), np.log(loss(law, TRUTHS[law], columns))
    theta = form.starts(frame, observed, 64)[::9]
    weights = np.random.default_rng(0).uniform(-1, 1, (len(theta), 30))
    local = form.at(theta, frame)
    gradient, hessian = local.gradient(weights), local.hessian(weights, 0 * weights)
    squares = local.hessian(0 * weights, np.abs(weights))
    assert gradient == pytest.approx(np.einsum("bn,bnp->bp", weights, local.rows()), rel=1e-9, abs=1e-12)
    rows = local.rows()
    assert squares == pytest.approx(np.einsum("bn,bnp,bnq->bpq", np.abs(weights), rows, rows), rel=1e-8, abs=1e-10)
    step = 1e-6
    for place in range(theta.shape[1]):
        ahead, behind = theta.copy(), theta.copy()
        ahead[:, place] += step
        behind[:, place] -= step
        both = [form.at(each, frame) for each in (ahead, behind)]
        by_value = [(weights * each.log_loss).sum(axis=1) for each in both]
        assert gradient[:, place] == pytest.approx((by_value[0] - by_value[1]) / (2 * step), rel=1e-5, abs=1e-6)
        by_slope = (both[0].gradient(weights) - both[1].gradient(weights)) / (2 * step)
        assert hessian[:, place] == pytest.approx(by_slope, rel=1e-4, abs=1e-3)


def test_a_law_is_the_same_whatever_it_was_centred_on() -> None:
    columns = runs(20)
    for law in LAWS.values():
        frame = law.frame(columns)
        theta = law.starts(frame, np.log(loss(law.name, TRUTHS[law.name], columns)), 64)[7]
        far = runs(3, seed=5)
        there = law.log_loss(theta[None], law.frame(far, frame.centre))[0]
        named = {name: float(value) for name, value in law.named(theta, frame).items()}
        assert np.exp(there) == pytest.approx(loss(law.name, named, far), rel=1e-9), law.name


def test_repetition_at_a_huge_half_life_is_fresh_data() -> None:
    """1 - exp(-R / R*) would be rounded to nothing there."""
    form, columns = LAWS["data-constrained"], runs(10)
    frame = form.frame(columns)
    theta = np.array([[0.1, 0.2, 1.0, 0.3, 0.3, np.log(1e15), np.log(1e15)]])
    plain = LAWS["chinchilla"]
    fresh = plain.log_loss(theta[:, :5], plain.frame(columns, {**frame.centre, "M": 0.0, "C": 0.0}))
    assert form.log_loss(theta, frame) == pytest.approx(fresh, rel=1e-9)


def test_an_estimator_is_the_integral_of_its_slope() -> None:
    r = np.random.default_rng(0).uniform(-0.02, 0.02, 500)
    for estimator in (huber(1e-3), least_squares(), *lad().smoothed, *quantile(0.2).smoothed):
        ahead, behind = (estimator.objective((r + step)[:, None]) for step in (1e-8, -1e-8))
        first, second, weight = estimator.slopes(r)
        assert first == pytest.approx((ahead - behind) / 2e-8, rel=1e-4, abs=1e-6)
        assert weight * r == pytest.approx(first, rel=1e-12)
        if np.isfinite(estimator.delta):
            inside = np.abs(r) <= estimator.delta
            assert (second[~inside] == 0).all() and second[inside] == pytest.approx(weight[inside])


def test_the_quantile_has_its_share_of_runs_below_it() -> None:
    columns = runs(200, seed=3)
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(200))
    L = loss("chinchilla", TRUTHS["chinchilla"], columns) * noise
    for q in (0.1, 0.5, 0.8):
        fitted = fit({**columns, "L": L}, estimator=quantile(q))
        below = (fitted.residuals > 0).mean()
        assert below == pytest.approx(q, abs=0.03), q


def test_least_absolute_deviation_has_no_better_neighbour() -> None:
    columns = runs(60, seed=4)
    noise = np.exp(0.02 * np.random.default_rng(1).standard_t(3, 60))
    fitted = fit({**columns, "L": loss("chinchilla", TRUTHS["chinchilla"], columns) * noise}, estimator=lad())
    assert fitted.objective == pytest.approx(np.abs(fitted.residuals).sum(), rel=1e-12)
    assert (np.abs(fitted.residuals) < 1e-8).sum() >= 5, "an optimum passes through as many runs as coefficients"
    problem: Problem = fitted.problem
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1e-4, 1e-2):
        near = fitted.theta + scale * rng.standard_normal((500, 5))
        assert problem.at(np.clip(near, *problem.bounds)).value.min() >= fitted.objective - 1e-12


def test_unknown_names_are_told_what_there_is() -> None:
    from models import estimators, laws

    with pytest.raises(ValueError, match="'chinchila'; there are chinchilla, kaplan-n"):
        laws.named("chinchilla"[:-2] + "a")
    with pytest.raises(ValueError, match="'l2'; there are huber, lad, least-squares, quantile"):
        estimators.named("l2")
    with pytest.raises(ValueError, match=r"delta is -1.0; give a number above 0"):
        huber(-1.0)
    with pytest.raises(ValueError, match=r"quantile is 1.5; give a share between 0 and 1"):
        quantile(1.5)
