"""A Prefect server of our own for a run that has none: quiet, and gone when the run is gone, even after `kill -9`.

Prefect would start one by itself, but it writes tracebacks to the terminal when it stops and outlives a killed run.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from tasks.errors import EvergreenError

PATIENCE = 180.0  # seconds: the first start on a busy machine makes the database and takes half a minute


class Server:
    """A server process on a free loopback port. `PREFECT_API_URL` names it before Prefect is imported."""

    def __init__(self, home: Path):
        from filelock import FileLock

        home.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(home / "server.lock")  # two servers that make the database at once break it
        self.lock.acquire()
        self.log = home / "server.log"
        self.url = f"http://127.0.0.1:{_free_port()}/api"
        os.environ["PREFECT_API_URL"] = self.url
        with self.log.open("wb") as log:
            # a session of its own: Ctrl-C in the terminal must reach the run first
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.server", self.url],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PREFECT_HOME": str(home)},
            )  # fmt: skip
        atexit.register(self.stop)  # before Prefect registers its own: what it still sends must arrive

    def wait(self) -> None:
        """Returns when the server answers. Raises EvergreenError when it dies or never does."""
        deadline = time.monotonic() + PATIENCE
        while not answers(self.url):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise EvergreenError(
                    f"the local Prefect server did not start (exit code {self.process.returncode}); "
                    f"{self.log} says why. `evergreen doctor` checks the versions that it needs."
                )
            time.sleep(0.1)
        self.lock.release()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def answers(url: str, timeout: float = 5.0) -> bool:
    """Whether a Prefect API answers at a URL."""
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/health", timeout=timeout) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def serve(url: str) -> None:
    """Runs the server until its standard input closes, which happens when its parent ends in whatever way."""
    import uvicorn
    from prefect.server.api.server import create_app

    threading.Thread(target=_follow_parent, daemon=True).start()
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    uvicorn.run(create_app(ephemeral=True, final=True), host="127.0.0.1", port=port, log_level="error")


def _follow_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    serve(sys.argv[1])
