"""Records and rows damaged in many ways: each ends in an error by line and field, or in the finding of its rule."""

import gzip
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from flows import cli
from tasks.suites import Bounds
from tasks.validate import examine
from tests.damage import (
    ABOVE,
    COUNT,
    SETS,
    Change,
    Record,
    as_parquet,
    every,
    instead_of_row,
    lines_of,
    of_row,
    put,
    records,
    refused,
)

USER, BOT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
WRONG: list[tuple[str, Change, str, str]] = [
    ("answers", of_row(response=5), "response", "is the number 5"),
    ("answers", of_row(response=10**400), "response", "is the number 1000"),
    ("answers", of_row(response=True), "response", "is the boolean True"),
    ("answers", of_row(prompt={"a": {"b": ["c"]}}), "prompt", "is the object"),
    ("answers", of_row(prompt=["a"]), r"prompt\[0\]", "is the text 'a'; a message"),
    ("answers", of_row(response="a\0"), "response", "holds a NUL"),
    ("answers", of_row(kind="\x1b[2J"), "kind", r"is '\\x1b\[2J'; a name"),
    ("answers", of_row(domain="a\nb"), "domain", "a name on one line"),
    ("answers", of_row(licence="a" * 300), "licence", "of at most 200"),
    ("answers", instead_of_row({"prompt": "Why?"}), "response", "is missing"),
    ("answers", instead_of_row({"prompt": "Why?", "respones": "So."}), "response", "is missing: .*respones"),
    ("answers", instead_of_row({"instruction": "Why?", "output": "So."}), "prompt", "in the format alpaca"),
    ("answers", instead_of_row({}), "prompt", "is missing: the record has no keys"),
    ("alpaca", of_row(input=[1]), "input", r"is the list \[1\]"),
    ("dialogues", of_row(dialogue=None, summary={}), "summary", "is the object"),
    ("text", of_row(text=["a"]), "text", "is the list"),
    ("text", instead_of_row({"content": "a"}), "text", "is missing"),
    ("chats", of_row(messages="hi"), "messages", "is the text 'hi'"),
    ("chats", of_row(messages=[]), "messages", "holds 0 messages"),
    ("chats", of_row(messages=[BOT, USER]), r"messages\[0\].content", "comes first"),
    ("chats", of_row(messages=[USER]), "messages", "no assistant turn"),
    ("chats", of_row(messages=[USER, BOT, BOT]), r"messages\[2\].content", "follows a turn of assistant"),
    ("chats", of_row(messages=[USER, {**BOT, "role": "bot\x1b"}]), r"messages\[1\].role", r"text 'bot\\x1b'"),
    ("chats", of_row(messages=[{"content": "a\x1b", "\x1b": 1}]), r"messages\[0\].role", r"has content, \\x1b"),
    ("chats", of_row(messages=[USER, {**BOT, "content": [{"type": "image"}]}]), r"messages\[1\].content\[0\]", "image"),
    ("chats", of_row(messages=[USER, {**BOT, "tool_calls": [{}]}]), r"messages\[1\].tool_calls", "calls tools"),
    ("sharegpt", of_row(conversations=[{"from": "human"}]), r"conversations\[0\].value", "is missing"),
    ("pairs", of_row(chosen=[USER, BOT]), "chosen", "is a whole dialogue without the text of prompt"),
    ("pairs", of_row(rejected=5), "rejected", "is the number 5"),
    ("labels", of_row(label="maybe"), "label", "is the text 'maybe'"),
    ("labels", of_row(label=None), "label", "is null"),
    ("labels", of_row(label=2), "label", "is the number 2"),
    ("labels", of_row(response=True, label="So it is."), "label", "is the text 'So it is.'"),  # swapped
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".json.gz"])
@pytest.mark.parametrize(("of", "harm", "field", "what"), WRONG)
def test_a_wrong_record_is_named_by_line_and_field(
    tmp_path: Path, of: str, harm: Change, field: str, what: str, suffix: str
) -> None:
    plain, at = suffix.removesuffix(".gz"), Random(suffix + field).randrange(1, COUNT)
    message = refused(put(tmp_path / f"a{suffix}", lines_of(harm(records(of), at), plain)), SETS[of][0])
    assert re.match(rf"a{suffix}, line {at + ABOVE[plain] + 1}, field {field}: .*{what}", message), message


def saying(more: str) -> Change:
    return lambda held, at: of_row(text=f"{held[at]['text']} {more}")(held, at)


def again(held: list[Record], at: int) -> list[Record]:
    return [*held[: at + 1], {key: text.upper() for key, text in held[0].items()}, *held[at + 1 :]][: COUNT + 1]


LONG = ("characters_in_range", "tokens_in_range")
FOUND: list[tuple[str, str, Change, set[str]]] = [
    ("null text", "text", of_row(text=None), {"text_not_null", *LONG}),
    ("empty text", "text", of_row(text=""), {"text_not_blank", *LONG}),
    ("blank text", "text", of_row(text=" \t\u200b\u3000"), {"text_not_blank", "no_invisible_text"}),
    ("all texts empty", "text", every(text=""), {"text_not_blank", "no_copy", *LONG}),
    ("wrong encoding, replaced", "text", saying("caf\ufffd"), {"no_replacement_characters"}),
    ("escape", "text", saying("\x1b[31mred"), {"no_control_characters"}),
    ("escape of eight bits", "text", saying("\x9b31m red"), {"no_control_characters", "no_mojibake"}),
    ("deleted", "text", saying("\x7f red"), {"no_control_characters"}),
    ("no character", "text", saying("\ufffe red"), {"no_control_characters"}),
    ("encoded twice", "text", saying("The cafÃ© that was here isnâ€™t."), {"no_mojibake"}),
    ("turned direction", "text", saying("\u202etxt.exe"), {"no_invisible_text"}),
    ("template", "text", saying("<|im_start|>"), {"no_template_markers"}),
    ("e-mail", "text", saying("a.person@example.com"), {"no_email"}),
    ("phone", "text", saying("call +1 650-253-0000 now"), {"no_phone"}),
    ("card", "text", saying("4111 1111 1111 1111"), {"no_card_numbers"}),
    ("account", "text", saying("GB82 WEST 1234 5698 7654 32"), {"no_iban"}),
    ("key", "text", saying("ghp_" + "a1B2" * 9), {"no_secrets"}),
    ("profanity", "text", saying("fuck"), {"little_profanity"}),
    ("broken record", "text", saying("one two three four " * 40), {"little_repetition"}),
    ("endless text", "text", saying("word " * 60_000), {"little_repetition", *LONG}),
    ("another script", "text", of_row(text="Δίπλα στην πέτρα είναι ένας κήπος."), {"expected_script"}),
    ("noise", "text", of_row(text="&^%$ #@!~ <<<<<<< ======= >>>>>>> a1"), {"mostly_letters"}),
    ("copy in capitals", "text", again, {"no_copy"}),
    ("same id", "text", every(id="one"), {"id_is_unique"}),
    ("all answers empty", "answers", every(response=""), {"response_not_blank"}),
    ("all answers null", "answers", every(response=None), {"response_not_null"}),
    ("all answers the same letter", "answers", every(prompt="a", response="b"), {"no_copy"}),
    ("empty question", "answers", of_row(prompt=""), {"prompt_not_blank"}),
    ("echo", "answers", of_row(prompt="Why?", response=" Why? "), {"response_is_no_echo", "response_not_in_prompt"}),
    ("null answer of a chat", "chats", of_row(messages=[USER, {**BOT, "content": None}]), {"response_not_null"}),
    ("copy of an answer", "answers", again, {"no_copy"}),
    ("one answer twice", "pairs", of_row(chosen="The same.", rejected="The same. "), {"chosen_is_not_rejected"}),
    ("chosen null", "pairs", of_row(chosen=None), {"chosen_not_null"}),
    ("all rejected empty", "pairs", every(rejected=""), {"rejected_not_blank", "length_is_no_hint"}),
    ("chosen always longer", "pairs", every(rejected="No."), {"length_is_no_hint"}),
    ("one label", "labels", every(label=True), {"labels_are_mixed"}),
    ("labelled answer empty", "labels", of_row(response=""), {"response_not_blank"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "of", "harm", "expected"), FOUND, ids=[name for name, *_ in FOUND])
def test_a_wrong_row_is_found_by_its_rule_and_only_by_it(
    tmp_path: Path, name: str, of: str, harm: Change, expected: set[str]
) -> None:
    picks = Random(name)
    suffix, at = picks.choice([".jsonl", ".json", ".jsonl.gz", ".parquet"]), picks.randrange(1, COUNT)
    held = harm(records(of), at)
    plain = suffix.removesuffix(".gz")
    content = as_parquet(held) if suffix == ".parquet" else lines_of(held, plain)
    judged = examine(put(tmp_path / f"a{suffix}", content), SETS[of][0], Bounds(), tmp_path / "left_out")
    found = {entry["name"]: entry for entry in judged["expectations"] if entry["failed"] or not entry["success"]}
    assert set(found) == expected
    assert judged["rows"] == len(held) == judged["kept"] + len((tmp_path / "left_out").read_bytes().splitlines())
    assert judged["success"] == all(entry["severity"] == "warning" for entry in found.values())
    places = {example["line"] for entry in found.values() for example in entry["examples"]}
    assert len(places) != 1 or places == {at + ABOVE.get(plain, 0) + 1 + (harm is again)}


@pytest.mark.parametrize("of", ["text", "answers", "chats", "pairs", "labels"])
def test_rows_of_the_test_side_among_those_for_training_are_found(tmp_path: Path, of: str) -> None:
    held = records(of)
    put(tmp_path / "train.jsonl.gz", lines_of(held, ".jsonl"))
    put(tmp_path / "test.jsonl", lines_of(held[4:7], ".jsonl"))
    judged = examine(tmp_path, SETS[of][0], Bounds())
    found = {entry["name"]: entry for entry in judged["expectations"] if entry["failed"]}
    assert set(found) == {"not_in_held_out", "no_copy"}
    assert [(row["file"], row["line"]) for row in found["not_in_held_out"]["examples"]] == [
        ("train.jsonl.gz", line) for line in (5, 6, 7)
    ]
    assert (judged["rows"], judged["kept"]) == (COUNT + 3, COUNT)


@pytest.fixture
def _put_back() -> Iterator[None]:
    """A command sets up its own process: the environment and a console."""
    logger, before = logging.getLogger("evergreen"), dict(os.environ)
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    os.environ.clear()
    os.environ.update(before)
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def strict(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


EVIL = "\x1b[2J\x9b31m\u202e\u2028\x07"
COMMANDS: dict[str, tuple[str, str, bytes, int]] = {
    "clean": ("text", "a.jsonl", b"".join(lines_of(records("text"), ".jsonl")), 0),
    "warning": ("text", "a.jsonl", '{"text": "Δίπλα στην πέτρα είναι ένας κήπος."}'.encode(), 0),
    "finding": ("text", "a.jsonl", json.dumps({"text": f"Some words {EVIL}"}).encode(), 3),
    "finding in an odd file": ("text", f"{EVIL}.jsonl", b'{"text": ""}', 3),
    "finding in a file that is not UTF-8": ("text", os.fsdecode(b"\xff.jsonl"), b'{"text": ""}', 3),
    "finding in a chat": ("instructions", "a.json", b'[{"messages": [{"role": "user", "content": "Why?"},'
                          b'{"role": "assistant", "content": "\\u001b"}]}]', 3),
    "nothing": ("text", "a.json", b"[]", 3),
    "key": ("text", "a.jsonl", json.dumps({f"text{EVIL}": "a"}).encode(), 2),
    "value": ("preferences", "a.jsonl", json.dumps({"prompt": "a", "response": "b", "label": EVIL}).encode(), 2),
    "rest": ("text", "a.json", f'[{{"text": "a"}} {EVIL} ]'.encode(), 2),
    "header": ("text", "a.csv", f"text{EVIL}\na\n".encode(), 2),
    "error in an odd file": ("text", f"{EVIL}.jsonl", b'{"text": 5}', 2),
    "error in a file that is not UTF-8": ("text", os.fsdecode(b"\xff.jsonl"), b'{"text": ', 2),
    "other suffix": ("text", f"a{EVIL}.doc", b"a", 2),
    "deep": ("text", "a.jsonl", b'{"text": ' + b"[" * 1000 + b"]" * 1000 + b"}", 2),
    "cut": ("text", "a.jsonl.gz", gzip.compress(b'{"text": "a"}')[:-4], 2),
    "Parquet": ("text", "a.parquet", as_parquet(pa.table({f"text{EVIL}": ["a"]})), 2),
    "other kind": ("preferences", "a.jsonl", b'{"text": "a"}', 2),
}  # fmt: skip


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("_put_back")
def test_the_command_ends_with_its_code_and_rules_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, in_folder: bool
) -> None:
    kind, file, content, code = COMMANDS[name]
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / file).write_bytes(content)
    asked_for = ["validate", str(folder if in_folder else folder / file), "--kind", kind]
    assert cli.main(asked_for) == code
    table_of = capsys.readouterr()
    assert (table_of.out + table_of.err).replace("\n", "").isprintable()
    assert cli.main([*asked_for, "--json"]) == code
    shown = capsys.readouterr()
    assert shown.err.replace("\n", "").isprintable()
    assert "Traceback" not in table_of.err + shown.err
    if code == 2:
        assert (table_of.out, shown.out) == ("", "")
        assert table_of.err.startswith("evergreen:") or in_folder
    else:
        shown.out.encode()
        assert json.loads(shown.out, parse_constant=strict)["success"] == (code == 0)
