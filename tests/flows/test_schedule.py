"""A real server that schedules: nothing else notices fastapi >= 0.151 (it dies) or sqlalchemy >= 2.1 (it idles)."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.server import answers

PROGRAM = """
from flows.sft import sft
sft.to_deployment("every-minute", cron="* * * * *", work_pool_name=None).apply()
"""


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of a full server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _until(lambda: answers(environment["PREFECT_API_URL"]) or server.poll() is not None, seconds=120)
            assert server.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
            yield environment
        finally:
            server.terminate()
            server.wait(30)


@pytest.mark.flow
def test_a_cron_deployment_gets_runs(own_server: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], env=own_server, check=True, capture_output=True, timeout=280)
    runs = _until(lambda: _scheduled(own_server["PREFECT_API_URL"]), seconds=90)
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}


def _scheduled(url: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(url + "/flow_runs/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        found: list[dict[str, Any]] = json.load(response)
        return found


def _until(condition: Any, *, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"nothing after {seconds:.0f} s")
