"""The peak of a step on tensors without content, and the closed form, against that of a step that runs."""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models.fake_step import PARTS, peak_of, timeline
from models.measured_step import measured_peak
from models.memory_forms import training_peak, unknown
from tests.models.steps_to_measure import BY_FORMULA, CASES, config_of, name_of, step_of

FAST = [
    ("llama", {"documents": True}),
    ("gpt2", {"precision": "bf16-autocast", "checkpointing": True}),
    ("llama", {"lora": 8}),
    ("llama", {"lora": 8, "embeddings": True, "precision": "bf16", "autocast": True}),
    ("gpt2", {"lora": 8, "embeddings": True, "optimizer": "muon"}),
]


@pytest.mark.parametrize("case", FAST, ids=name_of)
def test_the_fake_step_peaks_where_a_real_one_does(case: tuple[str, dict]) -> None:
    config, step = config_of(case[0]), step_of(case[1])
    peak = peak_of(timeline(config, step))
    assert peak.total == pytest.approx(measured_peak(config, step), rel=0.01)
    assert sum(peak.parts.values()) == peak.total and tuple(peak.parts) == PARTS


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_both_ways_come_near_a_real_step(case: tuple[str, dict]) -> None:
    """The fake step within 1%; the closed form, where it knows the family and the step, within 5%."""
    config, step = config_of(case[0]), step_of(case[1])
    real = measured_peak(config, step)
    assert peak_of(timeline(config, step)).total == pytest.approx(real, rel=0.01)
    if not unknown(config, step):
        assert training_peak(config, step).total == pytest.approx(real, rel=0.05)


def test_there_are_enough_configurations() -> None:
    known = [case for case in CASES if not unknown(config_of(case[0]), step_of(case[1]))]
    assert len(CASES) >= 30 and len(known) >= 20
    assert {case[0] for case in known} == set(BY_FORMULA)


def test_parts_are_what_they_are_called() -> None:
    config, step = config_of("llama"), step_of({})
    with torch.device("meta"):
        size = 4 * AutoModelForCausalLM.from_config(config).num_parameters()
    parts = peak_of(timeline(config, step)).parts
    assert parts["weights"] == pytest.approx(size, rel=0.001)
    assert parts["optimizer"] == pytest.approx(2 * size, rel=0.001)
    assert parts["logits"] == 12 * 2 * 256 * 2048
    accumulated = peak_of(timeline(config, step_of({"accumulated": True}))).parts
    assert accumulated["gradients"] == pytest.approx(size, rel=0.001)


@pytest.mark.slow
def test_devices_divide_what_they_share() -> None:
    config = config_of("llama")
    whole = peak_of(timeline(config, step_of({"accumulated": True}))).parts
    states = peak_of(timeline(config, step_of({"accumulated": True, "devices": 4, "sharding": "zero2"}))).parts
    assert states["weights"] == whole["weights"]
    assert states["optimizer"] == pytest.approx(whole["optimizer"] / 4, rel=0.001)
    assert states["gradients"] == pytest.approx(whole["gradients"] / 4, rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero1", "zero2", "fsdp"])
def test_both_ways_agree_on_devices(sharding: str) -> None:
    """Wide layers and few tokens: what is divided decides."""
    config = config_of("grouped")
    config.hidden_size, config.intermediate_size, config.head_dim = 2048, 8192, 256
    step = step_of({"precision": "bf16-autocast", "checkpointing": True, "devices": 8, "sharding": sharding})
    assert training_peak(config, step).total == pytest.approx(peak_of(timeline(config, step)).total, rel=0.05)


@pytest.mark.slow
def test_few_bits_make_weights_and_states_smaller() -> None:
    config = config_of("grouped")
    steps = [step_of({"lora": 4, "precision": each}) for each in ("bf16", "int4")]
    wide, narrow = (peak_of(timeline(config, step)).parts for step in steps)
    assert narrow["weights"] < 0.75 * wide["weights"]  # embedding and head, half of this model, stay in bf16
    eight = peak_of(timeline(config, step_of({"optimizer": "adamw-8bit"}))).parts["optimizer"]
    plain = peak_of(timeline(config, step_of({}))).parts["optimizer"]
    assert eight == pytest.approx(plain * 2.03 / 8, rel=0.01)


def test_a_model_that_decides_by_content_is_refused_in_a_sentence() -> None:
    config = AutoConfig.for_model("t5")
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        timeline(config, step_of({}))


@pytest.mark.slow
def test_the_closed_form_holds_for_shapes_that_it_was_not_read_off() -> None:
    draw, errors = random.Random(23), []
    for _ in range(24):
        heads = draw.choice([2, 4, 8])
        hidden = heads * draw.choice([16, 40, 64])
        config = AutoConfig.for_model(
            draw.choice(("llama", "mistral", "qwen2")), vocab_size=draw.choice([100, 1000, 10000]),
            hidden_size=hidden, intermediate_size=round(hidden * draw.choice([2, 2.7, 3.5, 4])),
            num_hidden_layers=draw.choice([2, 5, 9]), num_attention_heads=heads,
            num_key_value_heads=draw.choice([1, 2]), tie_word_embeddings=draw.random() < 0.5, pad_token_id=2,
        )  # fmt: skip
        step = step_of({
            "batch": draw.choice([1, 3, 8]), "sequence": draw.choice([40, 200, 500]),
            "precision": draw.choice(["fp32", "bf16", "bf16-autocast"]), "checkpointing": draw.random() < 0.5,
            "accumulated": draw.random() < 0.3, "lora": draw.choice([0, 0, 8]),
            "optimizer": draw.choice(["adamw", "adamw-foreach", "sgd"]),
        })  # fmt: skip
        real = peak_of(timeline(config, step)).total
        errors.append((abs(training_peak(config, step).total / real - 1), config.to_diff_dict(), step))
    worst = max(errors, key=lambda each: each[0])
    assert worst[0] < 0.05, worst
    assert sum(error for error, *_ in errors) / len(errors) < 0.01
