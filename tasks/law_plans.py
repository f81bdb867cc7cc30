"""What a fitted law answers about a budget, a goal or a run: each figure with its interval over the draws."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from models.intervals import Draws
    from models.scaling_laws import Fit
    from tasks.law_fit import Price, Request

PLANNED = ("chinchilla", "data-constrained", "over-training")  # whose coefficients say how to spend a budget
Coefficients = Mapping[str, Any]


def plans(fitted: "Fit", draws: "Draws", asked: "Request") -> dict[str, Any]:
    """Every planning answer that was asked for; each figure with its interval."""
    from models.diagnosis import one_ratio

    found: dict[str, Any] = {}
    if fitted.law in PLANNED and not one_ratio(fitted.problem.frame.raw):
        found["exponents"] = _profiled(_exponents, fitted, draws)
    if asked.compute is not None:
        found["optimum"] = _optimum(fitted, draws, asked)
    if asked.target_loss is not None:
        found["cheapest"] = _cheapest(fitted, draws, asked)
    if asked.inference_tokens is not None:
        found["with_inference"] = _with_inference(fitted, draws, asked)
    if asked.unique_tokens is not None:
        found["with_unique_data"] = _with_unique_data(fitted, draws, asked)
    if asked.predict:
        found["predictions"] = [{**point, **_predicted(fitted, draws, point), **_outside_of(fitted, point)}
                                for point in asked.predict]  # fmt: skip
    return found


def _exponents(coefficients: Coefficients) -> dict[str, Any]:
    """N* = k C^a, D* = k' C^b."""
    total = coefficients["alpha"] + coefficients["beta"]
    return {"a": coefficients["beta"] / total, "b": coefficients["alpha"] / total}


def _optimum(fitted: "Fit", draws: "Draws", asked: "Request") -> dict[str, Any]:
    from models import compute_optimal as plan

    compute = asked.compute or 0.0
    if fitted.law not in PLANNED:
        return {"C": compute, **_outside(fitted, compute), **_predicted(fitted, draws, {"C": compute})}
    best = _profiled(lambda law: plan.optimum(law, compute=compute), fitted, draws)
    n, d = (best[symbol]["value"] for symbol in "ND")
    run = _predicted(fitted, draws, {"N": n, "D": d})["one_run"]
    return {**best, "C": compute, "one_run": run, **_outside(fitted, compute), **cost(compute, asked.price)}


def _cheapest(fitted: "Fit", draws: "Draws", asked: "Request") -> dict[str, Any]:
    from models import compute_optimal as plan

    found = _spread(lambda law: plan.cheapest(law, loss=_like(asked.target_loss, law)), fitted, draws)
    compute = found["C"]["value"]
    return {**found, "loss": asked.target_loss, **_outside(fitted, compute), **cost(compute, asked.price)}


def _with_inference(fitted: "Fit", draws: "Draws", asked: "Request") -> dict[str, Any]:
    from models import compute_optimal as plan

    tokens = asked.inference_tokens or 0.0

    def chosen(law: Coefficients) -> Mapping[str, Any]:
        if asked.target_loss is not None:
            return plan.with_inference(law, loss=_like(asked.target_loss, law), inference_tokens=tokens)
        return plan.with_inference(law, compute=asked.compute, inference_tokens=tokens)

    found = _spread(chosen, fitted, draws)
    return {"inference_tokens": tokens, **found, **_outside(fitted, found["training_C"]["value"])}


def _with_unique_data(fitted: "Fit", draws: "Draws", asked: "Request") -> dict[str, Any]:
    from models import data_constrained as plan

    compute, unique = asked.compute or 0.0, asked.unique_tokens or 0.0

    def chosen(law: Coefficients) -> Mapping[str, Any]:
        decays = {name: law[name] for name in ("R_D", "R_N") if name in law}
        return plan.with_unique_data(law, compute=compute, unique_tokens=unique, **decays)

    own = fitted.law == "data-constrained"
    return {
        "unique_tokens": unique,
        "decay": "of these runs" if own else "published (Muennighoff et al. 2023): fit it with --law data-constrained",
        **_spread(chosen, fitted, draws),
        **_outside(fitted, compute),
    }


def _predicted(fitted: "Fit", draws: "Draws", point: Mapping[str, float]) -> dict[str, Any]:
    """The law's loss with the interval of the curve, and that of one new run."""
    import numpy as np

    columns = {symbol: np.array([value]) for symbol, value in completed(point).items()}
    value = float(fitted.predict(columns)[0])
    return {
        "loss": {**figure(value, draws.predict(columns)[:, 0], draws), "profile": list(fitted.profile_at(columns))},
        "one_run": figure(value, draws.new_runs(columns)[:, 0], draws),
    }


def _outside(fitted: "Fit", compute: float) -> dict[str, float]:
    """How many times beyond the largest run's FLOPs a plan lies, and how many below the smallest's."""
    swept = fitted.problem.frame.raw
    if "C" not in swept and not {"N", "D"} <= swept.keys():
        return {}
    runs = swept["C"] if "C" in swept else 6 * swept["N"] * swept["D"]
    return {"beyond_the_runs": compute / float(runs.max()), "below_the_runs": float(runs.min()) / compute}


def _outside_of(fitted: "Fit", point: Mapping[str, float]) -> dict[str, float]:
    known = completed(point)
    return _outside(fitted, known["C"]) if "C" in known else {}


def completed(point: Mapping[str, float]) -> dict[str, float]:
    known = dict(point)
    if "N" in point and "D" in point:
        known.setdefault("C", 6 * point["N"] * point["D"])
        known.setdefault("U", point["D"])
    return known


def _spread(
    answer: Callable[[Coefficients], Mapping[str, Any]], fitted: "Fit", draws: "Draws"
) -> dict[str, dict[str, float]]:
    """An answer of the fitted coefficients with the interval that it has over the draws, figure by figure.

    Raises ValueError for a model of less than a parameter, or less than a token.
    """
    value = answer(_law(fitted.coefficients))
    require_model(value)
    drawn = answer(_law(draws.coefficients))
    return {name: figure(float(each), drawn[name], draws) for name, each in value.items()}


def _profiled(
    answer: Callable[[Coefficients], Mapping[str, Any]], fitted: "Fit", draws: "Draws"
) -> dict[str, dict[str, Any]]:
    """As `_spread`, each figure that the law decides with its profile interval as well."""

    def one(name: str) -> Callable[[Coefficients], Any]:
        return lambda law: answer(_law(law))[name]

    found: dict[str, dict[str, Any]] = dict(_spread(answer, fitted, draws))
    for name, each in found.items():
        if each["low"] < each["high"]:
            each["profile"] = list(fitted.profile_of(one(name)))
    return found


def require_model(answer: Mapping[str, Any]) -> None:
    """Raises ValueError for a model of less than a parameter, or trained on less than a token."""
    from models.forms import MEANINGS

    for name in "ND":
        if name in answer and float(answer[name]) < 1:
            raise ValueError(
                f"the answer is {float(answer[name]):.3g} {MEANINGS[name]}, far from any run: give a budget or a loss "
                "nearer to those of the runs"
            )


def figure(value: float, drawn: "np.ndarray", draws: "Draws") -> dict[str, float]:
    import numpy as np

    low, high = draws.interval(np.broadcast_to(drawn, draws.noise.shape))
    return {"value": value, "low": low, "high": high}


def _law(coefficients: Coefficients) -> Coefficients:
    """E, A, B, alpha, beta; the over-training form is the law at alpha = beta = 2 eta (Gadre et al. 2024)."""
    if "eta" not in coefficients:
        return coefficients
    eta = coefficients["eta"]
    shared = {"E": coefficients["E"], "alpha": 2 * eta, "beta": 2 * eta}
    return {**shared, "A": coefficients["a"] / 6**eta, "B": coefficients["b"] / 6**eta}


def _like(loss: float | None, law: Coefficients) -> Any:
    """A loss for each draw: among arrays one that is out of reach is an infinite cost, alone it is an error."""
    import numpy as np

    return np.full(np.shape(law["E"]), loss) if np.ndim(law["E"]) else loss


def cost(compute: float, price: "Price | None") -> dict[str, float]:
    """The hours and the money that FLOPs take, where it was said what they cost."""
    from models import budgets

    if price is None:
        return {}
    rates = {"peak_flops_per_second": price.peak, "utilisation": price.utilisation}
    hours = {"gpu_hours": float(budgets.gpu_hours_of(compute, **rates))}
    if price.hourly is None:
        return hours
    return {**hours, "money": float(budgets.money_of(compute, price_per_gpu_hour=price.hourly, **rates))}


def intervals_of(plans: Mapping[str, Any], *, profile: bool = False) -> dict[str, list[float]]:
    """The interval of each derived figure by its dotted name, beside those of the coefficients."""
    return {
        f"{plan}.{name}": figure["profile"] if profile else [figure["low"], figure["high"]]
        for plan, figures in plans.items()
        if isinstance(figures, Mapping)
        for name, figure in figures.items()
        if isinstance(figure, Mapping) and ("profile" if profile else "low") in figure
    }
