"""Every evaluated model side by side with rules and human text, with intervals, and the claims that are checked."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from tasks import steps
from tasks.artifacts import Artifact, Dataset, EvaluationReport
from tasks.contamination import Passages, examine
from tasks.errors import SourceError
from tasks.evaluation import ITEM_METRICS, EvaluationRecipe, cut, score_answers, shown
from tasks.rival import FIGURES, ITEMS, METRICS, TEXTS
from tasks.rows import read, write, write_json
from tasks.sheets import CONTENT

COLUMNS = (
    "loss", "perplexity", "rouge1", "rouge2", "rougeL", "bleu", "grounded", "guideline", "toxic", "chars", "score",
    "reward", "topic_accuracy", "bits_per_byte",
)  # fmt: skip


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


def compare_step(recipe: EvaluationRecipe, models: Mapping[str, str], dataset: str) -> steps.Step:
    return steps.Step(
        stage="evaluate", name="compare",
        recipe=CompareRecipe(draws=recipe.draws, seed=recipe.seed, rows=tuple(models)),
        inputs={**models, "dataset": dataset},
        libraries=("rouge-score", "sacrebleu", "numpy"),
        modules=("models.metrics", "models.baselines", "tasks.evaluation", "tasks.contamination"),
    )  # fmt: skip


@task(task_run_name="compare", cache_policy=NO_CACHE)
def compare(models: Mapping[str, Artifact], dataset: Dataset, recipe: EvaluationRecipe) -> EvaluationReport:
    """`metrics.json` and `items.jsonl`: every row side by side with bootstrap intervals, and the claims."""
    this = compare_step(recipe, {name: artifact.key for name, artifact in models.items()}, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        return _compare(models, dataset, folder, recipe)

    return steps.materialise(this, EvaluationReport, build)


def _compare(
    models: Mapping[str, Artifact], dataset: Dataset, folder: Path, recipe: EvaluationRecipe
) -> dict[str, Any]:
    answered = {name: list(read(artifact.path / ITEMS)) for name, artifact in models.items()}
    figures = {name: json.loads((artifact.path / FIGURES).read_text()) for name, artifact in models.items()}
    rows = next(iter(answered.values()))
    outputs = {name: [entry["output"] for entry in entries] for name, entries in answered.items()}
    scores = {name: [entry["scores"] for entry in entries] for name, entries in answered.items()}
    for name, texts in _rules(rows).items():
        outputs[name], scores[name] = texts, score_answers(rows, texts)
    metrics: dict[str, Any] = {
        "items": len(rows),
        "yardstick": _yardstick(figures),
        "parameters": {name: figures[name]["parameters"] for name in figures},
        "contamination": examine(models, dataset, *_held_out(rows, figures, dataset.path, recipe)),
        "columns": list(COLUMNS),
        "rows": {name: _row(rows, outputs[name], scores[name], figures.get(name, {}), recipe) for name in outputs},
        "comparisons": [claim for claim in (_claim(scores, *claim, recipe) for claim in CLAIMS) if claim],
    }
    write_json(folder / METRICS, metrics)
    write(folder / TEXTS, _texts(figures))
    write(folder / ITEMS, _side_by_side(rows, outputs, scores))
    return {
        "items": len(rows),
        **{
            f"{name}/{metric}": row[metric]["mean"]
            for name, row in metrics["rows"].items()
            for metric in ("rougeL", "grounded", "guideline")
        },
    }


def _side_by_side(
    rows: Sequence[Mapping[str, Any]], outputs: Mapping[str, Sequence[str]], scores: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """Each item with what every row answered and how it scores."""
    for i, row in enumerate(rows):
        said, scored = ({name: of[i] for name, of in each.items()} for each in (outputs, scores))
        yield {**shown(row), "outputs": said, "scores": scored}


def _held_out(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Mapping[str, Any]], dataset: Path, recipe: EvaluationRecipe
) -> tuple[Passages, Passages]:
    """The passages of each item, and of each document, that the models were measured on."""
    asked = {text["id"] for text in next(iter(figures.values()))["texts"]}
    path = dataset / "text" / f"{recipe.split}.jsonl"
    texts = (row for row in read(path) if row["id"] in asked) if asked else ()
    return (
        {row["id"]: [row[part] for part in CONTENT["instructions"]] for row in rows},
        {row["id"]: [cut(row["text"], recipe.text_bytes)] for row in texts},
    )


def _yardstick(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The yardstick of all models. Raises SourceError where they were measured by different ones."""
    found = {name: each["yardstick"] for name, each in figures.items()}
    if len(set(found.values())) > 1:
        raise SourceError(f"the models were measured by different yardsticks, {found}; evaluate all by one recipe")
    return next(iter(found.values()))


def _texts(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each held-out document with what every model made of it."""
    for same in zip(*(each["texts"] for each in figures.values()), strict=True):
        first = {name: same[0][name] for name in ("id", "domain")}
        yield {**first, "bits_per_byte": dict(zip(figures, (each["bits_per_byte"] for each in same), strict=True))}


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
    if figures.get("texts"):
        bits = [text["bits_per_byte"] for text in figures["texts"]]
        row["bits_per_byte"] = bootstrap(bits, **options)._asdict()
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
