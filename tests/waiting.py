"""Waits in two processes as a training on two devices would: `python -m tests.waiting FOLDER`."""

import os
import sys
import time
from pathlib import Path

from tasks import workers
from tests import waiting


def wait(folder: Path) -> None:
    (folder / f"waiting-{os.environ['RANK']}").touch()
    time.sleep(120)


if __name__ == "__main__":
    with workers.ended_by_interrupt():
        workers.call(waiting.wait, Path(sys.argv[1]), threads=1, processes=1, label="wait", devices=2, device="cpu")
