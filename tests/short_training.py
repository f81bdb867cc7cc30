"""A pre-training of a few steps on random tokens, put together as tasks/pretrain_worker.py does it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from models.architectures import Dimensions, build
from models.objectives import Causal, Examples
from models.optimizers import MuonAdamW
from models.packing import PackedWindows, write_stream
from tasks import speed, step_memory, training
from tasks.settings import Execution, apply_threads

VOCABULARY, CONTEXT, BATCH = 512, 32, 8
SHAPE = Dimensions(hidden=64, layers=2, heads=2, intermediate=160)
SPECIAL = {"bos": 0, "eos": 1, "pad": 2}


@dataclass
class Trained:
    losses: list[float]
    model: LlamaForCausalLM
    trainer: Trainer
    settings: speed.Settings
    figures: dict[str, Any]


def fresh(context: int = CONTEXT, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    return build(SHAPE, vocabulary=vocabulary, context=context, special=SPECIAL, seed=0)


def train(
    folder: Path, *, precision: Any = "fp32", steps: int = 4, context: int = CONTEXT, batch: int = BATCH,
    vocabulary: int = VOCABULARY, stock: bool = False, watched: bool = False, save_steps: int = 0, spare: int = 0,
    **execution: Any,
) -> Trained:  # fmt: skip
    """With `stock` Hugging Face's own Trainer and accelerate's autocast, not ours; `spare` windows are left over."""
    apply_threads(1)  # two threads that other programs keep waiting may add in another order
    model = fresh(context, vocabulary)
    chosen = Execution(**{"threads": 1, "processes": 1, "device": "cpu", "compile": "off", **execution})
    facts = speed.facts_of(chosen)
    settings = speed.choose(
        model, facts, chosen, precision=precision, batch=batch, context=context, tokens=steps * batch * context
    )
    settings.prepare(model)
    foreseen = step_memory.of_windows(model, settings, context=context)
    watch = step_memory.watch(model, folder, foreseen, device="cpu") if watched else None
    own = settings.arguments() | ({"bf16": precision == "bf16-autocast"} if stock else {})
    saving = {"save_steps": save_steps} if save_steps else {"save_strategy": "no"}
    arguments = training.arguments(
        folder, seed=1, device="cpu", steps=steps, batch=batch, learning_rate=1e-2, **saving
    ) | own | {"logging_steps": 1}  # fmt: skip
    windows = _windows(folder, context, steps * batch + spare, vocabulary)
    trainer = (Trainer if stock else speed.trainer_class(settings))(
        model, TrainingArguments(**arguments), train_dataset=windows,
        optimizers=(MuonAdamW(model, lr=1e-2, embedding_lr=1e-2), None),
    )  # fmt: skip
    if watch:
        trainer.add_callback(watch)
    figures = training.run(trainer, folder)
    figures["execution"] |= settings.record() | (watch.figures() if watch else {})
    losses = [entry["loss"] for entry in training.history(folder) if "loss" in entry]
    return Trained(losses, model, trainer, settings, figures)


def _windows(folder: Path, context: int, count: int, vocabulary: int) -> Examples:
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    ids = np.random.default_rng(0).integers(3, vocabulary, count * context)
    write_stream(folder / "tokens" / "random.bin", ids)
    windows = PackedWindows(folder / "tokens", {"random": 1.0}, context=context, tokens=count * context)
    return Examples(windows, Causal(begin=1, apart=False))


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
