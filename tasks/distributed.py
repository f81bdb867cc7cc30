"""Runs a function on several devices, a process for each under torchrun's agent; what one raises is raised here.

`python -m tasks.distributed FOLDER` is such a process. Each has a rank, and the first one's result is the result.
"""

import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from tasks import parallel
from tasks.errors import EvergreenError, TrainingInterruptedError, UsageError
from tasks.settings import Execution

CALL = "call.pkl"
FROM_OUTSIDE = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)  # exit codes
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
T = TypeVar("T")


def launch(devices: int, device: str, threads: int, function: Callable[..., T], *args: Any) -> T:
    """Calls a picklable function once on each device and returns what the first process returns.

    `devices` 0 takes all GPUs there are. The processes share the `threads`. Belongs into the main thread of a worker
    process, since the agent handles signals. Raises what a process raised, and TrainingInterruptedError when one was
    killed.
    """
    from tasks.settings import apply_threads

    count, on_gpu = _available(devices, device)
    if count == 1:
        apply_threads(threads)
        return function(*args)
    with tempfile.TemporaryDirectory(prefix="evergreen-ranks-") as name:
        folder = Path(name)
        with (folder / CALL).open("wb") as file:
            for part in (sys.path, (os.getpid(), max(1, threads // count), on_gpu), (function, args)):
                pickle.dump(part, file)
        exits = _run_agent(folder, count)
        if exits:
            raise _error(folder, exits, count)
        return pickle.loads(_report(folder, 0).read_bytes())


def require(batch: int, execution: Execution) -> None:
    """Raises UsageError, before anything has run, for devices that are not there or cannot share the batch."""
    if execution == execution.on_one_device and execution.device != "cuda":
        return  # torch would take seconds to say nothing
    count, gpu = _available(execution.devices, execution.device)
    parallel.share(batch, count)
    parallel.require_shards(execution, count, gpu)


def _available(devices: int, device: str) -> tuple[int, bool]:
    """How many processes that is, and whether each has a GPU. Raises UsageError for more GPUs than there are."""
    import torch

    if not parallel.on_gpu(device):
        return max(1, devices), False
    there = torch.cuda.device_count()
    if devices > there:
        raise UsageError(
            f"execution.devices is {devices} and torch sees {there} GPUs: set it to at most {there}, or to 0 for all"
        )
    return devices or there, True


def _run_agent(folder: Path, count: int) -> dict[int, int]:
    """Starts the processes and waits for them; the exit codes of those that failed, by rank.

    As `torchrun --nproc-per-node COUNT`, whose own store listens on every network interface, with --standalone too.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed is raised here
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=folder.name, max_restarts=0, shutdown_timeout=5,
        rdzv_backend="c10d", rdzv_endpoint=str(folder / "agent"), rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1", logs_specs=DefaultLogsSpecs(log_dir=str(folder / "log")),
    )  # fmt: skip
    try:
        with _signals_kept():
            elastic_launch(config, sys.executable)("-m", __spec__.name, str(folder))
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except SignalException as error:
        raise TrainingInterruptedError(f"{error}; run again to continue from the last checkpoint") from None
    return {}


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The agent leaves its handlers behind."""
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _error(folder: Path, exits: Mapping[int, int], count: int) -> BaseException:
    """Why processes failed. One that lost its peers fails too, later and for no reason of its own."""
    reports = sorted((_report(folder, rank) for rank in exits if _report(folder, rank).exists()), key=_written)
    raised: list[BaseException] = [pickle.loads(path.read_bytes()) for path in reports]
    ours = [error for error in raised if isinstance(error, EvergreenError)]
    # once one has failed, the agent ends the others with SIGTERM
    killed = [rank for rank, code in exits.items() if code == -signal.SIGKILL or (code in FROM_OUTSIDE and not raised)]
    if killed and not ours:
        return TrainingInterruptedError(
            f"process {killed[0]} of {count} on several devices was killed (out of memory, or a signal). "
            "Run again to continue from the last checkpoint; if memory is short, lower execution.devices."
        )
    if raised:
        return (ours or raised)[0]
    rank, code = min(exits.items())
    return RuntimeError(f"process {rank} of {count} on several devices ended with code {code}; its output may tell why")


def _report(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pkl"


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def main(folder: Path) -> None:
    """One process: joins the others, calls the function, and leaves what came of it in a file."""
    rank = int(os.environ["RANK"])
    with (folder / CALL).open("rb") as file:
        sys.path[:] = pickle.load(file)
        agent, threads, on_gpu = pickle.load(file)
        _follow(agent, folder)
        try:
            result = _call(file, folder, threads, on_gpu=on_gpu)
        except Exception as error:
            _write(_report(folder, rank), _portable(error, rank))
            os._exit(1)  # at once: the others wait for this process, and its destructors would wait for them
    if rank == 0:
        _write(_report(folder, rank), pickle.dumps(result))


def _call(file: IO[bytes], folder: Path, threads: int, *, on_gpu: bool) -> Any:
    from tasks.settings import apply_environment

    apply_environment()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # without it accelerate sets as many as there are cores
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, LOOPBACK)
    import torch.distributed

    from tasks.settings import apply_threads

    apply_threads(threads)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if on_gpu:
        torch.cuda.set_device(rank)
    # a file and not MASTER_PORT: the store behind that listens on every network interface
    torch.distributed.init_process_group(
        "cuda:nccl,cpu:gloo" if on_gpu else "gloo", init_method=f"file://{folder / 'ranks'}",
        rank=rank, world_size=count,
    )  # fmt: skip
    function, args = pickle.load(file)
    result = function(*args)
    torch.distributed.destroy_process_group()
    return result


def _follow(agent: int, folder: Path) -> None:
    """Ends this process with its agent, however that ended: an orphan would go on writing into the store."""

    def follow() -> None:
        while os.getppid() == agent:
            time.sleep(0.2)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _portable(error: Exception, rank: int) -> bytes:
    """The exception with its traceback as a note; in words where it does not survive pickling."""
    told = "".join(traceback.format_exception(error))
    if not isinstance(error, EvergreenError):
        error.add_note(f"raised in process {rank} of the devices:\n{told}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"process {rank} of the devices failed:\n{told}")
    return pickle.dumps(error)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
