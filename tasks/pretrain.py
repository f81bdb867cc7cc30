"""Pre-training of a model of any family, from scratch or onwards, on memory-mapped windows of a mixture."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.architectures import DECODERS, OBJECTIVES, Family
from tasks import distributed, forecasts, forgetting, imported, pages, steps, training, workers
from tasks.artifacts import Checkpoint, Forecast, Tokenizer
from tasks.errors import SourceError, UsageError
from tasks.settings import Execution
from tasks.speed import Chosen

logger = logging.getLogger("evergreen.pretrain")
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers")
MODULES = (
    "tasks.pretrain_worker",
    "tasks.training",
    "tasks.speed",
    "models.architectures",
    "models.baselines",
    "models.corruption",
    "models.lstm",
    "models.metrics",
    "models.objectives",
    "models.optimizers",
    "models.packing",
)


# The rate that a continued model warms up to falls with its width, as the best one of a hidden matrix does (Yang et
# al. 2022, arXiv 2203.03466). 0.8 gives the rate that nights have at width 160, and 2e-4 at that of Llama 7B (3e-4).
PEAK_TIMES_WIDTH, HIGHEST = 0.8, 5e-3
# Of matrices and of embeddings. BERT's norms stand behind the residual sums, which bear less; T5's embedding starts as
# wide as the rates of others would take long to move.
RATE = (2e-2, 2e-2)
RATES: Mapping[Family, tuple[float, float]] = {"bert": (5e-3, 5e-3), "t5": (1e-2, 5e-2)}
PRECISION = (
    "Of the arithmetic. auto: bf16-autocast where the processor has bf16 instructions, else fp32. bf16: weights and "
    "optimizer states in it too."
)


class PretrainRecipe(BaseModel):
    """How a model is trained from scratch. Size and tokens come from the scaling law unless they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(
        0, ge=0, le=256, description="The dial: width 32 * size, depth and heads follow. 0: what the fit picked."
    )
    tokens: int = Field(0, ge=0, description="Training tokens. 0: what the fit picked.")
    family: Family = Field(
        "llama", description="Decoders: llama, gpt2, bloom, palm. bert learns from masks, t5 from spans, lstm recurs."
    )
    mixture: dict[str, float] = Field(
        {"encyclopaedia": 0.8, "dialogue": 0.1, "speeches": 0.1},
        description="Share of each domain in the tokens; domains that the data lacks are left out.",
    )
    context: int = Field(128, ge=16, le=8192, description="Tokens per window.")
    documents: Literal["apart", "joined"] = Field(
        "apart", description="apart: no token sees one of another document, where the model can; joined: as they lie."
    )
    batch: int = Field(8, ge=1, le=4096, description="Windows per step.")
    learning_rate: float = Field(
        0, ge=0, lt=1,
        description="Peak learning rate of the matrices (Muon, matched to AdamW's scale). 0: 0.02, of bert "
        "0.005, of t5 0.01.",
    )  # fmt: skip
    embedding_learning_rate: float = Field(
        0,
        ge=0,
        lt=1,
        description="Peak learning rate of embeddings and norms (AdamW). 0: 0.02, of bert 0.005, of t5 0.05.",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps over which the learning rates rise from 0.")
    evaluations: int = Field(4, ge=0, le=100, description="How often the held-out loss is measured on the way.")
    validation_tokens: int = Field(
        32_768, ge=128, description="Held-out tokens of the mixture that the loss is measured on."
    )
    precision: Chosen = Field("auto", description=PRECISION)
    seed: int = Field(1, ge=0, description="Of the initial weights and the order of the data.")

    def with_rates(self) -> "PretrainRecipe":
        """With the learning rates of the family where none is given."""
        matrices, embeddings = RATES.get(self.family, RATE)
        return self.model_copy(update={
            "learning_rate": self.learning_rate or matrices,
            "embedding_learning_rate": self.embedding_learning_rate or embeddings,
        })  # fmt: skip


def step(recipe: PretrainRecipe, tokenizer: str, forecast: str) -> steps.Step:
    return steps.Step(
        stage="pretrain",
        name="main",
        recipe=recipe,
        inputs={"tokenizer": tokenizer, **({"forecast": forecast} if forecast else {})},
        libraries=LIBRARIES,
        modules=MODULES,
    )


@task(task_run_name="pre-train", cache_policy=NO_CACHE)
def pretrain_model(
    tokenizer: Tokenizer, forecast: Forecast | None, recipe: PretrainRecipe, execution: Execution
) -> Checkpoint:
    """Trains at the size and token count of the forecast, which is registered before and scored after it."""
    this = step(recipe, tokenizer.key, forecast.key if forecast else "")
    as_forecast = forecast is not None and not recipe.size and not recipe.tokens
    if forecast is not None and as_forecast:
        forecasts.register(this, forecast)

    def build(folder: Path) -> dict[str, Any]:
        _warn_of_missing(recipe.mixture, tokenizer)
        figures = train(this, tokenizer, folder, resolved(recipe, forecast), execution)
        training.finish(folder)
        return {**figures, **(_scored(figures["loss"], forecast) if as_forecast else {})}

    made = steps.materialise(this, Checkpoint, build, resumable=True)
    if as_forecast:
        forecasts.score(made)
    pages.show_scored(made)
    return made


class ContinueRecipe(BaseModel):
    """How a trained model goes on with new text: the learning rate is warmed up again and falls linearly to zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the new and replayed text.")
    tokens: int = Field(1_000_000, ge=1, description="Most training tokens.")
    mixture: dict[str, float] = Field(
        {"encyclopaedia": 0.8, "dialogue": 0.1, "speeches": 0.1},
        description="Share of each domain in the tokens; domains that the data lacks are left out. Empty: each by its "
        "length, which keeps the share of replay.",
    )
    context: int = Field(128, ge=16, le=8192, description="Tokens per window; at most the model's positions.")
    documents: Literal["apart", "joined"] = Field(
        "apart", description="apart: no token sees one of another document, where the model can; joined: as they lie."
    )
    batch: int = Field(8, ge=1, le=4096, description="Windows per step.")
    learning_rate: float = Field(
        5e-3, ge=0, lt=1, description="Learning rate of the matrices that it warms up to. 0: 0.8 / the model's width."
    )
    embedding_learning_rate: float = Field(
        5e-3, ge=0, lt=1, description="Learning rate of embeddings and norms that it warms up to. 0: 0.8 / the width."
    )
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps over which the learning rates rise from 0.")
    evaluations: int = Field(2, ge=0, le=100, description="How often the held-out loss is measured on the way.")
    validation_tokens: int = Field(32_768, ge=128, description="Held-out tokens that the loss is measured on.")
    precision: Chosen = Field("auto", description=PRECISION)
    seed: int = Field(1, ge=0, description="Of the order of the data.")

    def over(self, tokens: int, start: Path) -> PretrainRecipe:
        """The pre-training over a text of so many tokens, from the model in a folder."""
        count = max(self.batch * self.context, min(self.tokens, round(self.epochs * tokens)))
        shared = self.model_dump(exclude={"epochs", "tokens"})
        for name in ("learning_rate", "embedding_learning_rate"):
            shared[name] = shared[name] or min(HIGHEST, PEAK_TIMES_WIDTH / imported.width(start))
        return PretrainRecipe(**shared, tokens=count)


def continue_step(recipe: ContinueRecipe, tokenizer: str, start: str, earlier: str = "") -> steps.Step:
    """`earlier` is the key of the encoded data that the model has seen; empty where forgetting is not measured."""
    inputs = {"tokenizer": tokenizer, "start": start, **({"earlier": earlier} if earlier else {})}
    return steps.Step("pretrain", "continued", recipe, inputs, LIBRARIES, (*MODULES, "tasks.forgetting"))


@task(task_run_name="continue pre-training", cache_policy=NO_CACHE)
def continue_model(
    tokenizer: Tokenizer, start: Checkpoint, recipe: ContinueRecipe, execution: Execution,
    earlier: Tokenizer | None = None,
) -> Checkpoint:  # fmt: skip
    """Goes on from a model with the text that the tokenizer encoded; `loss` is held against `loss_before`.

    Both are of the new data; `earlier` has them of held-out text that the model knew, where that was encoded too.
    """
    this = continue_step(recipe, tokenizer.key, start.key, earlier.key if earlier else "")

    def build(folder: Path) -> dict[str, Any]:
        _warn_of_missing(recipe.mixture, tokenizer)
        tokens = sum(tokenizer.summary["tokens"]["train"].values())
        over = recipe.over(tokens, start.model)
        figures = train(this, tokenizer, folder, over, execution, start=start.model)
        first = {name: figures.pop(name) for name in ("loss_before", "loss")}
        if earlier:
            first["earlier"] = forgetting.measure(start.model, folder / "model", earlier, over, execution)
        training.finish(folder)
        return {**first, "learning_rate": over.learning_rate, **figures}

    made = steps.materialise(this, Checkpoint, build, resumable=True)
    before, after = made.summary["loss_before"], made.summary["loss"]
    if after > before:
        logger.warning("the held-out loss rose from %.3f to %.3f: lower the learning rates", before, after)
    return made


def _warn_of_missing(mixture: Mapping[str, float], tokenizer: Tokenizer) -> None:
    there = sorted(tokenizer.summary["tokens"]["train"])
    missing = sorted(set(mixture) - set(there))
    if not mixture:
        return
    if len(missing) == len(mixture):
        logger.warning(
            "the data has no domain of pretrain.mixture; all it has are used by length: %s", ", ".join(there)
        )
    elif missing:
        logger.warning("the data lacks %s of pretrain.mixture; its other domains are used", ", ".join(missing))


def require_positions(recipe: PretrainRecipe, positions: int) -> None:
    """Raises UsageError for a window longer than the positions that a fresh model learns; others only reckon with them.

    Fresh models have as many as the tokenizer's longest sequence.
    """
    if recipe.family in ("gpt2", "bert") and recipe.context > positions:
        raise UsageError(
            f"pretrain.context is {recipe.context}, and a {recipe.family} for this tokenizer learns {positions} "
            f"positions: set pretrain.context={positions} or less, or train a tokenizer with a larger tokenizer.context"
        )


def _scored(loss: float, forecast: Forecast | None) -> dict[str, Any]:
    """The forecast that was made before the run, held against what the run gave."""
    assert forecast is not None
    expected = {name: forecast.summary[name] for name in ("loss", "low", "high")}
    inside = expected["low"] <= loss <= expected["high"]
    return {"forecast": {**expected, "error": loss - expected["loss"], "inside": inside}}


def require_decoder(family: str) -> None:
    """Raises UsageError for a family that later stages cannot use: they need a transformer that writes on."""
    if family in OBJECTIVES and family not in DECODERS:
        raise UsageError(
            f"the model's family is {family}, which is for sweeps and pre-training alone: fine-tuning and what follows "
            f"it needs a decoder (pretrain.family={', '.join(DECODERS[:-1])} or {DECODERS[-1]})"
        )


def resolved(recipe: PretrainRecipe, forecast: Forecast | None) -> PretrainRecipe:
    """The recipe with size and tokens filled in. Raises UsageError where neither recipe nor forecast gives them."""
    picked = forecast.summary if forecast else {}
    size, tokens = recipe.size or picked.get("size", 0), recipe.tokens or picked.get("tokens", 0)
    if not size or not tokens:
        raise UsageError(
            f"pretrain.size is {recipe.size} and pretrain.tokens {recipe.tokens}: give both, or a forecast"
        )
    return recipe.model_copy(update={"size": int(size), "tokens": int(tokens)})


def train(
    this: steps.Step, tokenizer: Tokenizer, folder: Path, recipe: PretrainRecipe, execution: Execution, *,
    start: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains in a worker process with one thread: two of them side by side are faster than one with two threads.

    From fresh weights, or from those in the folder `start`. Raises SourceError where the text is too short, and
    UsageError where a window is longer than the positions that a fresh model learns.
    """
    if start is None:
        require_positions(recipe, tokenizer.summary["context"])
    for split in ("train", "validation"):
        longest = max(tokenizer.summary["tokens"].get(split, {}).values(), default=0)
        if longest < recipe.context:
            raise SourceError(
                f"the longest {split} text has {longest} tokens and a window {recipe.context}: add text to the source, "
                "or lower pretrain.context"
            )
    from tasks.pretrain_worker import train as work

    distributed.require(recipe.batch, execution)
    return workers.call(
        work, tokenizer.path, folder, recipe, execution, start, threads=execution.threads_each,
        processes=execution.processes, label=f"{this.stage}/{this.name}", log=folder / "log",
        devices=execution.devices, device=execution.device,
    )  # fmt: skip
