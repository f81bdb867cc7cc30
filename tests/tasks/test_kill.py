"""Killed with SIGKILL and started again, a stage ends with the weights of an uninterrupted run, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.settings import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STAGES = ("pretrain", "sft", "reward", "rlhf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A home in which every stage ran through, and each stage's digest."""
    home = tmp_path_factory.mktemp("whole")
    last = _finish(STAGES[-1], home)  # with the stages before it
    digests = {stage: _manifest(home / "store" / stage)["digest"] for stage in STAGES}
    assert digests[STAGES[-1]] == last
    return home, digests


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_like_an_uninterrupted_one(
    stage: str, whole: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    home, digests = whole
    shutil.copytree(home / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / stage)
    process = _start(stage, tmp_path)
    checkpoint = _first_checkpoint(tmp_path / "store" / stage, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not _finished(tmp_path / "store" / stage)
    assert _finish(stage, tmp_path) == digests[stage]
    assert _resumed(tmp_path / "store" / stage), "it started over instead of going on from the checkpoint"


def _start(stage: str, home: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "EVERGREEN_HOME": str(home), "EVERGREEN_PROJECT": str(home / "project")}
    command = [sys.executable, "-m", "tests.killable", stage]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _finish(stage: str, home: Path) -> str:
    process = _start(stage, home)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return output.splitlines()[-1]


def _first_checkpoint(store: Path, process: "subprocess.Popen[str]") -> Path:
    for _ in range(12_000):
        found = sorted(store.glob("*.partial/checkpoints/*/complete.json"))
        if found:
            return found[0]
        assert process.poll() is None, "the stage ended before it wrote a checkpoint"
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint under {store} after two minutes")


def _finished(store: Path) -> list[Path]:
    return [path for path in store.glob("*/manifest.json") if path.parent.suffix != ".partial"]


def _resumed(store: Path) -> bool:
    return _manifest(store)["execution"]["resumed_from"] > 0


def _manifest(store: Path) -> dict[str, Any]:
    (path,) = _finished(store)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
