"""One Prefect server for the flow tests of a process: it costs up to half a minute to start."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(autouse=True)
def _harness(request: pytest.FixtureRequest) -> None:
    """Only what is marked `flow` waits for the server."""
    if request.node.get_closest_marker("flow") and "own_server" not in request.fixturenames:
        request.getfixturevalue("prefect_server")
