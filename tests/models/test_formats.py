import pickle
from typing import Any

import pytest

from models.formats import FORMATS, KINDS, MOST_TURNS, FormatError, _detect, canonical, detect, excerpt

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
HH = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: "
HISTORY = [QUESTION, ANSWER]
ROW = {"prompt": "q", "response": "a"}
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}

READ: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("text", {"text": "t"}, [{"text": "t"}]),
    ("content", {"content": "t", "url": 3}, [{"text": "t"}]),
    ("prompt/completion", {"prompt": "q", "completion": "a"}, [ROW]),
    ("prompt/completion", {"prompt": [QUESTION], "completion": [ANSWER]}, [ROW]),
    ("prompt/completion", {"prompt": [SYSTEM, QUESTION], "completion": "a"}, [{**ROW, "history": [SYSTEM]}]),
    (
        "prompt/completion",
        {"prompt": [QUESTION, ANSWER, {"role": "user", "content": "r"}], "completion": [ANSWER]},
        [{"prompt": "r", "response": "a", "history": HISTORY}],
    ),
    ("prompt/response", {"prompt": "q", "response": "a"}, [ROW]),
    ("question/answer", {"question": "q", "answer": "a"}, [ROW]),
    ("question/answer", {"question": "q", "context": "c", "answer": "a"}, [{**ROW, "prompt": "q\nc"}]),
    ("alpaca", {"instruction": "q", "input": "", "output": "a", "text": "q a"}, [ROW]),
    ("alpaca", {"instruction": "q", "output": "a"}, [ROW]),
    ("alpaca", {"instruction": "q", "input": None, "output": "a"}, [ROW]),
    ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, [{**ROW, "prompt": "q\ni"}]),
    ("dolly", {"instruction": "q", "context": "c", "response": "a"}, [{**ROW, "prompt": "q\nc"}]),
    (
        "seed tasks",
        {"instruction": "q", "instances": [{"input": "", "output": "a"}, {"input": "i", "output": "b"}]},
        [ROW, {"prompt": "q\ni", "response": "b"}],
    ),
    (
        "dialogue/summary",
        {"dialogue": "d", "summary": "a"},
        [{"prompt": "Summarize the dialogue.\nd", "response": "a"}],
    ),
    ("messages", {"messages": [QUESTION, ANSWER], "prompt": "q"}, [ROW]),
    ("messages", {"messages": [SYSTEM, QUESTION, ANSWER]}, [{**ROW, "history": [SYSTEM]}]),
    (
        "messages",
        {"messages": [QUESTION, ANSWER, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]},
        [ROW, {"prompt": "r", "response": "b", "history": HISTORY}],
    ),
    ("messages", {"messages": [QUESTION, ANSWER, QUESTION]}, [ROW]),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {**ANSWER, "tool_calls": None}]},
        [ROW],
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [ROW]),
    ("sharegpt", {"conversations": [QUESTION, ANSWER]}, [ROW]),
    ("prompt/chosen/rejected", PAIR, [PAIR]),
    (
        "prompt/chosen/rejected",
        {"prompt": [SYSTEM, QUESTION], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]},
        [{**PAIR, "history": [SYSTEM]}],
    ),
    (
        "prompt/chosen/rejected",
        {"prompt": "q", "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, {**ANSWER, "content": "b"}]},
        [PAIR],
    ),
    ("chosen/rejected", {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, {**ANSWER, "content": "b"}]}, [PAIR]),
    (
        "chosen/rejected",
        {"chosen": f"{HH}yes", "rejected": f"{HH}no"},
        [{"prompt": "r", "chosen": "yes", "rejected": "no", "history": HISTORY}],
    ),
    ("prompt/completion/label", {"prompt": "q", "completion": "a", "label": True}, [{**ROW, "label": True}]),
    ("prompt/response/label", {"prompt": "q", "response": "a", "label": " Bad"}, [{**ROW, "label": False}]),
    ("prompt/response/label", {"prompt": "q", "response": "a", "label": 0}, [{**ROW, "label": False}]),
]


@pytest.mark.parametrize(("name", "record", "rows"), READ)
def test_every_format_becomes_the_rows_of_its_kind(
    name: str, record: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    form = detect(record)
    assert form.name == name
    assert canonical(record, form) == rows
    assert detect(record, form.kind).name == name


def test_the_table_above_sweeps_every_format() -> None:
    assert {name for name, _, _ in READ} == {form.name for form in FORMATS}
    assert {form.kind for form in FORMATS} == set(KINDS)


def test_kind_narrows_what_a_record_is_read_as() -> None:
    record = {"text": "q a", "prompt": "q", "response": "a", "chosen": "a", "rejected": "b"}
    assert [detect(record, kind).name for kind in KINDS] == ["text", "prompt/response", "prompt/chosen/rejected"]
    with pytest.raises(ValueError, match="kind 'texts': is none of text, instructions, preferences"):
        detect(record, "texts")


def test_strings_that_belong_to_a_row_are_taken_over_and_others_are_not() -> None:
    record = {"prompt": "q", "response": "a", "id": "r7", "group": "g", "license": "MIT", "domain": 3, "url": "u"}
    assert canonical(record, detect(record)) == [{**ROW, "record": "r7", "group": "g", "licence": "MIT"}]
    every = {"messages": [QUESTION, ANSWER] * 2, "id": "r8"}
    assert [row["record"] for row in canonical(every, detect(every))] == ["r8", "r8"]


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"text": None}, {"text": None}),
        ({"prompt": None, "response": None}, {"prompt": None, "response": None}),
        ({"instruction": None, "input": "i", "output": "a"}, {"prompt": None, "response": "a"}),
        ({"dialogue": None, "summary": "a"}, {"prompt": None, "response": "a"}),
        ({"messages": [QUESTION, {**ANSWER, "content": None}]}, {"prompt": "q", "response": None}),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, {**PAIR, "chosen": None}),
        ({"chosen": None, "rejected": "\n\nHuman: q\n\nAssistant: b"}, {**PAIR, "chosen": None}),
        ({"chosen": None, "rejected": None}, dict.fromkeys(PAIR)),
    ],
)
def test_a_null_text_stays_null(record: dict[str, Any], row: dict[str, Any]) -> None:
    assert canonical(record, detect(record)) == [row]


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        ({"text": 3}, "text", "is the number 3; a text is needed"),
        ({"text": "a\0b"}, "text", "NUL"),
        ({"prompt": "q", "response": ["a"]}, "response[0]", "is the text 'a'; a message with role and content"),
        ({"prompt": {"x": "y" * 99}, "response": "a"}, "prompt", r"is the object \{'x': 'y{28,31}\.\.\.; a text"),
        ({"instruction": "q", "instances": []}, "instances", "is the list"),
        ({"instruction": "q", "instances": [{"input": "i"}]}, "instances[0]", "input and output is needed"),
        ({"instruction": "q", "instances": [{"output": 1}]}, "instances[0].output", "is the number 1"),
        ({"messages": "hi"}, "messages", "is the text 'hi'; a list of messages"),
        ({"messages": []}, "messages", f"holds 0 messages; 1 to {MOST_TURNS}"),
        ({"messages": [QUESTION] * (MOST_TURNS + 1)}, "messages", f"holds {MOST_TURNS + 1} messages"),
        ({"messages": ["hi"]}, "messages[0]", "is the text 'hi'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing; the message has role"),
        ({"messages": [QUESTION, {"role": "tool", "content": "c"}]}, "messages[1].role", "is the text 'tool'; one of"),
        ({"messages": [{"role": ["user"], "content": "c"}]}, "messages[0].role", "is the list"),
        ({"messages": [QUESTION, {**ANSWER, "content": 5}]}, "messages[1].content", "is the number 5"),
        ({"messages": [QUESTION, {**ANSWER, "tool_calls": [{}]}]}, "messages[1].tool_calls", "calls tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "is the object .*image_url",
        ),
        ({"messages": [QUESTION]}, "messages", "holds no assistant turn"),
        ({"messages": [ANSWER, QUESTION]}, "messages[0].content", "is an answer that comes first"),
        ({"messages": [QUESTION, ANSWER, ANSWER]}, "messages[2].content", "follows a turn of assistant"),
        ({"messages": [{**SYSTEM, "content": None}, QUESTION, ANSWER]}, "messages[0].content", "is null"),
        ({"conversations": [{"from": "human", "value": 1}]}, "conversations[0].value", "is the number 1"),
        ({"prompt": [QUESTION], "completion": []}, "completion", "holds 0 messages"),
        ({"chosen": "a", "rejected": "b"}, "chosen", "needs a prompt beside it"),
        ({"chosen": f"{HH}a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, "rejected", "has 2 turns, chosen 4"),
        ({"chosen": f"{HH}a", "rejected": f"{HH}b".replace("q", "p")}, "rejected[0]", "is 'p', in chosen 'q'"),
        ({"chosen": [QUESTION], "rejected": [QUESTION]}, "chosen[0].content", "must be the assistant's"),
        (
            {"prompt": "p", "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, ANSWER]},
            "chosen",
            "without the text of prompt",
        ),
        ({"prompt": "q", "response": "a", "label": "maybe"}, "label", "is the text 'maybe'; one of true"),
        ({"prompt": "q", "response": "a", "label": 2}, "label", "is the number 2"),
        ({"prompt": "q", "response": "a", "label": None}, "label", "is null"),
    ],
)
def test_what_breaks_a_format_is_named_by_its_path(record: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as caught:
        canonical(record, detect(record))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # it may come from a worker


def test_an_unknown_record_is_told_its_keys_and_the_formats_there_are() -> None:
    with pytest.raises(FormatError, match="the keys task_id, prompt, which is no format of any kind") as caught:
        detect({"task_id": 1, "prompt": "q"})
    assert caught.value.field == ""
    assert all(str(form) in caught.value.problem for form in FORMATS)
    with pytest.raises(FormatError, match=r"the formats are: text; content$"):
        detect({"task_id": 1}, "text")
    with pytest.raises(FormatError, match=r"it looks like instructions \(prompt \+ response\)"):
        detect({"prompt": "q", "response": "a"}, "text")
    with pytest.raises(FormatError, match="the record has no keys"):
        detect({})


@pytest.mark.parametrize(
    ("keys", "typo", "meant"),
    [
        (("promt", "response"), "promt", "prompt"),
        (("Prompt", "RESPONSE"), "Prompt", "prompt"),
        (("instruction", "outputs"), "outputs", "output"),
        (("prompt", "choosen", "rejected"), "choosen", "chosen"),
        (("texts",), "texts", "text"),
    ],
)
def test_a_likely_typo_is_named(keys: tuple[str, ...], typo: str, meant: str) -> None:
    with pytest.raises(FormatError, match=f"; {typo} is probably {meant};") as caught:
        detect(dict.fromkeys(keys, "x"))
    assert caught.value.field == typo


def test_a_key_that_completes_no_format_is_no_typo() -> None:
    with pytest.raises(FormatError) as caught:
        detect({"question_id": 81, "category": "writing", "turns": []})
    assert "probably" not in str(caught.value)


@pytest.mark.parametrize("extra", [("A", "B", "C", "D"), ("choices",), ("options",)])
def test_multiple_choice_is_not_mistaken_for_instructions(extra: tuple[str, ...]) -> None:
    with pytest.raises(FormatError, match="multiple choice"):
        detect({"question": "q", "answer": "1", **dict.fromkeys(extra, "x")})


def test_what_is_shown_of_a_value_is_short_and_rules_no_terminal() -> None:
    nested: Any = "\x1b"
    for _ in range(5000):
        nested = [nested, {"\x9b": nested}]
    for value in ("\x1b[2J\u202e\ud800\n" * 99, nested, {"\x1b": "y" * 99}, b"\x1b" * 99):
        assert excerpt(value).isprintable()
        assert len(excerpt(value)) <= 40
        with pytest.raises(FormatError) as caught:
            canonical({"text": [value]}, detect({"text": ""}))
        assert str(caught.value).isprintable()


def test_keys_of_the_data_do_not_add_up_in_memory() -> None:
    detect({"text": "a"})
    before = _detect.cache_info().currsize
    for number in range(99):
        assert detect({f"{number}" * 99: 1, "text": "a"}).name == "text"
    assert _detect.cache_info().currsize == before


def test_an_empty_name_is_none() -> None:
    record = {"text": "a", "domain": "", "group": "g", "licence": ""}
    assert canonical(record, detect(record)) == [{"text": "a", "group": "g"}]
