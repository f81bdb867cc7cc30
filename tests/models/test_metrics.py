import math

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from models.metrics import Interval, bleu_interval, bootstrap, paired, perplexity, rouge


def test_rouge_by_hand() -> None:
    # overlap 2 of 2 and of 4 words: F = 2 * 1 * .5 / 1.5; no common pair; longest common subsequence 2
    assert rouge("French painter", "French philosopher and painter") == pytest.approx(
        {"rouge1": 2 / 3, "rouge2": 0, "rougeL": 2 / 3}
    )
    assert rouge("painter French", "French painter")["rougeL"] == 0.5
    assert rouge("", "French painter") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_rouge_equals_the_library_on_plain_english() -> None:
    pairs = [
        ("A film, directed by De Sica (1948).", "1948 film by Vittorio De-Sica"),
        ("It's the cat's toy", "a cat toy"),
    ]
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for prediction, reference in pairs:
        expected = {name: value.fmeasure for name, value in library.score(reference, prediction).items()}
        assert rouge(prediction, reference) == pytest.approx(expected)


def test_rouge_keeps_letters_outside_ascii() -> None:
    assert rouge("été", "t")["rouge1"] == 0
    assert rouge("Москва", "москва")["rouge1"] == 1


def test_bleu_by_hand() -> None:
    # precisions 5/6, 3/5, 2/4, 1/3 and equal lengths
    result = bleu_interval(["the cat sat on the mat"], ["the cat sat on a mat"], draws=10)
    assert result.mean == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert result.low == pytest.approx(result.mean) and result.n == 1


def test_bleu_interval_is_seeded_and_spans_the_mean() -> None:
    predictions = ["the cat sat on the mat", "a dog lies in the sun today", "", "birds fly over the quiet lake"]
    references = ["the cat sat on a mat", "a dog lies in the sun", "no answer", "birds fly over the lake now"]
    one, same, other = (bleu_interval(predictions, references, draws=20, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one.low < one.mean < one.high
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        bleu_interval(["a"], ["a", "b"])


def test_perplexity() -> None:
    assert perplexity(0) == 1 and perplexity(math.log(50)) == pytest.approx(50) and perplexity(1e4) == math.inf


def test_bootstrap_of_two_values_by_hand() -> None:
    # the mean of a resample is 0 or 1 a quarter of the time each, so 95% reaches both ends and 40% stays at 1/2
    assert bootstrap([0, 1], seed=1) == Interval(0.5, 0.0, 1.0, 2)
    assert bootstrap([0, 1], seed=1, level=0.4) == Interval(0.5, 0.5, 0.5, 2)


def test_bootstrap_agrees_with_the_standard_error() -> None:
    result = bootstrap([0, 1] * 200, seed=3)
    assert (result.low, result.high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.004)


def test_bootstrap_in_blocks_covers_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.metrics._BLOCK", 1000)
    values = np.random.default_rng(0).normal(size=300)
    result = bootstrap(values, draws=2001, seed=1)
    assert result.high - result.low == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.1)


def test_paired_sees_a_constant_gain_that_separate_intervals_hide() -> None:
    worse = np.random.default_rng(0).normal(size=200)
    result = paired(worse + 0.1, worse, seed=1)
    assert (result.mean, result.low, result.high) == pytest.approx((0.1, 0.1, 0.1)) and result.excludes_zero
    assert bootstrap(worse + 0.1, seed=1).low < bootstrap(worse, seed=1).high
    assert not paired(worse, worse).excludes_zero
    with pytest.raises(ValueError, match="2 and 1 items"):
        paired([1, 2], [1])


@pytest.mark.parametrize(
    ("values", "message"), [([], "one value or more"), ([1, math.nan], "1 of 2 values are not finite")]
)
def test_bootstrap_refuses(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(values)


def test_a_level_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap([1, 2], level=95)
