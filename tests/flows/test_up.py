"""`evergreen up`: all of it starts, a second one is refused, a run uses its servers, and nothing outlives it."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows import deployments, doctor, provision, running
from flows.api import Api
from tests.flows.household import Household, free_ports, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """The tests of this module share it and run in their order: it is started once, killed, started again, broken."""
    made = Household(tmp_path_factory.mktemp("house"))
    made.until_ready()
    yield made
    made.close()


def test_it_says_each_step_and_the_addresses(house: Household) -> None:
    said = house.said()
    for part in ("Prefect server", "MLflow server", "deployments", "automations", "worker", "ready; Ctrl-C stops"):
        assert part in said
    assert said.count(f"http://127.0.0.1:{house.port}") == 2
    assert max(map(len, said.splitlines())) <= 80 + len(str(house.home))
    names = {path.name for path in (house.home / "log" / "up").iterdir()}
    assert names == {"prefect.log", "mlflow.log", "deploy.log", "worker.log"}


def test_every_deployment_is_there_and_no_schedule_is_active(house: Household) -> None:
    flows = {each["id"]: each["name"] for each in house.api.every("/flows/filter", {})}
    found = house.api.every("/deployments/filter", {})
    assert {f"{flows[each['flow_id']]}/{each['name']}" for each in found} == set(deployments.names())
    assert {each["work_pool_name"] for each in found} == {"local"}
    schedules = [schedule for each in found for schedule in each["schedules"]]
    assert len(schedules) >= 2
    assert not any(schedule["active"] for schedule in schedules)


def test_only_this_machine_can_reach_it(house: Household) -> None:
    for port in (house.port, house.mlflow_port):
        assert _listens(port) == {"127.0.0.1"}


def test_a_second_one_is_told_where_the_first_is(house: Household) -> None:
    second = house.evergreen("up", "--port", str(free_ports(1)[0]))
    said = " ".join(second.stderr.split())
    assert second.returncode == 1
    assert f"runs already for {house.home}: Prefect at http://127.0.0.1:{house.port}" in said
    assert f"kill {house.process.pid}" in said


def test_a_run_beside_it_takes_its_servers(house: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(house.home))
    monkeypatch.setattr(os, "environ", {"EVERGREEN_HOME": str(house.home)})
    assert running.attach()
    assert os.environ["PREFECT_API_URL"] == house.api.url
    assert os.environ["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{house.mlflow_port}"
    del os.environ["PREFECT_API_URL"]
    (check,) = (each for each in doctor.examine() if each.name == "prefect")
    assert check.ok and house.api.url.removesuffix("/api") in check.found


def test_changed_data_of_the_model_start_its_retraining_once(house: Household) -> None:
    """With the pool paused, so that the night itself does not begin."""
    from flows import automations

    house.api.patch(f"/work_pools/{provision.POOL}", {"is_paused": True})
    deployment = house.api.get(f"/deployments/name/{automations.RETRAIN}")["id"]
    before = {each["name"] for each in house.api.every("/automations/filter", {})}
    automations.install(house.api)
    assert {each["name"] for each in house.api.every("/automations/filter", {})} == before
    assert len(before) == 2

    for alone, model in (("false", "encyclopaedia"), ("true", "another"), ("true", "encyclopaedia")):
        _announce(house.api, alone, model)
    query = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
    until(lambda: house.api.every("/flow_runs/filter", query), seconds=60)
    time.sleep(5)  # as long as a run for one of the other two would take to appear
    (run,) = house.api.every("/flow_runs/filter", query)
    house.api.post(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    house.api.patch(f"/work_pools/{provision.POOL}", {"is_paused": False})


def test_after_kill_9_nothing_of_it_is_left(house: Household) -> None:
    _switch_on(house.api, "lifecycle/nano")
    house.lost = _left_running(house.api)  # type: ignore[attr-defined]
    assert len(house.left()) >= 4
    house.process.kill()
    house.process.wait()
    until(lambda: not house.left(), seconds=40)


def test_the_next_one_takes_over_what_was_left(house: Household) -> None:
    killed = house.process.pid
    house.until_ready()
    assert f"from process {killed}, which was killed" in house.said()
    assert "1 left by a killed process, now Crashed" in house.said()
    for run in house.lost:  # type: ignore[attr-defined]
        assert house.api.get(f"/flow_runs/{run}")["state_type"] == "CRASHED"
    (schedule,) = house.api.get("/deployments/name/lifecycle/nano")["schedules"]
    assert schedule["active"], "what was switched on in the UI stays on"


def test_a_part_that_dies_takes_the_others_with_it(house: Household) -> None:
    (worker,) = (pid for pid in house.left() if "\0worker\0" in _command(pid))
    os.kill(worker, signal.SIGKILL)
    assert house.process.wait(60) == 1
    said = " ".join(house.said().split())
    assert "the worker ended by itself (signal SIGKILL), so all was stopped" in said
    assert str(house.home / "log" / "up" / "worker.log") in said
    assert not house.left()
    assert not (house.home / "up.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_it_cleanly(number: int, tmp_path: Path) -> None:
    house = Household(tmp_path)
    house.start()
    until(lambda: (house.home / "log" / "up" / "mlflow.log").exists(), seconds=30)
    house.process.send_signal(number)
    assert house.process.wait(60) == 0
    assert not house.left()
    assert "Traceback" not in house.said()


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _listens(port: int) -> set[str]:
    """The IPv4 and IPv6 addresses on which a port of this machine listens."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def _announce(api: Api, alone: str, model: str) -> None:
    resource = {"prefect.resource.id": "evergreen.data", "evergreen.alone": alone, "evergreen.model": model}
    event: dict[str, Any] = {"event": "evergreen.data-changed", "resource": resource, "payload": {}}
    api.post("/events", [{**event, "occurred": datetime.now(UTC).isoformat(), "id": _uuid()}])


def _uuid() -> str:
    import uuid

    return str(uuid.uuid4())


def _switch_on(api: Api, name: str) -> None:
    deployment = api.get(f"/deployments/name/{name}")
    for schedule in deployment["schedules"]:
        api.patch(f"/deployments/{deployment['id']}/schedules/{schedule['id']}", {"active": True})


def _left_running(api: Api) -> list[str]:
    """A run that is Running with nobody behind it, a run inside it, and one inside a run that has ended."""
    deployment = api.get("/deployments/name/drift/encyclopaedia")
    state = {"type": "RUNNING", "name": "Running"}
    found = []
    for ending in ("RUNNING", "CRASHED"):
        outer = api.post(f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "PENDING"}})
        task = {"flow_run_id": outer["id"], "task_key": "inner", "dynamic_key": "0", "state": state}
        inner = {"flow_id": deployment["flow_id"], "parent_task_run_id": api.post("/task_runs/", task)["id"]}
        found += [outer["id"], api.post("/flow_runs/", inner)["id"]]
        api.post(f"/flow_runs/{outer['id']}/set_state", {"state": {"type": ending}, "force": True})
        api.post(f"/flow_runs/{found[-1]}/set_state", {"state": state, "force": True})
    return found
