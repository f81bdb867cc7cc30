"""Pre-training of a decoder from scratch with the Hugging Face Trainer, on memory-mapped windows of a mixture."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.architectures import Family
from tasks import forecasts, pages, parallel, steps, workers
from tasks.artifacts import Checkpoint, Forecast, Tokenizer
from tasks.errors import SourceError, UsageError
from tasks.settings import Execution

logger = logging.getLogger("evergreen.pretrain")
LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers")
MODULES = (
    "tasks.training",
    "models.architectures",
    "models.optimizers",
    "models.packing",
    "models.baselines",
    "models.generation",
    "models.metrics",
)


class PretrainRecipe(BaseModel):
    """How a model is trained from scratch. Size and tokens come from the scaling law unless they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(
        0, ge=0, le=256, description="The dial: width 32 * size, depth and heads follow. 0: what the fit picked."
    )
    tokens: int = Field(0, ge=0, description="Training tokens. 0: what the fit picked.")
    family: Family = Field("llama", description="The decoder, or an LSTM to compare it with.")
    mixture: dict[str, float] = Field(
        {"encyclopaedia": 0.8, "dialogue": 0.1, "speeches": 0.1},
        description="Share of each domain in the tokens; domains that the data lacks are left out.",
    )
    context: int = Field(128, ge=16, le=8192, description="Tokens per window.")
    batch: int = Field(8, ge=1, le=4096, description="Windows per step.")
    learning_rate: float = Field(
        2e-2, gt=0, lt=1, description="Peak learning rate of the matrices (Muon, matched to AdamW's scale)."
    )
    embedding_learning_rate: float = Field(
        2e-2, gt=0, lt=1, description="Peak learning rate of embeddings and norms (AdamW)."
    )
    evaluations: int = Field(4, ge=0, le=100, description="How often the held-out loss is measured on the way.")
    validation_tokens: int = Field(
        32_768, ge=128, description="Held-out tokens of the mixture that the loss is measured on."
    )
    seed: int = Field(1, ge=0, description="Of the initial weights and the order of the data.")


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
        return {**figures, **(_scored(figures["loss"], forecast) if as_forecast else {})}

    made = steps.materialise(this, Checkpoint, build, resumable=True)
    if as_forecast:
        forecasts.score(made)
    pages.show_scored(made)
    return made


class ContinueRecipe(BaseModel):
    """How a trained model goes on with new text: at a quarter of the first learning rate, warmed up again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the new and replayed text.")
    tokens: int = Field(1_000_000, ge=1, description="Most training tokens.")
    mixture: dict[str, float] = Field(
        {"encyclopaedia": 0.8, "dialogue": 0.1, "speeches": 0.1},
        description="Share of each domain in the tokens; domains that the data lacks are left out.",
    )
    context: int = Field(128, ge=16, le=8192, description="Tokens per window.")
    batch: int = Field(8, ge=1, le=4096, description="Windows per step.")
    learning_rate: float = Field(5e-3, gt=0, lt=1, description="Peak learning rate of the matrices.")
    embedding_learning_rate: float = Field(5e-3, gt=0, lt=1, description="Peak learning rate of embeddings and norms.")
    evaluations: int = Field(2, ge=0, le=100, description="How often the held-out loss is measured on the way.")
    validation_tokens: int = Field(32_768, ge=128, description="Held-out tokens that the loss is measured on.")
    seed: int = Field(1, ge=0, description="Of the order of the data.")

    def over(self, tokens: int) -> PretrainRecipe:
        """The pre-training over a text of so many tokens."""
        count = max(self.batch * self.context, min(self.tokens, round(self.epochs * tokens)))
        shared = self.model_dump(exclude={"epochs", "tokens"})
        return PretrainRecipe(**shared, tokens=count)


def continue_step(recipe: ContinueRecipe, tokenizer: str, start: str) -> steps.Step:
    return steps.Step(
        stage="pretrain", name="continued", recipe=recipe, inputs={"tokenizer": tokenizer, "start": start},
        libraries=LIBRARIES, modules=MODULES,
    )  # fmt: skip


@task(task_run_name="continue pre-training", cache_policy=NO_CACHE)
def continue_model(tokenizer: Tokenizer, start: Checkpoint, recipe: ContinueRecipe, execution: Execution) -> Checkpoint:
    """Goes on from a model with the text that the tokenizer encoded; `loss` is held against `loss_before`."""
    this = continue_step(recipe, tokenizer.key, start.key)

    def build(folder: Path) -> dict[str, Any]:
        _warn_of_missing(recipe.mixture, tokenizer)
        tokens = sum(tokenizer.summary["tokens"]["train"].values())
        return train(this, tokenizer, folder, recipe.over(tokens), execution, start=start.model)

    return steps.materialise(this, Checkpoint, build, resumable=True)


def _warn_of_missing(mixture: Mapping[str, float], tokenizer: Tokenizer) -> None:
    there = sorted(tokenizer.summary["tokens"]["train"])
    missing = sorted(set(mixture) - set(there))
    if len(missing) == len(mixture):
        logger.warning(
            "the data has no domain of pretrain.mixture; all it has are used by length: %s", ", ".join(there)
        )
    elif missing:
        logger.warning("the data lacks %s of pretrain.mixture; its other domains are used", ", ".join(missing))


def _scored(loss: float, forecast: Forecast | None) -> dict[str, Any]:
    """The forecast that was made before the run, held against what the run gave."""
    assert forecast is not None
    expected = {name: forecast.summary[name] for name in ("loss", "low", "high")}
    inside = expected["low"] <= loss <= expected["high"]
    return {"forecast": {**expected, "error": loss - expected["loss"], "inside": inside}}


def require_decoder(family: str) -> None:
    """Raises UsageError for a model that later stages cannot use: an LSTM has no LoRA targets and generates nothing."""
    if family != "llama":
        raise UsageError(
            f"the model's family is {family}, which is for sweeps and pre-training alone: fine-tuning and what follows "
            "it needs a decoder (pretrain.family=llama)"
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

    From fresh weights, or from those in the folder `start`. Raises SourceError where the text is too short.
    """
    for split in ("train", "validation"):
        longest = max(tokenizer.summary["tokens"].get(split, {}).values(), default=0)
        if longest < recipe.context:
            raise SourceError(
                f"the longest {split} text has {longest} tokens and a window {recipe.context}: add text to the source, "
                "or lower pretrain.context"
            )
    parallel.share(recipe.batch, max(1, execution.devices))
    return workers.call(
        _train, tokenizer.path, folder, recipe, execution, start, threads=execution.threads_each,
        processes=execution.processes, label=f"{this.stage}/{this.name}", log=folder / "log",
        devices=execution.devices, device=execution.device,
    )  # fmt: skip


def _train(
    tokens: Path, folder: Path, recipe: PretrainRecipe, execution: Execution, start: Path | None
) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    from models.architectures import fresh_model
    from models.optimizers import MuonAdamW
    from models.packing import PackedWindows
    from tasks import training

    tokenizer = AutoTokenizer.from_pretrained(tokens / "tokenizer")
    windows = {
        split: PackedWindows(tokens / "tokens" / split, recipe.mixture, context=recipe.context, tokens=count)
        for split, count in (("train", recipe.tokens), ("validation", recipe.validation_tokens))
    }
    if start:
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager", dtype="float32")
    else:
        model = fresh_model(recipe.size, tokenizer, seed=recipe.seed, family=recipe.family)
    before = {"loss_before": _loss(model, windows["validation"])} if start else {}
    optimizer = MuonAdamW(model, lr=recipe.learning_rate, embedding_lr=recipe.embedding_learning_rate)
    steps_ = max(1, len(windows["train"]) // recipe.batch)
    arguments = training.arguments(
        folder, seed=recipe.seed, device=execution.device, steps=steps_,
        batch=parallel.share(recipe.batch, parallel.world()), learning_rate=recipe.learning_rate,
        per_device_eval_batch_size=parallel.evaluation_batch(len(windows["validation"])), prediction_loss_only=True,
        eval_strategy="steps" if recipe.evaluations else "no", eval_steps=max(1, steps_ // max(1, recipe.evaluations)),
        **parallel.arguments(execution),
    )  # fmt: skip
    trainer = Trainer(
        model, TrainingArguments(**arguments), train_dataset=windows["train"], eval_dataset=windows["validation"],
    )  # fmt: skip
    trainer.optimizer = optimizer  # as an argument the Trainer refuses it under FSDP
    figures = training.run(trainer, folder, tokens_per_step=recipe.batch * recipe.context)
    loss = trainer.evaluate()["eval_loss"]
    baselines = _baselines(model, windows, len(tokenizer)) if recipe.evaluations else {}
    parallel.save(trainer, model, folder / "model")
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(folder / "model")
        training.finish(folder)
    return {
        **figures,
        **baselines,
        **before,
        "loss": loss,
        "family": recipe.family,
        "size": recipe.size,
        "tokens": steps_ * recipe.batch * recipe.context,
        "parameters": sum(p.numel() for p in model.parameters()),
        "non_embedding": sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel(),
    }


def _loss(model: Any, held_out: Any) -> float:
    from models.generation import window_losses

    losses = window_losses(model, held_out.all_ids())
    return sum(losses) / len(losses)


def _baselines(model: Any, windows: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """Unigram and bigram on the same training tokens, and the paired gain over each on the held-out windows."""
    from models.baselines import bigram_losses, unigram_losses
    from models.generation import window_losses
    from models.metrics import paired

    train, held_out = windows["train"].all_ids(), windows["validation"].all_ids()
    own = window_losses(model, held_out)
    figures: dict[str, Any] = {}
    for name, measure in (("unigram", unigram_losses), ("bigram", bigram_losses)):
        losses = measure(train, held_out, vocabulary)
        gain = paired(losses, own)
        figures |= {
            name: float(losses.mean()),
            f"gain_over_{name}": {"mean": gain.mean, "low": gain.low, "high": gain.high},
        }
    return figures
