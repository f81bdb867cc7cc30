"""What a row must be: the rules of each kind of file, and the facts about a row that they look at.

Each rule is one native Great Expectations expectation on a column of facts; a fact that does not apply to a row is
missing, and the expectation passes it over.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models import prose

Row = dict[str, Any]
EMAIL = r"\w@[\w-]+\.[a-zA-Z]{2,}(?![\w(])"  # starts with a letter, not a run of them: that is slow on long texts
URL = r"https?://|www\.\w"
LINKED = {"code", "prose", "docstring", "given"}  # where links are part of the matter
# The page's own name, then the phrase: further on, "the term may also refer to" is part of real articles.
DISAMBIGUATION = (
    r"^\W*(?:\w+\W+){1,3}(?:(?:may|can|might) (?:also )?refer to|peut (?:désigner|faire référence)"
    r"|puede (?:referirse|hacer referencia) a)\b"
)


@dataclass(frozen=True)
class Rule:
    """One expectation. `tolerated`: the share of the rows it applies to that may break it."""

    reason: str
    column: str
    expectation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    level: Literal["row", "table", "warning"] = "row"
    tolerated: float = 0.05


@dataclass(frozen=True)
class Bounds:
    """The limits that a recipe may move."""

    lead_words: int = 12
    description_words: int = 16
    docstring_words: tuple[int, int] = (3, 25)


BETWEEN, IN_SET, NO_MATCH = (
    "ExpectColumnValuesToBeBetween",
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToNotMatchRegex",
)
ROWS, UNIQUE, MEAN = "ExpectTableRowCountToBeBetween", "ExpectColumnValuesToBeUnique", "ExpectColumnMeanToBeBetween"
NO = {"value_set": [False]}
EVEN = {"min_value": 0.4, "max_value": 0.6}
UNGROUNDED = "number in the description that the prompt does not hold"
DEFAULT = Bounds()


def suite(kind: str, bounds: Bounds = Bounds()) -> tuple[Rule, ...]:
    """The rules for a kind of file. Raises ValueError for another kind."""
    if kind not in _SUITES:
        raise ValueError(f"no suite for {kind!r}; there are: {', '.join(_SUITES)}")
    table = (
        Rule("no rows", "", ROWS, {"min_value": 1}, "table"),
        Rule("id is not unique", "id", UNIQUE, level="table"),
    )
    common = (
        Rule("a part of the row is empty", "empty", IN_SET, NO),
        Rule("holds replacement or control characters: wrong encoding", "garbled", IN_SET, NO),
        Rule("holds an e-mail address", "content", NO_MATCH, {"regex": EMAIL}),
        Rule("holds a URL", "plain", NO_MATCH, {"regex": URL}),
        Rule("exact copy of an earlier row", "copy", IN_SET, NO, tolerated=0.5),
    )
    return table + _SUITES[kind](bounds) + common


def _article_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        Rule("disambiguation page (may refer to)", "lead", NO_MATCH, {"regex": DISAMBIGUATION}),
        Rule(f"lead of fewer than {bounds.lead_words} words", "lead_words", BETWEEN, {"min_value": bounds.lead_words}),
    )


def _text_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        *_article_rules(bounds),
        Rule("title is not unique", "title", UNIQUE),
        Rule("monologue: not two speakers", "speakers", IN_SET, {"value_set": [2]}, tolerated=0.6),
        Rule("conversation of fewer than 60 words", "dialogue_words", BETWEEN, {"min_value": 60}, tolerated=0.5),
        Rule("spam: one word is more than 12% of all", "repetition", BETWEEN, {"max_value": 0.12}, tolerated=0.2),
        Rule("share of ASCII characters in English text", "ascii", MEAN, {"min_value": 0.97}, "warning"),
    )


def _instruction_rules(bounds: Bounds) -> tuple[Rule, ...]:
    words, (least, most) = bounds.description_words, bounds.docstring_words
    span = {"min_value": least, "max_value": most}
    return (
        *_article_rules(bounds),
        Rule("description is empty", "gloss_words", BETWEEN, {"min_value": 1}),
        Rule(UNGROUNDED, "ungrounded", BETWEEN, {"max_value": 0}, tolerated=0.1),
        Rule(f"description of more than {words} words", "gloss_words", BETWEEN, {"max_value": words}),
        Rule("topic is not one of the set", "known_topic", IN_SET, {"value_set": [True]}, tolerated=0.25),
        Rule("the answer stands in the prompt", "leaks", IN_SET, NO),
        Rule(f"docstring not of {least} to {most} words", "docstring_words", BETWEEN, span, tolerated=0.9),
    )


def _rating_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        Rule("monologue: not two speakers", "speakers", IN_SET, {"value_set": [2]}, tolerated=0.6),
        Rule("untouched rating sliders", "untouched", IN_SET, NO, tolerated=0.8),
        Rule("rating outside 1 to 10", "lowest", BETWEEN, {"min_value": 1}),
        Rule("rating outside 1 to 10", "highest", BETWEEN, {"max_value": 10}),
        Rule("excerpt of fewer than 30 words", "words", BETWEEN, {"min_value": 30}, tolerated=0.6),
        Rule("spam: one word is more than 20% of all", "repetition", BETWEEN, {"max_value": 0.2}, tolerated=0.2),
    )


def _preference_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        Rule("chosen and rejected are the same", "same", IN_SET, NO),
        Rule("share of pairs whose chosen text is the longer one", "longer", MEAN, EVEN, "warning"),
    )


_SUITES: dict[str, Callable[[Bounds], tuple[Rule, ...]]] = {
    "text": _text_rules,
    "instructions": _instruction_rules,
    "ratings": _rating_rules,
    "preferences": _preference_rules,
}
PARTS = {
    "text": ("text",),
    "instructions": ("prompt", "response"),
    "ratings": ("prompt", "text"),
    "preferences": ("prompt", "chosen", "rejected"),
}


def facts(kind: str, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """One column per fact, None where the fact does not apply to the row."""
    seen: set[str] = set()
    columns: dict[str, list[Any]] = {rule.column: [] for rule in suite(kind) if rule.column}
    for row in rows:
        parts = [str(row[part]) for part in PARTS[kind]]
        content = "\n".join(parts)
        mark = f"{row.get('kind')}\n{content}"
        found = {
            "id": row["id"],
            "content": content,
            "plain": None if row.get("domain", row.get("kind")) in LINKED else content,
            "empty": not all(part.strip() for part in parts),
            "garbled": bool(re.search(r"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f]", content)),
            "copy": mark in seen,
            **_FACTS[kind](row),
        }
        seen.add(mark)
        for name, values in columns.items():
            values.append(found.get(name))
    return columns


def _article_facts(row: Row) -> dict[str, Any]:
    return {"lead": row["lead"], "lead_words": len(row["lead"].split())} if "lead" in row else {}


def _text_facts(row: Row) -> dict[str, Any]:
    text = row["text"]
    facts: dict[str, Any] = _article_facts(row)
    if row["domain"] == "encyclopaedia":
        facts["title"] = f"{row['language']}:{text.split(chr(10))[0]}"
    if row["domain"] == "dialogue":
        words = text.casefold().split()
        facts["speakers"] = row["speakers"]
        if row["speakers"] == 2:
            facts["dialogue_words"] = len(words)
        if len(words) >= 60:
            facts["repetition"] = _repetition(words)
    if row.get("language") == "en" and text:
        facts["ascii"] = sum(map(str.isascii, text)) / len(text) if not text.isascii() else 1.0
    return facts


def _instruction_facts(row: Row) -> dict[str, Any]:
    facts: dict[str, Any] = _article_facts(row)
    match row["kind"]:
        case "gloss":
            facts["ungrounded"] = len(prose.ungrounded_numbers(row["response"], row["prompt"]))
            facts["gloss_words"] = len(row["response"].split())
        case "topic":
            facts["known_topic"] = row["response"] in row["choices"]
        case "name":
            facts["leaks"] = prose.mask(row["prompt"], row["response"]) is not None
        case "docstring":
            facts["docstring_words"] = len(row["response"].split())
    return facts


def _rating_facts(row: Row) -> dict[str, Any]:
    words = row["text"].casefold().split()
    ratings = list(row["ratings"].values())
    facts = {
        "speakers": row["speakers"], "untouched": set(ratings) == {5}, "lowest": min(ratings), "highest": max(ratings),
    }  # fmt: skip
    if row["speakers"] == 2:
        facts["words"] = len(words)
    if len(words) >= 30:
        facts["repetition"] = _repetition(words)
    return facts


def _preference_facts(row: Row) -> dict[str, Any]:
    chosen, rejected = row["chosen"], row["rejected"]
    longer = float(len(chosen) > len(rejected)) if len(chosen) != len(rejected) else 0.5
    return {"same": chosen.strip() == rejected.strip(), "longer": longer}


_FACTS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "text": _text_facts,
    "instructions": _instruction_facts,
    "ratings": _rating_facts,
    "preferences": _preference_facts,
}


def _repetition(words: Sequence[str]) -> float:
    """The share of the commonest word."""
    return Counter(words).most_common(1)[0][1] / len(words) if words else 0.0
