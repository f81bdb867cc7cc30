"""What the loss of a training example is computed on: checked against the answer, and made visible.

A wrong mask raises no error and the loss falls all the same; the model learns its prompts, or never learns to stop.
"""

import html
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

IGNORED = -100  # the label that torch's cross-entropy leaves out
OPEN, CLOSE = "\u27e6", "\u27e7"
TORN = "\ufffd"  # what bytes decode to that are no whole character
MARK = (
    "In the chat template put {% generation %} around the assistant's content and the end-of-turn token, "
    "and around nothing else"
)


@dataclass(frozen=True)
class Piece:
    """The text of a token, or of the few that make up one character, and whether the loss counts it."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Tokens:
    """What the check needs of a tokenizer. `decode` keeps special tokens; `again` is a text there and back."""

    decode: Callable[[Sequence[int]], str]
    again: Callable[[str], str]
    stop_ids: frozenset[int]
    pad_id: int


def tokens_of(tokenizer: Any) -> Tokens:
    """From a Hugging Face tokenizer; its end-of-sequence token is the stop token."""

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def again(text: str) -> str:
        return decode(tokenizer(text, add_special_tokens=False)["input_ids"])

    return Tokens(decode, again, frozenset({tokenizer.eos_token_id}), tokenizer.pad_token_id)


@dataclass(frozen=True)
class MaskFinding:
    """The tokens of one example without its padding, which of them are trained, and what is wrong with that."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    problem: str = ""
    remedy: str = ""

    @property
    def share(self) -> float:
        """Trained tokens over all tokens."""
        return sum(self.trained) / len(self.trained)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First position and the one after the last of each trained stretch."""
        edges = [
            i for i, (a, b) in enumerate(zip((False, *self.trained), (*self.trained, False), strict=True)) if a != b
        ]
        return list(zip(edges[::2], edges[1::2], strict=True))


def inspect_batch(
    batch: Mapping[str, Sequence[Sequence[int]]], answers: Sequence[str], tokens: Tokens, *, max_length: int
) -> list[MaskFinding]:
    """What each row of a collated batch (`input_ids`, `labels`, `attention_mask`) trains, against its answer."""
    rows = zip(batch["input_ids"], batch["labels"], batch["attention_mask"], answers, strict=True)
    return [
        inspect(ids, labels, attention, answer=answer, tokens=tokens, max_length=max_length)
        for ids, labels, attention, answer in rows
    ]


def inspect(
    ids: Sequence[int], labels: Sequence[int], attention: Sequence[int], *, answer: str, tokens: Tokens, max_length: int
) -> MaskFinding:
    """What one row trains, against the answer that it should train; only the first problem is named.

    The labels are not shifted: that is left to the model. Raises ValueError for rows of unequal length.
    """
    if not len(ids) == len(labels) == len(attention):
        raise ValueError(f"{len(ids)} tokens have {len(labels)} labels and an attention mask of {len(attention)}")
    seen = [i for i in range(len(ids)) if attention[i] or labels[i] != IGNORED]
    shown = tuple(ids[i] for i in seen), tuple(labels[i] != IGNORED for i in seen)
    return MaskFinding(*shown, *next(_problems(ids, labels, attention, answer, tokens, max_length), ("", "")))


def _problems(
    ids: Sequence[int], labels: Sequence[int], attention: Sequence[int], answer: str, tokens: Tokens, max_length: int
) -> Iterator[tuple[str, str]]:
    """Problems with their remedies, the most telling first."""
    pairs = list(zip(ids, labels, strict=True))
    if any(label not in (IGNORED, token) for token, label in pairs):
        yield "a label differs from its token", "Give labels as they stand in the input: the model shifts them by one"
    if any(label != IGNORED and not seen for label, seen in zip(labels, attention, strict=True)):
        yield "padding is trained", f"In the collator set the labels of padding to {IGNORED}"
    learned = [token for token, label in pairs if label != IGNORED]
    if not learned:
        yield "nothing is trained", MARK
    if len(learned) == sum(attention):
        yield "everything is trained, the prompt too", MARK
    while learned and not tokens.decode(learned[-1:]).strip():
        learned.pop()
    if not learned or learned[-1] not in tokens.stop_ids:
        yield _unstopped(ids, labels, attention, tokens, max_length)
    # there and back: a tokenizer that normalises text is no fault of the mask
    if tokens.decode(learned[:-1]).strip() != tokens.again(answer).strip():
        yield f"what is trained is not the answer {_start(answer)!r}", MARK


def _unstopped(
    ids: Sequence[int], labels: Sequence[int], attention: Sequence[int], tokens: Tokens, max_length: int
) -> tuple[str, str]:
    """Why the last trained token is not a stop token."""
    stop = tokens.decode([min(tokens.stop_ids)])
    last = max((i for i, label in enumerate(labels) if label != IGNORED), default=-1)
    after = {ids[i] for i in range(last + 1, len(ids)) if attention[i]}
    if after & tokens.stop_ids and tokens.pad_id in tokens.stop_ids:
        return (
            f"the stop token {stop} is not trained, and it is the pad token as well",
            "Give the tokenizer a pad token of its own: what masks padding by its id masks the stop token too. "
            f"If that changes nothing: {MARK}",
        )
    if after & tokens.stop_ids:
        return f"the stop token {stop} is not trained, so the model would never learn to stop", MARK
    if sum(attention) >= max_length:
        return (
            f"the answer is cut off: the example fills max_length, {max_length} tokens, and ends without {stop}",
            "Raise max_length, or leave the example out",
        )
    return f"no stop token {stop} ends the answer", f"{MARK}; the end-of-turn token must be {stop}"


def spread(lengths: Sequence[int], count: int) -> list[int]:
    """Positions of `count` examples (2 or more) evenly over all lengths, from the shortest to the longest."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    if len(order) <= count:
        return order
    return [order[round(number * (len(order) - 1) / (count - 1))] for number in range(count)]


def explained(finding: MaskFinding, tokens: Tokens) -> str:
    """The problem, what is trained, and the remedy."""
    shown = bracketed(pieces(finding, tokens.decode, most=40))
    return f"{finding.problem}. In brackets what is trained:\n{shown}\n{finding.remedy}."


def summary(names: Sequence[str], findings: Sequence[MaskFinding], tokens: Tokens, *, examples: int) -> dict[str, Any]:
    """How many of the examples were checked, the smallest, mean and largest share of trained tokens, two samples.

    The findings come in the order of their lengths: a sample is one of middle length, and the longest.
    """
    shares = [finding.share for finding in findings]
    figures = {"min": min(shares), "mean": sum(shares) / len(shares), "max": max(shares)}
    return {
        "examples": examples,
        "checked": len(findings),
        "share": {name: round(value, 4) for name, value in figures.items()},
        "samples": [
            {
                "id": names[i],
                "spans": findings[i].spans,
                "pieces": [[piece.text, piece.trained] for piece in pieces(findings[i], tokens.decode, most=200)],
            }
            for i in sorted({len(findings) // 2, len(findings) - 1})
        ],
    }


def sentence(made: Mapping[str, Any]) -> str:
    """A summary in words."""
    low, mean, high = (f"{made['share'][name]:.0%}" for name in ("min", "mean", "max"))
    return (
        f"{made['checked']:,} of {made['examples']:,} examples were looked at as the optimiser sees them, from the "
        f"shortest to the longest: in each, the answer and its stop token are trained and nothing else. That is {mean} "
        f"of the tokens on average, {low} to {high}."
    )


def pieces(finding: MaskFinding, decode: Callable[[Sequence[int]], str], *, most: int) -> list[Piece]:
    """The text of each token, no character torn; of a stretch longer than `most` tokens, the two ends."""
    found, start = [], 0
    ids, trained = finding.ids, finding.trained
    for end in range(1, len(ids) + 1):
        text = _text(ids, start, end, decode)
        last = end == len(ids) or trained[end] != trained[start]
        # a byte-level token may hold a part of a character: it waits for the rest, but not beyond a change of the mask
        if last or not text.endswith(TORN) or end - start == 8:
            found.append(Piece(text or TORN, trained[start]))
            start = end
    return _abridged(found, most)


def _text(ids: Sequence[int], start: int, end: int, decode: Callable[[Sequence[int]], str]) -> str:
    """Decoded behind the token before: some decoders drop the space of a first word."""
    before = ids[max(0, start - 1) : start]
    return decode([*before, *ids[start:end]])[len(decode(before)) :]


def _abridged(found: Sequence[Piece], most: int) -> list[Piece]:
    kept: list[Piece] = []
    for trained, group in groupby(found, key=lambda piece: piece.trained):
        run = list(group)
        ends = [*run[: most // 2], Piece(" \u2026 ", trained), *run[-(most // 2) :]]
        kept += run if len(run) <= most else ends
    return kept


def bracketed(shown: Sequence[Piece]) -> str:
    """Plain text with what is trained in double brackets; tabs, line ends and spaces at an edge are visible."""
    parts = []
    for trained, run in groupby(shown, key=lambda piece: piece.trained):
        text = _plain("".join(piece.text for piece in run))
        parts.append(f"{OPEN}{text}{CLOSE}" if trained else text)
    return "".join(parts)


def _plain(text: str) -> str:
    bare = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - left - len(bare)
    edged = "\u00b7" * left + _safe(bare) + "\u00b7" * right
    return "\u21b5\n".join(map(_isolated, edged.replace("\t", "\u2192").split("\n")))


def _isolated(text: str) -> str:
    """Right-to-left text between isolates, so that it does not carry the brackets around it along."""
    right_to_left = any(unicodedata.bidirectional(char) in {"R", "AL", "AN"} for char in text)
    return f"\u2068{text}\u2069" if right_to_left else text


def coloured(shown: Sequence[Piece]) -> str:
    """HTML with a span for each token and what is trained in <mark>; every space, tab and line end is visible."""
    parts = []
    for trained, run in groupby(shown, key=lambda piece: piece.trained):
        spans = "".join(f"<span>{_html(piece.text)}</span>" for piece in run)
        parts.append(f"<bdi><mark>{spans}</mark></bdi>" if trained else f"<bdi>{spans}</bdi>")
    return f'<p class="tokens" dir="ltr">{"".join(parts)}</p>'


def _html(text: str) -> str:
    marks = {"\t": "<i>\u2192</i><wbr>", "\n": "<i>\u21b5</i><br>", " ": "<i>\u00b7</i><wbr>"}
    return "".join(marks.get(char) or html.escape(char) for char in _safe(text))


def _safe(text: str) -> str:
    """Characters that cannot be seen, or that change how others are shown, by their number."""
    return "".join(char if _harmless(char) else f"\\u{{{ord(char):x}}}" for char in text)


def _harmless(char: str) -> bool:
    if char in {OPEN, CLOSE}:
        return False
    joins = char in {"\u200c", "\u200d"}  # Persian words and composed emoji fall apart without them
    return char in " \t\n" or joins or unicodedata.category(char)[0] not in "CZ"


def _start(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def html_page(made: Mapping[str, Any]) -> str:
    """A page of its own for a summary."""
    shown = "".join(
        f"<h2>{html.escape(sample['id'])}</h2>\n{coloured([Piece(*piece) for piece in sample['pieces']])}\n"
        for sample in made["samples"]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>What the loss is computed on</title>\n'
        f"<style>{PAGE_STYLE}{STYLE}</style></head>\n<body><h1>What the loss is computed on</h1>\n"
        f"<p>{html.escape(sentence(made))} What is trained is marked.</p>\n{shown}</body></html>\n"
    )


PAGE_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2733; max-width: 60em; margin: 32px auto; padding: 0 20px; }
h1 { font-size: 24px; } h2 { font-size: 15px; color: #5c6875; margin: 24px 0 4px; }
"""

STYLE = """
.tokens { font: 14px/1.9 ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", Consolas, monospace; max-width: none;
  color: #5c6875; overflow-wrap: anywhere; }
.tokens span { border-right: 1px solid #d5dade; padding: 2px 0; }
.tokens mark { background: #cfeadb; color: #14532f; font-weight: 600; padding: 2px 0; }
.tokens i { font-style: normal; opacity: .45; }
"""
