import json
from collections.abc import Iterable

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, entropy

from models import drift
from models.drift import Categorical, Moved, Numeric, bin_of, collect, compare, jensen_shannon, kl, psi, value_of

DRAWS = 1000
P, Q = np.array([10, 30, 60]), np.array([20, 20, 60])


def numbers(groups: Iterable[tuple[str, Iterable[float]]]) -> dict[str, Numeric | Categorical]:
    return collect(((group, {"length": list(values)}) for group, values in groups), names=10)


def population(seed: int, groups: int = 80, rows: int = 20) -> list[tuple[str, np.ndarray]]:
    """Groups that have a length of their own, which their rows share but for a little."""
    draw = np.random.default_rng(seed)
    return [(f"{seed}-{n}", np.exp(draw.normal(draw.normal(4, 0.5), 0.1, rows))) for n in range(groups)]


def one(reference, current, **options) -> Moved:
    (found,) = compare(reference, current, draws=DRAWS, **options)
    return found


def test_psi_is_the_sum_by_hand_and_twice_kl():
    p, q = (P + 0.5) / 101.5, (Q + 0.5) / 101.5
    assert psi(P, Q) == pytest.approx(sum((q - p) * np.log(q / p)))
    assert psi(P, Q) == pytest.approx(kl(P, Q) + kl(Q, P)) == psi(Q, P)
    assert psi(P, 7 * P) == pytest.approx(0, abs=1e-12)


def test_divergences_are_scipys():
    p, q = (P + 0.5) / 101.5, (Q + 0.5) / 101.5
    assert kl(P, Q) == pytest.approx(entropy(p, q))
    assert jensen_shannon(P, Q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)
    assert jensen_shannon(np.array([10**9, 0]), np.array([0, 10**9])) == pytest.approx(1, abs=1e-6)


def test_an_empty_bin_counts_half_of_the_smaller_sample():
    p, q = np.array([100.5, 0.5]) / 101, np.array([50.5, 50.5]) / 101
    assert psi(np.array([100, 0]), np.array([500, 500])) == pytest.approx(psi(np.array([100, 0]), np.array([50, 50])))
    assert psi(np.array([100, 0]), np.array([50, 50])) == pytest.approx(((q - p) * np.log(q / p)).sum())


@pytest.mark.parametrize("other", [[1, 2], [0, 0, 0], [-1, 2, 3]])
def test_counts_that_cannot_be_compared_are_named(other):
    with pytest.raises(ValueError, match=r"counts \[10.0, 30.0, 60.0\] and"):
        psi(P, np.array(other))


def test_a_bin_knows_its_numbers_to_one_percent_and_small_whole_numbers_exactly():
    for value in (0.003, 0.5, 1, 46, 47, 12_345.6, 1e9):
        assert value_of(bin_of(value)) == pytest.approx(value, rel=0.011)
    assert len({bin_of(value) for value in range(47)}) == 47
    assert value_of(bin_of(0)) == 0
    with pytest.raises(ValueError, match="-1 has no bin"):
        bin_of(-1)


def test_numbers_are_compared_in_deciles_of_the_reference_ties_together():
    spread = drift._aligned("x", *[numbers([("g", range(1, 41))])["length"]] * 2)
    assert spread.reference.sum(axis=0).tolist() == [4] * 10
    tied = drift._aligned("x", *[numbers([("g", [1] * 75 + list(range(2, 27)))])["length"]] * 2)
    assert tied.reference.sum(axis=0).tolist() == [75, 5, 10, 10]


def test_a_profile_survives_json_and_equals_itself():
    made = collect([(f"g{n}", {"length": [n, n + 1], "word": ["a", f"w{n}"]}) for n in range(60)], names=5)
    back = drift.from_json(json.loads(json.dumps(drift.as_json(made))))
    found = compare(made, back, draws=DRAWS)
    assert [(each.feature, each.psi, each.moved, each.p) for each in found] == [
        ("length", 0.0, False, 1.0), ("word", 0.0, False, 1.0),
    ]  # fmt: skip


def test_lists_of_other_names_compare_exactly_through_the_tail():
    rows = [(f"g{n}", {"word": [f"w{n % 40}", f"w{n % 7}"]}) for n in range(400)]
    short, long = collect(rows, names=3), collect(rows, names=30)
    assert compare(short, long, draws=DRAWS)[0].psi == 0
    assert len(short["word"].names) == 3 and len(long["word"].names) == 30


def test_words_that_only_one_version_lists_are_seen():
    found = one(*(collect([(f"{a}{n}", {"word": [f"{a}{n % 50}"]}) for n in range(500)], names=5) for a in "ab"))
    assert found.moved and found.psi > 1


def test_frequent_names_are_exact_in_bounded_memory(monkeypatch):
    draw = np.random.default_rng(0)
    rows = [(f"g{n % 90}", {"word": [f"w{i}" for i in draw.zipf(1.5, 50)]}) for n in range(400)]
    whole = collect(rows, names=5)["word"]
    monkeypatch.setattr(drift, "LIMIT", 4000)
    bounded = collect(rows, names=5)["word"]
    assert bounded.names == whole.names
    assert (bounded.counts == whole.counts).all()
    assert bounded.tail.sum() == whole.tail.sum() > 0


def test_what_has_moved_comes_first_with_its_summary():
    groups = population(0)
    rows = [(group, {"length": values.tolist(), "kind": ["a", "b", "b"]}) for group, values in groups]
    longer = [(f"x{group}", {"length": (2 * values).tolist(), "kind": ["a", "b", "b"]}) for group, values in groups]
    first, second = compare(collect(rows, names=5), collect(longer, names=5), draws=DRAWS)
    assert first.feature == "length" and first.moved and first.psi > first.threshold > 0
    assert first.current["median"] == pytest.approx(2 * first.reference["median"], rel=0.03)
    assert first.family_p == first.p == 1 / (1 + DRAWS)
    assert not second.moved and set(second.reference) == {"a", "b"}


def test_the_distance_is_pearsons_and_a_swapped_block_turns_its_sign():
    reference, current = np.zeros((64, 2)), np.zeros((64, 2))
    reference[:2], current[:2] = [[30, 10], [20, 40]], [[10, 10], [10, 0]]
    swaps = np.zeros((4, 64))
    swaps[1, 0] = swaps[2, 1] = swaps[3, :2] = 1
    none, first, second, both = drift.swapped(reference, current, swaps)
    tested = chi2_contingency([reference.sum(axis=0), current.sum(axis=0)], correction=False)
    assert none == both == pytest.approx(tested.statistic * (100 + 30) / (100 * 30))
    whole, block = 20 / 30 - 50 / 100, (10 / 30 - 30 / 100) - (20 / 30 - 40 / 100) * 70 / 130
    assert first == second == pytest.approx((whole - 2 * block) ** 2 * (130 / 70 + 130 / 60))


def test_blocks_that_differ_in_size_alone_are_no_difference_however_swapped():
    reference = np.outer(np.arange(1, 65), [3, 1])
    swaps = np.random.default_rng(0).integers(0, 2, (50, 64)).astype(float)
    assert (drift.swapped(reference, reference[::-1], swaps) == 0).all()


@pytest.mark.parametrize("cut", [40, 12])
def test_the_alarm_is_as_rare_as_its_level_over_groups_and_not_over_rows(cut):
    """A split of one population by groups. Taken as independent, its rows would raise the alarm nearly always."""
    groups = population(1)
    alarms = {"groups": 0, "rows": 0}
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(len(groups))
        halves = [[groups[i] for i in part] for part in (order[cut:], order[:cut])]
        alarms["groups"] += one(*map(numbers, halves), level=0.95, seed=seed).moved
        rows = [[(f"{name}-{n}", [v]) for name, values in half for n, v in enumerate(values)] for half in halves]
        alarms["rows"] += one(*map(numbers, rows), level=0.95, seed=seed).moved if seed < 20 else 0
    assert 3 <= alarms["groups"] <= 19  # of 200 at 0.05: 10, and three standard deviations are 9
    assert alarms["rows"] >= 18


def test_two_groups_show_nothing_however_different():
    found = one(numbers([("a", [1] * 500)]), numbers([("b", [100] * 500)]))
    assert found.psi > 1 and not found.moved
    assert found.p > 0.4 and found.blocks == 1


def test_what_two_versions_share_cancels_out():
    """A tenth more rows: of the same population they are no news, of another they are, small as the index is."""
    old, more = population(2, groups=400, rows=5), population(3, groups=40, rows=5)
    assert not one(numbers(old), numbers(old + more)).moved
    other = [(group, 3 * values) for group, values in more]
    found = one(numbers(old), numbers(old + other))
    assert found.moved and found.psi < 0.1
    disjoint = [(f"new-{group}", values) for group, values in old + other]
    assert one(numbers(old), numbers(disjoint)).threshold > 2 * found.threshold


def test_the_family_is_held_while_single_features_raise_alarms():
    single, family = 0, 0
    for seed in range(30):
        draw = np.random.default_rng(seed)
        reference, current = (
            collect([(f"{side}{n}", {f"f{i}": [draw.lognormal()] for i in range(20)}) for n in range(64)], names=5)
            for side in "ab"
        )
        found = compare(reference, current, level=0.9, draws=200, seed=seed)
        assert all(each.family_p >= each.p for each in found)
        single += any(each.moved for each in found)
        family += any(each.family_p <= 0.1 for each in found)
    assert single >= 20  # of 30 at 1 - 0.9^20: 26
    assert family <= 8  # of 30 at 0.1: 3, and three standard deviations are 5


def test_too_few_draws_for_the_level_are_refused():
    with pytest.raises(ValueError, match=r"level 0.999 with 1000 draws"):
        compare({}, {}, level=0.999, draws=DRAWS)


def test_a_number_is_not_compared_with_names():
    with pytest.raises(ValueError, match="'x' is a number in one profile"):
        compare(collect([("g", {"x": [1]})], names=5), collect([("g", {"x": ["a"]})], names=5), draws=DRAWS)
