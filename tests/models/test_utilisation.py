import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from models.architectures import Dimensions, build, shape_of
from models.costs import flops_per_token
from models.utilisation import cpu_peak, device_peak, named_peak, row_flops, token_flops

SPECIAL = {"bos": 0, "eos": 4, "pad": 1}
EAGER = {"attn_implementation": "eager"}  # the attention that torch counts


def masked() -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=64, **EAGER,
        )
    )  # fmt: skip


def spans() -> T5ForConditionalGeneration:
    """Of unequal depths and a head width that is not d_model / heads, which no shared formula would get right."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=96, d_model=32, d_kv=24, d_ff=64, num_layers=3, num_decoder_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", decoder_start_token_id=0, **EAGER,
        )
    )  # fmt: skip


def causal() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=2, **EAGER))


@pytest.mark.parametrize(("made", "targets"), [(causal, 0), (masked, 0), (spans, 12)])
def test_flops_are_those_that_torch_counts(made, targets: int) -> None:
    model, rows, inputs = made(), 2, 40
    ids = torch.randint(5, 96, (rows, inputs))
    labels = torch.randint(5, 96, (rows, targets)) if targets else ids
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=labels).loss.backward()
    counted = counter.get_total_flops() / rows
    assert row_flops(model, inputs=inputs, targets=targets) == pytest.approx(counted, rel=0.002)
    assert token_flops(model, inputs=inputs, targets=targets) == pytest.approx(counted / (inputs + targets), rel=0.002)


def test_a_decoder_by_hand() -> None:
    """Llama of width 32 with 2 layers of 1 head: 6 (2 (4 h^2 + 3 h f) + V h) + 12 L h T for each token."""
    shape = Dimensions(hidden=32, layers=2, heads=1, intermediate=64)
    model = build(shape, vocabulary=100, context=64, special=SPECIAL, seed=0)
    by_hand = 6 * (2 * (4 * 32 * 32 + 3 * 32 * 64) + 100 * 32) + 12 * 2 * 32 * 64
    assert token_flops(model, inputs=64) == by_hand == flops_per_token(shape, 100, 64)


def test_an_lstm_has_weights_and_no_attention() -> None:
    shape = shape_of(1, "lstm")
    model = build(shape, vocabulary=100, context=64, special=SPECIAL, seed=0)
    assert token_flops(model, inputs=8) == token_flops(model, inputs=64) == flops_per_token(shape, 100, 64)


def test_an_unknown_encoder_decoder_is_refused() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 32, "max_position_embeddings": 16}
    model = BartForConditionalGeneration(BartConfig(**small))
    with pytest.raises(ValueError, match="FLOPs of a bart are not known; those of t5"):
        row_flops(model, inputs=4, targets=4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12), ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_name(name: str, peak: float) -> None:
    assert named_peak(name) == peak


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Tesla T4",
        "NVIDIA L40",
    ],
)
def test_a_gpu_of_a_like_name_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} are not known"):
        named_peak(name)


def test_the_peak_of_a_cpu_is_measured_once_and_moves_no_generator() -> None:
    cpu_peak.cache_clear()
    before = torch.get_rng_state()
    peak = device_peak(torch.device("cpu"), bf16=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e8 < peak < 1e14
    assert device_peak(torch.device("cpu"), bf16=False) == peak
    assert cpu_peak.cache_info().misses == 1
