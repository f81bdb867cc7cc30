import json

import pytest

from tasks.errors import RegistryError
from tasks.gate import Gate, decide

GATE = Gate(min_items=20, draws=200)


def scores(good, *, rouge=0.3, chars=30):
    return {"score": rouge + good, "rougeL": rouge, "grounded": good, "guideline": good, "chars": chars}


def report(folder, rows):
    """`rows` maps a row to the scores of item `n` of 40."""
    lines = [{"id": f"i{n:02}", "scores": {row: of(n) for row, of in rows.items()}} for n in range(40)]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def champion(of):
    return [{"id": f"i{n:02}", "scores": of(n)} for n in reversed(range(40))]


def sft(n):
    return scores(n % 2)


def aligned(n):
    return scores(float(n % 4 > 0), chars=24)


def failed(verdict):
    return [check.name for check in verdict.checks if not check.ok]


def test_a_first_model_must_improve_on_its_reference(tmp_path):
    verdict = decide(report(tmp_path, {"sft": sft, "aligned": aligned}), None, GATE)
    assert verdict.promote
    assert failed(verdict) == []
    assert [check.name for check in verdict.checks] == [
        "held-out items", "guideline against sft", "grounded against sft", "rougeL against sft", "length over sft",
    ]  # fmt: skip
    gain = verdict.checks[1]
    assert gain.value == 0.25
    assert 0 < gain.low < 0.25 < gain.high
    assert f"guideline against sft +0.250 [{gain.low:+.3f}, {gain.high:+.3f}], above 0 as required" in verdict.reasons
    assert "length over sft 0.8, within 0.6 and 1.4 as required" in verdict.reasons


def test_a_first_model_that_does_nothing_is_refused_with_the_numbers(tmp_path):
    verdict = decide(report(tmp_path, {"sft": sft, "aligned": sft}), None, GATE)
    assert not verdict.promote
    assert failed(verdict) == ["guideline against sft", "grounded against sft"]
    assert verdict.reasons[0] == "guideline against sft +0.000 [+0.000, +0.000], not above 0 as required"


@pytest.mark.parametrize(
    ("change", "name"),
    [({"rouge": 0.27}, "rougeL against sft"), ({"chars": 17}, "length over sft"), ({"chars": 43}, "length over sft")],
)
def test_guards_hold_whatever_was_gained(tmp_path, change, name):
    rows = {"sft": sft, "aligned": lambda n: scores(float(n % 4 > 0), **change)}
    assert failed(decide(report(tmp_path, rows), None, GATE)) == [name]


def test_too_few_items_decide_nothing(tmp_path):
    verdict = decide(report(tmp_path, {"sft": sft, "aligned": aligned}), None, Gate(draws=200))
    assert verdict.reasons == ["held-out items 40, not at least 200 as required"]


def test_a_champion_is_compared_item_by_item_and_first_gains_no_longer_count(tmp_path):
    folder = report(tmp_path, {"sft": aligned, "aligned": aligned})
    verdict = decide(folder, champion(sft), GATE)
    assert verdict.promote
    assert [check.name for check in verdict.checks][1:3] == ["score against champion", "rougeL against champion"]
    assert verdict.checks[1].value == pytest.approx(0.25)
    assert failed(decide(folder, champion(aligned), GATE)) == ["score against champion"]
    assert failed(decide(folder, champion(sft), GATE.model_copy(update={"min_gain": 0.2}))) == [
        "score against champion"
    ]


def test_other_items_are_refused(tmp_path):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    with pytest.raises(ValueError, match="39 items, the candidate on 40"):
        decide(folder, champion(sft)[1:], GATE)


@pytest.mark.parametrize(
    ("gate", "message"),
    [({"candidate": "dpo"}, "no row 'dpo', only"), ({"first_gains": ("charm",)}, "metric 'charm'")],
)
def test_what_was_not_measured_is_named(tmp_path, gate, message):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    with pytest.raises(RegistryError, match=message):
        decide(folder, None, Gate(**gate))
