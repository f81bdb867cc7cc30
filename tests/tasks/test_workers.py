"""Worker processes: Ctrl-C ends those that compute and those that wait for their turn."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest

from tasks import workers
from tasks.errors import TrainingInterruptedError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process and no place that an earlier test of this process has left."""
    _end_all()
    monkeypatch.setattr(workers, "_turns", None)
    yield
    _end_all()


def _end_all() -> None:
    workers.stop()
    for child in multiprocessing.active_children():
        child.join(10)


def test_an_interrupt_ends_what_computes_and_what_waits() -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        points = [threads.submit(_point) for _ in range(2)]
        with pytest.raises(KeyboardInterrupt), workers.ended_by_interrupt():
            _wait_like_prefect(points)
        messages = sorted(str(point.exception()) for point in points)
    assert all(isinstance(point.exception(), TrainingInterruptedError) for point in points)
    assert "was killed" in messages[0]
    assert messages[1] == workers.STOPPED
    assert time.monotonic() - started < 30, "the worker slept to its end"


def test_a_worker_that_came_to_life_during_the_interrupt_is_ended_too() -> None:
    started = time.monotonic()
    future = workers._submit(1, 1, time.sleep, 60)
    workers._interrupted.set()  # the handler has run, and saw no process yet
    try:
        with pytest.raises(BrokenProcessPool):
            workers._wait(future)
    finally:
        workers._interrupted.clear()
    assert time.monotonic() - started < 30, "the worker slept to its end"


def test_after_an_interrupt_workers_start_again() -> None:
    with pytest.raises(KeyboardInterrupt), workers.ended_by_interrupt():
        os.kill(os.getpid(), signal.SIGINT)
    assert workers.call(os.getpid, threads=1, processes=1, label="pid") != os.getpid()


def _point() -> None:
    with workers.turn(1):
        workers.call(time.sleep, 60, threads=1, processes=1, label="sleep")


def _interrupt_once_a_worker_lives() -> None:
    while not multiprocessing.active_children():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def _wait_like_prefect(points: "list[Future[None]]") -> None:
    """The main thread waits for its tasks even after the interrupt, as Prefect's task runner does when it closes."""
    try:
        threading.Thread(target=_interrupt_once_a_worker_lives).start()  # the interrupt may come before this returns
        while True:
            time.sleep(0.1)
    finally:
        for point in points:
            point.exception()


def test_a_worker_keeps_its_memory_and_the_main_process_does_not() -> None:
    found = workers.call(os.getenv, "MALLOC_MMAP_MAX_", threads=1, processes=1, label="environment")
    assert found == "0" and "MALLOC_MMAP_MAX_" not in os.environ


def test_products_of_ever_new_shapes_do_not_fill_the_memory_of_a_worker() -> None:
    grown = workers.call(_multiply_in_bf16, 1000, threads=1, processes=1, label="shapes")
    assert grown < 300e6, "all that oneDNN and torch prepared for these shapes is still there"


def _multiply_in_bf16(shapes: int) -> int:
    """Bytes by which the process grows over products that take next to nothing themselves."""
    import torch

    matrix = torch.ones(64, 64, dtype=torch.bfloat16)
    before = psutil.Process().memory_info().rss
    for rows in range(64, 64 + shapes):
        torch.ones(rows, 64, dtype=torch.bfloat16) @ matrix
    return psutil.Process().memory_info().rss - before
