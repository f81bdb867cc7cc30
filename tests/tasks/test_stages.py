"""Each training stage on the tiny data: it really trained, and what it must leave alone it left alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import reward, rlhf, sft_worker, steps, training
from tasks.artifacts import Artifact, Checkpoint
from tests import killable, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    home = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        killable.run("rlhf")
        stages = ("data", "tokenizer", "pretrain", "sft", "preferences", "reward", "rlhf")
        yield {stage: steps.find("latest", stage, Checkpoint) for stage in stages}


def _weights(checkpoint: Artifact, *parts: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.path.joinpath(*parts))


def test_pretraining_beats_unigram_and_bigram_on_held_out_text(run: dict[str, Any]) -> None:
    figures = run["pretrain"].summary
    assert figures["loss"] < figures["unigram"]
    assert figures["gain_over_unigram"]["low"] > 0


def test_the_loss_falls_in_every_training(run: dict[str, Any]) -> None:
    checked = 0
    for stage in ("pretrain", "sft", "reward"):
        losses = [entry["loss"] for entry in training.history(run[stage].path) if "loss" in entry]
        assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), stage
        checked += 1
    assert checked == 3


def test_lora_leaves_the_base_alone_and_the_merge_is_its_sum(run: dict[str, Any]) -> None:
    base, merged = (_weights(run[stage], "model", "model.safetensors") for stage in ("pretrain", "sft"))
    adapter = _weights(run["sft"], "adapter", "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    assert b.abs().max() > 0
    assert torch.allclose(merged[f"{name}.weight"], base[f"{name}.weight"] + b @ a, atol=1e-5)


def test_a_tied_head_stays_tied_after_the_merge(run: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run["sft"].model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = _weights(run["pretrain"], "model", "model.safetensors")["model.embed_tokens.weight"]
    assert not torch.equal(model.lm_head.weight, before)


def test_the_loss_is_on_the_answer_only(run: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tasks.sft import examples
    from tasks.sft_worker import _trainer

    tokenizer = AutoTokenizer.from_pretrained(run["sft"].model)
    model = AutoModelForCausalLM.from_pretrained(run["sft"].model)
    rows = examples(run["data"].path / "instructions" / "train.jsonl", killable.SFT, seed=1)
    trainer = _trainer(
        model, tokenizer, rows[:8], tmp_path, killable.SFT, tiny.EXECUTION, longest=96, epochs=1,
        rates={"lr": 0.01, "embedding_lr": 0.01},
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    shown = 0
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learned = tokenizer.decode(labels[labels != -100])
        assert learned.endswith(tokenizer.eos_token)
        assert learned.removesuffix(tokenizer.eos_token) in {row["completion"][0]["content"] for row in rows}
        assert len(learned) < len(tokenizer.decode(ids))
        shown += 1
    assert shown == 8


def test_pairs_rank_by_the_score(run: dict[str, Any]) -> None:
    from models.rewards import score

    lines = (run["preferences"].path / "train.jsonl").read_text().splitlines()
    rows = {
        row["id"]: row
        for row in map(json.loads, (run["data"].path / "instructions" / "train.jsonl").read_text().splitlines())
    }
    ranked = [pair for pair in map(json.loads, lines) if pair["origin"] == "metric-ranked"]
    assert ranked
    for pair in ranked:
        high, low = (
            score(pair[side], rows[pair["id"]]["response"], pair["prompt"], pair["kind"])
            for side in ("chosen", "rejected")
        )
        assert high - low >= killable.PREFERENCES.gap


def test_the_reward_model_prefers_what_was_chosen(run: dict[str, Any]) -> None:
    assert run["reward"].summary["held_out"]["accuracy"] > 0.5


def test_less_at_once_trains_the_same(run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of parts of a batch add up, with activations computed again, in every stage behind pre-training."""
    monkeypatch.setattr(training, "_has_bf16", lambda _: False)
    base, data = run["sft"].model, run["data"].path
    given = {
        "sft": (sft_worker.lora, run["pretrain"].model, data, killable.SFT.model_copy(update={"epochs": 0.2})),
        "reward": (reward._train, base, run["preferences"].path, data, killable.REWARD),
        "rlhf": (rlhf._train, base, run["reward"].model, data, killable.RLHF.model_copy(update={"steps": 3})),
    }
    for stage, (train, *inputs, recipe) in given.items():
        histories = {}
        for most in (0, 2):
            folder = tmp_path / f"{stage}-{most}"
            folder.mkdir()
            execution = tiny.EXECUTION.model_copy(update={"micro_batch": most, "checkpointing": most > 0})
            figures = train(*inputs, folder, recipe, execution)
            assert (figures["execution"]["micro_batch"] == 2) == figures["execution"]["checkpointing"] == (most > 0)
            histories[most] = [entry for entry in training.history(folder) if "grad_norm" in entry]
        # the first steps: in those of a fresh head AdamW makes much of the last digits
        for step, name, within in ((0, "loss", 1e-5), (0, "grad_norm", 1e-4), (1, "loss", 1e-3)):
            whole, parts = (histories[most][step][name] for most in (0, 2))
            assert parts == pytest.approx(whole, rel=within, abs=1e-6), (stage, step, name)


def test_a_rest_of_pairs_counts_each_of_them_once(
    run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 13 pairs, the second step of 8 has 5, in parts of 2, 2 and 1."""
    monkeypatch.setattr(training, "_has_bf16", lambda _: False)
    lines = (run["preferences"].path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:13]))
    (tmp_path / "validation.jsonl").write_text("")
    histories = []
    for most in (0, 2):
        folder = tmp_path / f"most-{most}"
        folder.mkdir()
        recipe = killable.REWARD.model_copy(update={"epochs": 1.3, "learning_rate": 1e-6})
        execution = tiny.EXECUTION.model_copy(update={"micro_batch": most})
        reward._train(run["sft"].model, tmp_path, run["data"].path, folder, recipe, execution)
        histories.append([(entry["loss"], entry["grad_norm"]) for entry in training.history(folder)])
    assert len(histories[0]) == 2
    for whole, parts in zip(*histories, strict=True):
        assert parts == pytest.approx(whole, rel=1e-3)


def test_alignment_changed_the_policy_and_logged_reward_and_kl(run: dict[str, Any]) -> None:
    before, after = (_weights(run[stage], "model", "model.safetensors") for stage in ("sft", "rlhf"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("q_proj" in name for name in changed)
    entries = training.history(run["rlhf"].path)
    assert len([entry for entry in entries if {"reward", "kl"} <= set(entry)]) == killable.RLHF.steps


def test_a_batch_of_eight_is_eight_accumulated_batches_of_one(run: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    from models.packing import PackedWindows

    windows = PackedWindows(run["tokenizer"].path / "tokens" / "train", {"encyclopaedia": 1.0}, context=32, tokens=256)
    gradients = []
    for parts in ([list(range(8))], [[i] for i in range(8)]):
        model = AutoModelForCausalLM.from_pretrained(run["pretrain"].model)
        for rows in parts:
            ids = torch.tensor([windows.ids(i).tolist() for i in rows])
            (model(input_ids=ids, labels=ids).loss / len(parts)).backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
