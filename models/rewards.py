"""Checkable rewards: is an answer grounded in its source, does it follow its guideline, is it near the reference."""

import re
import unicodedata
from collections.abc import Callable

from models.metrics import rouge

GROUNDED_WEIGHT = 0.5
GUIDELINE_WEIGHT = 0.25
_PRACTICE = frozenset({"topic", "name", "reply"})
GLOSS_CHARACTERS = 40
DOCSTRING_CHARACTERS = 79

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W_]+")
_ARTICLE = re.compile(r"(?:a|an|the)\b", re.IGNORECASE)


def grounded(answer: str, source: str) -> bool:
    """Whether the source holds every number and every capitalised word of the answer, its first word apart.

    Whole numbers and whole words count, case kept, punctuation stripped; a compound counts by its parts. The first
    word is capitalised by grammar and proves nothing. An answer without words is not grounded. This is precision on
    names and numbers (the entity-level precision of Nan et al. 2021, 2102.09130, without a tagger): an answer that
    names nothing passes, so read it beside ROUGE and length.
    """
    answer, source = unicodedata.normalize("NFC", answer), unicodedata.normalize("NFC", source)
    words = _WORD.findall(answer)
    if not words:
        return False
    names = {word for word in words[1:] if word[0].isupper()}
    return names <= set(_WORD.findall(source)) and set(_NUMBER.findall(answer)) <= set(_NUMBER.findall(source))


def is_practice(kind: str) -> bool:
    """Whether instructions of this kind are practice beside the task: their answers are neither ranked nor scored."""
    return kind in _PRACTICE


def has_guideline(kind: str) -> bool:
    """Whether answers of this kind have a written guideline to follow."""
    return kind in _GUIDELINES


def guideline(answer: str, kind: str) -> bool:
    """Whether the answer follows the guideline of its kind. Raises ValueError for a kind without one.

    `gloss`: Wikipedia's short descriptions (Wikipedia:Short description): at most 40 characters, a capital or a digit
    first, no full stop at the end, no leading article; here also two words at least, or "Thing" would pass.
    `docstring`: PEP 257, a summary on one line (PEP 8: at most 79 characters) that starts with a capital and ends
    in a full stop; here also three words at least.
    """
    if not has_guideline(kind):
        raise ValueError(f"kind {kind!r} has no guideline; those with one: {', '.join(sorted(_GUIDELINES))}")
    return _GUIDELINES[kind](answer.strip())


def score(answer: str, reference: str, source: str, kind: str) -> float:
    """ROUGE-L F + 0.5 grounded + 0.25 guideline, in [0, 1.75]; a kind without a guideline earns nothing for it."""
    total = rouge(answer, reference)["rougeL"] + GROUNDED_WEIGHT * grounded(answer, source)
    return total + GUIDELINE_WEIGHT * (has_guideline(kind) and guideline(answer, kind))


def _gloss(text: str) -> bool:
    return (
        _one_line(text, GLOSS_CHARACTERS, words=2)
        and (text[0].isupper() or text[0].isdigit())
        and not text.endswith(".")
        and not _ARTICLE.match(text)
    )


def _docstring(text: str) -> bool:
    return _one_line(text, DOCSTRING_CHARACTERS, words=3) and text[0].isupper() and text.endswith(".")


def _one_line(text: str, characters: int, *, words: int) -> bool:
    return len(text.splitlines()) == 1 and len(text) <= characters and len(text.split()) >= words


_GUIDELINES: dict[str, Callable[[str], bool]] = {"gloss": _gloss, "docstring": _docstring}
