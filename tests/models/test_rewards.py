import pytest

from models.rewards import grounded, guideline, has_guideline, score

SOURCE = "Michel Foucault\nMichel Foucault (1926-1984), a French philosopher, taught at the Collège de France."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("French philosopher", True),
        ("Thinker of the French left", True),  # the first word is capitalised by grammar
        ("Philosopher from Germany", False),
        ("philosopher (1926-1984)", True),
        ("philosopher born in 192", False),  # whole numbers only
        ("Philosopher, teacher at the Collège.", True),
        ("Philosopher, teacher at the collège", True),
        ("Teacher at the COLLÈGE", False),  # case counts
        ("Franco-German thinker", False),  # compounds count by their parts
        ("", False),
        (" ... ", False),
    ],
)
def test_grounded(answer: str, expected: bool) -> None:
    assert grounded(answer, SOURCE) is expected


def test_grounded_does_not_depend_on_the_unicode_form() -> None:
    assert grounded("Teacher at Colle\u0300ge", SOURCE)


def test_numbers_with_separators_are_whole() -> None:
    assert grounded("About 1,447 people", "1,447 lived there")
    assert not grounded("About 447 people", "1,447 lived there")


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        ("French philosopher", "gloss", True),
        ("1948 film by Vittorio De Sica", "gloss", True),
        ("  French philosopher\n", "gloss", True),
        ("x" * 40, "gloss", False),
        ("Abc " + "x" * 36, "gloss", True),
        ("Abc " + "x" * 37, "gloss", False),
        ("french philosopher", "gloss", False),
        ("French philosopher.", "gloss", False),
        ("A French philosopher", "gloss", False),
        ("The philosopher", "gloss", False),
        ("Theory of knowledge", "gloss", True),
        ("Philosopher", "gloss", False),
        ("French\nphilosopher", "gloss", False),
        ("", "gloss", False),
        ("Return the sum.", "docstring", True),
        ("Return the sum", "docstring", False),
        ("return the sum.", "docstring", False),
        ("Return sum.", "docstring", False),
        ("Return the sum.\n\nMore.", "docstring", False),
        ("Return a " + "x" * 69 + ".", "docstring", True),
        ("Return a " + "x" * 70 + ".", "docstring", False),
    ],
)
def test_guideline(answer: str, kind: str, expected: bool) -> None:
    assert guideline(answer, kind) is expected


def test_a_kind_without_guideline_is_refused_by_name() -> None:
    assert has_guideline("gloss") and has_guideline("docstring") and not has_guideline("topic")
    with pytest.raises(ValueError, match=r"'topic' has no guideline.*docstring, gloss"):
        guideline("Technology", "topic")


def test_score_adds_its_three_parts() -> None:
    assert score("French philosopher", "French philosopher", SOURCE, "gloss") == 1.75
    assert score("French painter.", "French philosopher", SOURCE, "gloss") == pytest.approx(0.5 + 0.5)
    assert score("philosopher of Germany", "Technology", SOURCE, "gloss") == 0
    assert score("Technology", "Technology", SOURCE, "topic") == 1.5
