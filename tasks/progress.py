"""What a person sees while a long step works: step, loss, tokens or rows per second, time left."""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

HISTORY = "history.jsonl"
EVERY = 8.0  # seconds between two lines
LABEL, LONGEST = 22, 72  # characters of a label and of a line: 80 without the clock before it
T = TypeVar("T")

logger = logging.getLogger("evergreen.progress")


class Meter:
    """Reports the last line of a history file now and then, to the log and to a Prefect progress artifact."""

    def __init__(self, label: str, log: Path | None):
        self.label, self.history = label, log / HISTORY if log else None
        self.last, self.step = time.monotonic(), -1
        self.bar = _Bar(label)

    def update(self) -> None:
        if self.history is None or time.monotonic() - self.last < EVERY:
            return
        entry = last_entry(self.history)
        if entry is None or entry["step"] == self.step:
            return
        self.last, self.step = time.monotonic(), entry["step"]
        logger.info(line(self.label, entry))
        self.bar.show(100.0 * entry["step"] / max(1, entry["steps"]))


class Count:
    """Reports now and then how many rows are done, to the log and to a Prefect progress artifact."""

    def __init__(self, label: str, total: int = 0):
        """`total` is 0 where nobody knows it beforehand: then there is no time left to tell either."""
        self.label, self.total, self.done = label, total, 0
        self.begun = self.last = time.monotonic()
        self.bar = _Bar(label)

    def add(self, rows: int) -> None:
        self.reach(self.done + rows)

    def reach(self, done: int) -> None:
        """As `add`, told by how many rows are done in all."""
        self.done = done
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            logger.info(line(self.label, self._entry(now - self.begun)))
            if self.total:
                self.bar.show(100.0 * done / self.total)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, counted as they are worked off."""
        for item in items:
            yield item
            self.done += 1
            if not self.done % 64:
                self.reach(self.done)

    def _entry(self, seconds: float) -> dict[str, Any]:
        rate = self.done / seconds
        left = {"seconds_left": (self.total - self.done) / rate} if self.total and rate else {}
        return {"step": self.done, "steps": self.total, "rows_per_second": rate, **left}


class _Bar:
    """A Prefect progress artifact, where there is a run to have one."""

    def __init__(self, label: str):
        self.label = label
        self.artifact: Any = None

    def show(self, percent: float) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact
        from prefect.context import TaskRunContext

        if TaskRunContext.get() is None:
            return
        if self.artifact is None:
            key = artifact_key(f"progress-{self.label}")
            self.artifact = create_progress_artifact(progress=percent, key=key, description=self.label)
        else:
            update_progress_artifact(artifact_id=self.artifact, progress=percent)


def line(label: str, entry: Mapping[str, Any]) -> str:
    """One line of progress: `sft/lora  120/400  loss 3.214  9,120 tok/s  0:31 left`; without `/400` for 0 steps.

    The MFU stands behind the tokens, as in `9,120 tok/s  37% mfu`, where the line keeps to its width with it. The space
    behind the label gives way to it.
    """
    count = f"{entry['step']:>5,}" + (f"/{entry['steps']:,}" if entry["steps"] else "")
    parts = [count, *_measures(entry), *_left(entry)]
    if "mfu" in entry:
        more = "  ".join([count, *_measures(entry), _percent(entry["mfu"]) + " mfu", *_left(entry)])
        room = LONGEST - len(more) - 1
        if room >= len(label):
            return f"{label:<{min(LABEL, room)}} {more}"
    return f"{label:<{LABEL}} " + "  ".join(parts)


def _measures(entry: Mapping[str, Any]) -> list[str]:
    forms = {
        "loss": "loss {:.3f}", "eval_loss": "held out {:.3f}", "reward": "reward {:.3f}",
        "tokens_per_second": "{:,.0f} tok/s", "rows_per_second": "{:,.0f} rows/s",
    }  # fmt: skip
    return [form.format(entry[name]) for name, form in forms.items() if name in entry]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _left(entry: Mapping[str, Any]) -> list[str]:
    if "seconds_left" not in entry:
        return []
    minutes, seconds = divmod(int(entry["seconds_left"]), 60)
    return [f"{minutes}:{seconds:02d} left"]


def last_entry(path: Path) -> dict[str, Any] | None:
    """The last whole line of a history file; None before there is one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    return json.loads(lines[-2]) if len(lines) > 1 and lines[-2].startswith(b"{") else None


def artifact_key(text: str) -> str:
    """Prefect takes small letters, digits and dashes."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")


def publish(key: str, markdown: str, description: str) -> None:
    """A page as an artifact of the Prefect run, where there is one. A page that cannot be shown is a warning."""
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import TaskRunContext

    if TaskRunContext.get() is None:
        return
    try:
        create_markdown_artifact(markdown, key=artifact_key(key), description=description)
    except Exception as error:  # whatever keeps the server from taking it: the work itself is done
        logger.warning("the page %r cannot be shown in Prefect: %s", key, str(error).split("\n")[0][:200])
