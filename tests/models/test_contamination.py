import random
import re
from pathlib import Path

import numpy as np
import pytest

from models import contamination
from models.contamination import Contamination, Overlap, Span, cut

ITEM = "Which of the twelve apostles carried the keys of heaven, and what else did he carry that night?"
SHORT = "Name the river that flows through the old town."


def _words(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(10**6)}" for _ in range(count)]


def _only(found: list[Overlap]) -> Overlap:
    assert len(found) == 1
    return found[0]


@pytest.fixture
def protected(tmp_path: Path) -> Contamination:
    contamination = Contamination(tmp_path)
    assert contamination.protect([ITEM, "too short", SHORT], source="quiz") == 2
    return contamination


def test_a_planted_span_is_found_at_every_place_with_its_exact_extent(tmp_path: Path) -> None:
    rng = random.Random(1)
    item, clean = _words(rng, 40), _words(rng, 30)
    contamination = Contamination(tmp_path)
    contamination.protect([" ".join(_words(rng, 50)), " ".join(item)], source="test")
    texts, expected = [], []
    for place in range(len(clean) + 1):
        length = rng.randint(13, 40)
        first = rng.randint(0, 40 - length)
        before, quoted = " ".join(clean[:place]), " ".join(item[first : first + length])
        texts.append(" ".join([*clean[:place], quoted, *clean[place:]]))
        start = len(before) + 1 if before else 0
        expected.append((place, length / (length + 30), [Span(start, start + len(quoted), "test", 1)]))
    assert [(o.document, o.share, o.spans) for o in contamination.find(texts)] == expected
    for overlap in contamination.find(texts):
        assert len(overlap.example.split()) == 13 and overlap.example in " ".join(item)


def test_finds_what_comparing_all_n_grams_as_text_finds(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choice("abc") for _ in range(rng.randint(0, 60))) for _ in range(300)]
    items = [" ".join(rng.choice("abc") for _ in range(rng.randint(0, 15))) for _ in range(30)]
    contamination = Contamination(tmp_path, width=8, least_words=6)
    contamination.protect(items, source="test")
    padded = [f" {text} " for text in texts]
    grams = {
        " ".join(words[i : i + 8])
        for words in map(str.split, items)
        for i in range(max(1, len(words) - 7))
        if len(words) > 5
    }
    expected = [i for i, text in enumerate(padded) if any(f" {gram} " in text for gram in grams)]
    assert [overlap.document for overlap in contamination.find(texts)] == expected
    assert 10 < len(expected) < 290


def test_twelve_words_in_common_are_not_enough(tmp_path: Path) -> None:
    item = [f"w{i}" for i in range(20)]
    contamination = Contamination(tmp_path)
    contamination.protect([" ".join(item)], source="test")
    assert contamination.find([" ".join(item[:12]), " ".join([*item[:12], "other", *item[12:]])]) == []
    assert _only(contamination.find([" ".join(item[:13])])).share == 1


@pytest.mark.parametrize(
    "text",
    [ITEM.upper(), re.sub(r"\W+", " -- ", ITEM), f"«{ITEM}»", ITEM.replace(" ", "\n"), f"Straße İ 😀 {ITEM} \ud800"],
)
def test_blind_to_case_punctuation_and_spacing(protected: Contamination, text: str) -> None:
    overlap = _only(protected.find(["nothing of it", text]))
    assert overlap.document == 1
    covered = text[overlap.spans[0].start : overlap.spans[0].end]
    assert re.findall(r"\w+", covered.lower()) == re.findall(r"\w+", ITEM.lower())


def test_a_paraphrase_is_clean(protected: Contamination) -> None:
    paraphrase = "Of the twelve apostles, who had the keys of heaven with him, and what did he bear that night as well?"
    assert protected.find([paraphrase, "", "too short", "!?"]) == []


def test_a_short_item_counts_as_a_whole(protected: Contamination) -> None:
    overlap = _only(protected.find(["Please name the river that flows through the old town today!"]))
    assert overlap == (0, 9 / 11, [Span(7, 53, "quiz", 2)], "name the river that flows through the old town")
    assert (
        protected.find(["Name the river that flows through the old city", "the river that flows through the old town"])
        == []
    )


def test_spaceless_scripts_count_by_the_character(tmp_path: Path) -> None:
    contamination = Contamination(tmp_path)
    contamination.protect(["我们坚持真理不言而喻人人生而平等"], source="test")
    overlap = _only(contamination.find(["他说—我们坚持真理。不言而喻人人生而平等。", "我们坚持真理不言而喻"]))
    assert overlap.example == "我们坚持真理。不言而喻人人生"


def test_n_grams_common_in_training_are_ignored(tmp_path: Path) -> None:
    licence = "permission is hereby granted free of charge to any person obtaining a copy of this software"
    contamination = Contamination(tmp_path, common=3)
    contamination.protect([licence, ITEM], source="test")
    texts = [f"{licence} {i} {licence}" for i in range(4)] + [ITEM] * 3
    contamination.count(texts[:3])
    assert [overlap.document for overlap in contamination.find(texts)] == [0, 1, 2, 3, 4, 5, 6]
    contamination.protect(["one more item that has quite a few words, more than thirteen, of its own"], source="later")
    contamination.count(texts[3:])
    assert [overlap.document for overlap in contamination.find(texts)] == [4, 5, 6]


@pytest.mark.parametrize("common", [0, 2, 1000])
def test_suspects_are_the_counted_texts_that_find_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, common: int
) -> None:
    monkeypatch.setattr(contamination, "_AT_ONCE", 8)
    rng = random.Random(5)
    texts = [" ".join(rng.choice("abcd") for _ in range(rng.randint(0, 40))) for _ in range(300)]
    items = [" ".join(rng.choice("abcd") for _ in range(rng.randint(0, 15))) for _ in range(40)]
    guard = Contamination(tmp_path, width=8, least_words=6, common=common)
    for start in range(0, 40, 10):
        guard.protect(items[start : start + 10], source="test")
    for start in range(0, 300, 30):
        guard.count(texts[start : start + 30])
    found = guard.find(texts)
    assert guard.suspects().tolist() == [overlap.document for overlap in found]
    assert bool(found) == (common > 0)
    for overlap in found:
        assert f" {overlap.example} " in f" {items[overlap.spans[0].item]} "


def test_what_is_protected_later_is_found_too(tmp_path: Path) -> None:
    guard = Contamination(tmp_path)
    guard.protect([SHORT], source="quiz")
    guard.count([ITEM])
    assert guard.find([ITEM]) == []
    guard.protect([ITEM], source="quiz")
    assert _only(guard.find([ITEM])).spans[0][2:] == ("quiz", 1)


def test_little_passes_the_sieve_that_was_not_put_in() -> None:
    values = np.random.default_rng(1).integers(0, 2**64, 200_000, np.uint64)
    sieve = contamination._Sieve(100_000)
    sieve.add(values[:100_000])
    places = sieve.passed(values)
    assert places[:100_000].tolist() == list(range(100_000))
    assert places.size - 100_000 < 400


def test_items_given_in_batches_keep_their_source_and_index(tmp_path: Path) -> None:
    rng = random.Random(3)
    items = [" ".join(_words(rng, 15)) for _ in range(9)]
    contamination = Contamination(tmp_path)
    for source, batch in (("a", items[:2]), ("b", items[2:5]), ("a", []), ("a", items[5:8]), ("b", items[8:])):
        contamination.protect(batch, source=source)
    found = [(overlap.spans[0].source, overlap.spans[0].item) for overlap in contamination.find(items)]
    assert found == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("a", 4), ("b", 3)]


def test_random_texts_are_clean(tmp_path: Path) -> None:
    rng = random.Random(9)
    contamination = Contamination(tmp_path)
    contamination.protect([" ".join(_words(rng, 100)) for _ in range(500)], source="test")
    assert contamination.find([" ".join(_words(rng, 100)) for _ in range(1000)]) == []


def test_nothing_protected_finds_nothing(tmp_path: Path) -> None:
    contamination = Contamination(tmp_path)
    assert contamination.find([ITEM]) == []
    assert contamination.protect([], source="test") == 0
    assert contamination.find([]) == []


def test_a_long_text_is_cut_into_slices_between_words(tmp_path: Path) -> None:
    rng = random.Random(4)
    long = " ".join(_words(rng, 100_000))
    contamination = Contamination(tmp_path)
    contamination.protect([long], source="test")
    overlap = _only(contamination.find(["moved " * 300 + long]))
    assert overlap.spans == [Span(1800, 1800 + len(long), "test", 0)]


def test_cut_takes_out_the_sentences_that_a_span_touches(protected: Contamination) -> None:
    text = f"  Before it.  All is  well.\n\nA start. {ITEM} An end.\n{SHORT}\nLast   line."
    left, removed = cut(text, _only(protected.find([text])).spans)
    assert removed == [ITEM, SHORT]
    assert left == "Before it.  All is  well.\n\nA start. An end.\nLast   line."
    assert protected.find([left]) == []


def test_cut_takes_both_sentences_of_a_span_across_them_and_may_leave_nothing(tmp_path: Path) -> None:
    contamination = Contamination(tmp_path)
    contamination.protect(["The first one ends here. And the second one goes on for a while."], source="test")
    text = "Now the first one ends here. And the second one goes on for a while longer. Done."
    assert cut(text, _only(contamination.find([text])).spans)[0] == "Done."
    assert cut(ITEM, [Span(0, 5, "test", 0)]) == ("", [ITEM])
    assert cut(text, []) == (text, [])


@pytest.mark.parametrize(("width", "least"), [(13, 0), (5, 8)])
def test_refuses_a_least_length_beyond_the_width(tmp_path: Path, width: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"least_words is {least}, .* {width}"):
        Contamination(tmp_path, width=width, least_words=least)


def test_refuses_a_negative_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="common is -1"):
        Contamination(tmp_path, common=-1)


def test_every_protected_item_that_was_met_is_named_and_boilerplate_is_not(tmp_path: Path) -> None:
    contamination = Contamination(tmp_path, common=2)
    contamination.protect([ITEM, "too short", SHORT], source="quiz")
    contamination.protect([f"Again: {ITEM}"], source="other")
    assert contamination.repeated() == []
    contamination.count([f"It was asked: {ITEM}", "nothing of it", *[SHORT] * 2])
    assert contamination.repeated() == [("quiz", 0), ("quiz", 2), ("other", 0)]
    contamination.count([SHORT])
    assert contamination.repeated() == [("quiz", 0), ("other", 0)]
