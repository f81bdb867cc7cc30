import pytest
import torch

from models.architectures import HEAD, build, dimensions

SPECIAL = {"bos": 0, "eos": 4, "pad": 1}


@pytest.mark.parametrize("size", [1, 2, 4, 6, 12, 64])
def test_the_dial_sets_dimensions_that_every_export_takes(size: int) -> None:
    shape = dimensions(size)
    assert shape.hidden == 32 * size and shape.intermediate % 32 == 0 and shape.heads * HEAD == shape.hidden
    assert shape.layers >= 3 and abs(shape.intermediate - shape.hidden * 8 / 3) <= 32


def test_a_larger_dial_is_a_larger_model() -> None:
    counts = [dimensions(s).layers * dimensions(s).hidden for s in range(1, 40)]
    assert counts == sorted(counts)


def test_size_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 0; the dial starts at 1"):
        dimensions(0)


def model(seed: int = 0) -> torch.nn.Module:
    return build(dimensions(2), vocabulary=64, context=16, special=SPECIAL, seed=seed).eval()


def test_embeddings_are_tied_and_special_tokens_set() -> None:
    llama = model()
    assert llama.get_input_embeddings().weight is llama.get_output_embeddings().weight
    assert (llama.config.bos_token_id, llama.config.eos_token_id, llama.config.pad_token_id) == (0, 4, 1)
    assert llama.config._attn_implementation == "eager"


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (torch.cat([p.flatten() for p in model(seed).parameters()]) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_later_token_does_not_change_an_earlier_prediction() -> None:
    ids = torch.randint(5, 64, (1, 10), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 64
    with torch.no_grad():
        before, after = model()(ids).logits, model()(changed).logits
    assert torch.equal(before[:, :6], after[:, :6]) and not torch.equal(before[:, 6:], after[:, 6:])
