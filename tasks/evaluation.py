"""Evaluation: every model on the same held-out items, beside trivial rules and the human text, with intervals."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps, workers
from tasks.artifacts import Artifact, Checkpoint, Dataset, EvaluationReport, Tokenizer
from tasks.errors import SourceError
from tasks.rows import read
from tasks.settings import Execution

ITEM_METRICS = ("rouge1", "rouge2", "rougeL", "grounded", "guideline", "chars", "score", "reward")
COLUMNS = (
    "loss", "perplexity", "rouge1", "rouge2", "rougeL", "bleu", "grounded", "guideline", "chars", "score", "reward",
    "topic_accuracy", "text_loss",
)  # fmt: skip


class EvaluationRecipe(BaseModel):
    """What every model is measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str = Field("test", pattern="^(validation|test)$", description="Which held-out side.")
    items: int = Field(1000, ge=10, description="Instructions that are not practice (topic, name, reply), at most.")
    topics: int = Field(200, ge=0, description="Classification items, at most.")
    text_tokens: int = Field(16_384, ge=0, description="Tokens of held-out text for the loss that shows forgetting.")
    max_new_tokens: int = Field(24, ge=1, le=512, description="Longest answer in tokens.")
    draws: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples.")
    seed: int = Field(0, ge=0, description="Of the resampling.")


class CompareRecipe(BaseModel):
    """Which rows stand in the report and which claims are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws: int
    seed: int
    rows: tuple[str, ...]


CLAIMS = (
    ("instruction fine-tuning beats the base model", "sft", "base", "loss"),
    ("instruction fine-tuning beats the base model", "sft", "base", "rougeL"),
    ("pre-training beats the same tokens of instructions alone", "sft", "from-scratch", "loss"),
    ("pre-training beats the same tokens of instructions alone", "sft", "from-scratch", "rougeL"),
    ("the aligned model follows the guideline more often", "aligned", "sft", "guideline"),
    ("the aligned model is better grounded", "aligned", "sft", "grounded"),
    ("the aligned model is better by the ranking score", "aligned", "sft", "score"),
)


def model_step(
    recipe: EvaluationRecipe, name: str, model: str, dataset: str, tokenizer: str, reward: str, text: Mapping[str, Any]
) -> steps.Step:
    return steps.Step(
        stage="evaluate", name=name, recipe=recipe, facts={"text": dict(text)},
        inputs={"model": model, "dataset": dataset, "tokenizer": tokenizer, **({"reward": reward} if reward else {})},
        libraries=("torch", "transformers", "tokenizers", "rouge-score"),
        modules=("models.generation", "models.metrics", "models.rewards", "models.packing"),
    )  # fmt: skip


def compare_step(recipe: EvaluationRecipe, models: Mapping[str, str], dataset: str) -> steps.Step:
    return steps.Step(
        stage="evaluate", name="compare",
        recipe=CompareRecipe(draws=recipe.draws, seed=recipe.seed, rows=tuple(models)),
        inputs={**models, "dataset": dataset},
        libraries=("rouge-score", "sacrebleu", "numpy"),
        modules=("models.metrics", "models.baselines", "models.rewards"),
    )  # fmt: skip


@task(task_run_name="evaluate {name}", cache_policy=NO_CACHE)
def evaluate_model(
    model: Checkpoint, dataset: Dataset, tokenizer: Tokenizer, reward: Checkpoint | None, recipe: EvaluationRecipe,
    execution: Execution, *, name: str, text: Mapping[str, Any],
) -> Artifact:  # fmt: skip
    """`items.jsonl`: the model's greedy answer to each held-out item with its scores; `figures.json`: the rest.

    `text` gives the mixture and the context of the held-out text whose loss shows forgetting.
    """
    this = model_step(recipe, name, model.key, dataset.key, tokenizer.key, reward.key if reward else "", text)

    def build(folder: Path) -> dict[str, Any]:
        return workers.call(
            _evaluate, model.model, dataset.path, tokenizer.path, reward.model if reward else None, folder, recipe,
            dict(text), execution.device, threads=execution.threads_each, processes=execution.processes,
            label=f"evaluate/{name}",
        )  # fmt: skip

    with workers.turn(execution.processes):
        return steps.materialise(this, Artifact, build)


@task(task_run_name="compare", cache_policy=NO_CACHE)
def compare(models: Mapping[str, Artifact], dataset: Dataset, recipe: EvaluationRecipe) -> EvaluationReport:
    """`metrics.json` and `items.jsonl`: every row side by side with bootstrap intervals, and the claims."""
    this = compare_step(recipe, {name: artifact.key for name, artifact in models.items()}, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        return _compare({name: artifact.path for name, artifact in models.items()}, folder, recipe)

    return steps.materialise(this, EvaluationReport, build)


def find_model(reference: str) -> Checkpoint:
    """A model by `stage/name` (its newest) or by the absolute folder of its step. StoreError where there is none."""
    stage, _, name = reference.partition("/")
    return steps.load(Path(reference), Checkpoint) if not stage else steps.find("latest", stage, Checkpoint, name=name)


def items(dataset: Path, recipe: EvaluationRecipe) -> list[dict[str, Any]]:
    """The held-out instructions that are scored, in the file's order.

    Raises SourceError where there are fewer than 10: no interval is worth anything on those.
    """
    from models.rewards import is_practice

    path = dataset / "instructions" / f"{recipe.split}.jsonl"
    rows = [row for row in read(path) if not is_practice(row["kind"])][: recipe.items]
    if len(rows) < 10:
        raise SourceError(f"{path} holds {len(rows)} instructions that are not practice; 10 are needed to evaluate")
    return rows


def score_answers(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[dict[str, float]]:
    """Every per-item metric that needs no model."""
    from models.metrics import rouge
    from models.rewards import grounded, guideline, has_guideline, score

    return [
        {
            **rouge(text, row["response"]),
            "grounded": float(grounded(text, row["prompt"])),
            "guideline": float(has_guideline(row["kind"]) and guideline(text, row["kind"])),
            "chars": float(len(text)),
            "score": score(text, row["response"], row["prompt"], row["kind"]),
        }
        for row, text in zip(rows, texts, strict=True)
    ]


def _evaluate(
    model: Path, data: Path, tokens: Path, reward: Path | None, folder: Path, recipe: EvaluationRecipe,
    held_out: dict[str, Any], device: str,
) -> dict[str, Any]:  # fmt: skip
    from models.generation import answer, answer_losses, rewards
    from models.tokenizer import asked
    from tasks.generation import load, load_reward

    policy, tokenizer = load(model, device)
    rows = items(data, recipe)
    chats = [asked(row) for row in rows]
    texts = [one[0] for one in answer(policy, tokenizer, chats, max_new_tokens=recipe.max_new_tokens)]
    scores = score_answers(rows, texts)
    for entry, (nll, count) in zip(
        scores, answer_losses(policy, tokenizer, chats, [row["response"] for row in rows]), strict=True
    ):
        entry.update(nll=nll, answer_tokens=float(count), loss=nll / count)
    if reward is not None:
        judge, judge_tokenizer = load_reward(reward, device)
        answered = [[*chat, {"role": "assistant", "content": text}] for chat, text in zip(chats, texts, strict=True)]
        for entry, value in zip(scores, rewards(judge, judge_tokenizer, answered), strict=True):
            entry["reward"] = value
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        for row, text, entry in zip(rows, texts, scores, strict=True):
            file.write(json.dumps({**_shown(row), "output": text, "scores": entry}, ensure_ascii=False) + "\n")
    topics = [row for row in read(data / "instructions" / f"{recipe.split}.jsonl") if row["kind"] == "topic"][
        : recipe.topics
    ]
    figures = {
        "topic_hits": _topic_hits(policy, tokenizer, topics, recipe.max_new_tokens),
        "text_losses": _text_losses(policy, tokens / "tokens" / recipe.split, recipe.text_tokens, **held_out),
    }
    (folder / "figures.json").write_text(json.dumps(figures) + "\n")
    return {name: sum(entry[name] for entry in scores) / len(scores) for name in ITEM_METRICS if name in scores[0]}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "kind", "prompt", "response", "history") if name in row}


def _topic_hits(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_new_tokens: int) -> list[float]:
    from models.generation import answer
    from models.tokenizer import asked

    chats = [asked(row) for row in rows]
    texts = answer(model, tokenizer, chats, max_new_tokens=max_new_tokens)
    return [float(text[0] == row["response"]) for row, text in zip(rows, texts, strict=True)]


def _text_losses(model: Any, streams: Path, tokens: int, *, mixture: dict[str, float], context: int) -> list[float]:
    """Mean loss in nats per token of each held-out window."""
    from models.generation import window_losses
    from models.packing import PackedWindows

    if not tokens:
        return []
    windows = PackedWindows(streams, mixture, context=context, tokens=tokens)
    return window_losses(model, windows.all_ids())


def _compare(models: Mapping[str, Path], folder: Path, recipe: EvaluationRecipe) -> dict[str, Any]:
    answered = {name: list(read(path / "items.jsonl")) for name, path in models.items()}
    figures = {name: json.loads((path / "figures.json").read_text()) for name, path in models.items()}
    rows = next(iter(answered.values()))
    outputs = {name: [entry["output"] for entry in entries] for name, entries in answered.items()}
    scores = {name: [entry["scores"] for entry in entries] for name, entries in answered.items()}
    for name, texts in _rules(rows).items():
        outputs[name], scores[name] = texts, score_answers(rows, texts)
    metrics: dict[str, Any] = {
        "items": len(rows),
        "items_digest": steps.digest_of([_shown(row) for row in rows]),
        "columns": list(COLUMNS),
        "rows": {name: _row(rows, outputs[name], scores[name], figures.get(name, {}), recipe) for name in outputs},
        "comparisons": [claim for claim in (_claim(scores, *claim, recipe) for claim in CLAIMS) if claim],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            entry = {
                **_shown(row),
                "outputs": {n: t[i] for n, t in outputs.items()},
                "scores": {n: s[i] for n, s in scores.items()},
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return {
        "items": len(rows),
        **{
            f"{name}/{metric}": row[metric]["mean"]
            for name, row in metrics["rows"].items()
            for metric in ("rougeL", "grounded", "guideline")
        },
    }


def _rules(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What needs no model: trivial rules on the prompt, and the human text itself."""
    from models.baselines import docstring_rule, first_sentence, is_a_rule

    prompts = [row["prompt"] for row in rows]
    human = {"human": [row["response"] for row in rows]}
    if all(row["kind"] == "docstring" for row in rows):
        return {"rule: name in words": [docstring_rule(p) for p in prompts], **human}
    return {
        "rule: is-a": [is_a_rule(p) for p in prompts],
        "rule: first sentence": [first_sentence(p) for p in prompts],
        **human,
    }


def _row(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], scores: Sequence[Mapping[str, float]],
    figures: Mapping[str, Any], recipe: EvaluationRecipe,
) -> dict[str, dict[str, float]]:  # fmt: skip
    from models.metrics import bleu_interval, bootstrap, perplexity

    options = {"draws": recipe.draws, "seed": recipe.seed}
    row = {
        name: bootstrap([s[name] for s in scores], **options)._asdict() for name in ITEM_METRICS if name in scores[0]
    }
    row["bleu"] = bleu_interval(texts, [r["response"] for r in rows], **options)._asdict()
    if "nll" in scores[0]:
        row["loss"] = _answer_loss(scores, recipe)
        row["perplexity"] = {**row["loss"], **{k: perplexity(row["loss"][k]) for k in ("mean", "low", "high")}}
    if figures.get("topic_hits"):
        row["topic_accuracy"] = bootstrap(figures["topic_hits"], **options)._asdict()
    if figures.get("text_losses"):
        row["text_loss"] = bootstrap(figures["text_losses"], **options)._asdict()
    return row


def _answer_loss(scores: Sequence[Mapping[str, float]], recipe: EvaluationRecipe) -> dict[str, float]:
    """Nats per answer token: a ratio of sums, so items are resampled with their token counts."""
    import numpy as np

    nll, count = (np.array([s[name] for s in scores]) for name in ("nll", "answer_tokens"))
    draws = np.random.default_rng(recipe.seed).integers(0, len(nll), (recipe.draws, len(nll)))
    resampled = nll[draws].sum(axis=1) / count[draws].sum(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"mean": float(nll.sum() / count.sum()), "low": float(low), "high": float(high), "n": len(nll)}


def _claim(
    scores: Mapping[str, Sequence[Mapping[str, float]]], claim: str, better: str, worse: str, metric: str,
    recipe: EvaluationRecipe,
) -> dict[str, Any]:  # fmt: skip
    from models.metrics import paired

    if better not in scores or worse not in scores:
        return {}
    more, less = (worse, better) if metric == "loss" else (better, worse)
    gain = paired(
        [s[metric] for s in scores[more]], [s[metric] for s in scores[less]], draws=recipe.draws, seed=recipe.seed
    )
    return {
        "claim": claim, "better": better, "worse": worse, "metric": metric,
        "gain": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n, "holds": gain.low > 0,
    }  # fmt: skip
