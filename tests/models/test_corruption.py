"""What masks and spans take out of a window, and that it can be put back."""

import numpy as np
import pytest

from models.corruption import IGNORED, counts_of, masked, spans

SENTINELS = np.arange(900, 920)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("length", [2, 3, 7, 20, 128, 513])
def test_what_is_read_and_written_together_is_the_window(length: int) -> None:
    ids = np.arange(100, 100 + length)
    read, written = spans(ids, sentinels=np.arange(10_000, 10_100), end=4, generator=generator(length))
    counts = counts_of(length)
    assert (len(read), len(written)) == (counts.inputs, counts.targets)
    assert read[-1] == written[-1] == 4
    taken: dict[int, list[int]] = {}
    for token in written[:-1].tolist():
        if token >= 10_000:
            last = taken.setdefault(token, [])
        else:
            last.append(token)
    assert list(taken) == list(range(10_000, 10_000 + counts.spans)) and all(taken.values())
    put_back = [token for each in read[:-1].tolist() for token in taken.get(each, [each])]
    assert put_back == ids.tolist() and sum(map(len, taken.values())) == counts.noise


def test_spans_are_of_three_tokens_on_average_and_of_many_lengths() -> None:
    lengths = []
    for seed in range(200):
        _, written = spans(np.arange(128), sentinels=SENTINELS, end=4, generator=generator(seed))
        lengths += (np.diff(np.flatnonzero(written >= 900), append=len(written) - 1) - 1).tolist()
    assert np.mean(lengths) == pytest.approx(19 / 6) and {1, 2, 3, 4, 5, 8} < set(lengths)


def test_every_token_is_taken_out_now_and_then() -> None:
    seen = set()
    for seed in range(200):
        _, written = spans(np.arange(40), sentinels=SENTINELS, end=4, generator=generator(seed))
        seen |= set(written[written < 900].tolist())
    assert seen >= set(range(1, 40))  # a window never begins with a span


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(ValueError, match="a window of 128 tokens has 6 spans, and there are 2 sentinels"):
        spans(np.arange(128), sentinels=SENTINELS[:2], end=4, generator=generator())


def test_a_window_of_one_token_has_no_span() -> None:
    with pytest.raises(ValueError, match="a window of 1 tokens has no span"):
        counts_of(1)


def test_fifteen_of_a_hundred_are_predicted_and_most_of_these_hidden() -> None:
    ids = np.arange(10, 1010)
    inputs, labels = masked(ids, mask=2000, special=frozenset({4}), vocabulary=2000, generator=generator())
    chosen = labels != IGNORED
    assert chosen.sum() == 150 and np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(inputs[~chosen], ids[~chosen])
    hidden, kept = (inputs[chosen] == 2000).mean(), (inputs[chosen] == ids[chosen]).mean()
    assert hidden == pytest.approx(0.8, abs=0.08) and kept == pytest.approx(0.1, abs=0.06)
    assert inputs.max() <= 2000


def test_special_tokens_are_never_predicted() -> None:
    ids = np.array([4, 9] * 50)
    inputs, labels = masked(ids, mask=99, special=frozenset({4}), vocabulary=99, generator=generator())
    assert set(labels.tolist()) == {IGNORED, 9} and (inputs[::2] == 4).all()
    _, none = masked(np.full(8, 4), mask=99, special=frozenset({4}), vocabulary=99, generator=generator())
    assert (none == IGNORED).all()


def test_the_generator_decides() -> None:
    draws = [masked(np.arange(128), mask=999, special=frozenset(), vocabulary=999, generator=generator(s))[1].tolist()
             for s in (1, 1, 2)]  # fmt: skip
    assert draws[0] == draws[1] != draws[2]
