"""How well a tokenizer fits a text: compression, fertility, and how often it is left with single bytes."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

WORD = re.compile(r"\S+")
BYTE = re.compile(r"(?s:.)|<0x[0-9A-F]{2}>")  # in the byte-level alphabet a byte is one character; SentencePiece's form
Spans = Sequence[tuple[int, int]]


def single_bytes(vocabulary: Mapping[str, int]) -> frozenset[int]:
    """The ids of the tokens that are one byte."""
    return frozenset(number for token, number in vocabulary.items() if BYTE.fullmatch(token))


def pieces(text: str, spans: Spans) -> np.ndarray:
    """How many tokens each word between whitespace is made of, shape (words,).

    `spans` are the first character of each token and the one after its last, in the order of the text. A token that
    holds the space before a word belongs to the word, one of whitespace alone to none.
    """
    words = np.array([found.span() for found in WORD.finditer(text)], np.int64).reshape(-1, 2)
    tokens = np.array(spans, np.int64).reshape(-1, 2)
    begun = np.searchsorted(tokens[:, 0], words[:, 1], side="left")
    ended = np.searchsorted(tokens[:, 1], words[:, 0], side="right")
    return begun - ended


def fit(
    documents: Sequence[str], encoded: Sequence[tuple[Sequence[int], Spans]], single: frozenset[int]
) -> dict[str, float]:
    """The measures of a tokenizer on documents, given the ids and the spans of each document's tokens.

    characters_per_token, bytes_per_token: Unicode characters and UTF-8 bytes over all tokens.
    fertility: tokens over words, a word being what stands between whitespace (Rust et al. 2021, arXiv 2012.15613);
    tokens of whitespace alone count, for they cost as much. split_words: the share of words of two tokens or more, in
    that paper the proportion of continued words.
    single_bytes: the share of tokens that are in `single`; punctuation marks and digits are among them.

    Empty where the documents hold no word.
    """
    spans = zip(documents, encoded, strict=True)
    of_words = np.concatenate([np.empty(0, np.int64), *(pieces(text, places) for text, (_, places) in spans)])
    if not of_words.size:
        return {}
    tokens = sum(len(ids) for ids, _ in encoded)
    return {
        "characters_per_token": sum(map(len, documents)) / tokens,
        "bytes_per_token": sum(len(text.encode()) for text in documents) / tokens,
        "fertility": tokens / of_words.size,
        "split_words": float((of_words > 1).mean()),
        "single_bytes": sum(number in single for ids, _ in encoded for number in ids) / tokens,
    }


def share_used(streams: Iterable[np.ndarray], vocabulary: int) -> float:
    """The share of a vocabulary that occurs in streams of token ids."""
    seen = np.zeros(vocabulary, bool)
    for stream in streams:
        seen[np.asarray(stream)] = True
    return float(seen.mean())
