"""RLHF: TRL's GRPOTrainer against the reward model, with a KL penalty to the fine-tuned model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps, workers
from tasks.artifacts import Checkpoint, Dataset
from tasks.errors import SourceError
from tasks.settings import Execution


class RLHFRecipe(BaseModel):
    """How the policy is moved towards the reward.

    Without the weight on the guideline the reward model is gamed with answers of one word, which it likes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(40, ge=1, description="Optimiser steps; each draws new answers.")
    prompts: int = Field(6, ge=1, le=1024, description="Prompts per step.")
    generations: int = Field(
        6, ge=2, le=64, description="Answers per prompt; their rewards are compared with each other."
    )
    learning_rate: float = Field(2.5e-3, gt=0, lt=1, description="Peak learning rate of the adapter.")
    beta: float = Field(0.2, ge=0, le=10, description="Weight of the KL penalty to the fine-tuned model.")
    grounded: float = Field(0.25, ge=0, le=10, description="Weight of being grounded; the reward model's is 1.")
    guideline: float = Field(4.0, ge=0, le=10, description="Weight of following the guideline, likewise.")
    rank: int = Field(16, ge=1, le=1024, description="Rank of the LoRA matrices, on every linear layer.")
    max_new_tokens: int = Field(24, ge=1, le=512, description="Longest answer in tokens.")
    seed: int = Field(1, ge=0, description="Of the adapter's initial weights, the order of the prompts and the draws.")


def step(recipe: RLHFRecipe, model: str, reward: str, dataset: str) -> steps.Step:
    return steps.Step(
        stage="rlhf", name="grpo", recipe=recipe, inputs={"model": model, "reward": reward, "dataset": dataset},
        libraries=("torch", "transformers", "trl", "peft", "accelerate", "datasets"),
        modules=(
            "tasks.training", "tasks.preferences", "models.adapters", "models.rewards", "models.exported",
        ),
    )  # fmt: skip


@task(task_run_name="align with GRPO", cache_policy=NO_CACHE)
def align(
    model: Checkpoint, reward: Checkpoint, dataset: Dataset, recipe: RLHFRecipe, execution: Execution
) -> Checkpoint:
    """The merged aligned model in `model/`; `log/history.jsonl` holds reward, KL, length and the hack metrics."""
    this = step(recipe, model.key, reward.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        return workers.call(
            _train, model.model, reward.model, dataset.path, folder, recipe, execution,
            threads=execution.threads, processes=execution.processes, label="rlhf/grpo", log=folder / "log",
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build, resumable=True)


def grounded(completions: Sequence[Any], shown: Sequence[str], **_: Any) -> list[float]:
    """Share of the drawn answers that are grounded in their prompt, in the signature that TRL asks for."""
    from models import rewards

    return [
        float(rewards.grounded(answer[0]["content"], text)) for answer, text in zip(completions, shown, strict=True)
    ]


def guideline(completions: Sequence[Any], kind: Sequence[str], **_: Any) -> list[float]:
    """Share of the drawn answers that follow the guideline of their kind, likewise."""
    from models import rewards

    return [
        float(rewards.has_guideline(each) and rewards.guideline(answer[0]["content"], each))
        for answer, each in zip(completions, kind, strict=True)
    ]


def _train(
    base: Path, reward: Path, data: Path, folder: Path, recipe: RLHFRecipe, execution: Execution
) -> dict[str, Any]:
    from datasets import Dataset as Rows
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from models import adapters
    from models.tokenizer import asked
    from tasks import micro_batch, training
    from tasks.generation import load_reward
    from tasks.preferences import prompts

    tokenizer = AutoTokenizer.from_pretrained(base)
    policy = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    judge, judge_tokenizer = load_reward(reward, execution.device)
    rows = prompts(data / "instructions" / "train.jsonl", sys.maxsize, recipe.seed + 1)
    rows = _fitting(policy, tokenizer, rows, recipe, folder)[: recipe.steps * recipe.prompts]
    answers = recipe.prompts * recipe.generations
    arguments = training.arguments(
        folder, seed=recipe.seed, device=execution.device, steps=recipe.steps, batch=answers,
        learning_rate=recipe.learning_rate, num_generations=recipe.generations, beta=recipe.beta,
        # what can be checked is checked; the reward model judges what cannot
        reward_weights=[1.0, recipe.grounded, recipe.guideline],
        max_completion_length=recipe.max_new_tokens, logging_steps=1,
        lr_scheduler_type="constant_with_warmup",
    )  # fmt: skip
    arguments |= micro_batch.arguments(
        answers, micro_batch.part(answers, execution.micro_batch), checkpointing=execution.checkpointing
    )
    columns = [{"prompt": asked(row), "shown": row["prompt"], "kind": row["kind"]} for row in rows]
    trainer = GRPOTrainer(
        policy, reward_funcs=[judge, grounded, guideline], reward_processing_classes=[judge_tokenizer, None, None],
        args=GRPOConfig(**arguments), train_dataset=Rows.from_list(columns), processing_class=tokenizer,
        peft_config=adapters.lora(policy, recipe.rank),
    )  # fmt: skip
    figures = training.run(trainer, folder, likelihood=False)
    probes = [{"prompt": asked(row), "answer": row["response"]} for row in rows]
    training.record_export(trainer, tokenizer, probes, folder)
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    training.finish(folder)
    last = training.history(folder)[-10:]
    mean = {
        name: sum(entry.get(name, 0.0) for entry in last) / len(last)
        for name in ("reward", "kl", "completions/mean_length")
    }
    return {
        **figures,
        "reward": mean["reward"], "kl": mean["kl"], "mean_length": mean["completions/mean_length"],
    }  # fmt: skip


def _fitting(
    policy: Any, tokenizer: Any, rows: list[dict[str, Any]], recipe: RLHFRecipe, folder: Path
) -> list[dict[str, Any]]:
    """The rows whose prompt and answer fit into the model's positions, without the letters of control tokens.

    Raises SourceError when there are none.
    """
    from models.generation import positions
    from models.tokenizer import asked, chat_ids
    from tasks import notes, training

    rows = training.without_control_tokens(rows, tokenizer, folder, messages=asked)
    # twice the answer: what is no whole character takes more tokens when the reward model reads it
    longest = positions(policy) - 2 * recipe.max_new_tokens
    lengths = map(len, chat_ids(tokenizer, [asked(row) for row in rows], add_generation_prompt=True))
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= longest]
    if not kept:
        raise SourceError(
            f"all {len(rows)} prompts have more than {longest} tokens, and with an answer of {recipe.max_new_tokens} "
            "the model has no positions for more: lower rlhf.max_new_tokens, or raise tokenizer.context"
        )
    if left_out := len(rows) - len(kept):
        notes.note(folder, f"left out {left_out} of {len(rows)} prompts: more than {longest} tokens do not fit")
    return kept
