"""The LSTM: exactly as large as foreseen, causal, the same after a save, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.architectures import build, dimensions, shape_of
from models.baselines import unigram_losses
from models.costs import flops_per_token, parameters
from models.lstm import LSTMForCausalLM
from models.optimizers import MuonAdamW

SPECIAL = {"bos": 0, "eos": 4, "pad": 1}


def lstm(size: int = 1, vocabulary: int = 64, seed: int = 0) -> LSTMForCausalLM:
    return build(shape_of(size, "lstm"), vocabulary=vocabulary, context=32, special=SPECIAL, seed=seed).eval()


def ids(rows: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(5, 64, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "vocabulary"), [(1, 300), (2, 512), (4, 1000), (6, 4096)])
def test_parameters_are_exact_and_near_those_of_the_decoder(size: int, vocabulary: int) -> None:
    model = lstm(size, vocabulary)
    total = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    counted = parameters(shape_of(size, "lstm"), vocabulary)
    assert counted == {"total": total, "embedding": embedding, "non_embedding": total - embedding}
    decoder = parameters(dimensions(size), vocabulary)
    assert counted["embedding"] == decoder["embedding"]
    assert counted["non_embedding"] == pytest.approx(decoder["non_embedding"], rel=0.15)


def test_flops_are_six_for_each_weight_that_multiplies() -> None:
    model = lstm(2, 512)
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)  # the tied embedding counts as the head
    assert flops_per_token(shape_of(2, "lstm"), 512, 128) == 6 * weights
    assert flops_per_token(shape_of(2, "lstm"), 512, 8) == 6 * weights


def test_it_starts_out_remembering() -> None:
    for layer in lstm().layers:
        for name, gate in zip("ifgo", layer.lstm.bias_ih_l0.chunk(4), strict=True):
            assert torch.equal(gate, torch.full_like(gate, 1.0 if name == "f" else 0.0))
        for gate in layer.lstm.weight_hh_l0.chunk(4):
            assert torch.allclose(gate @ gate.T, torch.eye(len(gate)), atol=1e-5)


def test_every_matrix_is_trained_by_muon() -> None:
    model = lstm()
    muon, adamw = MuonAdamW(model, lr=0.02, embedding_lr=0.02).parts
    matrices = {id(p) for layer in model.layers for p in (layer.lstm.weight_ih_l0, layer.lstm.weight_hh_l0)}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == matrices
    assert id(model.embed_tokens.weight) in {id(p) for group in adamw.param_groups for p in group["params"]}


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (torch.cat([p.flatten() for p in lstm(seed=seed).parameters()]) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_later_token_does_not_change_an_earlier_prediction() -> None:
    model, changed = lstm(), ids()
    changed[:, 7] = 5 + (changed[:, 7] - 4) % 59
    with torch.no_grad():
        before, after = model(input_ids=ids()).logits, model(input_ids=changed).logits
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.equal(before[:, 7:], after[:, 7:])


def test_the_loss_is_that_of_each_next_token() -> None:
    model, labels = lstm(), ids()
    labels[0, 3] = -100
    with torch.no_grad():
        output = model(input_ids=ids(), labels=labels)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    assert torch.allclose(output.loss, expected)


def test_padding_on_the_right_changes_nothing_and_on_the_left_is_refused() -> None:
    model = lstm()
    padded = torch.cat([ids(), torch.ones(2, 3, dtype=torch.long)], dim=1)
    mask = (torch.arange(15) < 12).long().expand(2, 15)
    with torch.no_grad():
        alone, beside = model(input_ids=ids()).logits, model(input_ids=padded, attention_mask=mask).logits
    assert torch.equal(alone, beside[:, :12])
    with pytest.raises(ValueError, match="pad on the right"):
        model(input_ids=padded, attention_mask=mask.flip(1))


def test_a_saved_model_says_the_same(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = lstm()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert loaded.config.eos_token_id == SPECIAL["eos"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids()).logits, loaded(input_ids=ids()).logits)


def test_it_learns_more_than_the_frequencies() -> None:
    """A token is the one before it plus 1 or 2: frequencies are of no use, one token of memory is."""
    steps = np.random.default_rng(0).integers(1, 3, (96, 32))
    windows = 5 + np.cumsum(steps, axis=1) % 59
    model = lstm().train()
    optimizer = MuonAdamW(model, lr=0.02, embedding_lr=0.02)
    for step in range(60):
        batch = torch.from_numpy(windows[8 * (step % 8) : 8 * (step % 8) + 8])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    held_out = torch.from_numpy(windows[64:])
    with torch.no_grad():
        after = float(model.eval()(input_ids=held_out, labels=held_out).loss)
    assert after < 0.7 * unigram_losses(windows[:64], windows[64:], 64).mean()
