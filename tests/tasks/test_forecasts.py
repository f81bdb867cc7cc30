"""A forecast is in MLflow before its run starts, is scored after it, and the history is read from MLflow alone."""

import shutil
from pathlib import Path

import pytest

from flows import tables
from tasks import forecasts, pretrain, steps, tracking
from tasks.artifacts import Checkpoint, Forecast
from tests import killable, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SUMMARY = {
    "family": "llama", "size": 1, "parameters": 40_000, "tokens": 2048, "compute": 5e8, "law": "chinchilla",
    "estimator": "huber", "loss": 5.0, "low": 2.0, "high": 8.0,
}  # fmt: skip
RECIPE = killable.PRETRAIN.model_copy(update={"size": 0, "tokens": 0, "evaluations": 0})


def expected(**changes: float) -> Forecast:
    """A finished fit whose forecast says what a test wants."""
    fit = steps.Step(stage="scaling", name="fit", recipe=tiny.TinyRecipe(articles=round(1000 * changes.get("low", 1))))
    return steps.materialise(fit, Forecast, lambda folder: {**SUMMARY, **changes})


def train(forecast: Forecast) -> Checkpoint:
    return pretrain.pretrain_model.fn(tiny.tokenizer(tiny.dataset()), forecast, RECIPE, tiny.EXECUTION)


def test_it_is_registered_before_the_run_starts_and_scored_after_it() -> None:
    forecast = expected()
    made = train(forecast)
    found = forecasts.history()
    (told,) = found["forecasts"]
    assert told["step"] == made.key and told["fit"] == forecast.key and told["for"] == "pretrain/main"
    assert (told["size"], told["N"], told["D"], told["C"]) == (1, 40_000, 2048, 5e8)
    assert (told["loss"], told["low"], told["high"]) == (5.0, 2.0, 8.0)
    assert told["before"] and told["made"] <= told["started"]
    assert told["actual"] == made.summary["loss"] and told["inside"]
    assert told["error"] == pytest.approx(made.summary["forecast"]["error"])
    assert told["actual_run"] == made.run_id
    assert found["summary"]["scored"] == 1 and found["summary"]["inside"] == 1.0
    assert found["summary"]["mean_error"] == pytest.approx(told["error"])


def test_a_run_outside_its_interval_is_said_and_a_reused_one_counts_once() -> None:
    narrow = expected(low=4.9, high=5.1, loss=5.0)
    train(narrow)
    again = train(narrow)
    assert again.reused
    (told,) = forecasts.history()["forecasts"]
    assert told["inside"] is False
    shown = tables.forecasts(forecasts.history())
    assert "OUTSIDE" in shown and "0% inside the interval" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_what_was_killed_before_the_score_is_scored_by_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = expected()
    with monkeypatch.context() as patch:
        patch.setattr(forecasts, "score", lambda made: None)
        train(forecast)
    assert forecasts.history()["forecasts"][0]["actual"] is None
    assert "started, not scored yet" in " ".join(tables.forecasts(forecasts.history()).split())
    train(forecast)
    assert forecasts.history()["summary"]["scored"] == 1


def test_the_newest_comes_first_and_one_that_has_not_run_says_so() -> None:
    train(expected())
    later = expected(low=1.5)
    forecasts.register(pretrain.step(RECIPE, "0" * 16, later.key), later)
    shown = tables.forecasts(forecasts.history())
    assert shown.index("not run yet") < shown.index("actual")
    assert "1 scored" in shown


def test_the_history_needs_no_store_and_a_late_forecast_does_not_count() -> None:
    forecast = expected()
    made = train(forecast)
    (first,) = tracking.tagged(forecasts.STEP, made.key)
    tracking.client().delete_run(first.id)
    shutil.rmtree(made.path)
    forecasts.register(pretrain.step(RECIPE, tiny.tokenizer(tiny.dataset()).key, forecast.key), forecast)
    forecasts.score(made)
    (told,) = forecasts.history()["forecasts"]
    assert told["actual"] == made.summary["loss"] and not told["before"]
    assert forecasts.history()["summary"]["scored"] == 0
    assert "so not counted" in " ".join(tables.forecasts(forecasts.history()).split())


def test_a_finished_run_is_not_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = expected()
    with monkeypatch.context() as patch:
        patch.setattr(forecasts, "register", lambda step, forecast: None)
        train(forecast)
    train(forecast)
    assert forecasts.history()["forecasts"] == []


def test_a_size_of_ones_own_is_no_forecast() -> None:
    recipe = RECIPE.model_copy(update={"size": 1, "tokens": 2048})
    pretrain.pretrain_model.fn(tiny.tokenizer(tiny.dataset()), expected(), recipe, tiny.EXECUTION)
    assert forecasts.history()["forecasts"] == []


def test_an_empty_home_stays_empty_and_says_what_makes_one(tmp_path: Path) -> None:
    assert "`evergreen run` makes one" in tables.forecasts(forecasts.history())
    assert not (tmp_path / "home").exists()
