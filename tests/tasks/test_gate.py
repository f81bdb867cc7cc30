import json
import math

import numpy as np
import pytest

from tasks.errors import RegistryError
from tasks.gate import Gate, Pair, decide, judge
from tasks.latency import Latency
from tasks.rival import Rival, of_model, of_row

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


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"texts": lambda n: bits(n, 0.11)}, "bits per byte against champion"),
        ({"texts": lambda n: bits(n, 0.8 * (n % 10 == 0))}, "bits per byte against champion"),
        ({"texts": lambda n: math.nan if n == 7 else bits(n)}, "bits per byte against champion"),
        ({"parameters": 1501}, "parameters over champion"),
        ({"parameters": None}, "parameters over champion"),
        ({"contaminated": 1}, "contaminated items"),
        ({"contaminated": None}, "contaminated items"),
    ],
)
def test_each_guard_alone_refuses_a_better_model(tmp_path, change, name):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned}, **change)
    verdict = decide(folder, champion(sft), GATE, latency=FAST)
    assert not verdict.promote
    assert failed(verdict) == [name]


@pytest.mark.parametrize(
    ("latency", "why"),
    [
        (None, "latency over champion was not measured, not below 1.25 as required (nobody timed the two side by side"),
        (timed(0.9, 1.3), "latency over champion 1.100 [0.900, 1.300], not below 1.25 as required (22.0 ms an answer"),
        (timed(0.9, 1.0, "sft"), "latency over champion was not measured, not below 1.25 as required (it was timed"),
        (
            timed(math.nan, math.nan),
            "latency over champion was not measured, not below 1.25 as required (the times are no",
        ),
    ],
)
def test_an_answer_must_not_take_much_longer_than_the_champions(tmp_path, latency, why):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    verdict = decide(folder, champion(sft), GATE, latency=latency)
    assert failed(verdict) == ["latency over champion"]
    assert verdict.reasons[0].startswith(why)


@pytest.mark.parametrize("events", [0, 1, 2])
def test_rare_toxic_answers_widen_the_interval_beyond_what_resampling_sees(events):
    items = {f"i{n}": scores(0.0, toxic=float(n < events)) for n in range(950)}
    judged, clean = champion(sft, items=items), champion(sft, items={key: scores(0.0) for key in items})
    verdict = judge(Pair(judged, clean, "sft"), clean, {"contaminated": 0}, None, GATE)
    (check,) = [check for check in verdict.checks if check.name.startswith("toxic")]
    assert check.value == pytest.approx(events / 950)
    assert check.high - check.value >= 1 - 0.025 ** (1 / 950)
    assert check.ok


def test_without_a_champion_the_reference_may_be_timed_in_its_place(tmp_path):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    slow = decide(folder, None, GATE, latency=timed(1.3, 1.4, "sft"))
    assert failed(slow) == ["latency over sft"]


def test_a_length_that_may_lie_outside_is_refused(tmp_path):
    def uneven(n):
        return scores(float(n % 4 > 0), chars=38 if n % 2 else 2)  # mean 20, two thirds of the others

    folder = report(tmp_path, {"sft": sft, "aligned": uneven})
    assert failed(decide(folder, None, GATE)) == ["length over sft"]


def test_what_is_not_asked_is_said(tmp_path):
    silent = dict.fromkeys(("forgetting", "toxicity", "size_ratio", "latency_ratio", "max_contaminated"))
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    verdict = decide(folder, champion(sft), GATE.model_copy(update=silent))
    assert verdict.promote
    assert [each.split(":")[0] for each in verdict.skipped] == [
        "forgetting", "toxicity", "size", "latency", "contamination",
    ]  # fmt: skip
    told = report(tmp_path, {"sft": sft, "aligned": aligned}, unchecked=["the data of x were not looked at"])
    assert decide(told, champion(sft), GATE, latency=FAST).skipped == [
        "contamination: the data of x were not looked at"
    ]


def test_too_large_a_first_model_is_refused_where_that_is_asked(tmp_path):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned}, parameters=2_000_000)
    verdict = decide(folder, None, GATE.model_copy(update={"max_parameters": 1_999_999}))
    assert verdict.reasons == ["parameters 2,000,000, not at most 1,999,999 as required"]


def test_a_row_of_the_report_that_is_the_champion_goes_before_all_else(tmp_path):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned, "champion": aligned})
    for other in (None, champion(sft)):
        verdict = decide(folder, other, GATE, latency=FAST)
        assert failed(verdict) == ["score against champion"]


def test_what_a_model_was_trained_on_is_left_out_of_the_comparison(tmp_path):
    def leaked(n):
        return scores(1.0, rouge=1.0) if n < 12 else sft(n)

    folder = report(tmp_path, {"sft": sft, "aligned": leaked, "champion": sft})
    assert decide(folder, None, GATE, latency=FAST).promote
    metrics = json.loads((folder / "metrics.json").read_text())
    known = {"candidate": [f"i{n:02}" for n in range(10)], "champion": [f"i{n:02}" for n in range(8, 12)]}
    for row, ids in {"aligned": known["candidate"], "champion": known["champion"]}.items():
        metrics["contamination"][row] |= {"left_out": {"items": ids, "texts": ["t00"]}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    verdict = decide(folder, None, GATE.model_copy(update={"toxicity": 0.2}), latency=FAST)
    assert failed(verdict) == ["score against champion"]
    values = {check.name: check.value for check in verdict.checks}
    assert [values[f"held-out {what}"] for what in ("items", "documents")] == [28, 39]
    assert values["score against champion"] == 0
    assert verdict.checks[-1].note == "13 stand in data behind the models and are left out"


def test_a_cost_improves_where_it_falls(tmp_path):
    def loss(of, more):
        return lambda n: of(n) | {"loss": 3.0 + n / N + more}

    gate = GATE.model_copy(update={"primary": "loss", "guards": {}})
    folder = report(tmp_path, {"sft": sft, "aligned": loss(aligned, 0)})
    assert decide(folder, champion(loss(aligned, 0.1)), gate, latency=FAST).promote
    assert failed(decide(folder, champion(loss(aligned, -0.1)), gate, latency=FAST)) == ["loss against champion"]


def test_answers_that_are_empty_or_repeat_the_prompt_are_refused(tmp_path):
    def empty(n):
        return scores(1.0, rouge=0.0, chars=0)

    def copied(n):
        return scores(1.0, rouge=0.25, chars=150)

    for cheat in (empty, copied):
        verdict = decide(report(tmp_path, {"sft": sft, "aligned": cheat}), champion(sft), GATE, latency=FAST)
        assert {"rougeL against champion", "length over sft", "length over champion"} <= set(failed(verdict))
    silent = decide(
        report(tmp_path, {"sft": sft, "aligned": aligned}),
        champion(lambda n: scores(0.0, rouge=0.0, chars=0)),
        GATE,
        latency=FAST,
    )
    assert failed(silent) == ["length over champion"]


def test_other_items_are_refused(tmp_path):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    fewer = champion(sft)
    fewer = fewer.model_copy(update={"items": {key: fewer.items[key] for key in list(fewer.items)[1:]}})
    with pytest.raises(RegistryError, match="39 items, the candidate on 40"):
        decide(folder, fewer, GATE)
    with pytest.raises(RegistryError, match="measured by yardstick z, the candidate by y"):
        decide(folder, champion(sft, yardstick="z"), GATE)


@pytest.mark.parametrize(
    ("gate", "message"),
    [({"candidate": "dpo"}, "no row 'dpo', only"), ({"first_gains": ("charm",)}, "metric 'charm'")],
)
def test_what_was_not_measured_is_named(tmp_path, gate, message):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    with pytest.raises(RegistryError, match=message):
        decide(folder, None, Gate(**gate))


def test_a_report_of_older_code_is_refused(tmp_path):
    folder = report(tmp_path, {"sft": sft, "aligned": aligned})
    (folder / "metrics.json").write_text('{"items": 40}')
    with pytest.raises(RegistryError, match="older code and says not what it measured by; run the evaluation again"):
        decide(folder, None, GATE)


def test_an_evaluation_of_one_model_says_the_same_as_its_row_of_the_report(tmp_path):
    row = of_row(report(tmp_path / "report", {"sft": sft, "aligned": aligned}), "aligned")
    alone = tmp_path / "alone"
    alone.mkdir()
    lines = [{"id": key, "output": "x", "scores": each} for key, each in row.items.items()]
    (alone / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [{"id": key, "domain": "d", "bits_per_byte": value} for key, value in row.texts.items()]
    (alone / "figures.json").write_text(json.dumps({"yardstick": "y", "parameters": 1000, "texts": texts}))
    assert of_model(alone) == row


def drawn(seed, *, gain=0.0, rouge=0.0, bits=0.0, toxic=0.0):
    """A candidate and a champion on 400 items and 200 documents, with the spread of real ones, and what is true."""
    draw = np.random.default_rng(seed)
    easy, hard = draw.beta(2, 3, 400), draw.normal(2, 0.4, 200)
    made = []
    for side in (1, 0):
        columns = {
            "score": easy + draw.normal(gain * side, 0.15, 400),
            "rougeL": easy + draw.normal(rouge * side, 0.06, 400),
            "toxic": (draw.random(400) < 0.002 + toxic * side).astype(float),
            "chars": draw.normal(30, 8, 400),
        }
        items = {
            f"i{n}": dict(zip(columns, row, strict=True)) for n, row in enumerate(zip(*columns.values(), strict=True))
        }
        texts = dict(enumerate(hard + draw.normal(bits * side, 0.05, 200)))
        made.append(champion(sft).model_copy(update={"items": items, "texts": texts}))
    return Pair(*made, "champion")


def promotions(trials=200, **truth):
    """The share of trials in which the candidate is promoted, by the default gate but for fewer resamples."""
    gate, clean = Gate(draws=200), {"contaminated": 0}
    pairs = (drawn(seed, **truth) for seed in range(trials))
    return np.mean([judge(pair, pair.rival, clean, FAST, gate).promote for pair in pairs])


def test_without_a_true_gain_hardly_any_model_is_promoted():
    assert promotions(240) <= 0.05  # nominal 0.025; 0.033 at so few resamples, and what 240 trials scatter


def test_a_true_gain_is_seen():
    assert promotions(40, gain=0.06) >= 0.9


@pytest.mark.parametrize("truth", [{"rouge": -0.022}, {"bits": 0.104}, {"toxic": 0.022}])
def test_beyond_the_margin_of_one_guard_hardly_any_model_is_promoted_whatever_it_gained(truth):
    assert promotions(40, gain=0.3, **truth) <= 0.05
