import random

import numpy as np

from models.hashes import Seen, among


def _random(rng: random.Random, count: int, most: int) -> np.ndarray:
    return np.array([rng.randrange(most) * 0x9E3779B97F4A7C15 % 2**64 for _ in range(count)], np.uint64)


def test_seen_knows_what_came_by_in_this_call_and_before() -> None:
    rng, seen, known = random.Random(1), Seen(), set[int]()
    for size in (0, 1, 7, 300, 2, 1000, 0, 40, 1000, 3):
        hashes = _random(rng, size, 900)
        expected = []
        for value in hashes.tolist():
            expected.append(value in known)
            known.add(value)
        assert seen.again(hashes).tolist() == expected
    assert seen.distinct().tolist() == sorted(known)
    assert len(known) > 600


def test_seen_holds_eight_bytes_for_each_distinct_hash_in_few_arrays() -> None:
    rng, seen = random.Random(2), Seen()
    for _ in range(60):
        seen.again(_random(rng, 100, 2**40))
        seen.again(np.zeros(50, np.uint64))
    assert sum(run.nbytes for run in seen._runs) == 8 * seen.distinct().size == 8 * 6001
    assert len(seen._runs) <= 7


def test_nothing_seen_is_an_empty_set() -> None:
    assert Seen().distinct().size == 0
    assert Seen().distinct().dtype == np.uint64


def test_among_finds_the_first_the_last_and_nothing_beyond() -> None:
    known = np.array([3, 5, 2**64 - 2], np.uint64)
    asked = np.array([0, 3, 4, 5, 6, 2**64 - 2, 2**64 - 1], np.uint64)
    assert among(asked, known).tolist() == [False, True, False, True, False, True, False]
    assert among(asked, known[:0]).tolist() == [False] * 7
