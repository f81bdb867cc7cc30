"""A table of runs from a file or standard input: CSV or JSON, read under the user's own words about its columns."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UsageError

if TYPE_CHECKING:
    from models.run_table import Table
    from models.runs import Reading, Runs

MOST_BYTES = 50_000_000  # a line is some 100 bytes; half a million runs is nobody's sweep
WIDE = (b"\xff\xfe", b"\xfe\xff")  # what spreadsheets write as "Unicode text"


def read(path: str, how: "Reading") -> "Runs":
    """The runs of `path`, or of standard input for `-`. Raises UsageError for what cannot be read or used."""
    from models.runs import read as understood

    table = rows(path)
    try:
        return understood(table, how)
    except ValueError as error:
        raise UsageError(f"{_name(path)}: {error}") from None


def rows(path: str) -> "Table":
    """The table as it is written. Raises UsageError for what is no table."""
    from models.run_table import parse

    text = _text(path, _bytes(path))
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{_name(path)}: {error}") from None


def _bytes(path: str) -> bytes:
    try:
        if path == "-":
            found = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(path).expanduser().open("rb") as file:
                found = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: give a CSV or JSON file with a line for each run") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder: give the file in it that holds the table of runs") from None
    except PermissionError:
        raise UsageError(f"no permission to read {path}: change that (chmod u+r), or give a copy") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path!a} cannot be read: {error}") from None
    if len(found) > MOST_BYTES:
        raise UsageError(
            f"{_name(path)} holds more than {MOST_BYTES / 1e6:.0f} MB, and a table of runs has a line for each run: "
            "keep the last point of each curve"
        )
    return found


def _text(path: str, found: bytes) -> str:
    encoding = "utf-16" if found.startswith(WIDE) else "utf-8-sig"
    try:
        return found.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise UsageError(
            f"{_name(path)} is no {name} text (byte {found[error.start]:#04x} at {error.start:,}): "
            "save it as CSV UTF-8, or convert it, as in iconv -f LATIN1 -t UTF-8"
        ) from None


def _name(path: str) -> str:
    return "standard input" if path == "-" else path
