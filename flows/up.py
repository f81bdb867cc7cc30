"""`evergreen up`: Prefect server, MLflow server, deployments, automations and a worker, until Ctrl-C."""

import errno
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from flows import deployments, doctor, processes, running
from flows.running import Standing
from flows.services import LOGS, Services, say
from tasks import mlflow_store, tracking
from tasks.errors import EvergreenError, UsageError
from tasks.settings import home

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PASSWORD, CLIENTS_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"

logger = logging.getLogger("evergreen.up")


class Stopped(BaseException):
    """Somebody asked for the end: by Ctrl-C, SIGTERM or by closing the terminal."""


def up(*, host: str, port: int, mlflow_port: int, limit: int) -> int:
    """Starts everything and stays until it is told to stop; 0 then.

    A part that ends by itself takes the others with it: the next start takes over what was left. Raises EvergreenError
    for that, when a port is in use, and when another `up` has the home; UsageError for a host that is not ours.
    """
    doctor.require_home()
    deployments.names()  # raises UsageError for a file that cannot be read
    running.claim()
    _end_leftovers()
    elsewhere = tracking.uri() if tracking.uri().startswith(("http:", "https:")) else ""
    _require_ports(host, {"--port": port} if elsewhere else {"--port": port, "--mlflow-port": mlflow_port})
    mlflow_store.check_server(tracking.uri())
    standing = Standing(
        pid=os.getpid(), prefect=_address(host, port), mlflow=elsewhere.rstrip("/") or _address(host, mlflow_port),
        mark=secrets.token_hex(8),
    )  # fmt: skip
    _settle(host)
    running.write(standing)
    try:
        _run(standing, host, port, 0 if elsewhere else mlflow_port, limit)
    except Stopped:
        return 0
    finally:
        running.forget()
    return 1


def _run(standing: Standing, host: str, port: int, mlflow_port: int, limit: int) -> None:
    with _told_to_stop(standing.mark) as stopping, ExitStack() as started:
        services = Services(standing, started)
        try:
            services.servers(host, port, mlflow_port)
            services.deploy()
            services.automate()
            services.work(limit)
            logger.info("ready; Ctrl-C stops all of it\n%s", _table(standing))
            while True:
                services.require_all()
                time.sleep(0.5)
        finally:
            stopping.append(True)
            logger.info("stops: %s", ", ".join(each.name for each in reversed(services.children)))


@contextmanager
def _told_to_stop(mark: str) -> Iterator[list[bool]]:
    """Raises Stopped at the first signal. Once the list holds something, a signal ends all that still runs at once."""
    stopping: list[bool] = []

    def told(number: int, frame: FrameType | None) -> None:
        if not stopping:
            raise Stopped
        processes.end(processes.marked(mark), grace=0)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, told) for number in numbers]
    try:
        yield stopping
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _end_leftovers() -> None:
    """An `up` that was killed together with one of its parts may have left processes behind."""
    before = running.record()
    if before is None:
        return
    ended = processes.end(processes.marked(before.mark))
    say("takes over", f"from process {before.pid}, which was killed" + (f"; {ended} of it still ran" if ended else ""))


def _require_ports(host: str, ports: dict[str, int]) -> None:
    if len(set(ports.values())) < len(ports):
        raise UsageError(f"--port and --mlflow-port are both {ports['--port']}: give two")
    for option, port in ports.items():
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise _refusal(error, host, option, port) from error


def _refusal(error: OSError, host: str, option: str, port: int) -> EvergreenError:
    if error.errno == errno.EADDRINUSE:
        return EvergreenError(f"port {port} of {host} is in use: stop what listens there, or give another {option}")
    if error.errno == errno.EACCES:
        return EvergreenError(f"port {port} needs rights that this user has not: give {option} 1024 or more")
    return UsageError(f"--host {host!r} is no address of this machine ({error.strerror}): give 127.0.0.1 or 0.0.0.0")


def _settle(host: str) -> None:
    """The clients' password, and a word on what the user may not expect."""
    if password := os.environ.get(PASSWORD):
        os.environ.setdefault(CLIENTS_PASSWORD, password)
    elif host not in LOOPBACK:
        logger.warning("whoever reaches %s can start runs and read all; set %s=USER:PASSWORD", host, PASSWORD)
    if url := os.environ.get("PREFECT_API_URL"):
        logger.warning("PREFECT_API_URL=%s is left aside: this starts a server of its own", url)


def _address(host: str, port: int) -> str:
    shown = EVERYWHERE.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _table(standing: Standing) -> str:
    rows = (("Prefect", standing.prefect), ("MLflow", standing.mlflow), ("logs", str(home() / LOGS)))
    return "\n".join(f"  {name:<9}{where}" for name, where in rows)
