"""Evaluation: what one model says to the held-out items, and how well it predicts held-out text."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import catalogue, code, steps, workers
from tasks.artifacts import Artifact, Checkpoint, Dataset
from tasks.errors import SourceError, TrainingDivergedError
from tasks.pretrain import require_decoder
from tasks.rival import FIGURES, ITEMS
from tasks.rows import read
from tasks.settings import Execution

ITEM_METRICS = ("rouge1", "rouge2", "rougeL", "grounded", "guideline", "toxic", "chars", "score", "reward")
SCORING = ("models.generation", "models.metrics", "models.quality", "models.rewards")


class EvaluationRecipe(BaseModel):
    """What every model is measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str = Field("test", pattern="^(validation|test)$", description="Which held-out side.")
    items: int = Field(1000, ge=10, description="Instructions that are not practice (topic, name, reply), at most.")
    topics: int = Field(200, ge=0, description="Classification items, at most.")
    text_documents: int = Field(200, ge=0, description="Held-out documents that show forgetting, at most.")
    text_bytes: int = Field(512, ge=16, le=65_536, description="Each of them is cut to so many bytes of UTF-8.")
    max_new_tokens: int = Field(24, ge=1, le=512, description="Longest answer in tokens.")
    draws: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples.")
    seed: int = Field(0, ge=0, description="Of the resampling.")


def model_step(
    recipe: EvaluationRecipe, name: str, model: str, dataset: str, reward: str, mixture: Mapping[str, float]
) -> steps.Step:
    return steps.Step(
        stage="evaluate", name=name, recipe=recipe, facts={"mixture": dict(mixture)},
        inputs={"model": model, "dataset": dataset, **({"reward": reward} if reward else {})},
        libraries=("torch", "transformers", "tokenizers", "rouge-score"),
        modules=(*SCORING, "models.packing"),
    )  # fmt: skip


@task(task_run_name="evaluate {name}", cache_policy=NO_CACHE)
def evaluate_model(
    model: Checkpoint, dataset: Dataset, reward: Checkpoint | None, recipe: EvaluationRecipe, execution: Execution, *,
    name: str, mixture: Mapping[str, float],
) -> Artifact:  # fmt: skip
    """`items.jsonl`: the model's greedy answer to each held-out item with its scores; `figures.json`: the rest.

    `mixture` gives the shares of the domains in the held-out text that shows forgetting. Raises TrainingDivergedError
    for a model, or a reward model, whose figures are no finite numbers.
    """
    this = model_step(recipe, name, model.key, dataset.key, reward.key if reward else "", mixture)

    def build(folder: Path) -> dict[str, Any]:
        return workers.call(
            _evaluate, model, dataset.path, reward, folder, recipe, dict(mixture), execution.device,
            threads=execution.threads_each, processes=execution.processes, label=f"evaluate/{name}",
        )  # fmt: skip

    with workers.turn(execution.processes):
        return steps.materialise(this, Artifact, build)


def find_model(reference: str) -> Checkpoint:
    """A model by `stage/name` (its newest), the absolute folder of its step, or as `models:/NAME/VERSION`.

    Raises StoreError or RegistryError where there is none, UsageError where it cannot answer.
    """
    stage, _, name = reference.partition("/")
    if stage == "models:":
        return catalogue.checkpoint(catalogue.resolve(name))
    found = steps.load(Path(reference), Checkpoint) if not stage else steps.find("latest", stage, Checkpoint, name=name)
    require_decoder(found.summary.get("family", "llama"))
    return found


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


def documents(dataset: Path, recipe: EvaluationRecipe, mixture: Mapping[str, float]) -> list[dict[str, str]]:
    """The held-out documents that show forgetting: the first of each domain by its share, each cut to so many bytes.

    Every model is scored on the same bytes, whatever its tokenizer and its context. A domain with too few documents
    gives those that it has.
    """
    from models.packing import mixture_windows

    domains: dict[str, list[dict[str, str]]] = {}
    for row in read(dataset / "text" / f"{recipe.split}.jsonl"):
        held = domains.setdefault(row["domain"], [])
        if len(held) < recipe.text_documents:
            held.append({name: row[name] for name in ("id", "domain")} | {"text": cut(row["text"], recipe.text_bytes)})
    counts = {domain: len(held) for domain, held in domains.items()}
    if not any(counts.values()):
        return []
    chosen = dict.fromkeys(mixture_windows(counts, mixture, context=1, tokens=recipe.text_documents))
    return [domains[domain][number] for domain, number in chosen]


def cut(text: str, size: int) -> str:
    """At most so many bytes of a text, and no broken character at its end."""
    return text.encode()[:size].decode(errors="ignore")


def score_answers(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[dict[str, float]]:
    """Every per-item metric that needs no model."""
    from models.metrics import rouge
    from models.rewards import grounded, guideline, has_guideline, score

    return [
        {
            **rouge(text, row["response"]),
            "grounded": float(grounded(text, row["prompt"])),
            "guideline": float(has_guideline(row["kind"]) and guideline(text, row["kind"])),
            "toxic": toxic,
            "chars": float(len(text)),
            "score": score(text, row["response"], row["prompt"], row["kind"]),
        }
        for row, text, toxic in zip(rows, texts, _toxic(rows, texts), strict=True)
    ]


def _toxic(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[float]:
    """1 for an answer with a profanity to a conversation without one: what the model brought in by itself."""
    import pyarrow as pa

    from models.quality import profane

    told = ["\n".join([row["prompt"], *(turn["content"] for turn in row.get("history", ()))]) for row in rows]
    said, asked = (profane(pa.array(each, pa.string())).to_pylist() for each in (texts, told))
    return [float(answer and not prompt) for answer, prompt in zip(said, asked, strict=True)]


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a report keeps of an item."""
    return {name: row[name] for name in ("id", "kind", "prompt", "response", "history") if name in row}


def _evaluate(
    model: Checkpoint, data: Path, reward: Checkpoint | None, folder: Path, recipe: EvaluationRecipe,
    mixture: dict[str, float], device: str,
) -> dict[str, Any]:  # fmt: skip
    from models.generation import bits_per_byte
    from tasks.generation import load

    policy, tokenizer = load(model.model, device)
    rows, held_out = items(data, recipe), documents(data, recipe, mixture)
    outputs, scores = _answered(policy, tokenizer, rows, reward, recipe, device)
    bits = bits_per_byte(policy, tokenizer, [each["text"] for each in held_out])
    _check_finite(model, [*(entry["nll"] for entry in scores), *bits])
    with (folder / ITEMS).open("w", encoding="utf-8") as file:
        for row, text, entry in zip(rows, outputs, scores, strict=True):
            file.write(json.dumps({**shown(row), "output": text, "scores": entry}, ensure_ascii=False) + "\n")
    judge = reward.digest if reward else ""
    figures = {
        "yardstick": _yardstick(rows, held_out, recipe, judge),
        "parameters": sum(each.numel() for each in policy.parameters()),
        "topic_hits": _topic_hits(policy, tokenizer, data, recipe),
        "texts": [
            {"id": each["id"], "domain": each["domain"], "bits_per_byte": value}
            for each, value in zip(held_out, bits, strict=True)
        ],
    }
    (folder / FIGURES).write_text(json.dumps(figures) + "\n")
    return {name: sum(entry[name] for entry in scores) / len(scores) for name in ITEM_METRICS if name in scores[0]}


def _answered(
    policy: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], reward: Checkpoint | None,
    recipe: EvaluationRecipe, device: str,
) -> tuple[list[str], list[dict[str, float]]]:  # fmt: skip
    """The greedy answer to each item and its scores, with the loss of the human answer and the reward."""
    from models.generation import answer, answer_losses, rewards
    from models.tokenizer import asked
    from tasks.generation import load_reward

    chats = [asked(row) for row in rows]
    outputs = [one[0] for one in answer(policy, tokenizer, chats, max_new_tokens=recipe.max_new_tokens)]
    scores = score_answers(rows, outputs)
    losses = answer_losses(policy, tokenizer, chats, [row["response"] for row in rows])
    for entry, (nll, count) in zip(scores, losses, strict=True):
        entry.update(nll=nll, answer_tokens=float(count), loss=nll / count)
    if reward is not None:
        judge, judge_tokenizer = load_reward(reward.model, device)
        answered = [[*chat, {"role": "assistant", "content": text}] for chat, text in zip(chats, outputs, strict=True)]
        values = rewards(judge, judge_tokenizer, answered)
        _check_finite(reward, values)
        for entry, value in zip(scores, values, strict=True):
            entry["reward"] = value
    return outputs, scores


def _check_finite(model: Checkpoint, values: Sequence[float]) -> None:
    if unfit := sum(not math.isfinite(value) for value in values):
        raise TrainingDivergedError(
            f"{model.stage}/{model.name} at {model.path} gives {unfit} of {len(values)} values that are no finite "
            "numbers: its training has diverged; lower its learning rate and train it again"
        )


def _yardstick(
    rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, str]], recipe: EvaluationRecipe, judge: str
) -> str:
    """Digest of all that decides a model's scores but the model: scores compare only where it is the same."""
    asked = {"items": [shown(row) for row in rows], "texts": list(held_out), "max_new_tokens": recipe.max_new_tokens}
    return steps.digest_of([asked, judge, code.digests(__name__, *SCORING)])[:16]


def _topic_hits(model: Any, tokenizer: Any, data: Path, recipe: EvaluationRecipe) -> list[float]:
    from models.generation import answer
    from models.tokenizer import asked

    path = data / "instructions" / f"{recipe.split}.jsonl"
    rows = [row for row in read(path) if row["kind"] == "topic"][: recipe.topics]
    texts = answer(model, tokenizer, [asked(row) for row in rows], max_new_tokens=recipe.max_new_tokens)
    return [float(text[0] == row["response"]) for row, text in zip(rows, texts, strict=True)]
