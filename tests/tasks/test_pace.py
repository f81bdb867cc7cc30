"""Tokens per second, MFU and the time left, on a clock that the test moves."""

import pytest

from tasks import pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [50.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def measured(clock: list[float], *, peak: float | None = 1e9) -> pace.Pace:
    made = pace.Pace(tokens_per_step=1000, flops_per_token=2e5, peak=peak)
    made.start(20)
    return made


def test_each_entry_is_of_the_stretch_since_the_last_one(clock: list[float]) -> None:
    speed = measured(clock)
    clock[0] += 10
    first = speed.entry(30, 100, trained=True)
    clock[0] += 40
    second = speed.entry(40, 100, trained=True)
    # 10 steps of 1,000 tokens in 10 s; 2e5 FLOPs each, of 1e9 a second
    assert first == {"seconds_left": 70.0, "tokens_per_second": 1000.0, "mfu": 0.2}
    assert second == {"seconds_left": 150.0, "tokens_per_second": 250.0, "mfu": 0.05}
    assert speed.summary() == {"tokens_per_second": 400.0, "mfu": 0.08, "peak_flops_per_second": 1e9}


def test_evaluations_and_checkpoints_are_left_out_of_the_speed_and_not_of_the_time_left(clock: list[float]) -> None:
    speed = measured(clock)
    clock[0] += 5
    speed.step_ended()  # step 25, where nothing is logged but the evaluation, which takes 20 s
    clock[0] += 20
    evaluated = speed.entry(25, 100, trained=False)
    speed.paused()
    clock[0] += 2
    speed.paused()  # a checkpoint
    clock[0] += 5
    assert evaluated["tokens_per_second"] == 1000.0
    assert speed.entry(30, 100, trained=True) == {"seconds_left": 224.0, "tokens_per_second": 1000.0, "mfu": 0.2}


def test_a_second_entry_of_a_step_has_no_speed(clock: list[float]) -> None:
    speed = measured(clock)
    clock[0] += 10
    speed.entry(30, 100, trained=True)
    clock[0] += 3
    assert set(speed.entry(30, 100, trained=False)) == {"seconds_left"}


def test_without_a_peak_there_is_no_mfu(clock: list[float]) -> None:
    speed = measured(clock, peak=None)
    clock[0] += 10
    assert set(speed.entry(30, 100, trained=True)) == {"seconds_left", "tokens_per_second"}
    assert speed.summary() == {"tokens_per_second": 1000.0}


def test_before_the_first_step_there_is_nothing_to_say(clock: list[float]) -> None:
    speed = measured(clock)
    assert speed.entry(20, 100, trained=False) == {}
    assert speed.summary() == {"peak_flops_per_second": 1e9}
