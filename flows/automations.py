"""What the Prefect server does by itself: it retrains when the data have changed, and it notices runs that died."""

from typing import Any

from flows.api import Api

RETRAIN, MODEL = "retrain/nightly", "encyclopaedia"
HEARTBEAT_LOST = 75  # seconds: two heartbeats and a half
ENDED = ("Completed", "Failed", "Cancelled", "Cancelling", "Crashed", "Paused", "Suspended", "AwaitingRetry")


def crash_the_silent() -> dict[str, Any]:
    """A run whose heartbeat stops without an end of the run is Crashed: its process or its machine has died."""
    heartbeat = "prefect.flow-run.heartbeat"
    return {
        "name": "evergreen: crash runs that went silent",
        "description": f"No heartbeat for {HEARTBEAT_LOST} seconds and no end: the run's process has died.",
        "trigger": {
            "type": "event", "posture": "Proactive", "threshold": 1, "within": HEARTBEAT_LOST,
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]}, "for_each": ["prefect.resource.id"],
            "after": [heartbeat], "expect": [heartbeat, *(f"prefect.flow-run.{state}" for state in ENDED)],
        },
        "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "name": "Crashed",
                     "message": "its heartbeat stopped; a retry continues from its last checkpoint"}],
    }  # fmt: skip


def retrain_on_change(deployment: str, model: str) -> dict[str, Any]:
    """New data for a model start its retraining, by the deployment's id.

    Only data that a run of the flow `data` brought by itself: a life cycle and a retraining bring new data too, and
    go on to train on them, so a second run would find nothing to do. The event's resource tells them apart.
    """
    return {
        "name": "evergreen: retrain when the data changed",
        "description": f"The event evergreen.data-changed of a run of the flow `data` runs {RETRAIN}.",
        "trigger": {
            "type": "event", "posture": "Reactive", "threshold": 1, "within": 0, "expect": ["evergreen.data-changed"],
            "match": {"prefect.resource.id": "evergreen.data", "evergreen.alone": "true", "evergreen.model": model},
        },
        "actions": [{"type": "run-deployment", "source": "selected", "deployment_id": deployment}],
    }  # fmt: skip


def install(api: Api) -> list[str]:
    """Creates the automations, or brings those with these names up to date; the names of all that are there now.

    One that a person has switched off stays off. Without the deployment `retrain/nightly` its automation is left out.
    """
    found = api.get(f"/deployments/name/{RETRAIN}")
    wanted = [crash_the_silent()]
    if found:
        wanted.append(retrain_on_change(found["id"], found["parameters"].get("name", MODEL)))
    there = {each["name"]: each for each in api.every("/automations/filter", {})}
    for automation in wanted:
        existing = there.get(automation["name"])
        if existing is None:
            api.post("/automations/", {**automation, "enabled": True})
        else:
            api.put(f"/automations/{existing['id']}", {**automation, "enabled": existing["enabled"]})
    return [automation["name"] for automation in wanted]
