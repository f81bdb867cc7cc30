"""What a dial is said to cost against the models that it gives."""

from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from models.architectures import OBJECTIVES, Family, build, dimensions, shape_of
from models.corruption import counts_of
from models.costs import disk_bytes, flops_per_token, parameters

SPECIAL = {"bos": 0, "eos": 1, "pad": 2}
FAMILIES: tuple[Family, ...] = get_args(Family)


def model(family: Family, size: int, vocabulary: int, context: int) -> PreTrainedModel:
    return build(shape_of(size, family), vocabulary=vocabulary, context=context, special=SPECIAL, seed=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "vocabulary", "context"), [(1, 300, 64), (2, 512, 32), (4, 1000, 128), (9, 512, 64)])
def test_parameters_are_exact(family: Family, size: int, vocabulary: int, context: int) -> None:
    made = model(family, size, vocabulary, context)
    total = sum(p.numel() for p in made.parameters())
    table = context * 32 * size if family in ("gpt2", "bert") else 0
    embedding = made.get_input_embeddings().weight.numel() + table
    counted = parameters(shape_of(size, family), vocabulary, positions=context)
    assert counted == {"total": total, "embedding": embedding, "non_embedding": total - embedding}


def test_a_head_of_its_own_counts_as_embedding() -> None:
    tied, untied = (parameters(dimensions(4), 512, tied=tied) for tied in (True, False))
    assert untied["total"] - tied["total"] == 512 * 128 == untied["embedding"] - tied["embedding"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dial_means_much_the_same_size_in_every_family(family: Family) -> None:
    for size in (3, 4, 6, 8, 16):
        own, llama = (parameters(shape_of(size, each), 512)["non_embedding"] for each in (family, "llama"))
        assert own == pytest.approx(llama, rel=0.17), size


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "lstm"])
@pytest.mark.parametrize(("size", "context"), [(2, 32), (4, 128)])
def test_flops_are_those_that_torch_counts(family: Family, size: int, context: int) -> None:
    made, rows = model(family, size, 512, context), 2
    counts = counts_of(context)
    span = OBJECTIVES[family] == "span"
    ids = torch.randint(0, 512, (rows, counts.inputs if span else context))
    labels = torch.randint(0, 512, (rows, counts.targets)) if span else ids
    with FlopCounterMode(display=False) as counter:
        made(input_ids=ids, labels=labels).loss.backward()
    counted = flops_per_token(shape_of(size, family), 512, context) * rows * context
    assert counted == pytest.approx(counter.get_total_flops(), rel=2e-3)


def test_a_checkpoint_holds_the_weights_and_two_moments() -> None:
    total = parameters(dimensions(2), 512)["total"]
    assert disk_bytes(dimensions(2), 512) == {"weights": 4 * total, "checkpoint": 12 * total}
