"""Preference pairs from the fine-tuned model's own samples: metric-ranked, and human text against a sample.

Metric-ranked pairs are no human judgement: rules and the reference rank them, which is why references of training
prompts alone are used. Human-over-sample pairs hold real human text, and teach a reward model "human or machine" too.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps, workers
from tasks.artifacts import Checkpoint, Dataset, Pairs
from tasks.errors import SourceError
from tasks.rows import read, write
from tasks.settings import Execution


class PreferenceRecipe(BaseModel):
    """How many samples are drawn and which of them make a pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: int = Field(450, ge=1, description="Training prompts that are sampled; a quarter as many held-out ones.")
    samples: int = Field(6, ge=2, le=64, description="Answers drawn for each prompt.")
    temperature: float = Field(1.0, gt=0, le=2, description="Of the draw.")
    gap: float = Field(0.3, ge=0, le=1.75, description="Least difference in score between the two answers of a pair.")
    pairs: int = Field(2, ge=1, le=32, description="Metric-ranked pairs for each prompt, at most.")
    length_ratio: float = Field(
        1.5,
        ge=1,
        le=10,
        description="The longer answer of a metric-ranked pair has at most so many times the characters.",
    )
    human: float = Field(
        1.0, ge=0, le=1, description="Share of the prompts that also give human text against a sample."
    )
    max_new_tokens: int = Field(24, ge=1, le=512, description="Longest answer in tokens.")
    seed: int = Field(1, ge=0, description="Of the choice of prompts and of the draw.")


def step(recipe: PreferenceRecipe, model: str, dataset: str) -> steps.Step:
    return steps.Step(
        stage="preferences", name="own-samples", recipe=recipe, inputs={"model": model, "dataset": dataset},
        libraries=("torch", "transformers", "tokenizers", "rouge-score"),
        modules=("models.generation", "models.rewards", "models.tokenizer"),
    )  # fmt: skip


@task(task_run_name="sample and rank answers", cache_policy=NO_CACHE)
def sample_preferences(model: Checkpoint, dataset: Dataset, recipe: PreferenceRecipe, execution: Execution) -> Pairs:
    """`train.jsonl` from training prompts and `validation.jsonl` from held-out ones."""
    this = step(recipe, model.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        halves = {"train": recipe.prompts, "validation": max(1, recipe.prompts // 4)}
        summary: dict[str, Any] = {}
        for split, count in halves.items():
            rows = prompts(dataset.path / "instructions" / f"{split}.jsonl", count, recipe.seed)
            summary[split] = workers.call(
                _sample, model.model, rows, folder / f"{split}.jsonl", recipe, execution.device,
                threads=execution.threads, processes=execution.processes, label=f"preferences/{split}",
            )  # fmt: skip
        if not summary["train"]["pairs"]:
            raise SourceError(
                f"no two samples of {recipe.prompts} prompts differ by {recipe.gap}; lower preferences.gap"
            )
        return summary

    return steps.materialise(this, Pairs, build)


def prompts(path: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` instructions that are not practice, drawn in a fixed order.

    Raises SourceError when there are none.
    """
    from models.rewards import is_practice

    rows = [row for row in read(path) if not is_practice(row["kind"])]
    if not rows:
        raise SourceError(
            f"{path} holds no instruction but practice (topic, name, reply), so there are no answers to rank"
        )
    random.Random(seed).shuffle(rows)
    return rows[:count]


def _sample(
    model: Path, rows: list[dict[str, Any]], target: Path, recipe: PreferenceRecipe, device: str
) -> dict[str, Any]:
    from models.generation import answer
    from models.tokenizer import asked
    from tasks.generation import load

    policy, tokenizer = load(model, device)
    chats = [asked(row) for row in rows]
    drawn = answer(
        policy, tokenizer, chats, max_new_tokens=recipe.max_new_tokens, samples=recipe.samples,
        temperature=recipe.temperature, batch=256, seed=recipe.seed,
    )  # fmt: skip
    pairs = [pair for row, texts in zip(rows, drawn, strict=True) for pair in _pairs(row, texts, recipe)]
    write(target, pairs)
    origins = [pair["origin"] for pair in pairs]
    longer = sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    return {
        "prompts": len(rows),
        "pairs": len(pairs),
        "metric_ranked": origins.count("metric-ranked"),
        "human_over_sample": origins.count("human-over-sample"),
        "chosen_longer": round(longer / max(1, len(pairs)), 3),
    }


def _pairs(row: Mapping[str, Any], texts: Sequence[str], recipe: PreferenceRecipe) -> list[dict[str, Any]]:
    from models.rewards import score

    scored = sorted({(score(text, row["response"], row["prompt"], row["kind"]), text) for text in texts if text})
    ranked = [
        (high - low, chosen, rejected)
        for high, chosen in scored
        for low, rejected in scored
        if high - low >= recipe.gap and _ratio(chosen, rejected) <= recipe.length_ratio
    ]
    found = [
        _pair(row, chosen, rejected, "metric-ranked")
        for chosen, rejected in _spread(sorted(ranked, reverse=True), recipe.pairs)
    ]
    draw = random.Random(f"{recipe.seed}-{row['id']}")
    if scored and draw.random() < recipe.human:
        sample = draw.choice([text for _, text in scored])
        if sample != row["response"]:
            found.append(_pair(row, row["response"], sample, "human-over-sample"))
    return found


def _spread(ranked: Sequence[tuple[float, str, str]], count: int) -> list[tuple[str, str]]:
    """The widest pairs, no answer twice: alternately one whose chosen answer is longer and one where it is shorter."""
    picked: list[tuple[str, str]] = []
    used: set[str] = set()
    for number in range(count):
        free = [(a, b) for _, a, b in ranked if a not in used and b not in used]
        wanted = [(a, b) for a, b in free if (len(a) > len(b)) == (number % 2 == 0)] or free
        if not wanted:
            break
        picked.append(wanted[0])
        used.update(wanted[0])
    return picked


def _ratio(one: str, other: str) -> float:
    return max(len(one), len(other)) / min(len(one), len(other))


def _pair(row: Mapping[str, Any], chosen: str, rejected: str, origin: str) -> dict[str, Any]:
    shared = {name: row[name] for name in ("id", "kind", "prompt", "history") if name in row}
    return {**shared, "chosen": chosen, "rejected": rejected, "origin": origin}
