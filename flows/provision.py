"""What a Prefect server needs before its worker starts: the work pool, no runs of the dead, every deployment.

All of it can be done again and again: what a person has set in the UI since stays.
"""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.api import Api

POOL = "local"
SILENT = timedelta(seconds=90)  # three heartbeats of a run
UNFINISHED = ["RUNNING", "PENDING", "CANCELLING"]
HEARTBEAT = "prefect.flow-run.heartbeat"
DIED = "its process ended without a word; a retry continues from its last checkpoint"

logger = logging.getLogger("evergreen.up")

Schedules = dict[tuple[str, str], bool]  # deployment id and the schedule's slug: whether it is active


def make_pool(api: Api) -> None:
    """The pool that `prefect.yaml` names. Its worker fills in the template of its job variables."""
    if api.get(f"/work_pools/{POOL}") is None:
        description = "Flow runs as processes of this machine; `evergreen up` starts the worker."
        api.post("/work_pools/", {"name": POOL, "type": "process", "description": description})


def end_orphans(api: Api) -> int:
    """Marks Crashed the unfinished runs that nobody works on any more; how many there were.

    To be called while no worker of the pool runs. Runs of other pools have workers elsewhere; runs that no worker
    started are given the benefit of a heartbeat.
    """
    lost = [run for run in _unfinished(api, {"parent_task_run_id": {"is_null_": True}}) if _orphan(api, run)]
    for run in lost:
        _crash(api, run["id"])
    for inner in _unfinished(api, {"parent_task_run_id": {"is_null_": False}}):
        if not _heard_of(api, inner["id"]):  # its outer run has ended, by what the worker saw of their process
            _crash(api, inner["id"])
    return len(lost)


def worker_answers(api: Api, name: str, since: datetime) -> bool:
    """Whether a worker of the pool has sent a heartbeat after a moment."""
    found = [each for each in api.post(f"/work_pools/{POOL}/workers/filter", {}) if each["name"] == name]
    return any(datetime.fromisoformat(each["last_heartbeat_time"]) > since for each in found)


def schedules(api: Api) -> Schedules:
    """Which schedules are active, by deployment and slug."""
    found = api.every("/deployments/filter", {})
    return {(each["id"], s["slug"]): s["active"] for each in found for s in each["schedules"] if s["slug"]}


def restore_schedules(api: Api, before: Schedules) -> int:
    """Sets schedules that a deployment has reset to what they were before it; how many there were."""
    changed = 0
    for each in api.every("/deployments/filter", {}):
        for schedule in each["schedules"]:
            wanted = before.get((each["id"], schedule["slug"]), schedule["active"])
            if wanted != schedule["active"]:
                api.patch(f"/deployments/{each['id']}/schedules/{schedule['id']}", {"active": wanted})
                changed += 1
    return changed


def _crash(api: Api, run: str) -> None:
    """With the runs inside it: they lived in the same process."""
    state = {"type": "CRASHED", "name": "Crashed", "message": DIED}
    api.post(f"/flow_runs/{run}/set_state", {"state": state, "force": True})
    for inner in _unfinished(api, {"parent_flow_run_id": {"any_": [run]}}):
        _crash(api, inner["id"])


def _unfinished(api: Api, which: dict[str, Any]) -> list[dict[str, Any]]:
    return api.every("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": UNFINISHED}}, **which}})


def _orphan(api: Api, run: dict[str, Any]) -> bool:
    if run["work_pool_name"] == POOL:
        return True
    return run["work_pool_name"] is None and not _heard_of(api, run["id"])


def _heard_of(api: Api, run: str) -> bool:
    since = (datetime.now(UTC) - SILENT).isoformat()
    asked = {"occurred": {"since": since}, "event": {"name": [HEARTBEAT]},
             "any_resource": {"id": [f"prefect.flow-run.{run}"]}}  # fmt: skip
    return bool(api.post("/events/filter", {"filter": asked, "limit": 1})["events"])
