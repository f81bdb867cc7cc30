import math

import numpy as np
import pytest

from models.baselines import (
    STRENGTHS,
    bigram_losses,
    docstring_rule,
    first_sentence,
    is_a_rule,
    length_rule,
    length_rule_accuracy,
    unigram_losses,
)


def test_unigram_by_hand() -> None:
    # counts 3 and 1 plus 1/2 each: 0.7 and 0.3; the first token of the row is not predicted
    assert unigram_losses(np.array([0, 0, 0, 1]), np.array([1, 0, 1]), 2).mean() == pytest.approx(
        -(math.log(0.7) + math.log(0.3)) / 2
    )


def test_rows_are_windows() -> None:
    train = np.array([0, 0, 0, 1])
    assert unigram_losses(train, np.array([[1, 0], [1, 0]]), 2).mean() == pytest.approx(-math.log(0.7))


def test_bigram_by_hand() -> None:
    train = np.array([0, 1] * 1000, dtype=np.uint16)
    m = min(STRENGTHS)  # a slice in which every pair was seen wants the least smoothing
    expected = [(1000 + m / 2) / (1000 + m), (999 + m / 2) / (999 + m)]
    assert bigram_losses(train, np.array([0, 1, 0]), 2).mean() == pytest.approx(-np.log(expected).mean(), rel=1e-9)


def test_bigram_learns_a_chain_and_does_not_invent_one() -> None:
    rng = np.random.default_rng(0)
    independent = rng.integers(64, size=40_000)
    assert bigram_losses(independent[:30_000], independent[30_000:], 64).mean() == pytest.approx(
        math.log(64), abs=0.005
    )
    steps = np.cumsum(rng.integers(2, size=40_000)) % 64  # the next token is this one or the one after
    chain = bigram_losses(steps[:30_000].reshape(-1, 100), steps[30_000:].reshape(-1, 100), 64).mean()
    assert chain == pytest.approx(math.log(2), abs=0.01)
    assert unigram_losses(steps[:30_000], steps[30_000:], 64).mean() > 4


def test_unseen_tokens_and_contexts_have_a_finite_loss() -> None:
    assert math.isfinite(bigram_losses(np.array([0, 1, 2, 0, 1]), np.array([5, 6, 7]), 8).mean())


@pytest.mark.parametrize(
    ("ids", "message"), [([0, 9], "from 0 to 9, the vocabulary has 8"), ([0], "no token to predict")]
)
def test_bad_ids_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unigram_losses(np.array([0, 1]), np.array(ids), 8).mean()


@pytest.mark.parametrize(
    ("prompt", "gloss"),
    [
        (
            "Zebra\nZebras are the African animals with black-and-white stripes.",
            "African animals with black-and-white stripes",
        ),
        (
            "Soap\nSoap is a salt of a fatty acid used for cleaning and lubricating.",
            "Salt of a fatty acid used for cleaning",
        ),
        ("Duo\nDuo was an Italian band. It is a test.", "Italian band"),
        ("Rome\nRome lies on seven hills, as one says, and more, too.", "Rome lies on seven hills, as one says"),
        ("Ark\nThe ark rests.", "Ark rests"),
        ("Title only", "Title only"),
    ],
)
def test_is_a_rule(prompt: str, gloss: str) -> None:
    assert is_a_rule(prompt) == gloss


def test_is_a_rule_counts_words() -> None:
    assert is_a_rule("Soap\nSoap is a salt of a fatty acid.", words=3) == "Salt of a"


def test_first_sentence() -> None:
    assert first_sentence("Foo\nFoo is J. Smith's dog. It barks.") == "Foo is J. Smith's dog."
    assert first_sentence("") == ""


@pytest.mark.parametrize(
    ("prompt", "docstring"),
    [
        ("def _apply_conv_mode(ret, s1):\n    return 1", "Apply conv mode."),
        ("@cache\nasync def parseHTTPHeader2(self): ...", "Parse HTTP header 2."),
        ("class RunList(list):\n    pass", "Run list."),
        ("variables_delete", "Variables delete."),
        ("", ""),
    ],
)
def test_docstring_rule(prompt: str, docstring: str) -> None:
    assert docstring_rule(prompt) == docstring


def test_length_rule_takes_its_direction_from_training_pairs_only() -> None:
    longer, shorter, equal = ("long answer", "short"), ("short", "long answer"), ("same", "size")
    assert length_rule(["long answer"], ["short"]).longer_wins
    assert length_rule_accuracy([longer, longer, shorter], [shorter, shorter, longer, equal]) == pytest.approx(1.5 / 4)
    assert length_rule_accuracy([shorter], [shorter, longer]) == 0.5
    assert length_rule(["a"], ["bb"]).hits(["a", "aa", "a"], ["bb", "b", "b"]).tolist() == [1, 0, 0.5]
    with pytest.raises(ValueError, match="0 chosen and 0 rejected"):
        length_rule([], [])
