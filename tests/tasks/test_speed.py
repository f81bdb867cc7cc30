"""What is chosen from which facts, and that it changes how a training runs and not what it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.architectures import Recurrent, build
from tasks import machine, notes, speed
from tasks.errors import UsageError
from tasks.settings import Execution
from tests.short_training import SPECIAL, fresh, same_weights, train

FACTS = speed.Facts(device="cpu", bf16=True, compiler=True, threads=1, free_bytes=2**34)


def chosen(facts: speed.Facts = FACTS, **changes: Any) -> speed.Settings:
    given = {"precision": "auto", "batch": 8, "context": 256, "tokens": 500_000, **changes}
    execution = Execution(**given.pop("execution", {}))
    return speed.choose(fresh(), facts, execution, **given)


def test_the_log_says_what_was_chosen_in_one_line() -> None:
    assert str(chosen()) == (
        "cpu, bf16 autocast, eager attention, fused AdamW and Muon, no compile (below 5.0 M tokens), 1 thread, "
        "micro-batch 8 of 8"
    )
    on_gpu = replace(FACTS, device="cuda", threads=4)
    assert str(chosen(on_gpu, execution={"checkpointing": True, "micro_batch": 2})) == (
        "cuda, bf16 autocast, sdpa attention, fused AdamW and Muon, compiled (on a GPU), checkpointing, 4 threads, "
        "micro-batch 2 of 8"
    )


@pytest.mark.parametrize(
    ("facts", "given", "expected"),
    [
        ({}, {"context": 256}, ("bf16-autocast", "eager")),
        ({}, {"context": 257}, ("bf16-autocast", "sdpa")),
        ({"bf16": False}, {"context": 64}, ("fp32", "sdpa")),
        ({}, {"precision": "fp32", "context": 64}, ("fp32", "sdpa")),
        ({}, {"precision": "bf16", "context": 64}, ("bf16", "eager")),
        ({"device": "cuda"}, {"context": 64}, ("bf16-autocast", "sdpa")),
        ({"device": "cuda", "bf16": False}, {}, ("fp32", "sdpa")),
    ],
)
def test_precision_and_attention_follow_from_processor_and_length(facts: dict, given: dict, expected: tuple) -> None:
    found = chosen(replace(FACTS, **facts), **given)
    assert (found.precision, found.attention) == expected


def test_a_recurrent_model_has_no_attention() -> None:
    lstm = build(Recurrent(hidden=32, layers=1), vocabulary=64, context=32, special=SPECIAL, seed=0)
    given = {"precision": "auto", "batch": 8, "context": 32, "tokens": 1}
    settings = speed.choose(lstm, FACTS, Execution(), **given)
    assert "no attention" in str(settings) and settings.micro_batch == 8
    assert settings.prepare(lstm) is lstm


@pytest.mark.parametrize(
    ("facts", "asked", "tokens", "expected"),
    [
        ({}, "auto", speed.COMPILE_TOKENS - 1, False),
        ({}, "auto", speed.COMPILE_TOKENS, True),
        ({"compiler": False}, "auto", 10**9, False),
        ({"device": "cuda"}, "auto", 1, True),
        ({}, "on", 1, True),
        ({"device": "cuda"}, "off", 10**9, False),
    ],
)
def test_compilation_is_taken_where_its_time_comes_back(facts: dict, asked: str, tokens: int, expected: bool) -> None:
    assert chosen(replace(FACTS, **facts), tokens=tokens, execution={"compile": asked}).compiled is expected


def test_a_compilation_that_was_asked_for_needs_a_compiler() -> None:
    with pytest.raises(UsageError, match=r"g\+\+"):
        chosen(replace(FACTS, compiler=False), execution={"compile": "on"})


@pytest.mark.parametrize(("read", "meant"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_on_and_off_are_understood_as_yaml_reads_them(read: Any, meant: str) -> None:
    assert Execution(compile=read).compile == meant


def test_what_was_chosen_is_recorded_for_a_reproduction() -> None:
    before, now = chosen().record(), chosen(execution={"micro_batch": 4, "checkpointing": True}).record()
    assert machine.differences(before, now) == ["micro_batch 8 -> 4", "checkpointing False -> True"]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"execution\.device is cuda, and torch sees no GPU: set it to auto"):
        speed.facts_of(Execution(device="cuda"))


def test_a_smaller_micro_batch_gives_the_same_losses(tmp_path: Path) -> None:
    whole, parts = (train(tmp_path / str(size), micro_batch=size) for size in (8, 2))
    assert parts.losses == pytest.approx(whole.losses, abs=2e-5)
    assert parts.losses != whole.losses, "the micro-batch was not used"


def test_checkpointing_gives_the_same_bits(tmp_path: Path) -> None:
    kept, again = (train(tmp_path / str(each), checkpointing=each) for each in (False, True))
    assert again.trainer.args.activation_checkpointing and not kept.trainer.args.activation_checkpointing
    assert again.losses == kept.losses and same_weights(again.model, kept.model)


def test_own_autocast_gives_the_bits_of_accelerates(tmp_path: Path) -> None:
    own, stock = (train(tmp_path / str(each), precision="bf16-autocast", stock=each) for each in (False, True))
    assert own.losses == stock.losses and same_weights(own.model, stock.model)
    assert "_original_forward" in vars(stock.model) and "_original_forward" not in vars(own.model)
    assert own.losses != train(tmp_path / "fp32", precision="fp32").losses, "nothing was cast"


def test_bf16_holds_weights_and_states_in_bf16(tmp_path: Path) -> None:
    trained, exact = (train(tmp_path / each, precision=each) for each in ("bf16", "fp32"))
    assert {p.dtype for p in trained.model.parameters()} == {torch.bfloat16}
    states = trained.trainer.optimizer.optimizer.state.values()
    assert {each.dtype for state in states for each in state.values() if each.ndim} == {torch.bfloat16}
    assert trained.losses == pytest.approx(exact.losses, abs=0.05) and trained.losses != exact.losses


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_training_saves_plain_weights_and_goes_on_from_them(tmp_path: Path) -> None:
    if not speed.facts_of(Execution(device="cpu")).compiler:
        pytest.skip("torch.compile needs a C++ compiler")
    eager, whole = (train(tmp_path / each, compile=each, save_steps=2) for each in ("off", "on"))
    assert whole.losses == pytest.approx(eager.losses, abs=1e-4)
    checkpoint = tmp_path / "on" / "checkpoints" / "checkpoint-2"
    assert set(load_file(checkpoint / "model.safetensors")) == set(
        load_file(tmp_path / "off" / "checkpoints" / "checkpoint-2" / "model.safetensors")
    )
    checkpoint.with_name("checkpoint-4").rename(tmp_path / "last")
    resumed = train(tmp_path / "on", compile="on", save_steps=2)
    assert resumed.figures["execution"]["resumed_from"] == 2
    assert resumed.losses == whole.losses and same_weights(resumed.model, whole.model)


def test_what_a_worker_notes_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="evergreen.training")
    notes.note(tmp_path, "of an earlier run")
    report = notes.follow("pretrain/main", tmp_path / "log")
    report()
    notes.note(tmp_path, "cpu, fp32")
    report()
    report()
    assert caplog.messages == ["pretrain/main: cpu, fp32"]


def test_what_the_runs_of_a_sweep_say_alike_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="evergreen.training")
    labels = {"scaling/1x10": "one", "scaling/2x10": "two", "sft/lora": "three", "sft/control": "four"}
    for label, more in labels.items():
        report = notes.follow(label, tmp_path / label / "log")
        for text in ("cpu, fp32, alike", more):
            notes.note(tmp_path / label, text)
        report()
    assert caplog.messages == [
        "scaling/1x10: cpu, fp32, alike", "scaling/1x10: one", "scaling/2x10: two",
        "sft/lora: cpu, fp32, alike", "sft/lora: three", "sft/control: cpu, fp32, alike", "sft/control: four",
    ]  # fmt: skip
