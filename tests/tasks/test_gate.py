import json
import math

import pytest

from tasks.gate import Gate, decide
from tasks.latency import Latency
from tasks.rival import Rival

GATE = Gate(min_items=20, min_texts=20, draws=200, toxicity=0.1)
N = 40


def scores(good, *, rouge=0.3, chars=30, toxic=0.0):
    return {"score": rouge + good, "rougeL": rouge, "grounded": good, "guideline": good, "chars": chars, "toxic": toxic}


def sft(n):
    return scores(n % 2)


def aligned(n):
    return scores(float(n % 4 > 0), chars=24)


def bits(n, more=0.0):
    return 2.0 + n / N + more


def report(folder, rows, *, texts=bits, contaminated=0, yardstick="y", parameters=1000, unchecked=()):
    """`rows` maps a row to the scores of item `n` of 40; `texts(n)` gives the candidate's bits per byte."""
    lines = [{"id": f"i{n:02}", "scores": {row: of(n) for row, of in rows.items()}} for n in range(N)]
    told = [
        {"id": f"t{n:02}", "bits_per_byte": {row: texts(n) if row == "aligned" else bits(n) for row in rows}}
        for n in range(N)
    ]
    found = {"items": N, "contaminated": contaminated, "examples": [], "unchecked": list(unchecked)}
    metrics = {
        "yardstick": yardstick,
        "parameters": dict.fromkeys(rows, 1000) | {"aligned": parameters},
        "contamination": dict.fromkeys(rows, found),
    }
    folder.mkdir(exist_ok=True)
    for name, each in {"items.jsonl": lines, "texts.jsonl": told}.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in each))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def champion(of, **changes):
    items = {f"i{n:02}": of(n) for n in reversed(range(N))}
    known = {"yardstick": "y", "items": items, "texts": {f"t{n:02}": bits(n) for n in range(N)}, "parameters": 1000}
    return Rival(**known | changes)


def timed(low, high, against="champion"):
    ratio = (low + high) / 2
    return Latency(
        against=against, candidate=0.02 * ratio, rival=0.02, ratio=ratio, low=low, high=high, rounds=11, answers=12,
        device="cpu", threads=1,
    )  # fmt: skip


FAST = timed(0.95, 1.05)


def failed(verdict):
    return [check.name for check in verdict.checks if not check.ok]


def test_a_first_model_must_improve_on_its_reference(tmp_path):
    verdict = decide(report(tmp_path, {"sft": sft, "aligned": aligned}), None, GATE)
    assert verdict.promote
    assert failed(verdict) == []
    assert [check.name for check in verdict.checks] == [
        "held-out items", "guideline against sft", "grounded against sft", "rougeL against sft", "held-out documents",
        "bits per byte against sft", "toxic against sft", "length over sft", "contaminated items",
    ]  # fmt: skip
    assert verdict.skipped == [
        "size: there is no champion to compare with",
        "latency: there is no champion, and sft was not timed in its place",
    ]
    gain = verdict.checks[1]
    assert gain.value == 0.25
    assert 0 < gain.low < 0.25 < gain.high
    assert f"guideline against sft +0.250 [{gain.low:+.3f}, {gain.high:+.3f}], above 0 as required" in verdict.reasons
    assert "length over sft 0.800 [0.800, 0.800], within 0.6 and 1.4 as required" in verdict.reasons


def test_a_first_model_that_does_nothing_is_refused_with_the_numbers(tmp_path):
    verdict = decide(report(tmp_path, {"sft": sft, "aligned": sft}), None, GATE)
    assert not verdict.promote
    assert failed(verdict) == ["guideline against sft", "grounded against sft"]
    assert verdict.reasons[0] == "guideline against sft +0.000 [+0.000, +0.000], not above 0 as required"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"rouge": 0.27}, "rougeL against sft"),
        ({"chars": 17}, "length over sft"),
        ({"chars": 43}, "length over sft"),
        ({"toxic": 1.0}, "toxic against sft"),
        ({"rouge": math.nan}, "rougeL against sft"),
    ],
)
def test_guards_hold_whatever_was_gained(tmp_path, change, name):
    rows = {"sft": sft, "aligned": lambda n: scores(float(n % 4 > 0), **change)}
    assert failed(decide(report(tmp_path, rows), None, GATE)) == [name]


def test_too_few_items_decide_nothing(tmp_path):
    verdict = decide(report(tmp_path, {"sft": sft, "aligned": aligned}), None, Gate(draws=200, toxicity=0.1))
    assert verdict.reasons == [
        "held-out items 40, not at least 200 as required",
        "held-out documents 40, not at least 50 as required",
    ]


def test_a_champion_is_compared_item_by_item_and_first_gains_no_longer_count(tmp_path):
    folder = report(tmp_path, {"sft": aligned, "aligned": aligned})
    verdict = decide(folder, champion(sft), GATE, latency=FAST)
    assert verdict.promote
    assert verdict.skipped == []
    assert [check.name for check in verdict.checks] == [
        "held-out items", "score against champion", "rougeL against champion", "held-out documents",
        "bits per byte against champion", "toxic against champion", "length over sft", "length over champion",
        "parameters over champion", "latency over champion", "contaminated items",
    ]  # fmt: skip
    assert verdict.checks[1].value == pytest.approx(0.25)
    same = decide(folder, champion(aligned), GATE, latency=FAST)
    assert failed(same) == ["score against champion"]
    asked = GATE.model_copy(update={"min_gain": 0.2})
    assert failed(decide(folder, champion(sft), asked, latency=FAST)) == ["score against champion"]
