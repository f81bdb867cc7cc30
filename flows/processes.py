"""Processes that end with their parent, whatever way it ends, and take all that they have started with them.

`python -m flows.processes MODULE ARGUMENT...` runs a module until its standard input closes: the pipe from its parent,
which the kernel closes even after `kill -9`. What it starts may leave its process group (a Prefect worker gives each
flow run a session of its own), but it inherits a mark in its environment, by which it is found again.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tasks.errors import EvergreenError
from tasks.settings import ROOT

MARK = "EVERGREEN_MARK"
GRACE = 10.0  # seconds between a polite signal and the last one
QUOTED = 300  # characters of a log's last line in a message


class Child:
    """A module that runs beside us, with its output in a log file; the log of the time before is kept as `.1`."""

    def __init__(self, name: str, arguments: Sequence[str], *, mark: str, environment: Mapping[str, str], log: Path):
        self.name, self.log, self.mark = name, log, f"{mark}-{log.stem}"
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        with log.open("wb") as output:
            # a session of its own: Ctrl-C in the terminal must reach us first
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.processes", *arguments],
                stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, cwd=ROOT,
                env={**environment, MARK: self.mark},
            )  # fmt: skip

    def until(self, ready: Callable[[], object], *, patience: float, failure: str = "did not start") -> None:
        """Returns when `ready()` holds. Raises EvergreenError when the process ends before, or it takes too long."""
        deadline = time.monotonic() + patience
        while not ready():
            if self.process.poll() is not None:
                raise EvergreenError(f"{self.name} {failure} ({self.ending()}){self.said()}; see {self.log}")
            if time.monotonic() > deadline:
                raise EvergreenError(f"{self.name} does not answer after {patience:.0f} seconds; see {self.log}")
            time.sleep(0.2)

    def done(self, *, patience: float) -> None:
        """Waits until the process has done its work. Raises EvergreenError when it fails or takes too long."""
        self.until(lambda: self.process.poll() == 0, patience=patience, failure="failed")

    def ending(self) -> str:
        """How the process ended, for a message."""
        code = self.process.poll()
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def said(self) -> str:
        """The last line of the log that says something, for a message."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = [line for raw in text.splitlines() if (line := raw.strip(" │╭╰─╮╯^~"))]
        return f": {lines[-1][:QUOTED].rstrip('.')}" if lines else ""

    def stop(self, grace: float = GRACE) -> None:
        """Ends the process and all that it has started: first what leads a session of its own, such as flow runs."""
        end((pid for pid in marked(self.mark) if pid != self.process.pid and _leads(pid)), grace)
        self.process.terminate()
        end((pid for pid in marked(self.mark) if pid != self.process.pid), grace)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


def marked(mark: str) -> list[int]:
    """The ids of the processes whose environment has a mark that begins so; Linux alone lets itself be asked."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or it belongs to somebody else
        if any(each.startswith(wanted) for each in variables):
            found.append(int(folder.name))
    return found


def end(pids: Iterable[int], grace: float = GRACE) -> int:
    """Asks processes to end, and after `grace` seconds ends those that are left; how many there were."""
    asked = [pid for pid in pids if pid != os.getpid()]
    left = [pid for pid in asked if _send(pid, signal.SIGTERM)]
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [pid for pid in left if _alive(pid)]
    for pid in left:
        _send(pid, signal.SIGKILL)
    return len(asked)


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _follow_parent() -> None:
    while os.read(0, 4096):
        pass
    mark = os.environ[MARK]
    end(pid for pid in marked(mark) if _leads(pid))
    end(marked(mark))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def main() -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
