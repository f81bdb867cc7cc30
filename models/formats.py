"""The formats in which people keep texts, instructions and preferences, read into the canonical rows of each kind.

text: `text`. instructions: `prompt`, `response` and, where turns come before the prompt, `history` (a list of `role`
and `content`). preferences: `prompt`, `chosen`, `rejected` (and `history`), or `prompt`, `response`, `label`.
A null text stays None, for the validation of the rows to count; anything else that is no text is a FormatError.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from reprlib import Repr
from typing import Any, NamedTuple

Record = Mapping[str, Any]
Row = dict[str, Any]
Reader = Callable[[Record], list[Row]]

KINDS = TEXT, INSTRUCTIONS, PREFERENCES = ("text", "instructions", "preferences")
ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
LABELS = dict.fromkeys(("true", "1", "yes", "good", "desirable"), True)
LABELS |= dict.fromkeys(("false", "0", "no", "bad", "undesirable"), False)
PASSED = {key: key for key in ("group", "domain", "kind", "origin")}
PASSED |= {"license": "licence", "licence": "licence", "id": "record"}
MOST_TURNS = 1000  # every answer repeats the turns before it: the rows of a conversation grow with its square
SUMMARIZE = "Summarize the dialogue."
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_OPTIONS = ({"A", "B", "C", "D"}, {"choices"}, {"options"})
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 120


class FormatError(ValueError):
    """A record is in no known format, or breaks its own; `field` is the path to the value, "" for the whole record."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


@dataclass(frozen=True)
class Format:
    """A format by the keys it needs and the one it may have; `passed` are the (key, column) that rows take over."""

    name: str
    kind: str
    keys: tuple[str, ...]
    read: Reader = field(repr=False, compare=False)
    optional: str = ""
    passed: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " + ".join(self.keys) + (f" (+ {self.optional})" if self.optional else "")


class Turn(NamedTuple):
    role: str
    text: str | None
    path: str


def detect(record: Record, kind: str | None = None) -> Format:
    """The format of a record by its keys, among those of `kind` where it is given; the most telling keys win.

    Raises FormatError where there is none, and ValueError for an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r}: is none of {', '.join(KINDS)}")
    found = _detect(tuple(filter(KNOWN.__contains__, record)), kind)
    if found is None:
        raise _unknown(tuple(record), kind)
    return found


def canonical(record: Record, form: Format) -> list[Row]:
    """The rows of a record: one, or one for every answer in it.

    Raises FormatError with the path to a value that is missing, is no text, or stands at the wrong place.
    """
    rows = form.read(record)
    for key, column in form.passed:
        value = record[key]
        for row in rows if isinstance(value, str) and value else ():
            row[column] = value
    return rows


@lru_cache(maxsize=4096)
def _detect(keys: tuple[str, ...], kind: str | None) -> Format | None:
    """By the keys that any format knows: others come from the data, and in the cache they would add up."""
    found = next((form for form in FORMATS if kind in (None, form.kind) and set(form.keys) <= set(keys)), None)
    if found and "question" in found.keys and any(options <= set(keys) for options in _OPTIONS):
        raise FormatError("question", "is multiple choice, a benchmark; write prompt and response to train on it")
    return found and replace(found, passed=tuple((key, column) for key, column in PASSED.items() if key in keys))


def _unknown(keys: Sequence[str], kind: str | None) -> FormatError:
    forms = [form for form in FORMATS if kind in (None, form.kind)]
    other = next((form for form in FORMATS if set(form.keys) <= set(keys)), None)
    typos = _typos(keys, forms)
    held = ", ".join(excerpt(key) for key in keys[:12]) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")
    said = [
        f"the record has {'the keys ' + held if keys else 'no keys'}, which is no format of {kind or 'any kind'}",
        *(f"{excerpt(typo)} is probably {meant}" for typo, meant in typos.items()),
        *([f"it looks like {other.kind} ({other})"] if other else []),
        f"the formats are: {'; '.join(map(str, forms))}",
    ]
    return FormatError(excerpt(next(iter(typos), "")), "; ".join(said))


def _typos(keys: Sequence[str], forms: Iterable[Format]) -> dict[str, str]:
    """The keys that are nearly those which one format lacks, with what they probably mean."""
    held = {key[:40].lower(): key for key in keys[:100]}
    for form in forms:
        near = {key: get_close_matches(key, held, n=1, cutoff=0.8) for key in form.keys if key not in keys}
        if all(near.values()):
            return {held[match[0]]: key for key, match in near.items()}
    return {}


def excerpt(value: object) -> str:
    """A value for a message, at most 40 characters of it, fit for a terminal."""
    shown = printable(value[:41]) if isinstance(value, str) else _REPR.repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def printable(text: str) -> str:
    """The text with what does not print, or is no character of UTF-8, as escapes: it may rule a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _found(value: object) -> str:
    names = {str: "text", bool: "boolean", int: "number", float: "number", Decimal: "number", list: "list"}
    what = names.get(type(value), "object" if isinstance(value, Mapping) else type(value).__name__)
    shown = excerpt(str(value) if what == "number" else _REPR.repr(value))
    return "is null" if value is None else f"is the {what} {shown}"


def _text(value: Any, path: str) -> str | None:
    if value is None or (isinstance(value, str) and "\0" not in value):
        return value
    problem = "holds a NUL character" if isinstance(value, str) else _found(value)
    raise FormatError(path, f"{problem}; a text is needed")


def _prompt(asked: str | None, more: str | None) -> str | None:
    """The question, then its context on a line of its own where there is one."""
    return f"{asked}\n{more}" if asked is not None and more else asked


def _text_from(key: str) -> Reader:
    return lambda record: [{"text": _text(record[key], key)}]


def _asking(name: str, question: str, context: str, answer: str) -> Format:
    def read(record: Record) -> list[Row]:
        prompt = _prompt(_text(record[question], question), _text(record.get(context), context))
        return [{"prompt": prompt, "response": _text(record[answer], answer)}]

    return Format(name, INSTRUCTIONS, (question, answer), read, context)


def _instances(record: Record) -> list[Row]:
    """Seed tasks of Stanford Alpaca: one instruction with several inputs and outputs."""
    asked, instances = _text(record["instruction"], "instruction"), record["instances"]
    if not isinstance(instances, list) or not instances:
        raise FormatError("instances", f"{_found(instances)}; a list of objects with input and output is needed")
    rows = []
    for number, instance in enumerate(instances):
        path = f"instances[{number}]"
        if not isinstance(instance, Mapping) or "output" not in instance:
            raise FormatError(path, f"{_found(instance)}; an object with input and output is needed")
        prompt = _prompt(asked, _text(instance.get("input"), f"{path}.input"))
        rows.append({"prompt": prompt, "response": _text(instance["output"], f"{path}.output")})
    return rows


def _summary(record: Record) -> list[Row]:
    dialogue = _text(record["dialogue"], "dialogue")
    prompt = None if dialogue is None else f"{SUMMARIZE}\n{dialogue}"
    return [{"prompt": prompt, "response": _text(record["summary"], "summary")}]


def _conversation(key: str) -> Reader:
    return lambda record: _answers(_turns(record[key], key), key)


def _completed(key: str) -> Reader:
    """Prompt and answer as texts, or either as messages: then every assistant turn of the answer is one."""

    def read(record: Record) -> list[Row]:
        prompt, answer = record["prompt"], record[key]
        if not isinstance(prompt, list) and not isinstance(answer, list):
            return [{"prompt": _text(prompt, "prompt"), "response": _text(answer, key)}]
        before = _side(prompt, "prompt", "user")
        return _answers([*before, *_side(answer, key, "assistant")], key, first=len(before))

    return read


def _labelled(key: str) -> Reader:
    """Binary feedback as KTO has it: an answer, and whether it is a good one."""
    completed = _completed(key)

    def read(record: Record) -> list[Row]:
        label = record["label"]
        said = label.strip().lower() if isinstance(label, str) else str(int(label)) if label in (0, 1) else ""
        if said not in LABELS:
            raise FormatError("label", f"{_found(label)}; one of {', '.join(LABELS)} is needed")
        return [{**row, "label": LABELS[said]} for row in completed(record)]

    return read


def _turns(messages: Any, path: str) -> list[Turn]:
    if not isinstance(messages, list):
        raise FormatError(path, f"{_found(messages)}; a list of messages is needed")
    if not 0 < len(messages) <= MOST_TURNS:
        raise FormatError(path, f"holds {len(messages)} messages; 1 to {MOST_TURNS} are read")
    return [_turn(message, f"{path}[{number}]") for number, message in enumerate(messages)]


def _turn(message: Any, path: str) -> Turn:
    if not isinstance(message, Mapping):
        raise FormatError(path, f"{_found(message)}; a message with role and content is needed")
    role, content = ("from", "value") if "from" in message else ("role", "content")
    for key in (role, content):
        if key not in message:
            raise FormatError(f"{path}.{key}", f"is missing; the message has {excerpt(', '.join(message)) or 'no key'}")
    if not isinstance(message[role], str) or message[role] not in ROLES:
        raise FormatError(f"{path}.{role}", f"{_found(message[role])}; one of {', '.join(ROLES)} is needed")
    if message.get("tool_calls"):
        raise FormatError(f"{path}.tool_calls", "calls tools, which is not supported; leave such conversations out")
    where = f"{path}.{content}"
    said = message[content]
    return Turn(ROLES[message[role]], _parts(said, where) if isinstance(said, list) else _text(said, where), where)


def _parts(parts: list[Any], path: str) -> str:
    """The text of a content in parts, as OpenAI has it; an image or a sound is a FormatError."""
    said = []
    for number, part in enumerate(parts):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise FormatError(f"{path}[{number}]", f'{_found(part)}; {{"type": "text", "text": ...}} is needed')
        said.append(_text(part["text"], f"{path}[{number}].text") or "")
    return "".join(said)


def _side(value: Any, path: str, role: str) -> list[Turn]:
    return _turns(value, path) if isinstance(value, list) else [Turn(role, _text(value, path), path)]


def _answers(turns: Sequence[Turn], path: str, *, first: int = 0) -> list[Row]:
    """One row for every assistant turn from `first` on, with the turns before it; what follows the last is left out."""
    places = [place for place in range(first, len(turns)) if turns[place].role == "assistant"]
    if not places:
        raise FormatError(path, "holds no assistant turn, so there is nothing to learn; at least one is needed")
    return [{**_asked(turns[:place], turns[place]), "response": turns[place].text} for place in places]


def _asked(before: Sequence[Turn], answer: Turn) -> Row:
    """`prompt`, and `history` where there is one, from the turns before an answer."""
    if not before or before[-1].role != "user":
        follows = f"follows a turn of {before[-1].role}" if before else "comes first"
        raise FormatError(answer.path, f"is an answer that {follows}; a turn of user must come right before it")
    row: Row = {"prompt": before[-1].text}
    if len(before) > 1:
        row["history"] = [_message(turn) for turn in before[:-1]]
    return row


def _message(turn: Turn) -> dict[str, str]:
    if turn.text is None:
        raise FormatError(turn.path, "is null, and later turns build on it; a text is needed")
    return {"role": turn.role, "content": turn.text}


def _pair(record: Record) -> list[Row]:
    """Two answers to one prompt: as texts, as messages, or at the end of two whole dialogues."""
    sides = ("chosen", "rejected")
    if "prompt" in record and list not in map(type, (record["prompt"], record["chosen"], record["rejected"])):
        return [{key: _text(record[key], key) for key in ("prompt", *sides)}]
    before = _side(record["prompt"], "prompt", "user") if "prompt" in record else []
    dialogues = {key: _dialogue(record[key], key, before) for key in sides if record[key] is not None}
    row: Row = {"prompt": None, **dict.fromkeys(sides)}
    for key, turns in dialogues.items():
        if turns[-1].role != "assistant":
            raise FormatError(turns[-1].path, f"is a turn of {turns[-1].role}; the last turn must be the assistant's")
        row.update(_asked(turns[:-1], turns[-1]), **{key: turns[-1].text})
    if len(dialogues) == 2:
        _check_shared(*dialogues.values())
    return [row]


def _dialogue(value: Any, path: str, before: list[Turn]) -> list[Turn]:
    """All turns of one side of a pair, those of the prompt included."""
    if isinstance(value, str):
        return [*before, Turn("assistant", _text(value, path), path)] if before else _hh_turns(value, path)
    turns = _turns(value, path)
    if not before or turns[0].role != "assistant":
        said = [(turn.text or "").strip() for turn in turns[:-1]]
        if before and (before[-1].text or "").strip() not in said:
            raise FormatError(path, "is a whole dialogue without the text of prompt; leave prompt out or let it agree")
        return turns
    return [*before, *turns]


def _hh_turns(text: str, path: str) -> list[Turn]:
    r"""A dialogue as HH-RLHF writes it: "\n\nHuman: ...\n\nAssistant: ..."."""
    start, *parts = _HH_TURN.split("\n\n" + (_text(text, path) or "").lstrip())
    if start or not parts:
        raise FormatError(path, f"{_found(text)}; needs a prompt beside it, or a dialogue that begins with 'Human:'")
    said = enumerate(zip(parts[::2], parts[1::2], strict=True))
    return [Turn(HH_ROLES[who], words.strip(), f"{path}[{number}]") for number, (who, words) in said]


def _check_shared(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> None:
    if len(chosen) != len(rejected):
        raise FormatError("rejected", f"has {len(rejected)} turns, chosen {len(chosen)}; all but the last must agree")
    for one, other in zip(chosen[:-1], rejected[:-1], strict=True):
        if one[:2] != other[:2]:
            said, instead = excerpt(repr(one.text)), excerpt(repr(other.text))
            raise FormatError(other.path, f"is {instead}, in chosen {said}; a pair shares all turns but the last")


# In the order of precedence: a record with messages and a text made from them is a conversation.
FORMATS = (
    Format("prompt/chosen/rejected", PREFERENCES, ("prompt", "chosen", "rejected"), _pair),
    Format("chosen/rejected", PREFERENCES, ("chosen", "rejected"), _pair),
    Format("prompt/completion/label", PREFERENCES, ("prompt", "completion", "label"), _labelled("completion")),
    Format("prompt/response/label", PREFERENCES, ("prompt", "response", "label"), _labelled("response")),
    Format("messages", INSTRUCTIONS, ("messages",), _conversation("messages")),
    Format("sharegpt", INSTRUCTIONS, ("conversations",), _conversation("conversations")),
    Format("seed tasks", INSTRUCTIONS, ("instruction", "instances"), _instances),
    _asking("alpaca", "instruction", "input", "output"),
    _asking("dolly", "instruction", "context", "response"),
    Format("prompt/completion", INSTRUCTIONS, ("prompt", "completion"), _completed("completion")),
    Format("prompt/response", INSTRUCTIONS, ("prompt", "response"), _completed("response")),
    _asking("question/answer", "question", "context", "answer"),
    Format("dialogue/summary", INSTRUCTIONS, ("dialogue", "summary"), _summary),
    Format("text", TEXT, ("text",), _text_from("text")),
    Format("content", TEXT, ("content",), _text_from("content")),
)
KNOWN = {*PASSED, *set().union(*_OPTIONS), *(key for form in FORMATS for key in (*form.keys, form.optional))}
