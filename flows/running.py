"""Who serves the Prefect database of a home: one `evergreen up`, or runs that start a server of their own.

Two full servers on one database disturb each other. `up` holds a lock of the home alone, runs with servers of their
own share it; the kernel drops it with the process, so what was killed never stands in the way. `up.json` says where
the servers of `up` are.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import IO

from tasks.errors import EvergreenError
from tasks.settings import home

LOCK, RECORD = "up.lock", "up.json"
PATIENCE = 180.0  # seconds: what a run gives an `up` that is still starting
PROBED = 1.0  # seconds: as long as somebody may hold the lock only to look

# What a flow run needs beside its recipe when servers of `up` look after it.
BESIDE = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "evergreen",  # its lines appear in the run's log
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; a run whose heartbeat stops is marked Crashed
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the link is with the run's artifacts
}

_held: list[IO[str]] = []  # a lock lives as long as its open file


@dataclass(frozen=True)
class Standing:
    """A running `evergreen up`: its process, the addresses of its servers, and the mark of its processes."""

    pid: int
    prefect: str
    mlflow: str
    mark: str

    @property
    def api(self) -> str:
        return f"{self.prefect}/api"


def claim() -> None:
    """Takes the home for one `evergreen up` until the process ends.

    Raises EvergreenError, with the addresses where another one runs, or when a run has a server of its own.
    """
    deadline = time.monotonic() + PROBED
    while not _take(fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            raise EvergreenError(_whose())
        time.sleep(0.1)


def join() -> bool:
    """Takes a share in the home for a run with a server of its own; False where `evergreen up` has it."""
    return _take(fcntl.LOCK_SH)


def look() -> Standing | None:
    """The `evergreen up` that runs for this home now."""
    standing = record()
    if standing is None:
        return None
    if _take(fcntl.LOCK_SH):
        _held.pop().close()
        return None
    return standing


def record() -> Standing | None:
    """What the last `evergreen up` wrote, whether it still runs or was killed; None after a clean stop."""
    try:
        return Standing(**json.loads((home() / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write(standing: Standing) -> None:
    scratch = home() / f"{RECORD}.new"
    scratch.write_text(json.dumps(asdict(standing), indent=1) + "\n", encoding="utf-8")
    scratch.replace(home() / RECORD)


def forget() -> None:
    (home() / RECORD).unlink(missing_ok=True)


def attach() -> bool:
    """Gives a run the servers of an `evergreen up`, through the environment; False where none runs.

    One that is still starting is waited for. Then the home is this run's to share.
    """
    from flows.server import answers

    deadline = time.monotonic() + PATIENCE
    while not join():
        standing = record()
        if standing is not None and answers(standing.api):
            beside = {**BESIDE, "PREFECT_API_URL": standing.api, "MLFLOW_TRACKING_URI": standing.mlflow}
            for name, value in beside.items():
                os.environ.setdefault(name, value)
            return True
        if time.monotonic() > deadline:
            raise EvergreenError(f"{_whose()}; but its Prefect server does not answer")
        time.sleep(0.2)
    return False


def _take(kind: int) -> bool:
    path = home() / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _held.append(file)
    return True


def _whose() -> str:
    """Why the home cannot be had: the lock's holders tell themselves apart by whether it can be shared."""
    if _take(fcntl.LOCK_SH):
        _held.pop().close()
        return (
            f"a run with a Prefect server of its own is using {home()}: wait until it has ended, or stop it, then "
            "start again. Runs that start after `evergreen up` use its server"
        )
    standing = record()
    where = "it is still starting"
    if standing is not None:
        where = f"Prefect at {standing.prefect}, MLflow at {standing.mlflow}; Ctrl-C there stops it, or " \
                f"`kill {standing.pid}`"  # fmt: skip
    return f"`evergreen up` runs already for {home()}: {where}"
