"""Forecasts as MLflow runs of their own: registered before the run they speak of starts, scored after it.

MLflow's clock orders them: a forecast counts where its run was opened before the first run of the step that it names.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tasks import steps, tracking
from tasks.artifacts import Artifact, Forecast

STAGE = "forecast"
STEP, ACTUAL = "evergreen.forecast_for", "evergreen.actual_run"
logger = logging.getLogger("evergreen.forecasts")


def register(step: steps.Step, forecast: Forecast) -> None:
    """Opens the forecast's run, once for each step; not for a step that is finished, whose loss is known."""
    if steps.status(step).reused or tracking.tagged(STEP, step.key):
        return
    said = forecast.summary
    params = {
        "for": step.title, "step": step.key, "fit": forecast.key, "family": said["family"], "size": said["size"],
        "N": said["parameters"], "D": said["tokens"], "C": said["compute"], "law": said["law"],
        "estimator": said["estimator"],
    }  # fmt: skip
    predicted = {name: said[name] for name in ("loss", "low", "high")}
    tags = {STEP: step.key, "evergreen.fit_run": forecast.run_id}
    with tracking.run(stage=STAGE, name=step.title, key=f"forecast-{step.key}", params=params, tags=tags) as run:
        tracking.log_metrics(run.id, {**predicted, **{name: float(params[name]) for name in ("size", "N", "D", "C")}})
    logger.info("%-22s loss %.3f [%.3f, %.3f], before it starts", f"forecast of {step.title}", *predicted.values())


def score(made: Artifact) -> None:
    """Records the loss that the step reached with its forecast; nothing where there is none, or it is there already."""
    for each in tracking.tagged(STEP, made.key):
        if each.tags.get(ACTUAL) != made.run_id:
            expected, actual = each.metrics, made.summary["loss"]
            inside = expected["low"] <= actual <= expected["high"]
            tracking.log_metrics(
                each.id, {"actual": actual, "error": actual - expected["loss"], "inside": float(inside)}
            )
            tracking.set_tags(each.id, {ACTUAL: made.run_id})


def history() -> dict[str, Any]:
    """Every forecast in MLflow, newest first, and the `summary` of those that were scored."""
    if not tracking.exists():
        return {"forecasts": [], "summary": summary([])}
    found = [_told(each) for each in tracking.tagged(tracking.STAGE, STAGE)]
    return {"forecasts": found, "summary": summary(found)}


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the forecasts did that were made before their runs: the share inside, and the errors relative to the loss."""
    scored = [each for each in found if each["actual"] is not None and each["before"]]
    count = len(scored)
    if not count:
        return {"scored": 0, "inside": None, "mean_absolute_relative_error": None, "mean_error": None}
    return {
        "scored": count,
        "inside": sum(each["inside"] for each in scored) / count,
        "mean_absolute_relative_error": sum(abs(each["relative_error"]) for each in scored) / count,
        "mean_error": sum(each["error"] for each in scored) / count,
    }


def _told(each: tracking.Recorded) -> dict[str, Any]:
    runs = tracking.tagged(tracking.KEY, each.tags[STEP])
    started = min((run.started for run in runs), default=None)
    actual, error = each.metrics.get("actual"), each.metrics.get("error")
    return {
        "made": _time(each.started), "for": each.params["for"], "step": each.tags[STEP], "fit": each.params["fit"],
        "family": each.params["family"], "law": each.params["law"], "estimator": each.params["estimator"],
        **{name: int(each.metrics[name]) for name in ("size", "N", "D")}, "C": each.metrics["C"],
        **{name: each.metrics[name] for name in ("loss", "low", "high")},
        "actual": actual, "error": error,
        "relative_error": None if actual is None or error is None else error / actual,
        "inside": None if actual is None else bool(each.metrics["inside"]),
        "started": None if started is None else _time(started),
        "before": started is None or each.started <= started,
        "run_id": each.id, "actual_run": each.tags.get(ACTUAL),
    }  # fmt: skip


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
