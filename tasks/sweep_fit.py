"""The law of a sweep: what `fit.json` holds, from the runs of each family to the forecast of the run to come."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.architectures import Family, added_tokens, shape_of
from models.costs import flops_per_token, parameters

if TYPE_CHECKING:
    import numpy as np

    from models.intervals import Draws
    from models.scaling_laws import Fit

LAW = "chinchilla"
# Hoffmann et al. take 1e-3 for hundreds of runs. With a dozen that is a least-absolute fit, which passes exactly
# through as many runs as there are coefficients, so here it is the size of the noise between runs.
DELTA = 0.01
# Columns of runs.csv, and what a record calls them.
COLUMNS = {
    "run": "run", "family": "family", "size": "size", "N": "N", "N_non_embedding": "non_embedding",
    "D": "D", "C": "C", "loss": "loss",
}  # fmt: skip


class Question(NamedTuple):
    """What the main run may be: its dial settings and budget in FLOPs; bootstrap draws; what fixes a model's cost."""

    candidates: tuple[int, ...]
    compute: float
    draws: int
    vocabulary: int
    context: int
    positions: int  # the longest sequence of the tokenizer, for which some families learn a table


def record(trained: Mapping[str, Any], vocabulary: int, context: int) -> dict[str, Any]:
    """A run as the law sees it: N parameters, those without embeddings, D tokens, C training FLOPs, the loss."""
    family: Family = trained["family"]
    each = flops_per_token(shape_of(trained["size"], family), vocabulary + len(added_tokens(family, context)), context)
    name = f"{trained['family']}-{trained['size']}x{trained['tokens']}"
    return {
        "run": name, "family": trained["family"], "size": trained["size"], "N": trained["parameters"],
        "non_embedding": trained["non_embedding"], "D": trained["tokens"], "C": each * trained["tokens"],
        "loss": trained["loss"],
    }  # fmt: skip


def write_runs(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """The table that `evergreen fit` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows([run[COLUMNS[name]] for name in COLUMNS] for run in runs)


def summarised(fitted: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What travels, and what MLflow shows as metrics."""
    expected = {name: fitted["forecast"][name] for name in ("low", "high")}
    others = {
        family: {**law["optimum"], **law["forecast"]}
        for family, law in fitted.get("families", {}).items()
        if family != fitted["family"]
    }
    described = {name: fitted[name] for name in ("family", "law", "estimator")}
    ranges = {name: dict(zip(("low", "high"), pair, strict=True)) for name, pair in fitted["intervals"].items()}
    health = {"condition": fitted["diagnostics"]["condition"], "warnings": len(fitted["warnings"])}
    return {
        **fitted["optimum"], **fitted["coefficients"], **expected, **described,
        "runs": len(runs), "sweep_flops": sum(run["C"] for run in runs),
        "noise": fitted["noise"], "starts_at_optimum": fitted["starts_at_optimum"], **health, "intervals": ranges,
        **({"families": others, "difference": fitted["comparison"]["difference"]} if others else {}),
    }  # fmt: skip


def fit_families(runs: Sequence[Mapping[str, Any]], asked: Question, *, main: Family, pictures: Path) -> dict[str, Any]:
    """The fit of the main run's family; with several, also each one's under `families`, and their `comparison`."""
    grouped: dict[Family, list[Mapping[str, Any]]] = {}
    for run in runs:
        grouped.setdefault(run["family"], []).append(run)
    prefixes = {family: f"{family}-" if len(grouped) > 1 else "" for family in grouped}
    fits = {family: forecast(each, asked, pictures, prefixes[family]) for family, each in grouped.items()}
    fitted = fits[main]
    if len(fits) == 1:
        return fitted
    (other,) = (family for family in fits if family != main)
    return {**fitted, "families": fits, "comparison": compare(fits, main, other)}


def compare(fits: Mapping[Any, Mapping[str, Any]], main: str, other: str) -> dict[str, Any]:
    """Two families at the main run's budget by their laws, and pair by pair at the runs that both have.

    `difference` is the loss of `other` minus that of `main` with a bootstrap interval over the pairs, which are of one
    size and equally long (grid: tokens, isoflop: budget): above 0 the main family is better.
    """
    from models.metrics import paired

    pairs = [
        {
            "size": ours["size"],
            "D": {main: ours["D"], other: theirs["D"]}, "N": {main: ours["N"], other: theirs["N"]},
            "loss": {main: ours["loss"], other: theirs["loss"]}, "difference": theirs["loss"] - ours["loss"],
        }
        for ours, theirs in zip(fits[main]["runs"], fits[other]["runs"], strict=True)
    ]  # fmt: skip
    losses = [[pair["loss"][family] for pair in pairs] for family in (other, main)]
    gap = paired(*losses)
    budget = {name: {**fits[name]["optimum"], **fits[name]["forecast"]} for name in (main, other)}
    return {
        "main": main, "other": other, "at_budget": budget, "pairs": pairs,
        "difference": {"mean": gap.mean, "low": gap.low, "high": gap.high},
    }  # fmt: skip


def forecast(runs: Sequence[Mapping[str, Any]], asked: Question, pictures: Path, prefix: str = "") -> dict[str, Any]:
    """Fits the law to runs of one family and picks the candidate with the lowest predicted loss for the budget.

    The pictures go into a folder, each name after the prefix. A dozen runs: the exponents carry a weak prior, and the
    intervals come from a parametric bootstrap.
    """
    import numpy as np

    from models.estimators import huber
    from models.scaling_laws import fit

    family: Family = runs[0]["family"]
    columns = {"N": "N", "D": "D", "C": "C", "L": "loss"}
    swept = {symbol: np.array([run[name] for run in runs], np.float64) for symbol, name in columns.items()}
    names = [run["run"] for run in runs]
    law = fit(swept, LAW, estimator=huber(DELTA), prior=True, names=names)
    draws = law.bootstrap(asked.draws, kind="parametric")
    shapes = [shape_of(size, family) for size in asked.candidates]
    vocabulary = asked.vocabulary + len(added_tokens(family, asked.context))
    options = [
        (
            parameters(shape, vocabulary, positions=asked.positions)["total"],
            flops_per_token(shape, vocabulary, asked.context),
        )
        for shape in shapes
    ]
    best, optimum = law.optimum_over(options, asked.compute)
    main = {"N": np.array([optimum.parameters]), "D": np.array([optimum.tokens])}
    low, high = draws.interval(draws.new_runs(main)[:, 0])
    sizes = np.array([n for n, _ in options], np.float64)
    draw(law, draws, swept, names, asked.compute, sizes, lambda name: pictures / f"{prefix}{name}.png")
    return {
        "family": family, "law": law.law, "estimator": law.estimator, "runs": list(map(dict, runs)),
        "coefficients": law.coefficients, "intervals": _intervals(law, draws, asked.compute),
        "objective": law.objective, "noise": law.noise, "warnings": list(law.warnings),
        "starts": law.starts, "starts_at_optimum": law.starts_at_optimum, "diagnostics": law.diagnostics,
        "convention": "N counts every parameter, the tied embedding once",
        "optimum": {
            "size": asked.candidates[best], "parameters": round(optimum.parameters), "tokens": round(optimum.tokens),
            "compute": asked.compute, "loss": optimum.loss,
        },
        "forecast": {"loss": optimum.loss, "low": low, "high": high, "beyond": law.reach(main)},
    }  # fmt: skip


def _intervals(law: "Fit", draws: "Draws", compute: float) -> dict[str, list[float]]:
    """95%, of every coefficient and of the N and D that the law itself likes best for the budget (C = 6 N D)."""
    import numpy as np

    from models.compute_optimal import optimum

    ideal = optimum(draws.coefficients, compute=compute)
    figures = {**draws.coefficients, **{f"optimum.{name}": ideal[name] for name in ("N", "D", "tokens_per_parameter")}}
    return {name: list(draws.interval(np.asarray(values))) for name, values in figures.items()}


def draw(
    law: "Fit", draws: "Draws", swept: Mapping[str, "np.ndarray"], names: Sequence[str], compute: float,
    sizes: "np.ndarray", path: Callable[[str], Path],
) -> None:  # fmt: skip
    """Loss by compute with the parabolas of budgets, lines of equal loss, the forecast, the residuals.

    The best of a budget is the best of the `sizes` that there are.
    """
    import numpy as np

    from tasks import fit_plots

    fit_plots.residuals(swept, law.residuals, names, path("residuals"))
    fit_plots.loss_by_compute(swept, law.predict, path("loss-by-compute"), sizes=sizes)
    fit_plots.contours(swept, law.predict, path("equal-losses"), compute=compute, sizes=sizes)
    reach = np.unique([*np.geomspace(swept["C"].min(), 3 * max(compute, swept["C"].max()), 60), compute])
    best = fit_plots.frontier(law.predict, reach, swept, sizes)
    low, high = np.transpose([draws.interval(column) for column in draws.new_runs(best).T])
    expected = fit_plots.Forecast(best["C"], best["L"], low, high)
    fit_plots.forecast(swept, expected, path("forecast"), at=compute, sizes=sizes)
