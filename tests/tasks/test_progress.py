import json
import re
from pathlib import Path

import pytest

from tasks import progress
from tasks.progress import Count
from tasks.suites import DEFAULT
from tasks.validate import examine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="evergreen.progress")


def test_a_line_every_eight_seconds(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    count = Count("text: sketches", 5000)
    for _ in range(20):
        clock[0] += 1
        count.add(100)
    assert [" ".join(line.split()) for line in caplog.messages] == [
        "text: sketches 800/5,000 100 rows/s 0:42 left",
        "text: sketches 1,600/5,000 100 rows/s 0:34 left",
    ]


def test_without_a_total_nobody_knows_how_long(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    count = Count("ingest: reads")
    clock[0] += 10
    count.reach(12_340)
    assert caplog.messages == ["ingest: reads          12,340  1,234 rows/s"]


def test_what_is_passed_on_is_counted(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    passed = Count("text: sides", 256)
    for item in passed.over(range(200)):
        clock[0] += item < 100
    assert passed.done == 200
    assert [line.split()[2] for line in caplog.messages] == ["64/256", "128/256"]


def test_a_long_validation_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": f"row number {i}"}) for i in range(20)))
    examine(tmp_path / "rows.jsonl", "text", DEFAULT)
    assert re.fullmatch(r"rows\.jsonl: validates +20  [\d,]+ rows/s", caplog.messages[-1])


ENTRY = {"step": 120, "steps": 400, "loss": 3.2141, "tokens_per_second": 9120.4, "seconds_left": 31.0}


def test_the_mfu_stands_behind_the_tokens_and_the_label_makes_room() -> None:
    assert progress.line("pretrain/main", ENTRY) == (
        "pretrain/main            120/400  loss 3.214  9,120 tok/s  0:31 left"
    )
    with_mfu = progress.line("pretrain/main", {**ENTRY, "mfu": 0.3689})
    assert with_mfu == "pretrain/main       120/400  loss 3.214  9,120 tok/s  37% mfu  0:31 left"
    assert len(with_mfu) <= 72
    assert "  0.3% mfu  " in progress.line("pretrain/main", {**ENTRY, "mfu": 0.0031})


def test_a_line_that_would_be_too_long_has_no_mfu() -> None:
    label = "scaling/lstm-3x160000"
    without = progress.line(label, ENTRY)
    assert progress.line(label, {**ENTRY, "mfu": 0.3689}) == without
