"""An export is held against what the model said when its training ended."""

import copy

import pytest
import torch

from models.architectures import Dimensions, build
from models.exported import PROBES, TOLERANCE, difference, record
from models.tokenizer import train_tokenizer

ROWS = [{"prompt": [{"role": "user", "content": f"river {n}"}], "answer": "a small river"} for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a small river in the north"] * 9, vocabulary=300, context=64)


@pytest.fixture(scope="module")
def model(tokenizer):
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return build(Dimensions(hidden=32, layers=1, heads=1, intermediate=32), vocabulary=300, context=64, special=special,
                 seed=0)  # fmt: skip


def test_the_same_weights_say_the_same(model, tokenizer):
    said = record(model, tokenizer, ROWS)
    assert len(said["probes"]) == PROBES
    assert difference(said, copy.deepcopy(model), tokenizer) == ""


def test_a_lost_layer_is_seen_on_every_probe(model, tokenizer):
    said = record(model, tokenizer, ROWS)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.layers[0].self_attn.q_proj.weight.normal_()
        broken.model.layers[0].mlp.down_proj.weight.normal_()
    assert difference(said, broken, tokenizer).startswith(f"the loss of {PROBES} of {PROBES} probes differs, as ")


def test_one_other_answer_may_be_a_tie_and_two_are_not(model, tokenizer):
    said = record(model, tokenizer, ROWS)
    said["probes"][0]["output"] = "another"
    assert difference(said, model, tokenizer) == ""
    said["probes"][1]["output"] = "another"
    assert difference(said, model, tokenizer).startswith("the answers to 2 of 8 probes differ, as ")


@pytest.mark.parametrize("loss", [TOLERANCE * 2, float("nan")])
def test_a_loss_beyond_the_tolerance_is_told(model, tokenizer, loss):
    said = record(model, tokenizer, ROWS)
    said["probes"][3]["loss"] += loss
    assert difference(said, model, tokenizer).startswith("the loss of 1 of 8 probes differs, as ")


def test_a_record_without_probes_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="no probes"):
        difference({"probes": [], "max_new_tokens": 4}, model, tokenizer)
