import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from models.architectures import build, dimensions
from models.memory import disk_bytes, flops_per_token, parameters, training_peak_bytes

SPECIAL = {"bos": 0, "eos": 1, "pad": 2}


def llama(size: int, vocabulary: int, context: int) -> LlamaForCausalLM:
    return build(dimensions(size), vocabulary=vocabulary, context=context, special=SPECIAL, seed=0)


def backward(model: LlamaForCausalLM, ids: torch.Tensor, *, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()


@pytest.mark.parametrize(("size", "vocabulary"), [(1, 300), (2, 512), (4, 1000), (6, 4096), (9, 512)])
def test_parameters_are_exact(size: int, vocabulary: int) -> None:
    model = llama(size, vocabulary, 64)
    total = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    assert parameters(dimensions(size), vocabulary) == {
        "total": total,
        "embedding": embedding,
        "non_embedding": total - embedding,
    }
    untied = parameters(dimensions(size), vocabulary, tied=False)
    assert untied["total"] == total + embedding and untied["non_embedding"] == total - embedding


@pytest.mark.parametrize(("size", "context"), [(2, 32), (4, 128)])
def test_flops_are_those_that_torch_counts(size: int, context: int) -> None:
    model, ids = llama(size, 512, context), torch.randint(0, 512, (2, context))
    with FlopCounterMode(display=False) as counter:
        backward(model, ids, bf16=False)
    assert flops_per_token(dimensions(size), 512, context) * ids.numel() == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )


@pytest.mark.parametrize(
    ("size", "vocabulary", "context", "batch", "precision", "error"),
    [
        (4, 4096, 128, 16, "bf16", 0.002),  # logits decide: exact but for odds and ends
        (4, 512, 256, 8, "fp32", 0.002),
        (4, 512, 256, 8, "bf16", 0.06),  # temporaries of the backward decide
        (8, 1024, 128, 2, "bf16", 0.03),  # gradients decide
        (3, 512, 32, 1, "bf16", 0.06),
    ],
)
def test_peak_is_that_of_a_real_step(
    size: int, vocabulary: int, context: int, batch: int, precision: str, error: float
) -> None:
    model, ids = llama(size, vocabulary, context), torch.randint(0, vocabulary, (batch, context))
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        backward(model, ids, bf16=precision == "bf16")
        optimiser.step()
        optimiser.zero_grad()

    step()  # the moments exist from the second step on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    held = peak = 12 * sum(p.numel() for p in model.parameters())
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    forecast = training_peak_bytes(dimensions(size), vocabulary, context=context, batch=batch, precision=precision)
    assert forecast == pytest.approx(peak, rel=error)


def test_accumulation_adds_the_gradients() -> None:
    shape = dimensions(4)
    plain, accumulated = (
        training_peak_bytes(shape, 4096, context=128, batch=8, accumulated=value) for value in (False, True)
    )
    assert accumulated - plain == 4 * parameters(shape, 4096)["total"]


def test_disk_bytes_are_those_of_the_saved_model(tmp_path) -> None:
    llama(2, 512, 64).save_pretrained(tmp_path)
    saved = (tmp_path / "model.safetensors").stat().st_size
    forecast = disk_bytes(dimensions(2), 512)
    assert forecast["weights"] == pytest.approx(saved, rel=0.01)
    assert forecast["checkpoint"] == 3 * forecast["weights"]
