"""A scaling law fitted to a table of runs: the law, how sure it is, and what it answers about a budget or a goal."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from models.intervals import Draws
    from models.runs import Runs
    from models.scaling_laws import Fit

BEST = "best"  # the law that predicts best beyond a cut-off
FEW = 50  # runs; resampling fewer leaves refits nothing to stand on
PLANNED = ("chinchilla", "data-constrained", "over-training")  # whose coefficients say how to spend a budget
Coefficients = Mapping[str, Any]


@dataclass(frozen=True)
class Price:
    """What FLOPs cost: peak FLOP/s of an accelerator, the share of it that is reached, money for an hour of it."""

    peak: float
    utilisation: float
    hourly: float | None = None


@dataclass(frozen=True)
class Request:
    """What to fit, how, and what to ask of the law."""

    law: str = "chinchilla"
    estimator: str = "huber"
    delta: float = 1e-3
    quantile: float = 0.5
    prior: bool = False
    draws: int = 4000
    starts: int | None = None
    seed: int = 0
    compute: float | None = None
    price: Price | None = None
    target_loss: float | None = None
    inference_tokens: float | None = None
    unique_tokens: float | None = None
    predict: tuple[Mapping[str, float], ...] = ()
    plots: Path | None = None
    notes: tuple[str, ...] = field(default=())


def needed(law: str) -> tuple[str, ...]:
    """The columns that a law takes beside the loss. Raises UsageError for a law that there is not."""
    from models.laws import named

    try:
        return ("N", "D") if law == BEST else named(law).inputs
    except ValueError as error:
        raise UsageError(f"{error}; --law best takes the one that forecasts best") from None


def answer(runs: "Runs", asked: Request) -> dict[str, Any]:
    """What `evergreen fit --json` prints. Raises UsageError for what the runs, or the law, cannot answer."""
    import numpy as np

    began = time.perf_counter()
    _require_folder(asked.plots)
    try:
        with np.errstate(all="ignore"):
            found = _answer(runs, asked)
    except ValueError as error:
        raise UsageError(str(error)) from None
    found["seconds"] = time.perf_counter() - began
    finite: dict[str, Any] = _finite(found)
    return finite


def _require_folder(folder: Path | None) -> None:
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--plots {folder} is no folder that can be written ({error.strerror}): name another"
        ) from None


def _answer(runs: "Runs", asked: Request) -> dict[str, Any]:
    from models.estimators import named as estimator_named
    from models.laws import named
    from models.scaling_laws import fit

    estimator = estimator_named(asked.estimator, delta=asked.delta, q=asked.quantile)
    columns = runs.columns()
    compared = _compared(runs, estimator) if asked.law == BEST else []
    law = named(compared[0]["law"] if compared else asked.law)
    _check(law.name, asked)
    fitted = fit(columns, law.name, estimator=estimator, starts=asked.starts, prior=asked.prior)
    kind = "pairs" if fitted.n >= FEW else "parametric"
    draws = fitted.bootstrap(asked.draws, asked.seed, kind=kind)
    plans = _plans(fitted, draws, asked)
    return {
        "law": law.name, "formula": law.formula, "source": law.source,
        "estimator": fitted.estimator, "n": fitted.n, "convention": runs.convention,
        "coefficients": fitted.coefficients, "objective": fitted.objective, "noise": fitted.noise,
        "intervals": {**{name: list(draws.interval(each)) for name, each in draws.coefficients.items()},
                      **_intervals_of(plans)},
        "profile_intervals": {name: list(pair) for name, pair in fitted.profile().items()},
        "starts": fitted.starts, "starts_at_optimum": fitted.starts_at_optimum, "fit_seconds": fitted.seconds,
        "bootstrap": {"draws": asked.draws, "kind": kind, "seed": asked.seed},
        "warnings": [*runs.warnings, *fitted.warnings], "notes": [*asked.notes, *runs.notes],
        "dropped": list(runs.dropped), "diagnostics": fitted.diagnostics, "comparison": compared,
        **plans,
        "plots": [str(path) for path in _plots(runs, fitted, draws, asked)] if asked.plots else [],
    }  # fmt: skip


def _compared(runs: "Runs", estimator: Any) -> list[dict[str, Any]]:
    """The forms by what they predict beyond two thirds of the compute, the best first."""
    from models.extrapolation import compare

    found = compare(runs.columns(), estimator=estimator)
    if "reason" in found[0]:
        raise ValueError(f"no law can be compared on these runs: {found[0]['law']}: {found[0]['reason']}")
    return found


def _check(law: str, asked: Request) -> None:
    from models.laws import named

    plans = {
        "--target-loss": asked.target_loss, "--inference-tokens": asked.inference_tokens,
        "--unique-tokens": asked.unique_tokens,
    }  # fmt: skip
    wanted = [option for option, value in plans.items() if value is not None]
    if law not in PLANNED and (wanted or (asked.compute and named(law).inputs != ("C",))):
        raise ValueError(
            f"the law {law} does not say how to spend a budget ({', '.join(wanted) or '--compute'}): "
            f"take --law {', '.join(PLANNED[:-1])} or {PLANNED[-1]}"
        )
    if asked.inference_tokens is not None and asked.compute is None and asked.target_loss is None:
        raise ValueError("--inference-tokens needs a budget for both (--compute) or a loss to reach (--target-loss)")
    if asked.unique_tokens is not None and asked.compute is None:
        raise ValueError("--unique-tokens needs a budget: --compute, --gpu-hours or --money")
    for point in asked.predict:
        absent = [symbol for symbol in named(law).inputs if symbol not in _completed(point)]
        if absent:
            raise ValueError(f"--predict needs {', '.join(absent)} as well: the law {law} takes {named(law).inputs}")


def _plans(fitted: "Fit", draws: "Draws", asked: Request) -> dict[str, Any]:
    """Every planning answer that was asked for; each figure with its interval."""
    found: dict[str, Any] = {}
    if fitted.law in PLANNED:
        found["exponents"] = _spread(_exponents, fitted, draws)
    if asked.compute is not None:
        found["optimum"] = _optimum(fitted, draws, asked)
    if asked.target_loss is not None:
        found["cheapest"] = _cheapest(fitted, draws, asked)
    if asked.inference_tokens is not None:
        found["with_inference"] = _with_inference(fitted, draws, asked)
    if asked.unique_tokens is not None:
        found["with_unique_data"] = _with_unique_data(fitted, draws, asked)
    if asked.predict:
        found["predictions"] = [{**point, **_predicted(fitted, draws, point)} for point in asked.predict]
    return found


def _exponents(coefficients: Coefficients) -> dict[str, Any]:
    """N* = k C^a, D* = k' C^b."""
    total = coefficients["alpha"] + coefficients["beta"]
    return {"a": coefficients["beta"] / total, "b": coefficients["alpha"] / total}


def _optimum(fitted: "Fit", draws: "Draws", asked: Request) -> dict[str, Any]:
    import numpy as np

    from models import compute_optimal as plan

    compute = asked.compute or 0.0
    beyond = fitted.reach({"C": np.array([compute])})["C"]
    if fitted.law not in PLANNED:
        return {"C": compute, "beyond_the_runs": beyond, **_predicted(fitted, draws, {"C": compute})}
    best = _spread(lambda law: plan.optimum(law, compute=compute), fitted, draws)
    n, d = (best[symbol]["value"] for symbol in "ND")
    run = _predicted(fitted, draws, {"N": n, "D": d})["one_run"]
    return {**best, "C": compute, "one_run": run, "beyond_the_runs": beyond, **_cost(compute, asked.price)}


def _cheapest(fitted: "Fit", draws: "Draws", asked: Request) -> dict[str, Any]:
    from models import compute_optimal as plan

    found = _spread(lambda law: plan.cheapest(law, loss=_like(asked.target_loss, law)), fitted, draws)
    return {**found, "loss": asked.target_loss, **_cost(found["C"]["value"], asked.price)}


def _with_inference(fitted: "Fit", draws: "Draws", asked: Request) -> dict[str, Any]:
    from models import compute_optimal as plan

    tokens = asked.inference_tokens or 0.0

    def chosen(law: Coefficients) -> Mapping[str, Any]:
        if asked.target_loss is not None:
            return plan.with_inference(law, loss=_like(asked.target_loss, law), inference_tokens=tokens)
        return plan.with_inference(law, compute=asked.compute, inference_tokens=tokens)

    return {"inference_tokens": tokens, **_spread(chosen, fitted, draws)}


def _with_unique_data(fitted: "Fit", draws: "Draws", asked: Request) -> dict[str, Any]:
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
    }


def _predicted(fitted: "Fit", draws: "Draws", point: Mapping[str, float]) -> dict[str, Any]:
    """The law's loss with the interval of the curve, and that of one new run."""
    import numpy as np

    columns = {symbol: np.array([value]) for symbol, value in _completed(point).items()}
    value = float(fitted.predict(columns)[0])
    return {
        "loss": _figure(value, draws.predict(columns)[:, 0], draws),
        "one_run": _figure(value, draws.new_runs(columns)[:, 0], draws),
    }


def _completed(point: Mapping[str, float]) -> dict[str, float]:
    known = dict(point)
    if "N" in point and "D" in point:
        known.setdefault("C", 6 * point["N"] * point["D"])
        known.setdefault("U", point["D"])
    return known


def _spread(
    answer: Callable[[Coefficients], Mapping[str, Any]], fitted: "Fit", draws: "Draws"
) -> dict[str, dict[str, float]]:
    """An answer of the fitted coefficients with the interval that it has over the draws, figure by figure."""
    value, drawn = answer(_law(fitted.coefficients)), answer(_law(draws.coefficients))
    return {name: _figure(float(each), drawn[name], draws) for name, each in value.items()}


def _figure(value: float, drawn: "np.ndarray", draws: "Draws") -> dict[str, float]:
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


def _cost(compute: float, price: Price | None) -> dict[str, float]:
    """The hours and the money that FLOPs take, where it was said what they cost."""
    from models import budgets

    if price is None:
        return {}
    rates = {"peak_flops_per_second": price.peak, "utilisation": price.utilisation}
    hours = {"gpu_hours": float(budgets.gpu_hours_of(compute, **rates))}
    if price.hourly is None:
        return hours
    return {**hours, "money": float(budgets.money_of(compute, price_per_gpu_hour=price.hourly, **rates))}


def _intervals_of(plans: Mapping[str, Any]) -> dict[str, list[float]]:
    """The interval of each derived figure by its dotted name, beside those of the coefficients."""
    return {
        f"{plan}.{name}": [figure["low"], figure["high"]]
        for plan, figures in plans.items()
        if isinstance(figures, Mapping)
        for name, figure in figures.items()
        if isinstance(figure, Mapping) and "low" in figure
    }


def _plots(runs: "Runs", fitted: "Fit", draws: "Draws", asked: Request) -> list[Path]:
    """Every picture that the runs' columns allow, and its path."""
    import numpy as np

    from tasks import fit_plots

    folder, columns = asked.plots, runs.columns()
    if folder is None or "C" not in columns:
        return []
    names = runs.run or tuple(f"line {line}" for line in runs.lines)
    paths = {name: folder / f"{name}.png" for name in ("residuals", "loss-by-compute", "equal-losses", "forecast")}
    sizes = {"N", "D"} <= columns.keys()
    shown = columns if "N" in columns else {**columns, "N": columns["C"]}
    fit_plots.residuals(shown, fitted.residuals, names, paths["residuals"])
    if not sizes:
        return [paths["residuals"]]
    fit_plots.loss_by_compute(columns, fitted.predict, paths["loss-by-compute"])
    fit_plots.contours(columns, fitted.predict, paths["equal-losses"], compute=asked.compute)
    reach = max(asked.compute or 0.0, 10 * float(columns["C"].max()))
    best = fit_plots.frontier(fitted.predict, np.geomspace(columns["C"].min(), 1.5 * reach, 60), columns)
    at = fit_plots.filled(columns, best["N"], best["D"])
    ends = np.quantile(draws.new_runs(at), [0.025, 0.975], axis=0)
    fit_plots.forecast(
        columns, fit_plots.Forecast(best["C"], best["L"], ends[0], ends[1]), paths["forecast"], at=asked.compute
    )
    return list(paths.values())


def _finite(value: Any) -> Any:
    """The same with null for what is no finite number, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
