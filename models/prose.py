"""Plain text: sentences, folding, masking, passages. Nothing here knows where a text came from."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

_BOUNDARY = re.compile(r"[.!?][\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]?[A-ZÀ-ÖØ-Þ0-9¿¡])")
_NOT_AN_END = re.compile(
    r"(?:^|[\s(\"“])(?:[A-Z]|(?:[A-Z]\.)+[A-Z]|Dr|Mr|Mrs|Ms|St|Ste|Mt|Jr|Sr|Prof|Gen|Col|Lt|Capt|Sgt|Rev|Hon|No|Nos|vs"
    r"|c|ca|cf|fl|b|d|r|lit|etc|e\.g|i\.e|approx|esp|Inc|Ltd|Co|Bros|av|apr|J\.-C|a|M|Mme)\.$"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_TRAILING_DATES = re.compile(r"\s*\([^()]*\d[^()]*\)\s*$")


def sentences(text: str) -> list[str]:
    """Splits running text; initials, titles and common abbreviations do not end a sentence."""
    found, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if not _NOT_AN_END.search(text[start : match.start() + 1]):
            found.append(text[start : match.end()].strip())
            start = match.end()
    return [*found, text[start:].strip()] if text[start:].strip() else found


def opening(text: str, *, words: int, least: int = 8) -> str:
    """The first sentence, with the next ones while it has fewer than `least` words, cut at `words` words."""
    taken: list[str] = []
    for sentence in sentences(text):
        if len(taken) >= least:
            break
        taken += sentence.split()
    return " ".join(taken[:words])


def place(seed: int, name: str) -> str:
    """A place in a shuffled order that depends on the seed and the name alone, whatever else is in the set."""
    return hashlib.sha256(f"{seed}\t{name}".encode()).hexdigest()


def fold(text: str) -> str:
    """Case, accents and spacing removed: one name for one thing across spellings and languages."""
    plain = unicodedata.normalize("NFKD", text)
    for mark in filter(unicodedata.combining, set(plain)):
        plain = plain.replace(mark, "")
    return " ".join(plain.casefold().split())


def without_dates(description: str) -> str:
    """Drops a trailing parenthesis that holds digits: "French painter (1830-1886)" gives "French painter"."""
    return _TRAILING_DATES.sub("", description).strip()


def ungrounded_numbers(answer: str, source: str) -> list[str]:
    """The numbers of the answer that the source does not contain."""
    known = set(_NUMBER.findall(source))
    return [number for number in _NUMBER.findall(answer) if number not in known]


def mask(text: str, name: str, *, blank: str = "___") -> str | None:
    """Every whole occurrence of the name replaced by the blank, in any case; None where there is none."""
    if name.casefold() not in text.casefold():
        return None
    masked, count = re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", blank, text, flags=re.IGNORECASE)
    return masked if count else None


def passages(text: str, *, words: int) -> Iterator[str]:
    """Cuts a document at paragraphs, long paragraphs at sentences, into pieces of at most about `words` words."""
    piece: list[str] = []
    held = 0
    for part in _parts(text, words):
        length = len(part.split())
        if piece and held + length > words:
            yield "\n".join(piece)
            piece, held = [], 0
        piece.append(part)
        held += length
    if piece:
        yield "\n".join(piece)


def _parts(text: str, words: int) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = paragraph.strip()
        if len(paragraph.split()) <= words:
            if paragraph:
                yield paragraph
            continue
        for sentence in sentences(" ".join(paragraph.split())):
            pieces = sentence.split()
            for start in range(0, len(pieces), words):
                yield " ".join(pieces[start : start + words])
