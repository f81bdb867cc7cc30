"""`evergreen up` as a test starts it: on free ports, with a home and a project of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import processes
from flows.api import Api
from tasks.settings import ROOT

PATIENCE = 240.0
FOREIGN = ("PREFECT_", "MLFLOW_", "EVERGREEN_")  # what the harness of other tests has set is none of its business


class Household:
    """A home in which `evergreen up` can be started, killed and started again."""

    def __init__(self, folder: Path):
        self.home, self.output = folder / "home", folder / "up.out"
        self.port, self.mlflow_port = free_ports(2)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.environment |= {
            "EVERGREEN_HOME": str(self.home), "EVERGREEN_PROJECT": str(folder / "project"),
            "DVC_SITE_CACHE_DIR": str(folder / "dvc"), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.api = Api(f"http://127.0.0.1:{self.port}/api")

    def start(self) -> subprocess.Popen[bytes]:
        ports = ["--port", str(self.port), "--mlflow-port", str(self.mlflow_port)]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "up", *ports],
                env=self.environment, stdout=output, stderr=output, cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        return self.process

    def until_ready(self) -> None:
        self.start()
        until(lambda: "ready;" in self.said() or self.process.poll() is not None, seconds=PATIENCE)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self.output.read_text()

    def evergreen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=240, cwd=ROOT,
        )  # fmt: skip

    def left(self) -> list[int]:
        """The processes that have this home in their environment."""
        wanted, found = f"EVERGREEN_HOME={self.home}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def close(self) -> None:
        """Whatever a test has left behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        processes.end(self.left(), grace=1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(condition: Callable[[], Any], *, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError(f"nothing after {seconds:.0f} s")
