"""One MLflow store for the tests that only need some store: a fresh one costs ten seconds of migrations."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from tasks import parity, tracking
from tasks.artifacts import Checkpoint, EvaluationReport
from tests import contest


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a store with its experiment; set MLFLOW_TRACKING_URI to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(tmp_path_factory.mktemp("store")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.experiment()
        return tracking.uri()


@pytest.fixture(scope="module")
def registry_folders(tmp_path_factory: pytest.TempPathFactory, shared_store: str) -> dict[str, str]:
    folders = {f"EVERGREEN_{name}": str(tmp_path_factory.mktemp(name.lower())) for name in ("HOME", "PROJECT")}
    return {**folders, "MLFLOW_TRACKING_URI": shared_store}


@pytest.fixture(scope="module")
def trial_process(registry_folders: dict[str, str]) -> Iterator[Executor]:
    """One process for all trials of a file's promotions, each of which would start a fresh one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in registry_folders.items():
            patch.setenv(name, value)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(abs, 1).result()
            yield pool


@pytest.fixture
def registry_places(
    places: None, registry_folders: dict[str, str], trial_process: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tests of a file share a home and a registry; each has model names of its own."""
    for name, value in registry_folders.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parity, "fresh", lambda: nullcontext(trial_process))


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Checkpoint]:
    """Makes a tiny model from a seed."""
    return lambda seed: contest.model(tmp_path_factory.mktemp(f"model-{seed}"), seed)


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., EvaluationReport]:
    """Writes an evaluation in which a share of the aligned model's answers is good."""
    return lambda share, yardstick="items-1": contest.report(tmp_path / f"report-{share}-{yardstick}", share, yardstick)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The thread count is part of what makes two trainings equal bit for bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
