"""What a worker process has to say in the log: lines of a file that the main process reads while it waits."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

NOTES = "notes.txt"
logger = logging.getLogger("evergreen.training")
SWEEP = "scaling/"  # how the labels of its runs begin
_said: dict[tuple[Path, str], str] = {}


def note(folder: Path, text: str) -> None:
    """Adds a line to the notes of the step that is built in `folder`; of several processes, the first one speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    path = folder / "log" / NOTES
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def follow(label: str, log: Path | None) -> Callable[[], None]:
    """A function that logs, each time it is called, what was noted below `log` since the last call.

    What the runs of a sweep say alike, as they do of their settings, is said of the first one.
    """
    path = log / NOTES if log else None
    read = path.stat().st_size if path and path.exists() else 0

    def report() -> None:
        nonlocal read
        if path is None or not path.exists():
            return
        with path.open("rb") as file:
            file.seek(read)
            whole = file.read().rpartition(b"\n")[0]
        for line in whole.decode().splitlines():
            if not label.startswith(SWEEP) or _said.setdefault((path.parents[2], line), label) == label:
                logger.info("%s: %s", label, line)
        read += len(whole) + 1 if whole else 0

    return report
