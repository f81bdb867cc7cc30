"""A training that cannot come to anything stops, and says where and at which rate."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tasks import checkpoints, training
from tasks.errors import TrainingDivergedError
from tests import resumable
from tests.resumable import Case

CASE = Case(steps=12)


class _Break(TrainerCallback):
    """Sets one weight after a step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                model.model.layers[1].mlp.up_proj.weight[0, 0] = self.value


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_no_number_stops_the_run_at_its_step(value: float, one_thread: None, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError) as stopped:
        resumable.finish(tmp_path, CASE, [_Break(5, value)])
    text = str(stopped.value)
    assert re.match(r"loss is nan at step 6 of 12 with learning rate 1\.\d\de-02\. ", text)
    assert f"Last good checkpoint: {tmp_path}/checkpoints/checkpoint-4." in text
    assert "lower the recipe's learning_rate" in text
    assert [entry["step"] for entry in training.history(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_run_that_diverged_diverges_again_at_the_same_step(one_thread: None, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with pytest.raises(TrainingDivergedError) as stopped:
            resumable.finish(tmp_path, CASE, [_Break(7, math.inf)])
        texts.append(str(stopped.value))
    assert texts[0] == texts[1] and "at step 8 of 12" in texts[0]


def test_weights_that_are_no_numbers_are_never_a_checkpoint(one_thread: None, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDivergedError, match=r"layers\.1\.mlp\.up_proj\.weight has values that are not finite at"
    ):
        resumable.finish(tmp_path, CASE, [_Break(8, math.inf)])
    assert [path.name for path in checkpoints.numbered(tmp_path / "checkpoints")] == ["checkpoint-4"]


def test_an_absurd_learning_rate_stops_the_run_with_the_last_checkpoint_before_the_loss_rose(
    one_thread: None, tmp_path: Path
) -> None:
    case = Case(learning_rate=30.0, save_steps=2)
    with pytest.raises(TrainingDivergedError) as stopped:
        resumable.finish(tmp_path, case)
    text = str(stopped.value)
    assert "lies more than 1 nat above its first value, 5.656, in 3 log entries in a row, at step 5 of 40" in text
    assert re.search(r" with learning rate 2\.8\de\+01\. Last good checkpoint: \S+/checkpoint-2\. ", text)
    assert [checkpoints.step_of(each) for each in checkpoints.numbered(tmp_path / "checkpoints")] == [4, 2]


def test_three_entries_in_a_row_more_than_a_nat_above_the_first_are_a_divergence() -> None:
    def run(*losses: float) -> int | None:
        return training.last_good_step([(10 * number, loss) for number, loss in enumerate(losses, start=1)])

    assert run() is None
    assert run(3.0, 4.5, 4.5) is None
    assert run(3.0, 4.5, 4.5, 4.5) == 10
    assert run(3.0, 2.0, 4.5, 4.5, 4.0) is None
    assert run(3.0, 2.0, 1.5, 4.5, 9.0, 4.1) == 30


def test_on_resume_the_first_loss_is_that_of_the_history(one_thread: None, tmp_path: Path) -> None:
    resumable.finish(tmp_path, CASE)
    for each in checkpoints.numbered(tmp_path / "checkpoints")[:-1]:
        shutil.rmtree(each)
    history = tmp_path / "log" / "history.jsonl"
    entries = training.history(tmp_path)
    entries[0]["loss"] = 1.0
    history.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 9, "lo')
    with pytest.raises(TrainingDivergedError, match=r"1 nat above its first value, 1\.000"):
        resumable.finish(tmp_path, CASE)
    assert training.history(tmp_path)[-1]["step"] == 9


def test_the_loss_of_a_policy_may_rise(one_thread: None, tmp_path: Path) -> None:
    case = Case(learning_rate=3.0, steps=8)
    with pytest.raises(TrainingDivergedError, match="above its first value"):
        resumable.finish(tmp_path / "likelihood", case)
    assert len(resumable.finish(tmp_path / "policy", case, likelihood=False).losses) == 8
