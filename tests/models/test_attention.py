"""Attention maps of tiny models, their figures on maps made by hand, and tokens as text."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MambaConfig,
    MambaModel,
    PreTrainedTokenizerFast,
)

from models import attention
from models.tokenizer import train_tokenizer

PART = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|.")
WHITE = {"␣": " ", "↵": "\n", "⇥": "\t"}
IDS = (5, 9, 13, 21, 34, 9, 2, 60, 11, 4)


def llama() -> Any:
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    return _eager(LlamaModel, config)


def gpt2() -> Any:
    return _eager(GPT2Model, GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=2, n_positions=64))


def bert() -> Any:
    config = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    return _eager(BertModel, config)


def _eager(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return kind(config).eval()


@pytest.mark.parametrize(("made", "layers", "heads"), [(llama, 2, 4), (gpt2, 3, 2), (bert, 2, 2)])
def test_a_map_shares_out_the_whole_attention(made: Any, layers: int, heads: int) -> None:
    maps = attention.maps(made(), IDS)
    assert maps.shape == (layers, heads, len(IDS), len(IDS))
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(("made", "causal"), [(llama, True), (gpt2, True), (bert, False)])
def test_only_a_decoder_sees_nothing_later(made: Any, causal: bool) -> None:
    maps = attention.maps(made(), IDS)
    assert attention.is_causal(maps) is causal
    assert np.all(np.triu(maps, 1) == 0) == causal


def test_a_model_in_training_is_measured_without_dropout() -> None:
    model = gpt2()
    before = attention.maps(model, IDS)
    np.testing.assert_array_equal(attention.maps(model.train(), IDS), before)


def test_a_model_without_attention_is_refused() -> None:
    model = MambaModel(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ValueError, match="it returns no attention"):
        attention.maps(model, IDS)


def test_broken_weights_are_refused() -> None:
    model = llama()
    model.layers[0].self_attn.q_proj.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        attention.maps(model, IDS)


def test_the_figures_of_maps_made_by_hand() -> None:
    T = 4
    first, previous, itself, alike = (np.zeros((T, T), np.float32) for _ in range(4))
    first[:, 0] = 1
    previous[0, 0] = 1
    previous[np.arange(1, T), np.arange(T - 1)] = 1
    np.fill_diagonal(itself, 1)
    for t in range(T):
        alike[t, : t + 1] = 1 / (t + 1)
    found = attention.figures(np.stack([[first, previous], [itself, alike]]))
    assert {name: each.shape for name, each in found.items()} == dict.fromkeys(
        ("entropy", "distance", "first", "previous", "itself"), (2, 2)
    )
    thirds, logs = (1 / 2 + 1 / 3 + 1 / 4) / 3, (math.log(2) + math.log(3) + math.log(4)) / 3
    np.testing.assert_allclose(found["entropy"], [[0, 0], [0, logs]], atol=1e-6)
    np.testing.assert_allclose(found["distance"], [[2, 1], [0, (0.5 + 1 + 1.5) / 3]], atol=1e-6)
    np.testing.assert_allclose(found["first"], [[1, 1 / 3], [0, thirds]], atol=1e-6)
    np.testing.assert_allclose(found["previous"], [[1 / 3, 1], [0, thirds]], atol=1e-6)
    np.testing.assert_allclose(found["itself"], [[0, 0], [1, thirds]], atol=1e-6)
    assert attention.uniform_entropy(T, causal=True) == pytest.approx(found["entropy"][1, 1], abs=1e-6)
    assert attention.uniform_entropy(T, causal=False) == math.log(4)


def test_the_distance_of_an_encoder_counts_both_sides() -> None:
    ends = np.zeros((1, 1, 3, 3), np.float32)
    ends[..., 0, 2] = ends[..., 2, 0] = ends[..., 1, 2] = 1
    found = attention.figures(ends)
    assert float(found["distance"][0, 0]) == 1.5
    assert float(found["first"][0, 0]) == 0.5


def test_a_single_token_has_no_figures() -> None:
    with pytest.raises(ValueError, match="single token"):
        attention.figures(np.ones((1, 1, 1, 1), np.float32))


class Copying(torch.nn.Module):
    """One head that looks at what followed the same token the last time, else at the first token; one that looks at
    the first always.
    """

    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> dict[str, Any]:
        B, T = input_ids.shape
        maps = torch.zeros(B, 2, T, T)
        maps[:, 1, :, 0] = 1
        for row, ids in enumerate(input_ids.tolist()):
            for t, token in enumerate(ids):
                earlier = [s for s in range(t) if ids[s] == token]
                maps[row, 0, t, earlier[-1] + 1 if earlier else 0] = 1
        return {"attentions": (maps,)}


@pytest.mark.parametrize("start", [None, 0])
def test_the_induction_score_is_one_for_a_head_that_copies(start: int | None) -> None:
    found = attention.induction(Copying(), range(1, 64), start=start, context=64)
    assert found is not None
    np.testing.assert_array_equal(found, [[1, 0]])


def test_the_induction_score_of_a_fresh_model_is_that_of_chance() -> None:
    found = attention.induction(llama(), range(64), start=None, context=64)
    assert found is not None
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found, math.log(2) / attention.REPEATED, atol=0.005)
    assert attention.induction(llama(), range(64), start=0, context=4) is None
    again = attention.induction(llama(), range(64), start=0, context=9)
    assert again is not None


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return train_tokenizer(["a river in France, a poet, a lake, a castle"] * 4, vocabulary=280, context=64)


@pytest.mark.parametrize("text", ["a river  in\nFrance\t!", "Zürich — 日本 🌲", "a\r\n\u200bx\xa0\x07", "\U000e0041"])
def test_the_tokens_of_a_byte_level_bpe_make_up_the_text(byte_level: Any, text: str) -> None:
    shown = attention.readable(byte_level, byte_level(text)["input_ids"])
    assert all(token and not re.search(r"[\s\x00-\x1f\u200b\xa0]", token) for token in shown)
    assert b"".join(map(_bytes, PART.findall("".join(shown)))).decode() == text


def test_pieces_of_a_character_are_hexadecimal_and_special_tokens_named(byte_level: Any) -> None:
    ids = byte_level("<|user|> 日")["input_ids"]
    assert attention.readable(byte_level, ids) == ["<|user|>", "␣", "\\xe6", "\\x97", "\\xa5"]


def test_the_alphabet_of_bytes_is_that_of_the_tokenizer() -> None:
    alphabet = attention.byte_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    assert (alphabet["Ġ"], alphabet["Ċ"], alphabet["a"]) == (0x20, 0x0A, ord("a"))


def test_the_pieces_of_sentencepiece_and_wordpiece() -> None:
    words = [("<unk>", 0.0), ("▁a", -1.0), ("▁lake", -2.0), ("▁", -5.0), *((f"<0x{b:02X}>", -9.0) for b in range(256))]
    unigram = Tokenizer(kinds.Unigram(words, unk_id=0, byte_fallback=True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>")
    ids = tokenizer("a lake é")["input_ids"]
    assert attention.readable(tokenizer, ids) == ["␣a", "␣lake", "␣", "\\xc3", "\\xa9"]

    pieces = Tokenizer(kinds.WordPiece({"[UNK]": 0, "river": 1, "##s": 2, "[CLS]": 3}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]", cls_token="[CLS]")
    ids = [3, *tokenizer("rivers flow")["input_ids"]]
    assert attention.readable(tokenizer, ids) == ["[CLS]", "river", "##s", "[UNK]"]


def _bytes(part: str) -> bytes:
    """Behind a mark, an escape, or a character that stands for itself."""
    if part.startswith("\\x"):
        return bytes([int(part[2:], 16)])
    return (chr(int(part[2:], 16)) if part.startswith("\\") else WHITE.get(part, part)).encode()
