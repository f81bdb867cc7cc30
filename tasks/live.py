"""What a training writes below `log/`, sent to its MLflow run while it grows: each number once, and a table of samples.

The training works in another process, and whoever waits for it sends. Which run is open goes with the thread's context.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import leaves, mlflow_store
from tasks.mlflow_store import first_line
from tasks.progress import HISTORY

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

EVERY, LONGEST_PAUSE = 3.0, 60.0  # seconds between two sendings, and while the store fails
BATCH = 1000  # metrics that one request may hold
NOT_METRICS = {"step", "steps", "seconds_left", "epoch", "time"}
SAMPLES = "samples.jsonl"
TABLE = "samples.json"

logger = logging.getLogger("evergreen.tracking")


class Tail:
    """Reads on in a file of JSON lines that another process writes.

    What lay there before the training is not read: the training puts the part that still holds in its place, as
    another file, and goes on with it. That one is read from its start.
    """

    def __init__(self, path: Path):
        self.path, self.before = path, _inode(path)
        self.inode, self.offset = -1, 0
        self.restarted = False

    def read(self, *, all_of_it: bool = False) -> list[dict[str, Any]]:
        """The whole lines that are new; with `all_of_it` also those of a file that no training has touched."""
        self.restarted = False
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode == self.before and not all_of_it:
                return []
            self.before = -1  # once that file is gone, another may get its number
            self.restarted = inode != self.inode
            if self.restarted:
                self.inode, self.offset = inode, 0
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        return [entry for entry in map(_entry, whole.splitlines()) if entry]


class Feed:
    """Sends what the files of one training hold to one run. `client` gives a client of the store at `address`."""

    def __init__(self, run_id: str, client: Callable[[], "MlflowClient"], address: str):
        self.run_id, self.client, self.address = run_id, client, address
        self.history: Tail | None = None
        self.samples: Tail | None = None
        self.known: set[tuple[str, int]] = set()  # (metric, step) that were read
        self.waiting: list[Metric] = []  # read and not sent
        self.rows: list[dict[str, Any]] = []
        self.unsent_rows = False
        self.due, self.pause, self.warned = time.monotonic() + EVERY, EVERY, False

    def follow(self, log: Path) -> None:
        """From now on the files in this folder, as they are when a training begins."""
        self.history, self.samples = Tail(log / HISTORY), Tail(log / SAMPLES)

    def update(self) -> None:
        """Sends what is new, now and then. A store that fails is said once; the next call after a pause tries again."""
        if time.monotonic() >= self.due:
            self.try_to_send()

    def try_to_send(self) -> None:
        """Sends what is new, and never raises."""
        if self.history is None:
            return
        try:
            mlflow_store.check_server(self.address)  # or MLflow's own client would try for minutes
            self.send()
        except Exception as error:  # whatever keeps the store from taking it: the training is worth more
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            if not self.warned:
                logger.warning("MLflow does not take the curves now; they follow when it does: %s", first_line(error))
            self.warned = True
        else:
            self.pause, self.warned = EVERY, False
        self.due = time.monotonic() + self.pause

    def finish(self, log: Path) -> None:
        """Sends the rest. Raises what the store raises."""
        if self.history is None or self.history.path.parent != log:
            self.follow(log)
        self.send(last=True)

    def send(self, *, last: bool = False) -> None:
        if self.history is None or self.samples is None:
            return
        for entry in self.history.read(all_of_it=last):
            self._queue(entry)
        rows = self.samples.read(all_of_it=last)
        self.rows = rows if self.samples.restarted else self.rows + rows
        self.unsent_rows = self.unsent_rows or bool(rows)
        if not self.waiting and not self.unsent_rows:
            return
        store = self.client()
        while self.waiting:
            store.log_batch(self.run_id, metrics=self.waiting[:BATCH])
            del self.waiting[:BATCH]
        if self.unsent_rows:
            self._send_table(store)
            self.unsent_rows = False

    def _queue(self, entry: Mapping[str, Any]) -> None:
        """One metric per number and step, below `history/`: a summary may use the same names for final values.

        Two entries of a step may hold the same number; the first counts. An entry's own time makes a metric that is
        sent again, since the answer was lost, the same one to the store.
        """
        from mlflow.entities import Metric

        step, when = int(entry["step"]), round(1000 * entry.get("time", time.time()))
        for name, value in leaves.numbers({k: v for k, v in entry.items() if k not in NOT_METRICS}).items():
            if math.isfinite(value) and (name, step) not in self.known:
                self.known.add((name, step))
                self.waiting.append(Metric(f"history/{name}", value, when, step))

    def _send_table(self, store: "MlflowClient") -> None:
        """The whole table each time, in the form of MLflow's `log_table`, which appends and so could send rows twice.

        By the tag MLflow's pages know that the file is a table.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        columns = list(self.rows[0])
        table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in self.rows]}
        store.log_text(self.run_id, json.dumps(table, ensure_ascii=False), TABLE)
        store.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))


_open: ContextVar[Feed | None] = ContextVar("evergreen-feed", default=None)


@contextmanager
def opened(feed: Feed) -> Iterator[None]:
    """What is trained in this context is of this feed's run."""
    token = _open.set(feed)
    try:
        yield
    finally:
        _open.reset(token)


def follow(log: Path | None) -> Callable[[], None]:
    """What to call now and then while a training writes below `log`; does nothing where no run is open."""
    feed = _open.get()
    if feed is None or log is None:
        return lambda: None
    feed.follow(log)
    return feed.update


def _entry(line: bytes) -> dict[str, Any] | None:
    """None for a line that was torn when its process was killed."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "step" in entry else None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1
