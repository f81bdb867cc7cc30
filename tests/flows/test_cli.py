"""The command line as a user meets it: exit codes, messages, what goes to stdout."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cli, console, tables
from flows.server import Server, answers
from tasks import steps
from tasks.errors import EvergreenError, GateError, StoreError, UsageError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands set the environment of their process; here it is put back."""
    before = dict(os.environ)
    handlers = list(logging.getLogger("evergreen").handlers)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)
    logging.getLogger("evergreen").handlers[:] = handlers


def evergreen(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        input=stdin, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_help_answers_at_once() -> None:
    """Measured in processor time, so that a busy machine does not decide."""
    before = os.times()
    shown = evergreen("--help")
    after = os.times()
    spent = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("run", "plan", "fit", "models", "chat", "doctor"))
    assert spent < 0.5, f"{spent:.2f} s: something heavy is imported at the top"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvergreenError("x"), 1),
        (StoreError("x"), 1),
        (UsageError("x"), 2),
        (GateError("x"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_paragraph_and_a_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _failing(error, monkeypatch) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("evergreen: ")
    assert "Traceback" not in said.err


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _failing(KeyboardInterrupt(), monkeypatch)
    assert capsys.readouterr().err == "evergreen: stopped; run again to continue\n"


def test_an_unexpected_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _failing(ZeroDivisionError("by zero"), monkeypatch) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: by zero" in said
    assert "evergreen doctor" in said


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _failing(OSError(28, "No space left on device", "/somewhere/file"), monkeypatch) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the disk is full: /somewhere/file" in said
    assert "EVERGREEN_HOME" in said


@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_unknown_deployment_is_wrong_use(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "lifecycle/nanno"]) == 2
    assert "did you mean lifecycle/nano" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", [pytest.param("run", marks=pytest.mark.flow), "plan"])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("execution.devices=3", "do not divide into 3 equal parts. Set execution.devices to 2"),
        ("execution.device=cuda", "torch sees no GPU: set it to auto or cpu"),
    ],
)
def test_devices_that_cannot_train_stop_a_life_cycle_before_anything_ran(
    command: str, given: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cli.main([command, "lifecycle/nano", "--set", given]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not steps.finished("data")


def test_an_unknown_command_is_wrong_use() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["frobnicate"])
    assert stopped.value.code == 2


def test_a_home_that_cannot_be_written_stops_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "file" / "home"))
    assert cli.main(["run"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"cannot write {tmp_path / 'file' / 'home'}" in said
    assert "EVERGREEN_HOME" in said


def test_a_server_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert cli.main(["run", "sft/lora"]) == 1
    assert "no Prefect server answers at http://127.0.0.1:9/api" in " ".join(capsys.readouterr().err.split())


def test_plan_prints_json_and_nothing_else_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "data/encyclopaedia", "--set", "recipe.limit=50", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["deployment"] == "data/encyclopaedia"
    assert {"name", "key", "reused", "why"} == set(planned["steps"][0])
    assert "forecast" in planned


def test_plan_prints_a_table_of_at_most_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "data/encyclopaedia"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 4
    assert max(map(len, lines)) <= 80


def test_the_forecast_reads_with_its_units() -> None:
    forecast = {"peak_memory_bytes": 36_000_000, "seconds": 571, "loss": None, "flops": 10**13, "law": {"low": 3.14159}}
    shown = tables.plan({"deployment": "x/y", "steps": [], "forecast": forecast})
    words = [line.split(None, 1) for line in shown.splitlines()[2:]]
    assert words == [
        ["peak_memory_bytes", "36.0 MB"], ["seconds", "9.5 min"], ["loss", "not known yet"], ["flops", "1e+13"],
        ["law.low", "3.142"],
    ]  # fmt: skip


def test_plan_of_a_wrong_recipe_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "sft/lora", "--set", "recipe.epoch=2"]) == 2
    assert "did you mean recipe.epochs?" in " ".join(capsys.readouterr().err.split())


def test_models_of_an_empty_home(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["models"]) == 0
    assert "no model is registered yet" in capsys.readouterr().out
    assert not (tmp_path / "home").exists(), "looking must not make anything"


def test_forecasts_of_an_empty_home(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["forecasts"]) == 0
    assert capsys.readouterr().out.startswith("no forecast is registered yet")
    assert cli.main(["forecasts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["forecasts"] == [] and found["summary"]["scored"] == 0


def test_the_table_of_models() -> None:
    row = {"name": "glosses", "version": "3", "aliases": ["champion"], "verdict": "promoted", "parameters": 1500}
    rows = [row | {"metrics": {"rougeL": 0.25}}, row | {"aliases": [], "parameters": None, "metrics": {}}]
    assert tables.models(rows).splitlines() == [
        "glosses/3 @champion  promoted  1,500 parameters", "    rougeL 0.25", "glosses/3  promoted", "    no metrics",
    ]  # fmt: skip


def test_chat_with_a_model_that_is_not_registered(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "nobody", "--once", "hello"]) == 1
    assert "nobody" in capsys.readouterr().err


def test_a_conversation_by_pipe_remembers_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hello", "", "again"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert cli._converse(lambda messages: f"turn {len(messages)}") == 0
    assert capsys.readouterr().out == "turn 1\nturn 3\n"


def test_doctor_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    names = {"python", "packages", "lock", "demo data", "home", "disk", "torch", "dvc", "mlflow", "prefect"}
    assert set(checks) == names
    assert checks["python"]["ok"]
    assert checks["packages"]["ok"], checks["packages"]["found"]
    assert all(check["ok"] or check["remedy"] for check in checks.values())


def test_doctor_fails_on_what_is_essential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "file" / "home"))
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 + len(str(tmp_path)), "only a long path may be longer"
    assert any(line.startswith("missing  home") for line in shown.splitlines())


def test_the_console_wraps_text_and_keeps_tables() -> None:
    handler = console.Console()
    record = logging.LogRecord("evergreen.x", logging.WARNING, "", 0, "word " * 30 + "\n  a    b\n  1    2", None, None)
    lines = handler.layout(record).splitlines()
    assert lines[0].startswith("  0:00  warning: word word")
    assert max(map(len, lines)) <= 80
    assert lines[-2:] == ["          a    b", "          1    2"]


def test_the_console_wraps_the_items_of_a_list_below_themselves() -> None:
    record = logging.LogRecord("evergreen.x", logging.INFO, "", 0, "said:\n  - " + "word " * 30 + "\n- b", None, None)
    lines = console.Console().layout(record).splitlines()
    assert [line[:15] for line in lines] == [
        "  0:00  said:",
        "        - word ",
        "          word ",
        "          word ",
        "        - b",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_the_server_of_a_run_ends_with_the_run_even_when_it_is_killed(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from flows.server import Server\n" \
              "s = Server(Path(sys.argv[1])); s.wait(); print(s.url, flush=True); time.sleep(60)"  # fmt: skip
    run = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "p")], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    url = run.stdout.readline().strip()
    assert answers(url)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 30
    while answers(url, timeout=1) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not answers(url, timeout=1)


@pytest.mark.slow
def test_a_server_that_dies_is_reported_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense://")
    server = Server(tmp_path / "p")
    with pytest.raises(EvergreenError, match=r"did not start.*server\.log"):
        server.wait()
    server.stop()


@pytest.mark.slow
def test_a_run_that_cannot_work_says_one_paragraph_and_nothing_else() -> None:
    """No server noise, no traceback: this starts a server, runs the flow, fails in it and stops the server."""
    failed = evergreen("run", "sft/lora")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("evergreen: no finished step of")
    assert len(failed.stderr.splitlines()) <= 3, failed.stderr


def _failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def command(options: object) -> int:
        raise error

    monkeypatch.setattr(cli, "models", command)
    command.__name__ = "models"
    return cli.main(["models"])
