"""How many examples a device takes at once: an equal part of the batch, which fits in memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.architectures import Recurrent, build
from tasks import micro_batch
from tasks.settings import Execution
from tests.short_training import SPECIAL, fresh
from tests.tasks.test_speed import FACTS, chosen


def test_the_micro_batch_is_the_largest_equal_part_that_fits() -> None:
    peak = micro_batch.peak_of(fresh(), micro_batch.step_of(chosen(), 256))
    needed = {size: peak(size, size < 12) / micro_batch.ROOM for size in (12, 6, 4, 3, 2)}
    for size, smaller in ((12, 6), (6, 4), (4, 3), (3, 2), (2, 1)):
        fitting, short = (replace(FACTS, free_bytes=round(needed[size] * part)) for part in (1.001, 0.999))
        assert (chosen(fitting, batch=12).micro_batch, chosen(short, batch=12).micro_batch) == (size, smaller)
    assert chosen(replace(FACTS, free_bytes=0), batch=12).micro_batch == 1


@pytest.mark.parametrize(
    ("batch", "most", "expected"), [(8, 2, 2), (8, 3, 2), (8, 8, 8), (8, 100, 8), (7, 6, 1), (8, 0, 8)]
)
def test_a_batch_is_cut_into_equal_parts_of_at_most_so_many(batch: int, most: int, expected: int) -> None:
    assert micro_batch.part(batch, most) == expected
    assert batch % expected == 0


def test_what_was_asked_for_holds_whether_it_fits_or_not() -> None:
    settings = chosen(replace(FACTS, free_bytes=0), execution={"micro_batch": 3})
    assert settings.micro_batch == 2
    assert settings.arguments()["gradient_accumulation_steps"] == 4


def test_a_model_whose_step_nobody_can_foresee_takes_the_whole_batch() -> None:
    lstm = build(Recurrent(hidden=32, layers=1), vocabulary=64, context=32, special=SPECIAL, seed=0)
    peak = micro_batch.peak_of(lstm, micro_batch.step_with("fp32", "no", False, 32))
    with pytest.raises(ValueError, match="recurrent"):
        peak(8, False)
    assert micro_batch.chosen(8, 0, peak, free_bytes=0) == 8


def test_trainings_that_run_at_once_share_what_is_free() -> None:
    alone, beside = (micro_batch.free_bytes(Execution(processes=n), on_cpu=True) for n in (1, 2))
    assert beside < 0.7 * alone


def test_what_a_group_of_processes_has_read_from_files_is_free(tmp_path: Path) -> None:
    for name, text in (("max", "1000\n"), ("current", "900\n"), ("stat", "anon 300\ninactive_file 550\nslab 9\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert micro_batch._left_in(tmp_path) == 650
    (tmp_path / "memory.max").write_text("max\n")
    with pytest.raises(ValueError, match="max"):
        micro_batch._left_in(tmp_path)
