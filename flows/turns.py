"""One at a time: a limit of the Prefect server that holds for all its workers."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Waits until no other run holds the name. A killed run gives its place back when its lease ends, in a minute."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency

    limit = f"evergreen-{name}"
    with get_client(sync_client=True) as client:  # a limit that nobody made would not limit
        client.upsert_global_concurrency_limit_by_name(limit, 1)
    # A lease that a restarted server could not renew must not break off a night that is hours old: two nights at once
    # only wait for each other at the steps and at the registry.
    with concurrency(limit, occupy=1, strict=True, lease_duration=60, raise_on_lease_renewal_failure=False):
        yield
