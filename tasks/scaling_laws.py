"""A sweep over sizes and tokens, a fitted law, and the forecast of the run to come: made before it, scored after it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks import pages, pretrain, steps, workers
from tasks.artifacts import Checkpoint, Forecast, Tokenizer
from tasks.pretrain import PretrainRecipe
from tasks.settings import Execution

# Hoffmann et al. take 1e-3 for hundreds of runs. With a dozen that is a least-absolute fit, which passes exactly
# through as many runs as there are coefficients, so here it is the size of the noise between runs.
DELTA = 0.01
LEAST_RUNS = 5  # as many as L = E + A/N^alpha + B/D^beta has coefficients


class ScalingRecipe(BaseModel):
    """The sweep, and the budget that it plans for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: tuple[int, ...] = Field((2, 3, 4), description="Dial settings of the small runs.")
    tokens: tuple[int, ...] = Field(
        (40_000, 80_000, 160_000), description="Tokens of the small runs; every size takes each."
    )
    candidates: tuple[int, ...] = Field((4, 5, 6, 8), description="Dial settings that the main run may take.")
    compute: float = Field(3.6e12, gt=0, description="Budget of the main run in training FLOPs.")
    draws: int = Field(500, ge=100, le=20_000, description="Bootstrap draws of the forecast's interval.")

    @model_validator(mode="after")
    def _fixes_the_law(self) -> "ScalingRecipe":
        runs = len(set(self.sizes)) * len(set(self.tokens))
        if runs < LEAST_RUNS:
            raise ValueError(f"sizes and tokens give {runs} runs, the law has {LEAST_RUNS} coefficients: add some")
        return self


class FitRecipe(BaseModel):
    """What the fit itself depends on, the runs apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scaling: ScalingRecipe
    context: int


def point_steps(recipe: ScalingRecipe, base: PretrainRecipe, tokenizer: str) -> list[steps.Step]:
    """One step per size and token count: the pre-training recipe with both filled in."""
    return [
        steps.Step(
            stage="scaling",
            name=f"{size}x{tokens}",
            recipe=base.model_copy(update={"size": size, "tokens": tokens, "evaluations": 0}),
            inputs={"tokenizer": tokenizer},
            libraries=pretrain.LIBRARIES,
            modules=pretrain.MODULES,
        )
        for size in recipe.sizes
        for tokens in recipe.tokens
    ]


def work(point: steps.Step) -> float:
    """How long a run of the sweep takes, in an arbitrary unit."""
    assert isinstance(point.recipe, PretrainRecipe)
    return point.recipe.size * point.recipe.tokens


def fit_step(recipe: ScalingRecipe, base: PretrainRecipe, points: Sequence[str]) -> steps.Step:
    return steps.Step(
        stage="scaling", name="fit", recipe=FitRecipe(scaling=recipe, context=base.context),
        inputs={f"run-{number}": key for number, key in enumerate(points)},
        libraries=("numpy",), modules=("models.scaling_laws", "models.memory"),
    )  # fmt: skip


@task(task_run_name="train {this.name}", cache_policy=NO_CACHE)
def train_point(tokenizer: Tokenizer, this: steps.Step, execution: Execution) -> Checkpoint:
    """One small run of the sweep."""

    def build(folder: Path) -> dict[str, Any]:
        assert isinstance(this.recipe, PretrainRecipe)
        return pretrain.train(this, tokenizer, folder, this.recipe, execution)

    with workers.turn(execution.processes):
        return steps.materialise(this, Checkpoint, build, resumable=True)


@task(task_run_name="fit and forecast", cache_policy=NO_CACHE)
def fit_and_forecast(
    points: Sequence[Checkpoint], tokenizer: Tokenizer, recipe: ScalingRecipe, base: PretrainRecipe
) -> Forecast:
    """`fit.json`: the runs, the law, the size and tokens it picks for the budget, and the loss it forecasts."""
    this = fit_step(recipe, base, [point.key for point in points])

    def build(folder: Path) -> dict[str, Any]:
        runs = [{name: point.summary[name] for name in ("size", "parameters", "tokens", "loss")} for point in points]
        fitted = forecast(runs, recipe, vocabulary=tokenizer.summary["vocabulary"], context=base.context)
        (folder / "fit.json").write_text(json.dumps(fitted, indent=1) + "\n")
        return {
            **fitted["optimum"],
            **fitted["coefficients"],
            "low": fitted["forecast"]["low"],
            "high": fitted["forecast"]["high"],
        }

    made = steps.materialise(this, Forecast, build)
    pages.show_forecast(made)
    return made


def forecast(runs: Sequence[dict[str, Any]], recipe: ScalingRecipe, *, vocabulary: int, context: int) -> dict[str, Any]:
    """Fits the law to the runs and picks the candidate with the lowest predicted loss for the budget."""
    import numpy as np

    from models.architectures import dimensions
    from models.estimators import huber
    from models.memory import flops_per_token, parameters
    from models.scaling_laws import fit

    columns = {"N": "parameters", "D": "tokens", "L": "loss"}
    law = fit(
        {symbol: np.array([run[name] for run in runs], np.float64) for symbol, name in columns.items()},
        estimator=huber(DELTA), prior=True,
    )  # fmt: skip
    shapes = [dimensions(size) for size in recipe.candidates]
    options = [
        (parameters(shape, vocabulary)["total"], flops_per_token(shape, vocabulary, context)) for shape in shapes
    ]
    best, optimum = law.optimum_over(options, recipe.compute)
    draws = law.bootstrap(recipe.draws, kind="parametric")
    main = {"N": np.array([optimum.parameters]), "D": np.array([optimum.tokens])}
    low, high = draws.interval(draws.new_runs(main)[:, 0])
    return {
        "runs": [{"N": r["parameters"], "D": r["tokens"], "size": r["size"], "loss": r["loss"]} for r in runs],
        "law": law.law, "estimator": law.estimator, "coefficients": law.coefficients,
        "objective": law.objective, "noise": law.noise, "warnings": list(law.warnings),
        "convention": "N counts every parameter, the tied embedding once",
        "optimum": {
            "size": recipe.candidates[best], "parameters": round(optimum.parameters), "tokens": round(optimum.tokens),
            "compute": recipe.compute, "loss": optimum.loss,
        },
        "forecast": {"loss": optimum.loss, "low": low, "high": high},
    }  # fmt: skip
