"""What every test stands on: a home and a project of its own, the product's environment, and markers that skip."""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.settings import apply_environment

apply_environment()  # before any test imports torch, which reads it once
# Two threads that wait for each other after every small operation are slow, and beside other busy processes very slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = _longest_first(items)


def _longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """File by file, by what its tests are allowed: minutes that start last would be waited for by the other worker."""
    limits, marked = defaultdict[Path, float](float), defaultdict[Path, int](int)
    for item in items:
        limit, long = item.get_closest_marker("timeout"), map(item.get_closest_marker, ("flow", "slow"))
        limits[item.path] = max(limits[item.path], limit.args[0] if limit else 0)
        marked[item.path] += any(long)
    return sorted(items, key=lambda item: (limits[item.path], marked[item.path]), reverse=True)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or touches the store, the registry or the data of the checkout."""
    for name in ("home", "project"):
        monkeypatch.setenv(f"EVERGREEN_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc"))  # or DVC keeps a folder for every project it sees
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The threads that a flow gives torch in this process are not those of the tests after it."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
