"""Instruction fine-tuning with TRL's SFTTrainer: LoRA on a base model, or all weights of a fresh one as the control."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.architectures import Family
from tasks import loading, steps, workers
from tasks.artifacts import Checkpoint, Dataset, Forecast, Tokenizer
from tasks.errors import SourceError
from tasks.pretrain import PretrainRecipe
from tasks.rows import read
from tasks.settings import Execution

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
MODULES = (
    "tasks.sft_worker", "tasks.training", "tasks.speed", "tasks.loading", "models.adapters", "models.architectures",
    "models.objectives", "models.optimizers", "models.tokenizer", "models.exported",
)  # fmt: skip


class SFTRecipe(BaseModel):
    """How a base model learns to follow instructions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mixture: dict[str, float] = Field(
        {"gloss": 1.0, "docstring": 1.0, "given": 1.0, "topic": 0.05, "name": 0.03, "reply": 0.03},
        description="Share of each kind of instruction in an epoch; kinds that the data lacks are left out.",
    )
    epochs: float = Field(3.0, gt=0, le=100, description="Passes over the mixture.")
    batch: int = Field(16, ge=1, le=4096, description="Examples per step.")
    learning_rate: float = Field(1e-2, gt=0, lt=1, description="Peak learning rate of the adapter.")
    embeddings: bool = Field(True, description="Also train the token embeddings, the tied head with them.")
    rank: int = Field(64, ge=1, le=1024, description="Rank of the LoRA matrices, on every linear layer.")
    load: loading.Load = Field(
        "fp32", description="Precision of the frozen base while the adapter trains; int8 and int4 need bitsandbytes."
    )
    max_length: int = Field(128, ge=16, le=8192, description="Examples of more tokens are left out.")
    seed: int = Field(
        1, ge=0, description="Of the adapter's initial weights, the choice and the order of the examples."
    )


class ScratchRecipe(BaseModel):
    """The control: the same instructions, all weights, no pre-training, as many tokens as both stages together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sft: SFTRecipe
    family: Family = Field(description="As in pre-training.")
    size: int = Field(ge=0, description="As in pre-training. 0: what the fit picked.")
    tokens: int = Field(
        ge=0, description="Tokens of pre-training, which come on top of the epochs. 0: what the fit picked."
    )
    learning_rate: float = Field(gt=0, lt=1, description="Peak learning rate of the matrices, as in pre-training.")
    embedding_learning_rate: float = Field(
        gt=0, lt=1, description="Peak learning rate of the embeddings, as in pre-training."
    )
    seed: int = Field(ge=0, description="Of the initial weights.")


def scratch_recipe(sft: SFTRecipe, pretrain: PretrainRecipe) -> ScratchRecipe:
    """The control of a pre-training: its optimiser and seed, the fine-tuning's instructions; it has no frozen base."""
    pretrain = pretrain.with_rates()
    return ScratchRecipe(
        sft=sft.model_copy(update={"load": "fp32"}), family=pretrain.family, size=pretrain.size,
        tokens=pretrain.tokens, learning_rate=pretrain.learning_rate,
        embedding_learning_rate=pretrain.embedding_learning_rate, seed=pretrain.seed,
    )  # fmt: skip


def step(recipe: SFTRecipe, base: str, dataset: str) -> steps.Step:
    quantised = ("bitsandbytes",) if recipe.load in loading.QUANTISED else ()
    return steps.Step(
        stage="sft", name="lora", recipe=recipe, inputs={"base": base, "dataset": dataset},
        libraries=(*LIBRARIES, *quantised), modules=MODULES,
    )  # fmt: skip


def scratch_step(recipe: ScratchRecipe, tokenizer: str, forecast: str, dataset: str) -> steps.Step:
    return steps.Step(
        stage="sft", name="from-scratch", recipe=recipe,
        inputs={"tokenizer": tokenizer, "forecast": forecast, "dataset": dataset},
        libraries=LIBRARIES, modules=MODULES,
    )  # fmt: skip


@task(task_run_name="fine-tune with LoRA", cache_policy=NO_CACHE)
def finetune(base: Checkpoint, dataset: Dataset, recipe: SFTRecipe, execution: Execution) -> Checkpoint:
    """The merged model in `model/`, in fp32 however the base was loaded; the adapter alone in `adapter/`."""
    loading.require(recipe.load)
    this = step(recipe, base.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        from tasks.sft_worker import lora

        return workers.call(
            lora, base.model, dataset.path, folder, recipe, execution, threads=execution.threads_each,
            processes=execution.processes, label="sft/lora", log=folder / "log",
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build, resumable=True)


def examples(path: Path, recipe: SFTRecipe, seed: int) -> list[dict[str, Any]]:
    """The instructions of one epoch as prompt and completion messages, in a fixed order.

    Raises SourceError when the file holds none of the kinds in the mixture.
    """
    rows = list(read(path))
    chosen = []
    for kind, share in sorted(recipe.mixture.items()):
        of_kind = [row for row in rows if row["kind"] == kind]
        random.Random(f"{seed}-{kind}").shuffle(of_kind)
        chosen += of_kind[: round(len(of_kind) * min(1.0, share))]
    if not chosen:
        raise SourceError(f"{path} holds no instruction of the kinds {sorted(recipe.mixture)}; change sft.mixture")
    random.Random(seed).shuffle(chosen)
    return [{"id": row["id"], **conversation(row)} for row in chosen]


def conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt behind the turns of `history`, and the answer: of several answers only the last one is trained."""
    from models.tokenizer import asked

    return {
        "prompt": asked(row),
        "completion": [{"role": "assistant", "content": row["response"]}],
    }


@task(task_run_name="fine-tune without pre-training", cache_policy=NO_CACHE)
def train_from_scratch(
    tokenizer: Tokenizer, forecast: Forecast, dataset: Dataset, recipe: ScratchRecipe, execution: Execution
) -> Checkpoint:
    """The control of pre-training: a fresh model of the same size that sees instructions only, for the same tokens."""
    this = scratch_step(recipe, tokenizer.key, forecast.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        from tasks.sft_worker import scratch

        size, tokens = (getattr(recipe, name) or int(forecast.summary[name]) for name in ("size", "tokens"))
        return workers.call(
            scratch, tokenizer.path / "tokenizer", dataset.path, folder, recipe, size, tokens, execution,
            threads=execution.threads_each, processes=execution.processes, label="sft/from-scratch", log=folder / "log",
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build, resumable=True)
