"""One at a time: a limit of the Prefect server that holds for all its workers."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Waits until no other run holds the name. A killed run gives its place back when its lease ends, in minutes."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency

    limit = f"evergreen-{name}"
    with get_client(sync_client=True) as client:  # a limit that nobody made would not limit
        client.upsert_global_concurrency_limit_by_name(limit, 1)
    with concurrency(limit, occupy=1, strict=True):
        yield
