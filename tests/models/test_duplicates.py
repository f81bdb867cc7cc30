import random
import re

import pytest

from models.duplicates import near_duplicates


def _jaccard(a: str, b: str, width: int = 5) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.casefold())
        return {tuple(words[i : i + width]) for i in range(max(1, len(words) - width + 1))} if words else set()

    one, two = shingles(a), shingles(b)
    return len(one & two) / len(one | two) if one | two else 0.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_finds_exactly_what_comparing_all_pairs_finds(threshold: float) -> None:
    rng = random.Random(7)
    words = [f"w{i}" for i in range(40)]
    base = [[rng.choice(words) for _ in range(rng.randint(2, 40))] for _ in range(60)]
    changed = [[rng.choice(words) if rng.random() < 0.06 else word for word in text] for text in base]
    texts, others = [" ".join(t) for t in base], [" ".join(t) for t in changed]
    expected = {
        i: best for i, text in enumerate(texts) if (best := max(_jaccard(text, other) for other in others)) >= threshold
    }
    found = near_duplicates(texts, others, threshold=threshold)
    assert {i: similarity for i, (_, similarity) in found.items()} == pytest.approx(expected)
    assert len(found) > 5


def test_blind_to_case_and_punctuation() -> None:
    assert near_duplicates(["Hello, you!"], ["nothing", "hello you"], threshold=1.0) == {0: (1, 1.0)}


@pytest.mark.parametrize(("texts", "others"), [([], ["a b"]), (["a b"], []), (["", "?!"], ["", "..."])])
def test_nothing_to_compare(texts: list[str], others: list[str]) -> None:
    assert near_duplicates(texts, others, threshold=0.5) == {}


def test_refuses_a_threshold_outside() -> None:
    with pytest.raises(ValueError, match=r"threshold is 0.*\(0, 1\]"):
        near_duplicates(["a"], ["a"], threshold=0)
