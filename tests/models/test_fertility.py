"""The measures of a tokenizer, on texts that can be counted by hand."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from models.fertility import fit, pieces, share_used, single_bytes
from models.tokenizer import SPECIAL, train_tokenizer


def spans(text: str, parts: list[str]) -> list[tuple[int, int]]:
    assert "".join(parts) == text
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return list(pairwise([0, *ends]))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["one", " two"], [1, 1]),
        (["o", "ne", "  ", " t", "w", "o", "\n"], [2, 3]),
        (["\n\n", "one", ".", "\u00a0", "two"], [2, 1]),
        (["one two"], [1, 1]),  # a token of SentencePiece may hold two words
        ([" ", "\t"], []),
        ([], []),
    ],
)
def test_the_pieces_of_words(parts: list[str], expected: list[int]) -> None:
    text = "".join(parts)
    assert pieces(text, spans(text, parts)).tolist() == expected


def test_the_bytes_of_a_character_are_pieces_of_its_word() -> None:
    encoder = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[]))
    encoder.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text = "a 東京 🦊"
    made = encoder.encode(text)
    assert pieces(text, made.offsets).tolist() == [1, 6, 4]
    assert len(single_bytes(encoder.get_vocab())) == 256


def test_the_measures_are_what_a_hand_counts() -> None:
    documents = ["né one", "two"]
    encoded = [([7, 1, 9], spans("né one", ["n", "é", " one"])), ([5], [(0, 3)])]
    found = fit(documents, encoded, frozenset({1, 2}))
    assert found == {
        "characters_per_token": 9 / 4, "bytes_per_token": 10 / 4, "fertility": 4 / 3, "split_words": 1 / 3,
        "single_bytes": 1 / 4,
    }  # fmt: skip


def test_documents_without_a_word_have_no_measures() -> None:
    assert fit([], [], frozenset()) == {}
    assert fit([" \n"], [([3], [(0, 2)])], frozenset()) == {}


def test_the_measures_agree_with_the_tokens_of_each_word_alone() -> None:
    """Where single spaces separate, a word's pieces are the tokens of it with its space, but for a space alone."""
    text = "The quick brown fox, naïve 東京 and the 🦊 (twice!) jump over 1234 lazy dogs"
    encoder = train_tokenizer([text, "The lazy dog " * 9], vocabulary=300, context=64).backend_tokenizer
    first, *rest = text.split()
    words = [encoder.encode(word).tokens for word in (first, *(f" {word}" for word in rest))]
    alone = [len(tokens) - (tokens[0] == "Ġ") for tokens in words]
    made = encoder.encode(text)
    assert pieces(text, made.offsets).tolist() == alone
    assert fit([text], [(made.ids, made.offsets)], frozenset())["fertility"] == sum(map(len, words)) / len(words)
    assert min(alone) == 1 and max(alone) > 4


def test_the_single_bytes_of_a_vocabulary() -> None:
    assert single_bytes({"a": 0, "ab": 1, "Ġ": 2, "<0x0A>": 3, "<0xZZ>": 4, "\n": 5}) == {0, 2, 3, 5}
    vocabulary = train_tokenizer(["fox " * 9], vocabulary=262, context=64).get_vocab()
    assert len(single_bytes(vocabulary)) == 256
    assert not single_bytes(vocabulary) & {vocabulary[token] for token in SPECIAL}


def test_the_share_of_the_vocabulary_that_occurs() -> None:
    streams = [np.array([0, 1, 1], "<u2"), np.array([3], "<u2"), np.empty(0, "<u2")]
    assert share_used(streams, 8) == 3 / 8
