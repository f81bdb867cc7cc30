"""The forecast of a training's step against what the training took."""

from pathlib import Path
from typing import Any

import pytest

from models.architectures import Family, Recurrent, build
from tasks import notes, pretrain, step_memory, steps, tracking
from tests import killable, tiny
from tests.short_training import SPECIAL, fresh, same_weights, train

CASES: list[dict[str, Any]] = [
    {"precision": "fp32"},
    {"precision": "bf16-autocast"},
    {"precision": "fp32", "micro_batch": 2},
    {"precision": "bf16-autocast", "micro_batch": 2},
    {"precision": "bf16-autocast", "checkpointing": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_takes_what_was_forecast(tmp_path: Path, case: dict[str, Any]) -> None:
    found = train(tmp_path, steps=3, context=128, watched=True, **case).figures["execution"]["memory"]
    assert found["error"] == pytest.approx(found["forecast_bytes"] / found["measured_bytes"] - 1)
    assert abs(found["error"]) < 0.01
    said = (tmp_path / "log" / notes.NOTES).read_text()
    assert said.startswith("memory forecast ") and f"measured {found['measured_bytes'] / 1e6:.1f} MB" in said


def test_measuring_disturbs_no_bit(tmp_path: Path) -> None:
    alone, watched = (train(tmp_path / str(each), precision="bf16-autocast", watched=each) for each in (False, True))
    assert watched.losses == alone.losses and same_weights(watched.model, alone.model)
    assert "memory" in watched.figures["execution"] and "memory" not in alone.figures["execution"]


def test_a_training_of_two_steps_has_nothing_to_measure(tmp_path: Path) -> None:
    assert "memory" not in train(tmp_path, steps=2, watched=True).figures["execution"]


def test_without_a_forecast_the_measurement_stands_alone(tmp_path: Path) -> None:
    settings = train(tmp_path, steps=1).settings
    shape = Recurrent(hidden=32, layers=1)
    lstm = build(shape, vocabulary=64, context=32, special=SPECIAL, seed=0)
    assert step_memory.of_windows(lstm, settings, context=32)(2)[0] is None
    assert step_memory.of_windows(fresh(), settings, context=32)(2)[0] is not None
    assert step_memory.compared(None, 5) == {"measured_bytes": 5}
    assert "no forecast" in step_memory.sentence(None, 5_000_000)
    assert step_memory.sentence(45_100_000, 45_300_000) == "memory forecast 45.1 MB, measured 45.3 MB (-0.4%)"


@pytest.mark.slow
def test_a_pretraining_says_what_it_chose_and_took_in_log_manifest_and_mlflow(
    shared_store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    caplog.set_level("INFO", logger="evergreen.training")
    recipe = killable.PRETRAIN.model_copy(update={"size": 1, "tokens": 2048, "evaluations": 1, "precision": "fp32"})
    execution = tiny.EXECUTION.model_copy(update={"micro_batch": recipe.batch // 2})
    made = pretrain.pretrain_model.fn(tiny.tokenizer(tiny.dataset()), None, recipe, execution)
    ran = steps.read_manifest(made.path)["execution"]
    assert ran["precision"] == "fp32" and ran["attention"] == "sdpa" and ran["micro_batch"] == recipe.batch // 2
    assert "memory" not in made.summary and abs(ran["memory"]["error"]) < 0.01
    metrics = tracking.client().get_run(made.run_id).data.metrics
    assert metrics["execution/memory/measured_bytes"] == ran["memory"]["measured_bytes"]
    chosen, memory = [record.message for record in caplog.records if record.name == "evergreen.training"]
    assert chosen.startswith("pretrain/main: cpu, fp32, sdpa attention") and "micro-batch 2 of 4" in chosen
    assert memory.startswith("pretrain/main: memory forecast ")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_loss_of_every_objective_is_foreseen_in_fp32(
    family: Family, shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    changes = {"family": family, "size": 1, "tokens": 2048, "evaluations": 1, "precision": "bf16", "batch": 8}
    recipe = killable.PRETRAIN.model_copy(update={**changes, "context": 64})
    made = pretrain.pretrain_model.fn(tiny.tokenizer(tiny.dataset(), vocabulary=1024), None, recipe, tiny.EXECUTION)
    assert abs(steps.read_manifest(made.path)["execution"]["memory"]["error"]) < 0.03
