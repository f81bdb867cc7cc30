"""Who has a home, the processes that end with their parent, and what `evergreen up` says before it starts anything."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import automations, cli, processes, running, up
from flows.processes import Child
from flows.running import Standing
from tasks.errors import EvergreenError
from tasks.settings import home
from tests.flows.household import free_ports, until

STANDING = Standing(pid=12345, prefect="http://127.0.0.1:4200", mlflow="http://127.0.0.1:5000", mark="m")
RUNS_A_CHILD = """
import os, sys, time
from pathlib import Path
from flows.processes import Child
child = Child("x", ["tests.flows.restless"], mark=sys.argv[1], environment=os.environ, log=Path(sys.argv[2]))
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _locks_of_a_test() -> Iterator[None]:
    before = list(running._held)
    yield
    for file in running._held[len(before) :]:
        file.close()
    running._held[:] = before


def test_runs_share_a_home_and_up_waits_its_turn() -> None:
    assert running.join() and running.join()
    with pytest.raises(EvergreenError, match="a run with a Prefect server of its own is using"):
        running.claim()


def test_up_has_a_home_alone() -> None:
    running.claim()
    assert not running.join()
    with pytest.raises(EvergreenError, match=r"runs already for .*: it is still starting"):
        running.claim()
    running.write(STANDING)
    with pytest.raises(EvergreenError, match=r"Prefect at http://127.0.0.1:4200, MLflow at .*`kill 12345`"):
        running.claim()
    assert running.look() == STANDING


def test_what_a_killed_up_left_is_no_running_one() -> None:
    home().mkdir(parents=True)
    running.write(STANDING)
    assert running.look() is None
    assert running.record() == STANDING
    assert not running.attach(), "a run starts a server of its own"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', json.dumps({"pid": 1, "colour": "red"})])
def test_a_damaged_record_is_no_record(text: str) -> None:
    home().mkdir(parents=True)
    (home() / running.RECORD).write_text(text)
    assert running.record() is None
    running.claim()


def test_looking_makes_nothing() -> None:
    assert running.look() is None
    assert not home().exists()


def test_a_port_in_use_is_named_with_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--mlflow-port"):
            assert cli.main(["up", option, str(port)]) == 1
            said = " ".join(capsys.readouterr().err.split())
            assert f"port {port} of 127.0.0.1 is in use" in said
            assert f"give another {option}" in said
            for file in running._held:
                file.close()
    assert not (home() / running.RECORD).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--host", "203.0.113.7"], "--host '203.0.113.7' is no address of this machine"),
     (["--host", "no.such.host.invalid"], "is no address of this machine"),
     (["--port", "4711", "--mlflow-port", "4711"], "--port and --mlflow-port are both 4711")],
)  # fmt: skip
def test_a_wrong_address_is_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "65536"], ["--port", "x"], ["--limit", "0"]])
def test_a_number_that_is_none_is_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["up", *arguments])
    assert stopped.value.code == 2
    assert f"{arguments[1]!r} is no" in capsys.readouterr().err


def test_a_tracking_server_that_does_not_answer_stops_it_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert cli.main(["up", "--port", str(free_ports(1)[0])]) == 1
    assert "no MLflow server answers at http://127.0.0.1:9" in " ".join(capsys.readouterr().err.split())
    assert not (home() / "log").exists()


def test_an_address_for_browsers_is_one_that_they_can_open() -> None:
    assert up._address("0.0.0.0", 4200) == "http://127.0.0.1:4200"
    assert up._address("::", 4200) == "http://[::1]:4200"
    assert up._address("10.0.0.7", 5000) == "http://10.0.0.7:5000"


def test_a_child_that_fails_is_named_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log" / "x.log"
    child = Child("the thing", ["no_such_module"], mark="t", environment=os.environ, log=log)
    with pytest.raises(EvergreenError, match=rf"the thing did not start \(exit code 1\).*no_such_module.*{log}"):
        child.until(lambda: False, patience=30)
    child.stop()


def test_a_child_that_never_answers_is_given_up(tmp_path: Path) -> None:
    child = Child("the thing", ["tests.flows.restless"], mark="t", environment=os.environ, log=tmp_path / "x.log")
    with pytest.raises(EvergreenError, match="the thing does not answer after 1 seconds"):
        child.until(lambda: False, patience=0.6)
    child.stop(grace=1)
    assert processes.marked("t-x") == []


def test_the_log_of_the_time_before_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for text in ("first", "second", "third"):
        child = Child("x", ["no_such_module_" + text], mark="t", environment=os.environ, log=log)
        child.process.wait()
        child.stop()
    assert "third" in log.read_text()
    assert "second" in (tmp_path / "x.log.1").read_text()


def test_a_child_and_what_left_its_session_end_with_a_killed_parent(tmp_path: Path) -> None:
    mark = f"test{os.getpid()}"
    parent = subprocess.Popen([sys.executable, "-c", RUNS_A_CHILD, mark, str(tmp_path / "c.log")], cwd=Path.cwd())
    until(lambda: len(processes.marked(mark)) == 2, seconds=30)
    assert {os.getsid(pid) == pid for pid in processes.marked(mark)} == {True}
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not processes.marked(mark), seconds=30)


def test_what_ignores_the_polite_signal_ends_all_the_same() -> None:
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); " \
              "time.sleep(60)"  # fmt: skip
    stubborn = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None and stubborn.stdout.readline()
    started = time.monotonic()
    assert processes.end([stubborn.pid], grace=0.3) == 1
    assert stubborn.wait(5) == -signal.SIGKILL
    assert time.monotonic() - started < 3
    stubborn.stdout.close()


def test_the_automations_are_what_prefect_takes() -> None:
    from prefect.server.events.schemas.automations import AutomationCore

    identity = "0" * 8 + "-0000-4000-8000-" + "0" * 12
    made = [automations.crash_the_silent(), automations.retrain_on_change(identity, "encyclopaedia")]
    checked = [AutomationCore.model_validate(each) for each in made]
    assert len({each.name for each in checked}) == 2
    assert all(each.description for each in checked)
