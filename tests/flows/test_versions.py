"""`evergreen data` as a user meets it: exit codes, tables, one JSON document."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from flows import cli
from tasks import repository
from tasks.versioning import version_data
from tests.versions import commit, damage, git, made, object_of, step, word_here


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Commands set the environment of their process and give it a console; here both are put back."""
    handlers = list(logging.getLogger("evergreen").handlers)
    with patch.dict(os.environ):
        yield
    logging.getLogger("evergreen").handlers[:] = handlers


def test_data_from_one_checkout_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remote is set, the version pushed, and pulled where there was only the pointer: each a JSON document."""
    project = tmp_path / "project"
    project.mkdir()
    version_data.fn(made("one"))
    key = step("one").key
    assert _json(capsys, "data", "remote", str(tmp_path / "remote")) == {"name": "storage", "url": f"{tmp_path}/remote"}
    assert _json(capsys, "data", "push")["files"] == 3
    other = tmp_path / "other"
    (other / ".dvc").mkdir(parents=True)
    shutil.copy(project / "data.dvc", other)
    shutil.copy(project / ".dvc" / "config", other / ".dvc")
    monkeypatch.setenv("EVERGREEN_PROJECT", str(other))
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "other-home"))
    assert _json(capsys, "data", "status")["versions"][0]["folder"]["state"] == "missing"
    assert _json(capsys, "data", "pull")["written"] is True
    assert word_here() == "one"
    assert _json(capsys, "data", "status")["versions"][0]["remote"] == {"complete": True, "missing": 0}
    assert [entry["key"] for entry in _json(capsys, "data", "history")] == [key]


def test_the_tables_of_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "project").mkdir()
    assert cli.main(["data", "status"]) == cli.main(["data", "history"]) == cli.main(["data", "remote"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing is versioned yet" in said and "no version of data.dvc yet" in said and "no remote" in said
    git("init")
    version_data.fn(made("one"))
    commit("the first of them, with a subject that is far too long for one line of a terminal of eighty columns")
    cli.main(["data", "remote", str(tmp_path / "r")])
    (tmp_path / "project" / "data" / "same.txt").write_text("by hand")
    damage(object_of("text/train.jsonl"))
    capsys.readouterr()
    assert cli.main(["data", "status"]) == cli.main(["data", "history"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "  folder   changed: same.txt\n" in shown
    assert "  cache    damaged: text/train.jsonl; evergreen data pull mends it\n" in shown
    assert "  remote   storage lacks 4 objects: evergreen data push\n" in shown
    assert "  git      data.dvc is committed\n" in shown
    assert f"version {step('one').key}, 3 files, " in shown
    assert "here in the cache and store" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["push"], 1, "there is no remote; set one up: evergreen data remote URL"),
        (["pull"], 1, "a run of the data stage makes it: evergreen run"),
        (["pull", "elsewhere"], 2, "'elsewhere' is no versioned folder; give data, or models/NAME"),
        (["pull", "models/../data"], 2, "is no versioned folder"),
        (["pull", "--rev", "v1"], 2, "git knows no revision 'v1'"),
        (["remote", "ftp://x"], 2, "DVC has no remote of the kind ftp://"),
        (["remote", "s3://bucket"], 1, "pip install --constraint requirements.lock dvc-s3"),
        (["remote", "--local"], 2, "give the URL as well"),
    ],
)
def test_data_says_what_is_wrong(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project").mkdir()
    assert cli.main(["data", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in " ".join(shown.err.split())


def test_ctrl_c_ends_the_wait_for_another_run(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    version_data.fn(made("one"))
    with repository.lock():
        command = [sys.executable, "-m", "flows.cli", "data", "pull"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            assert f"waiting for process {os.getpid()} on" in waiting.stderr.readline()
            waiting.send_signal(signal.SIGINT)
            said = waiting.communicate()
    assert waiting.returncode == 130
    assert said[1].endswith("evergreen: stopped; run again to continue\n")


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)
