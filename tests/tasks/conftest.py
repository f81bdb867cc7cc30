"""One MLflow store for the tests that only need some store: a fresh one costs ten seconds of migrations."""

import pytest

from tasks import tracking


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a store with its experiment; set MLFLOW_TRACKING_URI to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(tmp_path_factory.mktemp("store")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.experiment()
        return tracking.uri()
