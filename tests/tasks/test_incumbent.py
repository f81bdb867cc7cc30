"""What a retraining goes on from: the data of a version are brought back by the version that DVC has of them."""

import shutil
from pathlib import Path

import pytest

from tasks import catalogue, lineage, steps
from tasks.artifacts import Checkpoint
from tasks.errors import RegistryError
from tasks.incumbent import Incumbent, files_of
from tasks.settings import home, project
from tasks.versioning import version_data
from tests import versions


@pytest.fixture
def before(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> Incumbent:
    """A version whose data are in DVC's cache alone: the store was cleaned, and `data/` holds something newer."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    dataset = versions.made()
    version_data.fn(dataset)
    manifest = steps.read_manifest(dataset.path)
    assert manifest is not None
    told = {"data": lineage._data(dataset), "steps": [lineage._step(manifest)]}
    shutil.rmtree(home() / "store")
    shutil.rmtree(project() / "data")
    monkeypatch.setattr(catalogue, "find", lambda reference: reference)
    monkeypatch.setattr(lineage, "read", lambda version: told)
    model = Checkpoint(stage="registry", name="m", key="k", digest="d", path=Path("/nowhere"))
    return Incumbent("m/1", model, dataset.key, dataset.digest)


def test_data_that_the_store_lost_are_brought_back(before: Incumbent) -> None:
    found = files_of(before)
    assert found is not None
    assert (found.key, found.digest) == (before.data_key, before.data_digest)
    assert steps.folder_digest(steps.hash_files(found.path)) == before.data_digest


def test_data_that_nothing_has_are_lost(before: Incumbent) -> None:
    shutil.rmtree(project() / ".dvc" / "cache")
    assert files_of(before) is None


def test_a_version_without_a_record_says_so(
    before: Incumbent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    def missing(version: object) -> None:
        raise RegistryError("m/1 has no lineage.json")

    monkeypatch.setattr(lineage, "read", missing)
    monkeypatch.setattr(logging.getLogger("evergreen"), "propagate", True)
    assert files_of(before) is None
    assert "the data of m/1 could not be brought back: m/1 has no lineage.json" in caplog.text
