import pytest

from models import prose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there.", ["One is here.", "Two is there."]),
        (
            "J. R. R. Tolkien wrote it. He lived in St. Albans.",
            ["J. R. R. Tolkien wrote it.", "He lived in St. Albans."],
        ),
        (
            "It was made c. 1500 in the U.S. Army. Then it fell!",
            ["It was made c. 1500 in the U.S. Army.", "Then it fell!"],
        ),
        ('He said "Stop." Nobody did.', ['He said "Stop."', "Nobody did."]),
        ("no end", ["no end"]),
        ("  ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert prose.sentences(text) == expected


def test_opening_takes_the_next_sentence_only_where_the_first_is_short() -> None:
    text = "Soap is a salt. It is used for cleaning and more. It is old."
    assert prose.opening(text, words=45) == "Soap is a salt. It is used for cleaning and more."
    assert prose.opening(text, words=6) == "Soap is a salt. It is"
    assert prose.opening("One two three four five six seven eight. Nine.", words=45).endswith("eight.")


def test_fold_joins_spellings() -> None:
    assert prose.fold("  Résumé ÉCOLE ") == prose.fold("resume école") == "resume ecole"


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("French painter (1830-1886)", "French painter"),
        ("City (Spain)", "City (Spain)"),
        ("Painter (born 1950)", "Painter"),
        ("(1830)", ""),
    ],
)
def test_trailing_dates_go(description: str, expected: str) -> None:
    assert prose.without_dates(description) == expected


def test_numbers_count_whole() -> None:
    assert prose.ungrounded_numbers("1968 film, 20 minutes", "A film of 1968 for 200,000 people") == ["20"]
    assert prose.ungrounded_numbers("no number", "") == []


def test_mask_takes_whole_words_in_any_case() -> None:
    assert prose.mask("Art is art, party is not.", "Art") == "___ is ___, party is not."
    assert prose.mask("A party.", "Art") is None
    assert prose.mask("C++ is a language.", "C++") == "___ is a language."


def test_passages_keep_every_word_within_bounds() -> None:
    text = "\n\n".join(f"Paragraph {i} has a few words. " * (1 + i % 7) for i in range(40))
    pieces = list(prose.passages(text, words=30))
    assert " ".join(pieces).split() == text.split()
    assert max(len(piece.split()) for piece in pieces) <= 30
    assert [len(p.split()) for p in prose.passages("w " * 95, words=30)] == [30, 30, 30, 5]


def test_place_depends_on_seed_and_name() -> None:
    assert len({prose.place(seed, name) for seed in (1, 2) for name in ("a", "b")}) == 4
