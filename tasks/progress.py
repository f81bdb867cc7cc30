"""What a person sees while a long step works: step, loss, tokens per second, time left."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HISTORY = "history.jsonl"
EVERY = 8.0  # seconds between two lines

logger = logging.getLogger("evergreen.progress")


class Meter:
    """Reports the last line of a history file now and then, to the log and to a Prefect progress artifact."""

    def __init__(self, label: str, log: Path | None):
        self.label, self.history = label, log / HISTORY if log else None
        self.last, self.step = time.monotonic(), -1
        self.artifact: Any = None

    def update(self) -> None:
        if self.history is None or time.monotonic() - self.last < EVERY:
            return
        entry = last_entry(self.history)
        if entry is None or entry["step"] == self.step:
            return
        self.last, self.step = time.monotonic(), entry["step"]
        logger.info(line(self.label, entry))
        self._publish(100.0 * entry["step"] / max(1, entry["steps"]))

    def _publish(self, percent: float) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact
        from prefect.context import TaskRunContext

        if TaskRunContext.get() is None:
            return
        if self.artifact is None:
            key = "progress-" + "".join(c if c.isalnum() else "-" for c in self.label.lower())
            self.artifact = create_progress_artifact(progress=percent, key=key, description=self.label)
        else:
            update_progress_artifact(artifact_id=self.artifact, progress=percent)


def line(label: str, entry: Mapping[str, Any]) -> str:
    """One line of progress: `sft/lora  120/400  loss 3.214  9,120 tok/s  0:31 left`."""
    parts = [f"{label:<22} {entry['step']:>5,}/{entry['steps']:,}"]
    if "loss" in entry:
        parts.append(f"loss {entry['loss']:.3f}")
    if "reward" in entry:
        parts.append(f"reward {entry['reward']:.3f}")
    if "tokens_per_second" in entry:
        parts.append(f"{entry['tokens_per_second']:,.0f} tok/s")
    if "seconds_left" in entry:
        minutes, seconds = divmod(int(entry["seconds_left"]), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return "  ".join(parts)


def last_entry(path: Path) -> dict[str, Any] | None:
    """The last whole line of a history file; None before there is one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    return json.loads(lines[-2]) if len(lines) > 1 and lines[-2].startswith(b"{") else None
