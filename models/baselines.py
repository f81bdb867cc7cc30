"""What a model has to beat: n-gram losses, text rules without learning, and the length of an answer."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.corruption import IGNORED
from models.prose import sentences

ADDED = 0.5  # pseudo-count of every token: the Krichevsky-Trofimov estimator
STRENGTHS = tuple(2.0**power for power in range(-2, 15))  # pseudo-tokens of unigram behind each context, tried in turn

_IS_A = re.compile(r"\b(?:is|are|was|were)\s+(?:an?|the)\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
_DEFINITION = re.compile(r"\b(?:def|class)\s+(\w+)")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def unigram_losses(train_ids: np.ndarray, held_out_ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Held-out loss of each row, shape (windows,), in nats per token, of token frequencies with add-1/2 smoothing.

    Ids have the shape (tokens,) or (windows, context). As for a causal model the first token of a row is given and
    not predicted, so the numbers compare with a model's loss on the same windows. Raises ValueError for ids outside
    the vocabulary or nothing to predict.
    """
    train, held_out = _rows(train_ids, vocabulary), _rows(held_out_ids, vocabulary)
    return -np.log(_unigram(train, vocabulary))[held_out[:, 1:]].mean(axis=1)


def unigram_target_losses(train_ids: np.ndarray, targets: np.ndarray, vocabulary: int) -> np.ndarray:
    """The same for models that predict some tokens alone: `targets` (windows, labels) with -100 where nothing is.

    A window without targets has loss 0. Raises ValueError for ids outside the vocabulary.
    """
    counted = targets != IGNORED
    ids = _rows(np.where(counted, targets, 0), vocabulary)
    losses = np.where(counted, -np.log(_unigram(_rows(train_ids, vocabulary), vocabulary))[ids], 0.0)
    return losses.sum(axis=1) / np.maximum(1, counted.sum(axis=1))


def bigram_losses(train_ids: np.ndarray, held_out_ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """The same for bigrams that are backed by the unigram; shapes and errors as for `unigram_losses`.

    p(w | v) = (c(v, w) + m p(w)) / (c(v) + m), Dirichlet smoothing (MacKay and Peto 1995): an interpolation whose
    weight m / (c(v) + m) falls with what is known of v. The last tenth of the TRAINING tokens chooses m.
    """
    train, held_out = _rows(train_ids, vocabulary), _rows(held_out_ids, vocabulary)
    fitted, slice_ = _split(train)
    chosen = min(STRENGTHS, key=_bigram(fitted, slice_, vocabulary).loss)
    per_token = _bigram(train, held_out, vocabulary).losses(chosen)
    return per_token.reshape(len(held_out), -1).mean(axis=1)


class _Bigram(NamedTuple):
    """Counts looked up once at the tokens to predict, so that trying another m costs no look-up."""

    pairs: np.ndarray
    contexts: np.ndarray
    unigrams: np.ndarray

    def losses(self, strength: float) -> np.ndarray:
        return -np.log((self.pairs + strength * self.unigrams) / (self.contexts + strength))

    def loss(self, strength: float) -> float:
        return float(self.losses(strength).mean())


def _bigram(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> _Bigram:
    codes, counts = np.unique(_codes(train, vocabulary), return_counts=True)
    wanted = _codes(held_out, vocabulary)
    places = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    contexts = np.bincount(train[:, :-1].ravel(), minlength=vocabulary)
    return _Bigram(
        pairs=np.where(codes[places] == wanted, counts[places], 0),
        contexts=contexts[held_out[:, :-1].ravel()],
        unigrams=_unigram(train, vocabulary)[held_out[:, 1:].ravel()],
    )


def _codes(rows: np.ndarray, vocabulary: int) -> np.ndarray:
    return (rows[:, :-1] * vocabulary + rows[:, 1:]).ravel()


def _unigram(rows: np.ndarray, vocabulary: int) -> np.ndarray:
    counts = np.bincount(rows.ravel(), minlength=vocabulary) + ADDED
    return counts / counts.sum()


def _rows(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    rows = np.atleast_2d(np.asarray(ids)).astype(np.int64)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
        raise ValueError(f"ids of shape {np.shape(ids)} leave no token to predict; give rows of two tokens or more")
    if rows.min() < 0 or rows.max() >= vocabulary:
        raise ValueError(f"token ids reach from {rows.min()} to {rows.max()}, the vocabulary has {vocabulary} tokens")
    return rows


def _split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first nine tenths and the last tenth of the rows, or of the one row."""
    if len(rows) >= 10:
        cut = len(rows) * 9 // 10
        return rows[:cut], rows[cut:]
    cut = max(2, rows.shape[1] * 9 // 10)
    rest = rows[:, cut - 1 :]
    return (rows[:, :cut], rest) if rest.shape[1] > 1 else (rows, rows)


def is_a_rule(prompt: str, words: int = 8) -> str:
    """The `words` words after the first "is a", "was the", ... of the first sentence, else its first words.

    The prompt is "title, newline, opening". A leading article is dropped, the first letter capitalised.
    """
    sentence = first_sentence(prompt)
    match = _IS_A.search(sentence)
    taken = " ".join((sentence[match.end() :] if match else sentence).split()[:words])
    return _capitalised(_ARTICLE.sub("", taken, count=1) if _ARTICLE.match(taken) else taken)


def first_sentence(prompt: str) -> str:
    """The first sentence of what follows the title; the title where nothing follows."""
    title, _, rest = prompt.partition("\n")
    found = sentences(" ".join((rest if rest.strip() else title).split()))
    return found[0] if found else ""


def docstring_rule(prompt: str) -> str:
    """The name of the function or class in the prompt, split into words: `_apply_mode` gives "Apply mode."

    Where nothing is defined the first line is taken for the name.
    """
    match = _DEFINITION.search(prompt)
    name = match.group(1) if match else prompt.strip().split("\n")[0]
    words = " ".join(word if word.isupper() else word.lower() for word in _WORD.findall(name))
    return f"{_capitalised(words)}." if words else ""


def _capitalised(text: str) -> str:
    text = text.strip(" ,;:.")
    return text[:1].upper() + text[1:]


class LengthRule(NamedTuple):
    """The judge that reads nothing: of two answers, always the longer or always the shorter one is better."""

    longer_wins: bool

    def hits(self, chosen: Sequence[str], rejected: Sequence[str]) -> np.ndarray:
        """Per pair 1 where the rule picks the chosen answer, 0 where not, 0.5 for equal lengths (in characters)."""
        sign = np.sign(_lengths(chosen, rejected)) * (1 if self.longer_wins else -1)
        return (sign + 1) / 2


def length_rule(chosen: Sequence[str], rejected: Sequence[str]) -> LengthRule:
    """The better of the two directions on these (training) pairs. Raises ValueError for no pairs or unequal numbers."""
    return LengthRule(bool(np.sign(_lengths(chosen, rejected)).sum() >= 0))


def length_rule_accuracy(train: Sequence[tuple[str, str]], held_out: Sequence[tuple[str, str]]) -> float:
    """Held-out accuracy of the length rule whose direction the training pairs of (chosen, rejected) chose."""
    rule = length_rule(*_columns(train))
    return float(rule.hits(*_columns(held_out)).mean())


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [chosen for chosen, _ in pairs], [rejected for _, rejected in pairs]


def _lengths(chosen: Sequence[str], rejected: Sequence[str]) -> np.ndarray:
    if len(chosen) != len(rejected) or not len(chosen):
        raise ValueError(f"{len(chosen)} chosen and {len(rejected)} rejected answers; the length rule needs pairs")
    return np.array([len(c) - len(r) for c, r in zip(chosen, rejected, strict=True)])
