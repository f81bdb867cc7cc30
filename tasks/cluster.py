"""Where the runs of a sweep are started: beside each other on this machine, or by Ray, here or on a cluster."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from tasks import steps, tracking
from tasks.artifacts import Checkpoint
from tasks.errors import UsageError
from tasks.settings import OFFLINE, PERFORMANCE, Execution, home, project
from tasks.workers import side_by_side

# Ray's own switch for "this machine alone": with it every port is on the loopback address. Read once, at import.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
OBJECT_STORE = 100 * 2**20  # bytes; handles travel, never tensors, and the default is a third of the memory
logger = logging.getLogger("evergreen.cluster")


def runner(execution: Execution) -> Any:
    """The Prefect task runner that `execution.runner` names. Raises UsageError where prefect-ray is not installed."""
    if execution.runner == "threads":
        return side_by_side()
    if not execution.ray_address:
        os.environ.update(LOOPBACK)
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise UsageError(
            f"execution.runner is ray, and prefect-ray is not installed ({error}): pip install 'evergreen[ray]', "
            "or leave execution.runner at threads"
        ) from None
    if execution.ray_address:
        _require_answer(execution.ray_address)
    logger.info("the runs are handed to %s", execution.ray_address or "a Ray of this machine")
    if execution.ray_address:
        given: dict[str, Any] = {"runtime_env": {"env_vars": environment()}, "log_to_driver": False}
        return RayTaskRunner(address=execution.ray_address, init_kwargs=given)
    return RayTaskRunner(init_kwargs={
        "address": "local",  # never one that happens to run here
        "num_cpus": execution.processes * execution.threads_each, "include_dashboard": False,
        "object_store_memory": OBJECT_STORE, "log_to_driver": False, "configure_logging": False,
    })  # fmt: skip


def _require_answer(address: str) -> None:
    """Raises UsageError for what is no address, and where nobody listens; Ray itself would try for half a minute."""
    found = urlsplit(address if "://" in address else f"//{address}")
    try:
        place = found.hostname or "", found.port or 0
        socket.create_connection(place, timeout=10).close()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at execution.ray_address {address} ({error}): give ray://HOST:PORT of its head "
            "(`ray start --head` prints it), or leave it empty for a Ray of this machine"
        ) from None


def share(execution: Execution) -> AbstractContextManager[None]:
    """What one run asks of Ray: a CPU for each of its threads, so that a node takes no more than it has, and its GPU.

    Prefect's own runners ignore it. To be entered around `submit`, after `runner` has found prefect-ray.
    """
    if execution.runner == "threads":
        return nullcontext()
    from prefect_ray.context import remote_options

    # a run that was lost with its node is for the next start of the flow, which resumes it, not for Ray to begin anew
    options = {"num_cpus": execution.threads_each, "num_gpus": int(execution.device == "cuda"), "max_retries": 0}
    return remote_options(**options)


def collect(running: Mapping[str, Any], planned: Sequence[steps.Step], execution: Execution) -> list[Checkpoint]:
    """The results in the order planned. Raises what a run raised."""
    if execution.runner == "ray":
        _report(running, planned)
    return [running[step.key].result() for step in planned]


def _report(running: Mapping[str, Any], planned: Sequence[steps.Step]) -> None:
    """A line for each run as it ends: what it says itself stays in the log of the worker that computed it."""
    import ray

    names = {running[step.key].wrapped_future: step for step in planned}
    waiting = list(names)
    while waiting:
        done, waiting = ray.wait(waiting)
        for reference in done:
            made = running[names[reference].key].result()
            logger.info("%-22s done  loss %.3f", names[reference].title, made.summary["loss"])


def environment() -> dict[str, str]:
    """What a worker on another machine must agree on: the home, which every node sees, and the MLflow store."""
    places = {"EVERGREEN_HOME": str(home()), "EVERGREEN_PROJECT": str(project()), "MLFLOW_TRACKING_URI": tracking.uri()}
    return {**OFFLINE, **PERFORMANCE, **places}
