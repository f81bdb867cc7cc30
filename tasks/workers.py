"""Training runs in processes of its own: a fixed thread count, fresh random state, and the main process stays light."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tasks import distributed, live, notes, progress
from tasks.errors import TrainingInterruptedError
from tasks.settings import worker_environment

STOPPED = "stopped before it started; run again to continue"

T = TypeVar("T")
_guard = threading.RLock()
_interrupted = threading.Event()
_pool: ProcessPoolExecutor | None = None
_turns: threading.Semaphore | None = None


def side_by_side() -> Any:
    """A Prefect runner whose tasks wait in threads; how many of them compute at once is up to the worker processes."""
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=64)


@contextmanager
def turn(processes: int) -> Iterator[None]:
    """Waits until one of `processes` places is free: what is queued has not started, and its clock does not run."""
    global _turns
    with _guard:
        _turns = _turns or threading.Semaphore(processes)
    with _turns:
        if _interrupted.is_set():
            raise TrainingInterruptedError(STOPPED)
        yield


def call(
    function: Callable[..., T], *args: Any, threads: int, processes: int, label: str, log: Path | None = None,
    devices: int = 1, device: str = "auto",
) -> T:  # fmt: skip
    """Runs a picklable function in a worker process with `threads` torch threads, and reports its progress meanwhile.

    At most `processes` of them run at once. With `devices` other than 1 the worker process starts one more for each
    (`distributed.launch`). Raises what the function raises, and TrainingInterruptedError when a process was killed
    from outside.
    """
    if devices != 1:
        function, args = distributed.launch, (devices, device, threads, function, *args)
    future = _submit(processes, threads, function, *args)
    said = notes.follow(label, log)
    reports = (progress.Meter(label, log).update, said, live.follow(log))
    try:
        return _wait(future, *reports)
    except (BrokenProcessPool, CancelledError) as error:  # its own process ended, or `stop` before one took it up
        stop()
        raise TrainingInterruptedError(
            f"{label}: the process that computed it was killed (out of memory, or a signal). "
            "Run again to continue from its last checkpoint; if memory is short, lower execution.processes."
        ) from error
    except KeyboardInterrupt:
        stop()
        raise
    finally:
        said()


@contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Ctrl-C ends the worker processes and all that waits for its turn, not the main thread alone.

    Prefect waits for the threads of its task runner, and each would hand the next step to a fresh worker process.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        for child in multiprocessing.active_children():
            child.kill()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _interrupted.clear()


def stop() -> None:
    """Ends the worker processes at once. What they had checkpointed stays."""
    global _pool
    with _guard:
        pool, _pool = _pool, None
    for child in multiprocessing.active_children():
        child.kill()
    if pool is not None:
        pool.shutdown(wait=False, cancel_futures=True)


def _submit(processes: int, threads: int, function: Callable[..., T], *args: Any) -> "Future[T]":
    global _pool
    with _guard:
        if _interrupted.is_set():
            raise TrainingInterruptedError(STOPPED)
        if _pool is None:
            spawn = multiprocessing.get_context("spawn")
            _pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start)
        with worker_environment():
            return _pool.submit(_with_threads, threads, function, *args)


def _wait(future: "Future[T]", *reports: Callable[[], None]) -> T:
    while True:
        try:
            return future.result(timeout=1.0)
        except TimeoutError:
            if future.done():
                return future.result()
            if _interrupted.is_set():
                stop()  # its process came to life while the interrupt was ending the others
            for report in reports:
                report()


def _start() -> None:
    """A worker ends with its parent, and on Ctrl-C at once: an orphan would go on writing into the store."""
    from tasks.settings import apply_environment

    apply_environment()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _with_threads(threads: int, function: Callable[..., T], *args: Any) -> T:
    from tasks.settings import apply_threads

    apply_threads(threads)
    return function(*args)
