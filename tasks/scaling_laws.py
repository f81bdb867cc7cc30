"""A sweep over sizes and tokens, a fitted law, and the forecast of the run to come: made before it, scored after it."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.architectures import OBJECTIVES, Family, added_tokens, shape_of
from models.costs import flops_per_token
from tasks import pages, pretrain, steps, sweep_fit, training, workers
from tasks.artifacts import Checkpoint, Forecast, Tokenizer
from tasks.errors import UsageError
from tasks.law_fit import finite
from tasks.pretrain import PretrainRecipe
from tasks.settings import Execution

LEAST_RUNS = 5  # for each family: as many as L = E + A/N^alpha + B/D^beta has coefficients

Size = Annotated[int, Field(ge=1, le=256)]


class ScalingRecipe(BaseModel):
    """The sweep, and the budget that it plans for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    design: Literal["grid", "isoflop"] = Field(
        "grid", description="grid: every size takes each of `tokens`. isoflop: every size spends each of `budgets`."
    )
    families: tuple[Family, ...] = Field(("llama",), description="The models swept: one or two, of one objective.")
    sizes: tuple[Size, ...] = Field((2, 3, 4), description="Dial settings of the small runs.")
    tokens: tuple[int, ...] = Field(
        (40_000, 80_000, 160_000), description="Tokens of the small runs of a grid; every size takes each."
    )
    budgets: tuple[float, ...] = Field(
        (), description="Training FLOPs of each small run of an isoflop sweep; its tokens are what they buy."
    )
    candidates: tuple[Size, ...] = Field((4, 5, 6, 8), description="Dial settings that the main run may take.")
    compute: float = Field(3.6e12, gt=0, description="Budget of the main run in training FLOPs.")
    most: float = Field(0, ge=0, description="The most training FLOPs that the whole sweep may take. 0: no limit.")
    draws: int = Field(500, ge=100, le=20_000, description="Bootstrap draws of the forecast's interval.")

    @property
    def axis(self) -> str:
        """The field that says how long the runs are."""
        return "tokens" if self.design == "grid" else "budgets"

    @property
    def lengths(self) -> tuple[float, ...]:
        return self.tokens if self.design == "grid" else self.budgets

    @model_validator(mode="after")
    def _fixes_the_law(self) -> "ScalingRecipe":
        for name in ("families", "sizes", self.axis):
            _refuse_twice(name, getattr(self, name))
        if not self.families:
            raise ValueError("families names none: give one or two, such as llama and lstm")
        if len(self.families) > 2:
            raise ValueError(
                f"families names {len(self.families)}, and a sweep compares two at most: leave out all but two of "
                f"{', '.join(self.families)}"
            )
        if len({OBJECTIVES[family] for family in self.families}) > 1:
            raise ValueError(
                f"families {', '.join(self.families)} learn different things ("
                f"{', '.join(OBJECTIVES[family] for family in self.families)}), so their losses do not compare: sweep "
                "those of one objective together"
            )
        runs = len(self.sizes) * len(self.lengths)
        if runs < LEAST_RUNS:
            raise ValueError(f"sizes and {self.axis} give {runs} runs, the law has {LEAST_RUNS} coefficients: add some")
        for name, values in (("sizes", self.sizes), (self.axis, self.lengths)):
            if len(values) < 2:
                raise ValueError(f"{name} has one value, {values[0]}: a law in N and D needs two or more of each")
        if min(self.lengths) <= 0:
            raise ValueError(f"{self.axis} holds {min(self.lengths)}: each must be above 0")
        return self


class FitRecipe(BaseModel):
    """What the fit itself depends on, the runs apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scaling: ScalingRecipe
    context: int
    family: Family


class Point(NamedTuple):
    """A run of the sweep as planned, and the training FLOPs that it takes."""

    family: Family
    size: int
    tokens: int
    flops: float

    @property
    def name(self) -> str:
        prefix = "" if self.family == "llama" else f"{self.family}-"
        return f"{prefix}{self.size}x{self.tokens}"


def points(recipe: ScalingRecipe, base: PretrainRecipe, vocabulary: int) -> list[Point]:
    """The runs by family, size and length.

    Raises UsageError where a run is shorter than one batch, the sweep dearer than `most`, or the family of the main
    run is not among those swept.
    """
    require_swept(recipe, base.family)
    batch = base.batch * base.context
    planned = []
    for family, size, length in product(recipe.families, recipe.sizes, recipe.lengths):
        words = vocabulary + len(added_tokens(family, base.context))
        each = flops_per_token(shape_of(size, family), words, base.context)
        # what a budget buys in whole batches: no run takes part of one
        tokens = int(length) if recipe.design == "grid" else int(length / each / batch) * batch
        if tokens < batch:
            bought = int(length / each) if recipe.design == "isoflop" else tokens
            raise UsageError(
                f"size {size} ({family}) with {length:,.6g} of `{recipe.axis}` trains {bought:,} tokens, and one batch "
                f"holds {batch:,} ({base.batch} windows of {base.context}): raise it, or leave the size out"
            )
        planned.append(Point(family, size, tokens, float(each * (tokens // batch) * batch)))
    _refuse_dear(planned, recipe)
    return planned


def require_swept(recipe: ScalingRecipe, family: Family) -> None:
    """Raises UsageError for a family of the main run that the sweep does not train: no law would be its own."""
    if family not in recipe.families:
        raise UsageError(
            f"pretrain.family is {family}, and the sweep trains {', '.join(recipe.families)}: name it in the families "
            f"of the sweep too, as in --set 'scaling.families=[{family}]' (alone: recipe.families)"
        )


def require_life_cycle(recipe: ScalingRecipe, base: PretrainRecipe, positions: int) -> None:
    """Raises UsageError for a family or context that a later stage refuses, while nothing has run yet."""
    pretrain.require_decoder(base.family)
    require_swept(recipe, base.family)
    pretrain.require_positions(base, positions)


def _refuse_dear(planned: Sequence[Point], recipe: ScalingRecipe) -> None:
    total = sum(point.flops for point in planned)
    if recipe.most and total > recipe.most:
        largest = max(planned, key=lambda point: point.flops)
        raise UsageError(
            f"the sweep's {len(planned)} runs take {total:.3g} training FLOPs, and `most` allows {recipe.most:.3g}: "
            f"lower `{recipe.axis}`, or take out some of `sizes` or `families` (the dearest run, {largest.name}, takes "
            f"{largest.flops:.3g})"
        )


def _refuse_twice(name: str, values: Sequence[object]) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{name} names {twice[0]} {values.count(twice[0])} times: a run counts once")


def point_steps(recipe: ScalingRecipe, base: PretrainRecipe, tokenizer: str, vocabulary: int) -> list[steps.Step]:
    """One step for each run: the pre-training recipe with family, size and tokens filled in. Raises UsageError."""
    return [
        steps.Step(
            stage="scaling",
            name=point.name,
            recipe=base.model_copy(
                update={"family": point.family, "size": point.size, "tokens": point.tokens, "evaluations": 0}
            ),
            inputs={"tokenizer": tokenizer},
            libraries=pretrain.LIBRARIES,
            modules=pretrain.MODULES,
        )
        for point in points(recipe, base, vocabulary)
    ]


def work(point: steps.Step) -> float:
    """How long a run of the sweep takes, in an arbitrary unit."""
    assert isinstance(point.recipe, PretrainRecipe)
    return point.recipe.size * point.recipe.tokens


def fit_step(recipe: ScalingRecipe, base: PretrainRecipe, points: Sequence[str]) -> steps.Step:
    """What the sweep was allowed to cost decides nothing, so `most` is left out."""
    decisive = recipe.model_copy(update={"most": 0.0})
    return steps.Step(
        stage="scaling", name="fit", recipe=FitRecipe(scaling=decisive, context=base.context, family=base.family),
        inputs={f"run-{number}": key for number, key in enumerate(points)},
        libraries=("numpy", "scipy"), modules=("tasks.sweep_fit",),
    )  # fmt: skip


@task(task_run_name="train {this.name}", cache_policy=NO_CACHE)
def train_point(tokenizer: Tokenizer, this: steps.Step, execution: Execution) -> Checkpoint:
    """One small run of the sweep."""

    def build(folder: Path) -> dict[str, Any]:
        assert isinstance(this.recipe, PretrainRecipe)
        figures = pretrain.train(this, tokenizer, folder, this.recipe, execution.on_one_device)
        training.finish(folder)
        return figures

    with workers.turn(execution.processes):
        return steps.materialise(this, Checkpoint, build, resumable=True)


@task(task_run_name="fit and forecast", cache_policy=NO_CACHE)
def fit_and_forecast(
    points: Sequence[Checkpoint], tokenizer: Tokenizer, recipe: ScalingRecipe, base: PretrainRecipe
) -> Forecast:
    """`fit.json`: the runs, each family's law, what it picks for the budget and forecasts. `runs.csv`: the runs."""
    this = fit_step(recipe, base, [point.key for point in points])
    vocabulary, positions = tokenizer.summary["vocabulary"], tokenizer.summary["context"]
    asked = sweep_fit.Question(recipe.candidates, recipe.compute, recipe.draws, vocabulary, base.context, positions)

    def build(folder: Path) -> dict[str, Any]:
        runs = [sweep_fit.record(point.summary, vocabulary, base.context) for point in points]
        fitted = finite(sweep_fit.fit_families(runs, asked, main=base.family, pictures=folder / "log"))
        (folder / "fit.json").write_text(json.dumps(fitted, indent=1, allow_nan=False) + "\n")
        sweep_fit.write_runs(folder / "runs.csv", runs)
        return sweep_fit.summarised(fitted, runs)

    made = steps.materialise(this, Forecast, build, files=("fit.json", "runs.csv"))
    pages.show_forecast(made)
    return made
