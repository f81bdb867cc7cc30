"""The reward model: TRL's RewardTrainer on preference pairs, from the fine-tuned model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps, workers
from tasks.artifacts import Checkpoint, Dataset, Pairs
from tasks.rows import read
from tasks.settings import Execution


class RewardRecipe(BaseModel):
    """How the reward model learns from pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(2.0, gt=0, le=100, description="Passes over the pairs.")
    batch: int = Field(16, ge=1, le=4096, description="Pairs per step.")
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="Peak learning rate, all weights.")
    max_length: int = Field(128, ge=16, le=8192, description="Longer conversations are cut to so many tokens.")
    seed: int = Field(1, ge=0, description="Of the head's initial weights and the order of the pairs.")


def step(recipe: RewardRecipe, model: str, pairs: str, dataset: str) -> steps.Step:
    return steps.Step(
        stage="reward", name="pairs", recipe=recipe, inputs={"model": model, "pairs": pairs, "dataset": dataset},
        libraries=("torch", "transformers", "trl", "accelerate", "datasets"),
        modules=(
            "tasks.training", "models.generation", "models.judge", "models.baselines", "models.metrics",
        ),
    )  # fmt: skip


@task(task_run_name="train the reward model", cache_policy=NO_CACHE)
def train_reward(
    model: Checkpoint, pairs: Pairs, dataset: Dataset, recipe: RewardRecipe, execution: Execution
) -> Checkpoint:
    """A classifier with one output; its accuracy on held-out pairs stands beside chance and a length-only rule."""
    this = step(recipe, model.key, pairs.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        return workers.call(
            _train, model.model, pairs.path, dataset.path, folder, recipe, execution,
            threads=execution.threads, processes=execution.processes, label="reward/pairs", log=folder / "log",
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build, resumable=True)


def conversations(row: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Both whole conversations of a pair as chat messages."""
    from models.tokenizer import asked

    return {side: [*asked(row), {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}


def _messages(row: dict[str, Any]) -> list[dict[str, str]]:
    return [message for messages in conversations(row).values() for message in messages]


def _train(
    base: Path, pairs: Path, data: Path, folder: Path, recipe: RewardRecipe, execution: Execution
) -> dict[str, Any]:
    import torch
    from datasets import Dataset as Rows
    from transformers import AutoTokenizer
    from trl import RewardConfig

    from models import judge
    from models.generation import positions
    from tasks import micro_batch, training

    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(recipe.seed)
    model = judge.load(base)
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = training.without_control_tokens(list(read(pairs / "train.jsonl")), tokenizer, folder, messages=_messages)
    count = max(1, round(recipe.epochs * len(rows) / recipe.batch))
    arguments = training.arguments(
        folder, seed=recipe.seed, device=execution.device, steps=count, batch=recipe.batch,
        learning_rate=recipe.learning_rate, max_length=min(recipe.max_length, positions(model)),
    )  # fmt: skip
    arguments |= micro_batch.arguments(
        recipe.batch, micro_batch.part(recipe.batch, execution.micro_batch), checkpointing=execution.checkpointing
    )
    trainer = _pair_trainer()(
        model, args=RewardConfig(**arguments), train_dataset=Rows.from_list([conversations(row) for row in rows]),
        processing_class=tokenizer,
    )  # fmt: skip
    figures = training.run(trainer, folder)
    trainer.model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    training.finish(folder)
    held_out = list(read(pairs / "validation.jsonl"))
    human = [row for side in ("test", "validation") for row in read(data / "preferences" / f"{side}.jsonl")]
    return {
        **figures,
        "pairs": len(rows),
        "held_out": _accuracy(trainer.model, tokenizer, rows, held_out),
        "human_rating": _accuracy(trainer.model, tokenizer, rows, human),
    }


def _pair_trainer() -> Any:
    from trl import RewardTrainer

    class PairTrainer(RewardTrainer):
        """Each pair of a step counts the same: the last batch of an epoch may be cut into parts of unequal size.

        TRL takes the mean over a micro-batch, and the Trainer the mean of these.
        """

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = super().get_batch_samples(*args, **kwargs)
            self.sides = sum(len(each["input_ids"]) for each in batches)
            return batches, items

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            share = len(inputs["input_ids"]) / self.sides
            mean = super().compute_loss(model, inputs, *args, **kwargs)
            return mean * share * self.current_gradient_accumulation_steps

    return PairTrainer


def _accuracy(
    model: Any, tokenizer: Any, train: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Share of pairs whose chosen answer gets more reward, with its interval, and the same for length alone."""
    from models.baselines import length_rule
    from models.generation import rewards
    from models.metrics import bootstrap, paired

    if not rows:
        return {}
    both = [conversations(row) for row in rows]
    chosen = rewards(model, tokenizer, [pair["chosen"] for pair in both])
    rejected = rewards(model, tokenizer, [pair["rejected"] for pair in both])
    right = [float(a > b) for a, b in zip(chosen, rejected, strict=True)]
    rule = length_rule(*_sides(train)).hits(*_sides(rows))
    interval, gain = bootstrap(right), paired(right, rule)
    return {
        "n": len(rows), "accuracy": interval.mean, "low": interval.low, "high": interval.high,
        "length_rule": float(rule.mean()), "gain_over_length": gain.mean, "gain_low": gain.low, "gain_high": gain.high,
    }  # fmt: skip


def _sides(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    return [row["chosen"] for row in rows], [row["rejected"] for row in rows]
