import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from models.fake_step import peak_of, timeline
from models.memory_forms import training_peak
from models.model_counts import counts, disk_bytes, state_bytes, training_flops, weight_bytes
from models.serving_memory import kv_cache_bytes, serving_peak
from models.training_step import assembled, forward_backward
from tests.models.steps_to_measure import BY_FORMULA, config_of, step_of


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("grouped", {"checkpointing": True}), ("llama", {"lora": 4}), ("gpt2", {}), ("bloom", {})],
)
def test_flops_are_those_that_torch_counts(family: str, options: dict) -> None:
    """Eager attention, which torch counts. LoRA: the first layer's input needs no gradient, which the rule ignores."""
    config, step = config_of(family), step_of({**options, "attention": "eager", "sequence": 64})
    model, ids = assembled(config, step), torch.randint(0, config.vocab_size, (2, 64))
    with FlopCounterMode(display=False) as counter:
        forward_backward(model, ids, step)
    flops = training_flops(config, counts(model, config), step) * ids.numel()
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.03 if step.lora else 0.002)


@pytest.mark.parametrize("family", BY_FORMULA)
@pytest.mark.parametrize("options", [{}, {"lora": 4}, {"precision": "bf16"}, {"optimizer": "adamw-8bit"}], ids=str)
def test_the_closed_form_counts_weights_and_states_exactly(family: str, options: dict) -> None:
    config, step = config_of(family), step_of(options)
    with torch.device("meta"):
        found = counts(assembled(config, step), config)
    parts = training_peak(config, step).parts
    assert parts["weights"] == weight_bytes(found, step.precision)
    assert parts["optimizer"] == pytest.approx(state_bytes(found, step), abs=1)


def test_few_bits_count_their_scales() -> None:
    config, step = config_of("grouped"), step_of({"lora": 8, "precision": "int8"})
    with torch.device("meta"):
        found = counts(assembled(config, step), config)
    rest = found.total - found.quantisable - found.adapters
    assert weight_bytes(found, "int8") == found.quantisable + 4 * found.rows + 2 * rest + 4 * found.adapters
    assert weight_bytes(found, "int4") == found.quantisable * 9 / 16 + 2 * rest + 4 * found.adapters
    assert disk_bytes(found, step) == {"weights": 4 * found.adapters, "checkpoint": 12 * found.adapters}


def test_prompts_take_what_serving_forecasts() -> None:
    config, step = config_of("grouped"), step_of({"batch": 4, "sequence": 256, "attention": "sdpa"})
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, config.vocab_size, (4, 256))
    held = highest = sum(p.numel() * 4 for p in model.parameters())
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    cache = sum(each.keys.nbytes + each.values.nbytes for each in kept.past_key_values.layers)
    assert cache == kv_cache_bytes(config, tokens=256, batch=4, size=4)
    assert serving_peak(config, counts(model, config), step).total == pytest.approx(highest, rel=0.05)


def test_a_window_bounds_the_cache() -> None:
    config = config_of("mistral")
    config.layer_types = ["sliding_attention", "full_attention"] * 2
    config.sliding_window = 100
    assert kv_cache_bytes(config, tokens=1000, batch=1) == 2 * 2 * 32 * 2 * (2 * 100 + 2 * 1000)


@pytest.mark.parametrize(("family", "size"), [("llama", 2048), ("grouped", 4096)])
def test_the_closed_form_follows_the_fake_step_at_real_widths(family: str, size: int) -> None:
    config, step = config_of(family), step_of({"precision": "bf16-autocast", "batch": 4, "sequence": 512})
    config.hidden_size, config.intermediate_size, config.vocab_size = size // 2, size * 2, 32000
    config.head_dim = config.hidden_size // config.num_attention_heads
    assert training_peak(config, step).total == pytest.approx(peak_of(timeline(config, step)).total, rel=0.02)
