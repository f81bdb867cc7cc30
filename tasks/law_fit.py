"""A scaling law fitted to a table of runs: the law, how sure it is, and what it answers about a budget or a goal."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import frontier_fit, law_plans
from tasks.errors import UsageError
from tasks.frontier_fit import APPROACHES
from tasks.law_plans import PLANNED, completed

if TYPE_CHECKING:
    import numpy as np

    from models.intervals import Draws
    from models.runs import Runs
    from models.scaling_laws import Fit

BEST = "best"  # the law that predicts best beyond a cut-off
CURVE = 4  # rows of one name and size, on average, that look like a curve
MOST_RESAMPLED = 40_000_000  # rows of all resamples together, each 8 bytes and more
FEW = 50  # runs; resampling fewer leaves refits nothing to stand on


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

    if law in APPROACHES:
        return ("N", "C")
    try:
        return ("N", "D") if law == BEST else named(law).inputs
    except ValueError as error:
        others = f"{', '.join(APPROACHES)} find the best N and D without one"
        raise UsageError(f"{error}; {others}, and --law best takes the one that forecasts best") from None


def answer(runs: "Runs", asked: Request) -> dict[str, Any]:
    """What `evergreen fit --json` prints. Raises UsageError for what the runs, or the law, cannot answer."""
    import numpy as np

    began = time.perf_counter()
    _require_folder(asked.plots)
    try:
        _check_runs(runs)
        with np.errstate(all="ignore"):
            found = frontier_fit.answer(runs, asked) if asked.law in APPROACHES else _answer(runs, asked)
    except ValueError as error:
        raise UsageError(str(error)) from None
    found["seconds"] = time.perf_counter() - began
    said: dict[str, Any] = finite(found)
    return said


def _check_runs(runs: "Runs") -> None:
    if len(runs) > 1 and float(runs.L.max()) == float(runs.L.min()):
        raise ValueError(
            f"all {len(runs)} runs have the same loss, {runs.L[0]:g}: no law follows from that; is it the right column?"
        )


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
    _require_room(len(runs), asked.draws)
    columns = runs.columns()
    compared = _compared(runs, estimator) if asked.law == BEST else []
    law = named(compared[0]["law"] if compared else asked.law)
    _check(law.name, asked)
    _check_ratio(columns, law.name, asked)
    fitted = fit(columns, law.name, estimator=estimator, starts=asked.starts, prior=asked.prior, names=runs.names)
    kind = "pairs" if fitted.n >= FEW else "parametric"
    draws = fitted.bootstrap(asked.draws, asked.seed, kind=kind)
    plans = law_plans.plans(fitted, draws, asked)
    return {
        "law": law.name, "formula": law.formula, "source": law.source,
        "estimator": fitted.estimator, "n": fitted.n, "convention": runs.convention,
        "coefficients": fitted.coefficients, "objective": fitted.objective, "noise": fitted.noise,
        "intervals": {**{name: list(draws.interval(each)) for name, each in draws.coefficients.items()},
                      **law_plans.intervals_of(plans)},
        "profile_intervals": {**{name: list(pair) for name, pair in fitted.profile().items()},
                              **law_plans.intervals_of(plans, profile=True)},
        "starts": fitted.starts, "starts_at_optimum": fitted.starts_at_optimum, "fit_seconds": fitted.seconds,
        "bootstrap": {"draws": asked.draws, "kind": kind, "seed": asked.seed},
        "warnings": [*runs.warnings, *_curves(runs), *fitted.warnings], "notes": [*asked.notes, *runs.notes],
        "dropped": list(runs.dropped), "diagnostics": fitted.diagnostics, "comparison": compared,
        **plans,
        "plots": [str(path) for path in _plots(runs, fitted, draws, asked)] if asked.plots else [],
    }  # fmt: skip


def _require_room(runs: int, draws: int) -> None:
    """Raises ValueError where the resamples would fill the memory and take hours."""
    if runs * draws <= MOST_RESAMPLED:
        return
    fewer = MOST_RESAMPLED // runs
    remedy = f", or take --bootstrap {fewer}" if fewer >= 100 else ""
    raise ValueError(
        f"{runs:,} rows in {draws:,} resamples take {8e-9 * runs * draws:.1f} GB and many minutes: if they are "
        f"training curves, keep the last row of each{remedy}"
    )


def _curves(runs: "Runs") -> list[str]:
    """A warning where many rows have one name and one size: they look like points of training curves."""
    found = set(zip(runs.run, runs.columns().get("N", runs.L).tolist(), strict=True)) if runs.run else set()
    if not found or len(runs) < CURVE * len(found):
        return []
    return [
        f"{len(runs):,} rows are of {len(found):,} runs by their names: if they are points of training curves, keep "
        "the last of each, for the others are in mid-schedule, and not independent of each other"
    ]


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
        _check_point(law, point)
        absent = [symbol for symbol in named(law).inputs if symbol not in completed(point)]
        if absent:
            raise ValueError(f"--predict needs {', '.join(absent)} as well: the law {law} takes {named(law).inputs}")


def _check_ratio(columns: Mapping[str, "np.ndarray"], law: str, asked: Request) -> None:
    """Raises ValueError for a question about N and D to runs that have only their product in many values."""
    from models.diagnosis import one_ratio

    asks = (asked.compute, asked.target_loss, asked.inference_tokens, asked.unique_tokens)
    if law in PLANNED and any(each is not None for each in asks) and one_ratio(columns):
        ratio = float((columns["D"] / columns["N"]).mean())
        raise ValueError(
            f"all runs have {ratio:.3g} tokens per parameter, so they cannot say how to spend a budget: add runs with "
            "more and with fewer, or ask --law compute for the loss of a budget that is spent in this way"
        )


def _check_point(law: str, point: Mapping[str, float]) -> None:
    """Raises ValueError for what the law does not take, and for FLOPs that are not those of N and D."""
    from models.laws import named

    inputs = named(law).inputs
    both = {"N", "D"} <= point.keys()
    known = {*inputs, *("ND" if "C" in inputs else ""), *("C" if both else "")}
    if foreign := [symbol for symbol in point if symbol not in known]:
        raise ValueError(f"--predict gives {', '.join(foreign)}, and the law {law} takes {', '.join(inputs)}: leave "
                         f"{'it' if len(foreign) == 1 else 'them'} out")  # fmt: skip
    if both and "C" in point and not 0.5 <= point["C"] / (6 * point["N"] * point["D"]) <= 2:
        raise ValueError(
            f"--predict gives C = {point['C']:.3g}, and 6 N D is {6 * point['N'] * point['D']:.3g}: leave one out"
        )


def _plots(runs: "Runs", fitted: "Fit", draws: "Draws", asked: Request) -> list[Path]:
    """Every picture that the runs' columns allow, and its path."""
    import numpy as np

    from tasks import fit_plots

    folder, columns = asked.plots, runs.columns()
    if folder is None or "C" not in columns:
        return []
    names = runs.run or runs.names
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


def finite(value: Any) -> Any:
    """The same with null for what is no finite number, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
