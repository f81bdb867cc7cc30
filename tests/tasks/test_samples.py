"""The callback that lets a model speak at every evaluation: what it writes, and that the training does not notice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.tokenizer import train_tokenizer
from tasks import code, pretrain, samples, training


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a river in France, a lake"] * 4, vocabulary=270, context=64)


def weights(folder: Path, tokenizer: Any, *, sampled: bool) -> dict[str, torch.Tensor]:
    """Of a GPT-2 with dropout, which draws random numbers in every step, after 6 steps and 3 evaluations."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    shape = {"n_positions": 48, "n_embd": 16, "n_layer": 1, "n_head": 1}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, attn_pdrop=0.2, resid_pdrop=0.2))
    ids = np.random.default_rng(0).integers(4, len(tokenizer), (12, 12))
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in ids]
    arguments = training.arguments(
        folder, seed=1, device="cpu", steps=6, batch=2, learning_rate=1e-2, save_strategy="no",
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    trainer = Trainer(model, TrainingArguments(**arguments), train_dataset=rows, eval_dataset=rows[:2])
    if sampled:
        documents = {"text": np.array([*range(9, 30), tokenizer.eos_token_id])}
        trainer.add_callback(samples.continuing(folder, tokenizer, documents, begin=tokenizer.bos_token_id, longest=48))
    training.run(trainer, folder)
    trainer.evaluate()
    return model.state_dict()


def test_a_training_with_samples_ends_with_the_bits_of_one_without(tmp_path: Path, tokenizer: Any) -> None:
    with_samples = weights(tmp_path / "with", tokenizer, sampled=True)
    without = weights(tmp_path / "without", tokenizer, sampled=False)
    assert [row["step"] for row in samples.written(tmp_path / "with")] == [2, 2, 4, 4, 6, 6]
    assert samples.written(tmp_path / "without") == []
    assert with_samples.keys() == without.keys()
    assert [name for name in without if not torch.equal(without[name], with_samples[name])] == []


def test_a_resumed_training_writes_what_came_after_its_checkpoint_again(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import TrainerControl, TrainerState

    (tmp_path / "log").mkdir()
    path = tmp_path / "log" / samples.SAMPLES
    rows = [{"step": step, "prompt": "a", "kind": "greedy", "text": "\u2028"} for step in (2, 4, 6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "pro')
    sampler = samples.sampler(tmp_path, tokenizer, [], longest=8)
    sampler.on_train_begin(None, TrainerState(global_step=4), TrainerControl())
    assert samples.written(tmp_path) == rows[:2]
    assert sampler.last == 4


def test_what_a_model_is_asked_is_no_part_of_a_key() -> None:
    decisive = code.digests("tasks.pretrain", *pretrain.MODULES)
    assert "models.objectives" in decisive and "models.samples" not in decisive
