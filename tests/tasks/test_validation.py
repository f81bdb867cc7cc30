import json
import re
from typing import Any

import pytest

from tasks import validation, validation_page
from tasks.errors import DataValidationError
from tasks.suites import BETWEEN, Bounds, Rule, suite
from tasks.validation import check, refuse

LEAD = "Soap is a salt of a fatty acid used for cleaning and lubricating many things."


def gloss(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"g{number}",
        "kind": "gloss",
        "prompt": f"Soap {number}\n{LEAD}",
        "response": "Substance used for cleaning",
        "lead": LEAD,
    }
    return {**row, **changes}


def dialogue(number: int, **changes: Any) -> dict[str, Any]:
    text = " ".join(f"word{number}x{i}" for i in range(70))
    return {"id": f"d{number}", "domain": "dialogue", "text": text, "speakers": 2, "language": "en", **changes}


def article(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"a{number}",
        "domain": "encyclopaedia",
        "text": f"T{number}\n\n{LEAD}",
        "lead": LEAD,
        "language": "en",
    }
    return {**row, **changes}


def rating(number: int, **changes: Any) -> dict[str, Any]:
    text = " ".join(f"say{number}x{i}" for i in range(40))
    row = {"id": f"r{number}", "prompt": "Why?", "text": text, "speakers": 2, "ratings": {"witty": 7, "upbeat": 5}}
    return {**row, **changes}


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("instructions", gloss(0, response="1968 film"), "number in the description that the prompt does not hold"),
        ("instructions", gloss(0, response=" "), "response is empty"),
        ("instructions", gloss(0, response="a " * 17), "description of more than 16 words"),
        (
            "instructions",
            gloss(0, lead="Soap may refer to many things, among them these and those and more."),
            "disambiguation",
        ),
        ("instructions", gloss(0, lead="Too short."), "lead of fewer than 12 words"),
        (
            "instructions",
            gloss(0, kind="topic", response="Uncategorized", choices=["Arts"]),
            "topic is not one of the set",
        ),
        (
            "instructions",
            gloss(0, kind="name", prompt="Name?\n___ is Soap.", response="Soap"),
            "the answer stands in the prompt",
        ),
        ("instructions", gloss(0, kind="docstring", response="Two words"), "docstring not of 3 to 25 words"),
        ("instructions", gloss(1, id="copy"), "copy of an earlier row"),
        (
            "text",
            article(0, lead="Mercury may refer to: the planet, the element and the god of old Rome."),
            "disambiguation",
        ),
        ("text", article(0, text="T1\n\nAnother text"), "title is not unique"),
        ("text", dialogue(0, speakers=1), "monologue"),
        ("text", dialogue(0, text="hi there"), "conversation of fewer than 60 words"),
        ("text", dialogue(0, text="a " * 90), "spam: one word"),
        ("text", dialogue(0, text=dialogue(0)["text"] + " write to me@there.com"), "holds an e-mail address"),
        ("text", dialogue(0, text=dialogue(0)["text"] + " http://there.com"), "holds a URL"),
        ("text", article(0, text="T0\n\ngarbled \ufffd text"), "wrong encoding"),
        (
            "text",
            article(0, text="T0\n\nThe cafÃ© that was here for many years is gone"),
            "decoded with the wrong encoding",
        ),
        ("text", article(0, text="T0\n\n" + LEAD + "<|im_start|>"), "chat template"),
        ("text", article(0, text="T0\n\n" + LEAD + " 4111 1111 1111 1111"), "a card number"),
        ("text", article(0, text="T0\n\n" + LEAD + " ghp_" + "a1B2" * 9), "a key, token or password"),
        ("text", article(0, text="T0\n\n" + "one two three four five " * 9), "four-word runs repeat"),
        ("text", article(0, text=None), "text is null"),
        ("instructions", gloss(0, kind="given", response=None), "response is null"),
        ("instructions", gloss(0, kind="given", prompt="same", response=" same "), "repeats the prompt"),
        ("ratings", rating(0, ratings={"witty": 5, "upbeat": 5}), "untouched rating sliders"),
        ("ratings", rating(0, ratings={"witty": 11, "upbeat": 4}), "rating outside 1 to 10"),
        ("ratings", rating(0, speakers=1), "monologue"),
        ("ratings", rating(0, prompt=""), "prompt is empty"),
    ],
)
def test_each_trap_is_found_and_only_it(kind: str, row: dict[str, Any], reason: str) -> None:
    good = {"instructions": [gloss(i) for i in range(1, 9)], "ratings": [rating(i) for i in range(1, 9)]}
    good["text"] = [article(i) for i in range(1, 5)] + [dialogue(i) for i in range(1, 5)]
    report, broken = check(kind, [*good[kind], row])
    assert reason in broken[8]
    assert set(broken) == {8}
    assert (report["success"], report["kept"]) == (False, 8)


def test_articles_that_only_use_the_words_stay() -> None:
    lead = LEAD + ' The term "soap" may also refer to other salts.'
    assert not check("text", [article(1, lead=lead), article(2)])[1]


def test_code_may_hold_links_and_matrix_products() -> None:
    rows = [{"id": "c", "domain": "code", "text": "# see https://example.org\ny = q@k.transpose(0, 1)"}]
    assert not check("text", rows)[1]


def test_a_rule_over_its_share_stops_with_count_share_and_rows() -> None:
    rows = [gloss(i, response="1968 film" if i < 6 else "Cleaning stuff") for i in range(20)]
    report, _ = check("instructions", rows)
    with pytest.raises(DataValidationError) as caught:
        refuse("instructions", report, on_failure="quarantine")
    message = str(caught.value)
    assert "number in the description" in message
    assert "6 of 20 rows, 30.0%, tolerated 10.0%" in message
    assert message.count("1968 film") == 5


def test_stop_refuses_what_quarantine_leaves_out() -> None:
    report, _ = check("instructions", [*(gloss(i) for i in range(30)), gloss(30, response="1968 film")])
    refuse("instructions", report, on_failure="quarantine")
    with pytest.raises(DataValidationError, match=r"1 of 31 rows.*\n.*\n.*data\.on_failure=quarantine"):
        refuse("instructions", report, on_failure="stop")


def test_a_table_rule_stops() -> None:
    report, _ = check("instructions", [gloss(1), gloss(2, id="g1")])
    with pytest.raises(DataValidationError, match="id is not unique"):
        refuse("instructions", report, on_failure="quarantine")


def test_a_warning_is_reported_and_stops_nothing() -> None:
    pairs = [{"id": str(i), "prompt": "p", "chosen": f"long text {i}", "rejected": f"t {i}"} for i in range(10)]
    report, _ = check("preferences", pairs)
    refuse("preferences", report, on_failure="stop")
    entry = next(e for e in report["expectations"] if e["name"] == "length_is_no_hint")
    assert (entry["success"], entry["observed"]) == (False, 1.0)


def test_an_expectation_that_crashed_is_not_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = (Rule("numbers", "numbers only", "words", BETWEEN, {"min_value": 2}),)
    monkeypatch.setattr(validation, "suite", lambda kind, bounds: crashing)
    monkeypatch.setattr(validation.Facts, "of", lambda self, rows: {"words": ["one", "two"][: len(rows)]})
    with pytest.raises(DataValidationError, match="could not be evaluated"):
        check("instructions", [gloss(1)])


def test_bounds_move_the_rules() -> None:
    rows = [gloss(1, response="one two three four"), gloss(2)]
    assert set(check("instructions", rows, Bounds(description_words=3))[1]) == {0, 1}
    assert not check("instructions", rows, Bounds(lead_words=2))[1]
    assert set(check("instructions", rows, Bounds(characters=(1, 20)))[1]) == {0, 1}


def test_the_page_needs_no_network_and_escapes() -> None:
    rows = [gloss(i) for i in range(30)] + [gloss(30, response="<script>alert(1)</script> 1968")]
    report, _ = check("instructions", rows)
    page = validation_page.page({"instructions": report})
    assert not re.search(r"(?:src|href)=|<script", page)
    assert "<script" not in validation_page.markdown({"instructions": report})
    assert "31 rows, 30 kept" in page
    json.dumps(report, allow_nan=False)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="no suite for 'images'; there are: text"):
        suite("images")


def test_blocks_find_what_the_whole_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [gloss(i % 40, id=f"g{i}", response="1968 film" if i == 17 else "Cleaning stuff") for i in range(60)]
    whole, broken = check("instructions", rows)
    monkeypatch.setattr(validation, "blocks", lambda rows: (rows[i : i + 7] for i in range(0, len(rows), 7)))
    parts, found = check("instructions", rows)
    assert (parts, found) == (whole, broken)
    assert len(broken) == 20


def test_an_empty_file_is_no_success() -> None:
    report, _ = check("text", [])
    assert not report["success"]
    with pytest.raises(DataValidationError, match="no rows"):
        refuse("text", report, on_failure="quarantine")


def test_the_share_that_may_leave_is_a_bound() -> None:
    rows = [gloss(i, kind="given", response="" if i < 4 else f"Answer {i}") for i in range(20)]
    with pytest.raises(DataValidationError, match=r"4 of 20 rows.*(?s:.*)raise data\.tolerated"):
        refuse("instructions", check("instructions", rows)[0], on_failure="quarantine")
    refuse("instructions", check("instructions", rows, Bounds(tolerated=0.2))[0], on_failure="quarantine")
