"""What a row must be: the rules of each kind of file, each one native Great Expectations expectation on a fact.

A fact is a column that `tasks.facts` computes; where it does not apply to a row it is missing, and the expectation
passes the row over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Scope = Literal["row", "table"]
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One expectation. An error at rows quarantines them, up to the share `tolerated` of the rows it applies to."""

    name: str
    reason: str
    column: str
    expectation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity = "error"
    scope: Scope = "row"
    tolerated: float = 0.05


@dataclass(frozen=True)
class Bounds:
    """The limits that a recipe may move."""

    lead_words: int = 12
    description_words: int = 16
    docstring_words: tuple[int, int] = (3, 25)
    characters: tuple[int, int] = (1, 200_000)
    tokens: tuple[int, int] = (1, 50_000)
    script: str = "Latin"
    repetition: float = 0.5
    tolerated: float = 0.05


BETWEEN, IN_SET, NOT_NULL = (
    "ExpectColumnValuesToBeBetween",
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToNotBeNull",
)
ROWS, MEAN = "ExpectTableRowCountToBeBetween", "ExpectColumnMeanToBeBetween"
NO = {"value_set": [False]}
EVEN = {"min_value": 0.4, "max_value": 0.6}
DEFAULT = Bounds()
PARTS = {
    "text": ("text",),
    "instructions": ("prompt", "response"),
    "preferences": ("prompt", "chosen", "rejected"),
    "labels": ("prompt", "response"),
    "ratings": ("prompt", "text"),
}


def suite(kind: str, bounds: Bounds = DEFAULT) -> tuple[Rule, ...]:
    """The rules for a kind of file, the most telling reason first. Raises ValueError for another kind."""
    if kind not in _OWN:
        raise ValueError(f"no suite for {kind!r}; there are: {', '.join(_OWN)}")
    rules = (*_table(), *_present(kind), *_OWN[kind](bounds), *_encoding(), *_private(), *_shape(bounds), *_copies())
    return tuple(replace(rule, tolerated=max(rule.tolerated, bounds.tolerated)) if _may_leave(rule) else rule
                 for rule in rules)  # fmt: skip


def _may_leave(rule: Rule) -> bool:
    return rule.severity == "error" and rule.scope == "row"


def _table() -> tuple[Rule, ...]:
    return (
        Rule("has_rows", "no rows", "", ROWS, {"min_value": 1}, scope="table"),
        Rule("id_is_unique", "id is not unique", "id_again", IN_SET, NO, scope="table"),
    )


def _present(kind: str) -> tuple[Rule, ...]:
    return tuple(
        rule
        for part in PARTS[kind]
        for rule in (
            Rule(f"{part}_not_null", f"{part} is null", f"{part}_here", NOT_NULL),
            Rule(f"{part}_not_blank", f"{part} is empty", f"{part}_blank", IN_SET, NO),
        )
    )


def _encoding() -> tuple[Rule, ...]:
    return (
        Rule("no_replacement_characters", "holds replacement characters: wrong encoding", "replacement", IN_SET, NO),
        Rule("no_control_characters", "holds control characters", "control", IN_SET, NO),
        Rule("no_mojibake", "was decoded with the wrong encoding (as in caf\u00c3\u00a9)", "mojibake", IN_SET, NO),
        Rule("no_invisible_text", "holds invisible or direction-changing characters", "invisible", IN_SET, NO,
             "warning", tolerated=0.01),
        Rule("no_template_markers", "holds the markers of a chat template", "markers", IN_SET, NO),
    )  # fmt: skip


def _private() -> tuple[Rule, ...]:
    return (
        Rule("no_secrets", "holds a key, token or password", "secret", IN_SET, NO, tolerated=0.01),
        Rule("no_card_numbers", "holds a card number", "card", IN_SET, NO, tolerated=0.01),
        Rule("no_iban", "holds a bank account number", "iban", IN_SET, NO, tolerated=0.01),
        Rule("no_email", "holds an e-mail address", "email", IN_SET, NO),
        Rule("no_phone", "holds a phone number", "phone", IN_SET, NO),
        Rule("no_url", "holds a URL", "url", IN_SET, NO),
        Rule("little_profanity", "holds profanity", "profane", IN_SET, NO, "warning", tolerated=0.01),
    )


def _shape(bounds: Bounds) -> tuple[Rule, ...]:
    (least, most), (fewest, longest) = bounds.characters, bounds.tokens
    characters, tokens = {"min_value": least, "max_value": most}, {"min_value": fewest, "max_value": longest}
    limit = bounds.repetition
    return (
        Rule("characters_in_range", f"not of {least:,} to {most:,} characters", "characters", BETWEEN, characters),
        Rule("tokens_in_range", f"not of {fewest:,} to {longest:,} words and marks", "tokens", BETWEEN, tokens),
        Rule("little_repetition", f"more than {limit:.0%} of its four-word runs repeat", "repetition", BETWEEN,
             {"max_value": limit}),
        Rule("expected_script", f"less than half of its letters are {bounds.script}", "foreign", BETWEEN,
             {"max_value": 0.5}, "warning"),
        Rule("mostly_letters", "less than half of it is letters, digits and spaces", "letters", BETWEEN,
             {"min_value": 0.5}, "warning"),
    )  # fmt: skip


def _copies() -> tuple[Rule, ...]:
    return (
        Rule("not_in_held_out", "stands on a held-out side too", "leaked", IN_SET, NO, tolerated=0.5),
        Rule("no_copy", "copy of an earlier row, case and spacing aside", "copy", IN_SET, NO, tolerated=0.5),
    )


def _article_rules(bounds: Bounds) -> tuple[Rule, ...]:
    words = bounds.lead_words
    return (
        Rule("no_disambiguation_page", "disambiguation page (may refer to)", "disambiguation", IN_SET, NO),
        Rule("lead_long_enough", f"lead of fewer than {words} words", "lead_words", BETWEEN, {"min_value": words}),
    )


def _text_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        *_article_rules(bounds),
        Rule("title_is_unique", "title is not unique", "title_again", IN_SET, NO),
        Rule("two_speakers", "monologue: not two speakers", "speakers", IN_SET, {"value_set": [2]}, tolerated=0.6),
        Rule("dialogue_long_enough", "conversation of fewer than 60 words", "dialogue_words", BETWEEN,
             {"min_value": 60}, tolerated=0.5),
        Rule("dialogue_no_spam", "spam: one word is more than 12% of all", "top_word", BETWEEN, {"max_value": 0.12},
             tolerated=0.2),
        Rule("mostly_ascii", "share of ASCII characters in English text", "ascii", MEAN, {"min_value": 0.97},
             "warning"),
    )  # fmt: skip


def _instruction_rules(bounds: Bounds) -> tuple[Rule, ...]:
    words, (least, most) = bounds.description_words, bounds.docstring_words
    span = {"min_value": least, "max_value": most}
    return (
        *_article_rules(bounds),
        Rule("description_grounded", "number in the description that the prompt does not hold", "ungrounded", BETWEEN,
             {"max_value": 0}, tolerated=0.1),
        Rule("description_short", f"description of more than {words} words", "gloss_words", BETWEEN,
             {"max_value": words}),
        Rule("topic_known", "topic is not one of the set", "known_topic", IN_SET, {"value_set": [True]},
             tolerated=0.25),
        Rule("name_masked", "the answer stands in the prompt", "unmasked", IN_SET, NO),
        Rule("docstring_length", f"docstring not of {least} to {most} words", "docstring_words", BETWEEN, span,
             tolerated=0.9),
        Rule("response_is_no_echo", "the response repeats the prompt", "echo", IN_SET, NO),
        Rule("response_not_in_prompt", "the response stands in the prompt word for word", "contained", IN_SET, NO,
             "warning", tolerated=0.5),
    )  # fmt: skip


def _rating_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        Rule("two_speakers", "monologue: not two speakers", "speakers", IN_SET, {"value_set": [2]}, tolerated=0.6),
        Rule("sliders_touched", "untouched rating sliders", "untouched", IN_SET, NO, tolerated=0.8),
        Rule("lowest_rating", "rating outside 1 to 10", "lowest", BETWEEN, {"min_value": 1}),
        Rule("highest_rating", "rating outside 1 to 10", "highest", BETWEEN, {"max_value": 10}),
        Rule("excerpt_long_enough", "excerpt of fewer than 30 words", "words", BETWEEN, {"min_value": 30},
             tolerated=0.6),
        Rule("rated_no_spam", "spam: one word is more than 20% of all", "top_word", BETWEEN, {"max_value": 0.2},
             tolerated=0.2),
    )  # fmt: skip


def _preference_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        Rule("chosen_is_not_rejected", "chosen and rejected are the same", "same", IN_SET, NO),
        Rule(
            "length_is_no_hint", "share of pairs whose chosen text is the longer one", "longer", MEAN, EVEN, "warning"
        ),
    )


def _label_rules(bounds: Bounds) -> tuple[Rule, ...]:
    return (
        Rule("label_not_null", "label is null", "label_here", NOT_NULL),
        Rule("labels_are_mixed", "share of answers labelled good", "good", MEAN, {"min_value": 0.05, "max_value": 0.95},
             "warning"),
    )  # fmt: skip


_OWN: dict[str, Callable[[Bounds], tuple[Rule, ...]]] = {
    "text": _text_rules,
    "instructions": _instruction_rules,
    "preferences": _preference_rules,
    "labels": _label_rules,
    "ratings": _rating_rules,
}
