"""What a run says in the terminal: on stderr, at most 80 columns, each line with the time since the start."""

import logging
import sys
import textwrap
import time
from typing import Any

WIDTH, MARGIN = 80, 8


class Console(logging.Handler):
    """Messages and the items of a list wrap below themselves; the lines of a table stay as they are."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.layout(record), file=sys.stderr, flush=True)
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)

    def layout(self, record: logging.LogRecord) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        stamp = f"{minutes:>3}:{seconds:02d}".ljust(MARGIN)
        head, *table = text.split("\n")
        lines = _wrapped(head, drop_whitespace=False)
        if all(line.lstrip().startswith("- ") for line in table):
            table = [part for line in table for part in _wrapped(line.lstrip(), subsequent_indent="  ")]
        margin = " " * (MARGIN if all(len(line) <= WIDTH - MARGIN for line in table) else 0)
        shown = [*(" " * MARGIN + line.strip() for line in lines[1:]), *(margin + line for line in table)]
        return "\n".join(line.rstrip() for line in [stamp + (lines[0] if lines else ""), *shown])


def _wrapped(text: str, **options: Any) -> list[str]:
    return textwrap.wrap(text, WIDTH - MARGIN, break_long_words=False, break_on_hyphens=False, **options)


def attach() -> None:
    """Gives the `evergreen` logger its console, once."""
    logger = logging.getLogger("evergreen")
    if not any(isinstance(handler, Console) for handler in logger.handlers):
        logger.addHandler(Console())
        logger.setLevel(logging.INFO)
        logger.propagate = False
