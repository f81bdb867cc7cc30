"""A real training of a very small model that a test can stop at any moment and start again."""

import gc
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import BaseModel, ConfigDict

from models.architectures import fresh_model
from models.optimizers import MuonAdamW
from models.tokenizer import train_tokenizer
from tasks import training

WINDOWS, CONTEXT = 16, 16


class Case(BaseModel):
    """What decides the result of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 40
    batch: int = 2
    accumulation: int = 1
    dropout: float = 0.0
    learning_rate: float = 2e-2
    save_steps: int = 4


class Result(BaseModel):
    """The SHA-256 of the final weights, every logged loss, and the step that the last start went on from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    losses: list[tuple[int, float]]
    resumed_from: int

    @property
    def bits(self) -> tuple[str, list[tuple[int, float]]]:
        """What two trainings of one case have in common, however often they were stopped."""
        return self.weights, self.losses


def trainer(folder: Path, case: Case, callbacks: Sequence[Any] = ()) -> transformers.Trainer:
    """The Trainer of pre-training, in fp32 and on a few windows of random tokens."""
    tokenizer = train_tokenizer(["a small river in the north"] * 9, vocabulary=300, context=CONTEXT)
    model = fresh_model(1, tokenizer, seed=1)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = case.dropout
    rows = torch.randint(len(tokenizer), (WINDOWS, CONTEXT), generator=torch.Generator().manual_seed(1))
    arguments = training.arguments(
        folder, seed=1, device="cpu", steps=case.steps, batch=case.batch, learning_rate=case.learning_rate,
        gradient_accumulation_steps=case.accumulation, save_steps=case.save_steps, logging_steps=1, bf16=False,
    )  # fmt: skip
    return transformers.Trainer(
        model, transformers.TrainingArguments(**arguments), callbacks=list(callbacks),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        optimizers=(MuonAdamW(model, lr=case.learning_rate, embedding_lr=case.learning_rate), None),
    )  # fmt: skip


def finish(folder: Path, case: Case, callbacks: Sequence[Any] = (), **options: Any) -> Result:
    """Trains to the end from where an earlier call was stopped."""
    made = trainer(folder, case, callbacks)
    figures = training.run(made, folder, **options)
    digest = hashlib.sha256()
    for name, weight in sorted(made.model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    losses = [(entry["step"], entry["loss"]) for entry in training.history(folder) if "loss" in entry]
    return Result(weights=digest.hexdigest(), losses=losses, resumed_from=figures["execution"]["resumed_from"])


def finish_apart(folder: Path, case: Case) -> None:
    """As `finish`, in a forked process of its own: leaves `result.json`."""
    gc.freeze()  # what was imported before the fork is not searched for garbage
    torch.set_num_threads(1)
    (folder / "result.json").write_text(finish(folder, case).model_dump_json())


def result(folder: Path) -> Result:
    return Result.model_validate_json((folder / "result.json").read_text())
