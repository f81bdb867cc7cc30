"""What every test stands on: a home and a project of its own, the product's environment, and markers that skip."""

from pathlib import Path

import pytest

from tasks.settings import apply_environment

apply_environment()  # before any test imports torch, which reads it once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


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
