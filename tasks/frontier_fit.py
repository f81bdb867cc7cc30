"""The best N and D of a budget read off a table of runs: approaches 1 and 2 of Chinchilla, which need no law."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.law_plans import cost, require_model

if TYPE_CHECKING:
    import numpy as np

    from models.frontier import Frontier
    from models.runs import Runs
    from models.scaling_laws import Fit
    from tasks.law_fit import Request

SHOWN = 5  # budgets that were left out, by name
CURVE = 4  # points at least: the loss of the best has three coefficients


@dataclass(frozen=True)
class Approach:
    """A way to the best models of some budgets, as `--laws` lists it."""

    name: str
    estimator: str
    source: str
    inputs: tuple[str, ...]
    bootstrap: str
    formula: str = "N_opt = k_N C^a, D_opt = k_D C^b"
    symbols: tuple[str, ...] = ("a", "b", "k_N", "k_D")


APPROACHES: Mapping[str, Approach] = {
    each.name: each
    for each in (
        Approach(
            "isoflop",
            "least squares: a parabola of L in ln N for each budget, and lines of ln N and ln D in ln C through their "
            "lowest points",
            "Hoffmann et al. 2022, 2203.15556, section 3.2 (approach 2)",
            ("N", "C"),
            "parametric",
        ),
        Approach(
            "envelope",
            "least squares: lines of ln N and ln D in ln C through the run with the least loss at each of 100 C",
            "Hoffmann et al. 2022, 2203.15556, section 3.1 (approach 1)",
            ("run", "N", "C"),
            "runs",
        ),
    )
}


def answer(runs: "Runs", asked: "Request") -> dict[str, Any]:
    """What `--json` prints of an approach. Raises ValueError for what the runs cannot answer, or it does not."""
    approach = APPROACHES[asked.law]
    _check(approach, asked)
    columns = runs.columns()
    frontier = _frontier(approach, runs, asked)
    law, notes = _law(columns, runs.names) if approach.name == "isoflop" else (None, [])
    bias = _bias(columns, law) if law else None
    document: dict[str, Any] = {
        "law": approach.name, "formula": approach.formula, "source": approach.source,
        "estimator": approach.estimator, "n": len(runs), "convention": runs.convention,
        "coefficients": frontier.coefficients, "intervals": dict(frontier.intervals),
        "starts": None, "bootstrap": {"draws": asked.draws, "kind": approach.bootstrap, "seed": asked.seed},
        "points": [point._asdict() for point in frontier.points],
        "warnings": [*runs.warnings, *_first(frontier.warnings)],
        "notes": [*asked.notes, *runs.notes, *notes, *_about_bias(bias, law)], "dropped": list(runs.dropped),
    }  # fmt: skip
    if bias:
        document["bias"] = bias
    if asked.compute is not None:
        optimum, note = _optimum(frontier, columns, asked, noise=approach.name == "isoflop")
        document["optimum"] = optimum
        document["intervals"] |= {f"optimum.{name}": _pair(each) for name, each in optimum.items() if _is_figure(each)}
        document["notes"] += note
    document["plots"] = _plots(columns, law, asked.plots, document["notes"])
    return document


def _check(approach: Approach, asked: "Request") -> None:
    plans = {
        "--target-loss": asked.target_loss, "--inference-tokens": asked.inference_tokens,
        "--unique-tokens": asked.unique_tokens, "--predict": asked.predict or None,
    }  # fmt: skip
    if wanted := [option for option, value in plans.items() if value is not None]:
        raise ValueError(
            f"{' and '.join(wanted)} need a law of the loss, and {approach.name} finds none, only the best N and D of "
            "a budget: take --law chinchilla"
        )


def _frontier(approach: Approach, runs: "Runs", asked: "Request") -> "Frontier":
    import numpy as np

    from models.isoflop import envelope, isoflop

    columns = runs.columns()
    if approach.name == "isoflop":
        return isoflop(columns, draws=asked.draws, seed=asked.seed)
    _require_curves(runs)
    return envelope({**columns, "run": np.array(runs.run)}, draws=asked.draws, seed=asked.seed)


def _require_curves(runs: "Runs") -> None:
    """Raises ValueError where no column says which rows are one run, or a run has two losses at one C."""
    if not runs.run:
        raise ValueError(
            "no column names the runs, and an envelope needs to know which rows are one run: call it `run`, or name it "
            "with --column run=NAME"
        )
    if unnamed := [place for place, name in enumerate(runs.run) if not name]:
        raise ValueError(f"{runs.names[unnamed[0]]} names no run: fill the column, for an envelope needs it")
    if len(set(runs.run)) == len(runs):
        raise ValueError(
            f"each of the {len(runs)} rows is a run of its own ({runs.run[0]!a}, ...), and an envelope needs many rows "
            "of each: give the curves, name another column with --column run=NAME, or take --law isoflop"
        )
    seen: dict[tuple[str, float], int] = {}
    compute = runs.columns()["C"].tolist()
    for place, at in enumerate(zip(runs.run, compute, strict=True)):
        if seen.setdefault(at, place) != place:
            raise ValueError(
                f"{runs.names[place]} is at the same {at[1]:.6g} FLOPs as {runs.names[seen[at]]}: keep one row, or "
                "name the runs apart"
            )


def _law(columns: Mapping[str, "np.ndarray"], names: tuple[str, ...]) -> tuple["Fit | None", list[str]]:
    """The Chinchilla law of the same runs, to judge the parabolas by, or why there is none."""
    from models.scaling_laws import fit

    try:
        return fit(columns, "chinchilla", names=names), []
    except ValueError as error:
        return None, [f"the bias of the parabolas is not known, for no Chinchilla law can be fitted: {error}"]


def _bias(columns: Mapping[str, "np.ndarray"], law: "Fit") -> dict[str, Any] | None:
    from models.isoflop import bias_at

    try:
        return {**bias_at(columns, law.coefficients), "law": law.coefficients}
    except ValueError:
        return None


def _about_bias(bias: Mapping[str, Any] | None, law: "Fit | None") -> list[str]:
    if law is None:
        return []
    if bias is None:
        return ["the bias of the parabolas is not known: under the Chinchilla law of these runs they have no vertex"]
    fitted = ", ".join(f"{name} = {law.coefficients[name]:.3g}" for name in ("alpha", "beta"))
    return [
        f"a loss is no parabola in ln N: were the Chinchilla law of these runs ({fitted}) exact, the parabolas would "
        f"find {bias['N']:.3g} times the best N on average, and a off by {bias['a']:+.3g}"
    ]


def _optimum(
    frontier: "Frontier", columns: Mapping[str, "np.ndarray"], asked: "Request", *, noise: bool
) -> tuple[dict[str, Any], list[str]]:
    """The best N and D of the budget, with the loss that the points' own losses foretell; and what to note of it."""
    compute = asked.compute or 0.0
    value, ends = frontier.predict(compute), frontier.interval(compute)
    require_model(value)
    found: dict[str, Any] = {
        name: {"value": float(value[name]), "low": ends[name][0], "high": ends[name][1]} for name in value
    }
    loss, note = _loss(frontier, asked, noise=noise)
    least, most = float(columns["C"].min()), float(columns["C"].max())
    outside = {"beyond_the_runs": compute / most, "below_the_runs": least / compute}
    found |= {"loss": loss, "C": compute, **outside, **cost(compute, asked.price)}
    return found, note


def _loss(frontier: "Frontier", asked: "Request", *, noise: bool) -> tuple[dict[str, float] | None, list[str]]:
    """L = E + A / C^alpha through the lowest points. Those of an envelope share runs, so they give no interval."""
    import numpy as np

    from models.estimators import least_squares
    from models.scaling_laws import fit

    points = {"C": np.array([point.C for point in frontier.points]), "L": np.array([p.loss for p in frontier.points])}
    at = {"C": np.array([asked.compute or 0.0])}
    if frontier.n < CURVE:
        return None, [f"no loss is foretold: {frontier.n} points, and L = E + A / C^alpha needs {CURVE} or more"]
    try:
        fitted = fit(points, "compute", estimator=least_squares())
    except ValueError as error:
        return None, [f"no loss is foretold: {error}"]
    value, said = float(fitted.predict(at)[0]), f"the loss is that of L = E + A / C^alpha through {frontier.n} points"
    if not noise:
        return {"value": value, "low": np.nan, "high": np.nan}, [f"{said}, which share runs: it has no interval"]
    draws = fitted.bootstrap(asked.draws, asked.seed, kind="parametric")
    low, high = draws.interval(draws.predict(at)[:, 0])
    return {"value": value, "low": low, "high": high}, [said]


def _plots(columns: Mapping[str, "np.ndarray"], law: "Fit | None", folder: Path | None, notes: list[str]) -> list[str]:
    if folder is None:
        return []
    if law is None:
        notes.append("no picture was written: loss-by-compute.png shows a Chinchilla law beside the parabolas, "
                     "so it belongs to --law isoflop and chinchilla")  # fmt: skip
        return []
    from tasks import fit_plots

    path = folder / "loss-by-compute.png"
    fit_plots.loss_by_compute(columns, law.predict, path)
    return [str(path)]


def _first(warnings: Sequence[str]) -> list[str]:
    """The warnings, those about budgets that were left out only as far as a reader follows."""
    left_out = [each for each in warnings if " is left out" in each]
    more = [f"{len(left_out) - SHOWN} more budgets are left out likewise"] if len(left_out) > SHOWN else []
    return [*left_out[:SHOWN], *more, *(each for each in warnings if each not in left_out)]


def _is_figure(value: Any) -> bool:
    return isinstance(value, Mapping) and "low" in value


def _pair(figure: Mapping[str, float]) -> list[float]:
    return [figure["low"], figure["high"]]
