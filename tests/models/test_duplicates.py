import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from models.duplicates import Match, Sketches, banding
from models.shingles import shingles


def _set(text: str, width: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + width]) for i in range(max(1, len(words) - width + 1))} if words else set()


def _jaccard(a: str, b: str) -> float:
    one, two = _set(a), _set(b)
    return len(one & two) / len(one | two) if one | two else 0.0


def _pairs(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair at or above the threshold, by comparing all that share a shingle."""
    sets = [_set(text) for text in texts]
    holders = defaultdict(list)
    for i, held in enumerate(sets):
        for shingle in held:
            holders[shingle].append(i)
    both = Counter(pair for held in holders.values() for pair in combinations(held, 2))
    similar = {(i, j): n / (len(sets[i]) + len(sets[j]) - n) for (i, j), n in both.items()}
    return {pair: similarity for pair, similarity in similar.items() if similarity >= threshold}


def _edited(rng: random.Random, words: list[str], rate: float) -> list[str]:
    return [word for old in words for word in _edit(rng, old, rate)]


def _edit(rng: random.Random, word: str, rate: float) -> list[str]:
    return rng.choice([[], [f"new{rng.randrange(1000)}"], [word, "added"]]) if rng.random() < rate else [word]


def _corpus(seed: int, count: int, lengths: tuple[int, int], rate: float) -> list[str]:
    """Texts of which about half are edits of an earlier one."""
    rng = random.Random(seed)
    made: list[list[str]] = []
    for _ in range(count):
        again = made and rng.random() < 0.5
        made.append(
            _edited(rng, rng.choice(made), rng.random() * rate)
            if again
            else [f"w{rng.randrange(3000)}" for _ in range(rng.randint(*lengths))]
        )
    return [" ".join(words) for words in made]


def _found(folder: Path, texts: list[str], threshold: float) -> list[Match]:
    sketches = Sketches(folder, threshold=threshold)
    everything = sketches.add(texts)
    return list(sketches.near(everything, everything))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("lengths", [(5, 12), (40, 120)])
def test_recall_against_the_exact_join_and_exact_similarities(
    tmp_path: Path, threshold: float, lengths: tuple[int, int]
) -> None:
    texts = _corpus(7, 1500, lengths, (1 - threshold) / 3)
    sketches = Sketches(tmp_path, threshold=threshold)
    asked, among = sketches.add(texts[:700]), sketches.add(texts[700:])
    exact = _pairs(texts, threshold)
    expected: dict[int, float] = defaultdict(float)
    for (i, j), similarity in exact.items():
        if i < 700 <= j:
            expected[i] = max(expected[i], similarity)
    found = list(sketches.near(asked, among))
    assert all(exact[match.document, match.other] == match.similarity for match in found)
    assert len(expected) > 80 and len(found) >= 0.98 * len(expected)
    assert sum(match.similarity == expected[match.document] for match in found) >= 0.98 * len(found)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_what_is_removed_is_near_to_one_that_stays_and_no_two_that_stay_are_near(
    tmp_path: Path, threshold: float
) -> None:
    texts = _corpus(3, 1200, (20, 80), (1 - threshold) / 2)
    exact = _pairs(texts, threshold)
    found = _found(tmp_path, texts, threshold)
    removed = {match.document for match in found}
    assert [match.document for match in found] == sorted(removed)
    for document, other, similarity in found:
        assert other < document and other not in removed and exact[other, document] == similarity
    left = [pair for pair in exact if not removed & set(pair)]
    assert len(removed) > 200 and len(left) <= 0.02 * len(exact)


def test_a_side_that_stays_and_one_that_follows_in_one_go(tmp_path: Path) -> None:
    one, two = (" ".join(f"{name}{i}" for i in range(40)) for name in "ab")
    sketches = Sketches(tmp_path, threshold=0.7)
    test = sketches.add([one, one])
    train = sketches.add([two, one + " and more", two + " and more"])
    found = list(sketches.near(train, range(test.start, train.stop)))
    assert [(match.document, match.other) for match in found] == [(3, 0), (4, 2)]
    assert [match.similarity for match in found] == [36 / 38, 36 / 38]
    assert [(match.document, match.other) for match in sketches.near(test, test)] == [(1, 0)]
    assert list(sketches.near(range(2, 3), test)) == []


def test_found_across_batches_of_any_size(tmp_path: Path) -> None:
    texts = _corpus(5, 400, (20, 60), 0.1)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    sketches = Sketches(tmp_path / "parts", threshold=0.7)
    for start in range(0, 400, 37):
        assert sketches.add(texts[start : start + 37]).start == start
    found = list(sketches.near(range(400), range(400)))
    assert found == _found(tmp_path / "whole", texts, 0.7) and len(found) > 80


_SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}]
from tests.models.test_duplicates import _corpus, _found
print(_found(Path(sys.argv[1]), _corpus(5, 300, (20, 60), 0.1), 0.7))
"""


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    command = [sys.executable, "-c", _SCRIPT.format(root=root), str(tmp_path / "there")]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"}).stdout
    assert other.strip() == str(_found(tmp_path / "here", _corpus(5, 300, (20, 60), 0.1), 0.7))


def test_a_large_cluster_takes_linear_time(tmp_path: Path) -> None:
    """Without the limits, 18 million comparisons; with them at most 6,000 times 32, here one each."""
    boilerplate = [f"b{i}" for i in range(50)]
    texts = [" ".join([*boilerplate, f"n{i}", "again"]) for i in range(6000)]
    calls = []
    sketches = Sketches(tmp_path, threshold=0.7)
    everything = sketches.add(texts)
    found = list(sketches.near(everything, everything, progress=calls.append))
    assert [(match.document, match.other) for match in found] == [(i, 0) for i in range(1, 6000)]
    assert calls == sorted(calls) and calls[-1] == 6000


def test_near_duplicates_are_found_under_boilerplate_that_all_share(tmp_path: Path) -> None:
    rng = random.Random(2)
    boilerplate = [f"b{i}" for i in range(40)]
    own = [[f"w{rng.randrange(10**6)}" for _ in range(20)] for _ in range(1500)]
    texts = [" ".join(boilerplate + words) for words in own + [[*words[:-1], "other"] for words in own[:200]]]
    assert 0.45 < _jaccard(texts[0], texts[1]) < 0.7 < _jaccard(texts[0], texts[1500])
    found = {match.document: match.other for match in _found(tmp_path, texts, 0.7)}
    assert sum(found.get(1500 + i) == i for i in range(200)) >= 196
    assert len(found) == sum(document >= 1500 for document in found)


def test_identical_held_out_texts_do_not_hide_another(tmp_path: Path) -> None:
    same = " ".join(f"w{i}" for i in range(3000))
    sketches = Sketches(tmp_path, threshold=0.8)
    among = sketches.add([same] * 100 + [f"{same} more"])
    asked = sketches.add([f"{same} more"])
    assert list(sketches.near(asked, among)) == [Match(101, 100, 1.0)]


def test_blind_to_case_and_punctuation(tmp_path: Path) -> None:
    texts = ["Hello, you!", "nothing", "hello -- YOU", "you, hello", "É, ΣΑΣ!", "é σας"]
    assert _found(tmp_path, texts, 1.0) == [Match(2, 0, 1.0), Match(5, 4, 1.0)]


def test_texts_without_a_word_are_near_to_nothing(tmp_path: Path) -> None:
    assert _found(tmp_path, ["", "?!", "", "..."], 0.5) == []


def test_spaceless_scripts_shingle_by_the_character(tmp_path: Path) -> None:
    text = "人人生而平等造物者赋予他们若干不可剥夺的权利其中包括生命权自由权和追求幸福的权利"
    (match,) = _found(tmp_path, [text, text + "。好"], 0.8)
    assert match == (1, 0, (len(text) - 4) / (len(text) - 3))


def test_a_long_text_is_one_document(tmp_path: Path) -> None:
    rng = random.Random(8)
    long = " ".join(f"w{rng.randrange(10**6)}" for _ in range(120_000))
    run = "x" * 700_000
    (match, blob) = _found(tmp_path, [long, f"moved by {long}", run, f"{run}, "], 0.7)
    assert match[:2] == (1, 0) and match.similarity == pytest.approx(119_996 / 119_998, abs=1e-5)
    assert blob == Match(3, 2, 1.0)


def test_shingles_are_the_distinct_runs_of_words() -> None:
    hashes, sizes = shingles(["a b a b a b", "", "A b", "a, b!", "b a"], 2)
    one, two, three, four, five = np.split(hashes, np.cumsum(sizes)[:-1])
    assert sizes.tolist() == [2, 0, 1, 1, 1] and two.size == 0
    assert sorted(one.tolist()) == sorted([*three.tolist(), *five.tolist()]) and three.tolist() == four.tolist()


@pytest.mark.parametrize(
    ("threshold", "bands", "rows"), [(0.5, 42, 3), (0.7, 25, 5), (0.8, 18, 7), (0.9, 11, 11), (1.0, 1, 128)]
)
def test_banding_takes_most_rows_that_find_98_percent(threshold: float, bands: int, rows: int) -> None:
    assert banding(threshold, 128) == (bands, rows)
    assert 1 - (1 - threshold**rows) ** bands >= 0.98
    assert rows == 128 or 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.98


@pytest.mark.parametrize("threshold", [0.0, 1.1, float("nan")])
def test_refuses_a_threshold_outside(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold is {threshold}.*\(0, 1\]"):
        Sketches(tmp_path, threshold=threshold)


def test_refuses_what_so_few_permutations_cannot_find(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"16 permutations .* similarity 0\.1"):
        Sketches(tmp_path, threshold=0.1, permutations=16)


@pytest.mark.parametrize("outside", [range(0, 3), range(-1, 1), range(0, 2, 2)])
def test_refuses_a_range_outside(tmp_path: Path, outside: range) -> None:
    sketches = Sketches(tmp_path, threshold=0.7)
    sketches.add(["a", "b"])
    with pytest.raises(ValueError, match=r"no part of the 2 documents"):
        sketches.near(outside, range(2))


def test_refuses_a_folder_that_holds_sketches(tmp_path: Path) -> None:
    Sketches(tmp_path, threshold=0.7)
    with pytest.raises(FileExistsError):
        Sketches(tmp_path, threshold=0.7)


@pytest.mark.parametrize(("texts", "others"), [([], ["a b"]), (["a b"], []), (["", "?!"], ["", "..."]), ([], [])])
def test_nothing_to_compare(tmp_path: Path, texts: list[str], others: list[str]) -> None:
    sketches = Sketches(tmp_path, threshold=0.5)
    asked, among = sketches.add(texts), sketches.add(others)
    assert list(sketches.near(asked, among)) == []
