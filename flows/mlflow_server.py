"""`python -m flows.mlflow_server HOST PORT`: the MLflow server of `evergreen up`, on the store that runs write to."""

import os
import sys

from tasks import tracking
from tasks.settings import home


def arguments(host: str, port: str) -> list[str]:
    """The command line of `mlflow server`. One process: with its defaults MLflow starts twelve, and takes 2.7 GB."""
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "")
    return [
        "server", "--host", host, "--port", port, "--workers", "1", "--backend-store-uri", tracking.uri(),
        "--artifacts-destination", str(home() / "mlartifacts"), "--uvicorn-opts", "--log-level=warning",
        *(["--registry-store-uri", registry] if registry else []),
    ]  # fmt: skip


def main() -> None:
    tracking.experiment()  # makes a fresh store, with the artifacts where runs without a server put them
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.cli import cli

    cli.main(arguments(*sys.argv[1:]))


if __name__ == "__main__":
    main()
