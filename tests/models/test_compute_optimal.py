from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from models.compute_optimal import cheapest, optimum, overtrained, predict, smaller, with_inference
from models.data_constrained import with_unique_data, worth

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
STEEP = {"E": 0.5, "A": 5e4, "B": 900.0, "alpha": 1.3, "beta": 0.6}  # alpha > 1 turns the curvature of one equation
MUENNIGHOFF = {
    "E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974), "alpha": 0.3526596, "beta": 0.3526596
}  # fmt: skip
LAWS = [HOFFMANN, BESIROGLU, STEEP, MUENNIGHOFF]


def lowest(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Where a function of ln N is least, and its value there: a grid, then a search between its neighbours."""
    grid = np.linspace(low, high, 4001)
    at = int(np.argmin([function(x) for x in grid]))
    found = minimize_scalar(
        function, bounds=(grid[max(at - 1, 0)], grid[min(at + 1, 4000)]), method="bounded", options={"xatol": 1e-12}
    )
    return float(found.x), float(found.fun)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("compute", [1e18, 1e22, 5.76e23])
def test_no_other_split_of_the_budget_beats_the_optimum(law: dict[str, float], compute: float) -> None:
    best = optimum(law, compute=compute)
    log_n, loss = lowest(lambda x: predict(law, np.exp(x), compute / 6 / np.exp(x)), np.log(1e3), np.log(1e15))
    assert best["loss"] == pytest.approx(loss, rel=1e-12)
    assert best["N"] == pytest.approx(np.exp(log_n), rel=1e-5)
    slopes = law["alpha"] * law["A"] * best["N"] ** -law["alpha"], law["beta"] * law["B"] * best["D"] ** -law["beta"]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-10)
    assert 6 * best["N"] * best["D"] == pytest.approx(compute, rel=1e-12)
    assert best["tokens_per_parameter"] == pytest.approx(best["D"] / best["N"])


def test_published_coefficients_give_the_published_optimum() -> None:
    """At Gopher's budget: Hoffmann's rounded coefficients want small models, Besiroglu's refit about 20 to 1."""
    rounded, refit = optimum(HOFFMANN, compute=5.76e23), optimum(BESIROGLU, compute=5.76e23)
    assert (rounded["N"], rounded["D"]) == pytest.approx((32.2e9, 2.98e12), rel=2e-3)
    assert rounded["loss"] == pytest.approx(1.9307, abs=5e-5)
    assert rounded["tokens_per_parameter"] == pytest.approx(92.6, abs=0.1)
    assert 15 < refit["tokens_per_parameter"] < 25
    assert 60e9 < refit["N"] < 80e9


@pytest.mark.parametrize("law", LAWS)
def test_the_cheapest_is_the_inverse_of_the_optimum(law: dict[str, float]) -> None:
    computes = np.geomspace(1e15, 1e27, 25)
    best = optimum(law, compute=computes)
    back = cheapest(law, loss=best["loss"])
    for name in ("N", "D", "C", "tokens_per_parameter"):
        np.testing.assert_allclose(back[name], best[name], rtol=1e-9 if law is not STEEP else 1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("tokens", [0.0, 1e6, 1e11, 1e13, 1e16])
def test_serving_at_a_loss_costs_least(law: dict[str, float], tokens: float) -> None:
    loss = optimum(law, compute=1e22)["loss"]
    best = with_inference(law, loss=loss, inference_tokens=tokens)
    assert predict(law, best["N"], best["D"]) == pytest.approx(loss, rel=1e-12)
    least_n = (law["A"] / (loss - law["E"])) ** (1 / law["alpha"])

    def cost(x: float) -> float:
        n = np.exp(x)
        rest = loss - law["E"] - law["A"] * n ** -law["alpha"]
        return float(np.log(6 * n * (law["B"] / rest) ** (1 / law["beta"]) + 2 * n * tokens))

    log_n, least = lowest(cost, np.log(least_n) + 1e-6, np.log(least_n) + 25)
    assert best["C"] == pytest.approx(np.exp(least), rel=1e-9)
    assert best["N"] == pytest.approx(np.exp(log_n), rel=1e-4)
    assert best["training_C"] + best["inference_C"] == pytest.approx(best["C"], rel=1e-12)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("tokens", [0.0, 1e6, 1e11, 1e13, 1e16])
def test_a_budget_for_both_is_spent_for_the_least_loss(law: dict[str, float], tokens: float) -> None:
    best = with_inference(law, compute=1e22, inference_tokens=tokens)
    assert 6 * best["N"] * best["D"] + 2 * best["N"] * tokens == pytest.approx(1e22, rel=1e-12)

    def loss(x: float) -> float:  # N is what the budget leaves for these tokens
        return predict(law, 1e22 / (6 * np.exp(x) + 2 * tokens), np.exp(x))

    log_d, least = lowest(loss, np.log(1e6), np.log(1e19))
    assert best["loss"] == pytest.approx(least, rel=1e-12)
    assert best["D"] == pytest.approx(np.exp(log_d), rel=1e-4)


def test_serving_nothing_is_the_cheapest_and_more_serving_wants_smaller_models() -> None:
    tokens = np.r_[0.0, np.geomspace(1e6, 1e18, 40)]
    best, usual = with_inference(HOFFMANN, loss=2.0, inference_tokens=tokens), cheapest(HOFFMANN, loss=2.0)
    for name in ("N", "D", "C"):
        assert best[name][0] == pytest.approx(usual[name], rel=1e-12)
    assert best["saving"][0] == pytest.approx(0, abs=1e-12)
    assert (np.diff(best["N"]) < 0).all() and (np.diff(best["D"]) > 0).all() and (np.diff(best["saving"]) > 0).all()
    # a loss reached on a budget is the loss whose cheapest model costs that budget
    both = with_inference(HOFFMANN, loss=2.0, inference_tokens=1e12)
    back = with_inference(HOFFMANN, compute=both["C"], inference_tokens=1e12)
    assert [back[name] for name in both] == pytest.approx(list(both.values()), rel=1e-8)


@pytest.mark.parametrize(("r_d", "r_n"), [(15.387756, 5.309743), (3.0, 40.0), (200.0, 0.5)])
@pytest.mark.parametrize("unique", [1e10, 2.5e10, 1e11, 1.7e11])
def test_no_other_number_of_epochs_beats_the_one_for_little_data(r_d: float, r_n: float, unique: float) -> None:
    law, compute = MUENNIGHOFF, 9.3e21
    best = with_unique_data(law, compute=compute, unique_tokens=unique, R_D=r_d, R_N=r_n)
    optimal = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / (law["alpha"] + law["beta"]))

    def loss(x: float) -> float:  # the paper's equations as they stand
        d, n = np.exp(x), compute / 6 / np.exp(x)
        u_d = min(unique, d)
        u_n = min(n, optimal * (optimal * u_d) ** (law["beta"] / law["alpha"]))
        d = u_d + u_d * r_d * (1 - np.exp(-(d / u_d - 1) / r_d))
        n = u_n + u_n * r_n * (1 - np.exp(-(n / u_n - 1) / r_n))
        return float(predict(law, n, d))

    log_d, least = lowest(loss, np.log(unique / 100), np.log(unique * 1e5))
    assert best["loss"] == pytest.approx(least, rel=1e-12)
    assert best["D"] == pytest.approx(np.exp(log_d), rel=1e-4)
    assert best["loss_unlimited"] < best["loss"] < best["loss_one_epoch"]
    assert best["epochs"] == pytest.approx(best["D"] / unique) and best["effective_D"] < best["D"]
    for side in ("low", "high"):
        assert loss(np.log(best[f"epochs_{side}"] * unique)) == pytest.approx(best["loss"] * 1.001, rel=1e-9)
    assert best["epochs_low"] < best["epochs"] < best["epochs_high"]


def test_the_published_law_gives_the_published_allocation() -> None:
    """Muennighoff et al., figure 1: 9.3e21 FLOPs and 25e9 unique tokens want about 6.34e9 parameters and 9.7 epochs."""
    best = with_unique_data(MUENNIGHOFF, compute=9.3e21, unique_tokens=25e9)
    assert (best["N"], best["epochs"]) == pytest.approx((6.34e9, 9.7), rel=0.1)
    assert best["epochs_low"] < 9.7 < best["epochs_high"] and best["epochs_high"] > 1.5 * best["epochs_low"]


def test_enough_data_or_no_decay_is_the_plain_optimum() -> None:
    usual = optimum(HOFFMANN, compute=1e22)
    enough = with_unique_data(HOFFMANN, compute=1e22, unique_tokens=usual["D"] * np.array([1.0001, 3, 1e6]))
    endless = with_unique_data(HOFFMANN, compute=1e22, unique_tokens=1e9, R_D=1e300, R_N=1e300)
    for name in ("N", "D", "loss"):
        np.testing.assert_allclose(enough[name], usual[name], rtol=1e-12)
        assert endless[name] == pytest.approx(usual[name], rel=1e-9)
    np.testing.assert_allclose(enough["loss_one_epoch"], usual["loss"], rtol=1e-12)


def test_what_an_epoch_is_worth() -> None:
    passes = worth(np.array([1, 2, 4, 16.387756, 1e6]))
    assert passes["total"][0] == passes["last"][0] == 1
    assert passes["total"][2] == pytest.approx(3.73, abs=0.01)  # four epochs are nearly as good as fresh data
    assert passes["total"][3] == pytest.approx(1 + 15.387756 * (1 - np.exp(-1)))
    assert passes["total"][4] == pytest.approx(passes["limit"][0]) == pytest.approx(16.387756)
    assert np.diff(passes["last"])[0] < 0 <= passes["last"][-1] < 1e-12


def test_a_smaller_model_pays_in_tokens() -> None:
    best = optimum(HOFFMANN, compute=1e22)
    for times in (0.3, 1.0, 2.0, 8.0):
        more = smaller(HOFFMANN, times=times)
        n, d = best["N"] / times, best["D"] * more["tokens"]
        assert predict(HOFFMANN, n, d) == pytest.approx(best["loss"], rel=1e-12)
        assert 6 * n * d == pytest.approx(1e22 * more["compute"])
    most = smaller(HOFFMANN, times=1.0)["most"]
    assert predict(HOFFMANN, best["N"] / most, 1e300) == pytest.approx(best["loss"], rel=1e-9)
    assert smaller(HOFFMANN, times=np.array([2, most * 1.01]))["tokens"][1] == np.inf
    with pytest.raises(ValueError, match=r"20 times smaller never reaches the loss; stay below 10\.36"):
        smaller(HOFFMANN, times=20)


def test_over_training_is_the_law_with_equal_exponents() -> None:
    law = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.3, "beta": 0.3}
    same = {"E": 1.7, "a": 400 * 6**0.15, "b": 900 * 6**0.15, "eta": 0.15}
    ratios = np.array([5.0, 20, 400])
    got, best = overtrained(same, compute=1e21, tokens_per_parameter=ratios), optimum(law, compute=1e21)
    np.testing.assert_allclose(got["loss"], predict(law, got["N"], got["D"]), rtol=1e-12)
    np.testing.assert_allclose(got["D"] / got["N"], ratios)
    assert got["best_tokens_per_parameter"][0] == pytest.approx(best["tokens_per_parameter"])
    np.testing.assert_allclose(got["penalty"], got["loss"] - best["loss"], rtol=1e-9)
    more = overtrained(same, compute=1e21 * got["compute"], tokens_per_parameter=ratios)
    np.testing.assert_allclose(more["loss"], best["loss"], rtol=1e-12)


QUESTIONS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (optimum, {"compute": 1e22}),
    (cheapest, {"loss": 2.3}),
    (with_inference, {"loss": 2.3, "inference_tokens": 1e12}),
    (with_inference, {"compute": 1e22, "inference_tokens": 1e12}),
    (with_unique_data, {"compute": 1e22, "unique_tokens": 1e10}),
    (smaller, {"times": 1.5}),
]


@pytest.mark.parametrize(("question", "asked"), QUESTIONS)
def test_a_call_with_draws_equals_a_loop_over_them(question: Callable[..., Any], asked: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    draws = {name: value * np.exp(0.03 * rng.standard_normal(7)) for name, value in MUENNIGHOFF.items()}
    together = question(draws, **asked)
    apart = [question({name: float(v[i]) for name, v in draws.items()}, **asked) for i in range(7)]
    assert together.keys() == apart[0].keys() and len(together) >= 3
    for name, value in together.items():
        assert isinstance(apart[0][name], float) and value.shape == (7,)
        np.testing.assert_allclose(value, [one[name] for one in apart], rtol=1e-9)
    first, second = next(iter(asked)), np.array([1, 1.1, 1.2])[:, None]
    grid = question(draws, **{**asked, first: asked[first] * second})
    assert all(value.shape == (3, 7) for value in grid.values())
    np.testing.assert_allclose(
        grid["C" if "C" in grid else "compute"][0], together["C" if "C" in together else "compute"]
    )


def test_a_loss_below_the_floor_is_refused_alone_and_infinite_among_draws() -> None:
    for ask in (cheapest, lambda law, loss: with_inference(law, loss=loss, inference_tokens=1e9)):
        with pytest.raises(ValueError, match=r"no budget reaches a loss of 1\.6: the law's floor E is 1\.69; ask for"):
            ask(HOFFMANN, loss=1.6)
        draws = ask({**HOFFMANN, "E": np.array([1.5, 1.69])}, loss=1.6)
        assert np.isfinite([value[0] for value in draws.values()]).all()
        assert draws["N"][1] == draws["C"][1] == np.inf and np.isnan(draws["tokens_per_parameter"][1])


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: optimum(HOFFMANN, compute=-1), r"compute is -1, but must be finite and above 0; give FLOPs"),
    (lambda: optimum(HOFFMANN, compute=np.array([1, np.nan])), r"compute is in 1 of 2 entries, first nan"),
    (lambda: optimum(HOFFMANN, compute="much"), r"compute is 'much', not a number; give FLOPs"),
    (lambda: optimum({"E": 1, "A": 1}, compute=1), r"no B, alpha, beta among the coefficients \['A', 'E'\]"),
    (lambda: optimum({**HOFFMANN, "alpha": 0}, compute=1), r"coefficient alpha is 0, .* fit the law again"),
    (lambda: predict(HOFFMANN, 0, 1), r"N is 0, .* give parameters"),
    (lambda: predict(HOFFMANN, 1, np.inf), r"D is inf, .* give tokens"),
    (lambda: cheapest(HOFFMANN, loss=-2), r"loss is -2, .* give a loss in nats"),
    (lambda: with_inference(HOFFMANN, inference_tokens=1), r"loss is None and compute is None; give one"),
    (lambda: with_inference(HOFFMANN, loss=2, compute=1, inference_tokens=1), r"loss is 2 and compute is 1; give one"),
    (lambda: with_inference(HOFFMANN, loss=2, inference_tokens=-1), r"inference_tokens is -1, .* not negative"),
    (lambda: with_unique_data(HOFFMANN, compute=1, unique_tokens=0), r"unique_tokens is 0, .* give tokens"),
    (lambda: with_unique_data(HOFFMANN, compute=1, unique_tokens=1, R_D=0), r"R_D is 0, .* published 15\.387756"),
    (lambda: with_unique_data(HOFFMANN, compute=1, unique_tokens=1, R_N=-1), r"R_N is -1, .* published 5\.309743"),
    (lambda: with_unique_data(HOFFMANN, compute=1, unique_tokens=1, tolerance=0), r"tolerance is 0"),
    (lambda: worth(0), r"epochs is 0, .* number of passes"),
    (lambda: smaller(HOFFMANN, times=0), r"times is 0, .* how many times smaller"),
    (lambda: overtrained({"E": 1, "a": 1, "b": 1, "eta": 1}, compute=1, tokens_per_parameter=0), "give a ratio"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused_with_its_name_its_value_and_a_remedy(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
