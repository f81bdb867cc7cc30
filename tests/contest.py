"""Small models and the evaluations of them, to be registered, judged and promoted."""

import json
from pathlib import Path
from typing import Any

from tasks import promotion, registry, steps, tracking
from tasks.artifacts import Checkpoint, EvaluationReport, RegisteredModel
from tasks.contest import Contest
from tasks.gate import Gate
from tasks.settings import Execution
from tasks.training import EXPORT

GATE = Gate(min_items=20, min_texts=20, draws=200, toxicity=0.1, latency_ratio=None)
LINEAGE = {"data_digest": "d1", "git_commit": "c0ffee"}
EXECUTION = Execution(threads=1, processes=1, device="cpu")


def model(folder: Path, seed: int) -> Checkpoint:
    """A tiny model with random weights of a seed, as a training stage leaves it."""
    from models.architectures import Dimensions, build
    from models.exported import record
    from models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a small river in the north"] * 9, vocabulary=300, context=64)
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    shape = Dimensions(hidden=32, layers=1, heads=1, intermediate=32)
    made = build(shape, vocabulary=300, context=64, special=special, seed=seed)
    made.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": [{"role": "user", "content": f"river {n}"}], "answer": "a small river"} for n in range(8)]
    (folder / EXPORT).write_text(json.dumps(record(made, tokenizer, rows)))
    digest = steps.folder_digest(steps.hash_files(folder))
    return Checkpoint(stage="rlhf", name="grpo", key=f"model-{seed}", digest=digest, path=folder)


def report(folder: Path, share: float, yardstick: str = "items-1") -> EvaluationReport:
    """An evaluation in which a share of the aligned model's 40 answers is good."""
    folder.mkdir()
    lines = [
        {"id": f"i{n:02}", "scores": {"sft": scored(n % 4 > 1), "aligned": scored(n < 40 * share)}} for n in range(40)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = {
        row: {metric: {"mean": mean, "low": 0.0, "high": 99.0, "n": 40} for metric, mean in scored(good).items()}
        for row, good in (("sft", 0.5), ("aligned", share))
    }
    texts = [{"id": f"t{n}", "bits_per_byte": {"sft": 2.0, "aligned": 2.0}} for n in range(40)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    metrics = {
        "items": 40, "yardstick": yardstick, "rows": rows, "parameters": {"sft": 1000, "aligned": 1000},
        "contamination": {"aligned": {"items": 40, "contaminated": 0}},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return EvaluationReport(stage="evaluate", name="test", key=folder.name, digest=folder.name, path=folder)


def scored(good: float) -> dict[str, float]:
    fixed = {"rougeL": 0.3, "chars": 30.0, "toxic": 0.0}
    return {"score": 0.3 + good, "grounded": float(good), "guideline": float(good), **fixed}


def never(champion: Any) -> Any:
    raise AssertionError("the champion was scored on these items already")


def contest(told: EvaluationReport, again: Any = never) -> Contest:
    return Contest(told.path, GATE, EXECUTION, again)


def register(made: Checkpoint, told: EvaluationReport, name: str, lineage: Any = LINEAGE) -> RegisteredModel:
    return registry.register.fn(made, told, name=name, gate=GATE, lineage=lineage)


def submit(
    made: Checkpoint, told: EvaluationReport, name: str, again: Any = never, lineage: Any = LINEAGE
) -> RegisteredModel:
    """Registered, judged and, where the gate says yes, promoted: what the flow does."""
    asked = contest(told, again)
    return promotion.promote.fn(promotion.judge.fn(register(made, told, name, lineage), asked), asked)


def aliases(name: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in tracking.client().get_registered_model(name).aliases.items()}
