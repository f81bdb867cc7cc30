"""People's own files as rows: found in a folder, read record by record in bounded memory, brought into canonical form.

Every error is a SourceError that names the file, the line (in Parquet the row) and the field.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from models.formats import Format, FormatError, Record, Row, canonical, detect, excerpt, printable
from tasks import mining
from tasks.errors import SourceError
from tasks.records import SUFFIXES, WORDS, check_suffix, records, suffix_of

logger = logging.getLogger("evergreen.ingest")
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # what `datasets` leaves
NAMES = {"domain", "kind", "origin", "licence"}  # they stand in figures, tables and on the terminal
LONGEST_NAME = 200
_BESIDE = re.compile(r"(readme|licen[cs]e)\b.*\.(md|txt)$", re.IGNORECASE)


class NoDataError(SourceError):
    """A folder is there, and no file in it is one of ours."""


def located(where: str) -> Path:
    """The absolute path that somebody wrote down. Raises SourceError for what can be none."""
    try:
        return Path(os.path.realpath(os.path.expanduser(where)))  # noqa: PTH111 Path's raise where these return
    except ValueError as error:
        raise SourceError(f"{printable(where)}: is no path ({error})") from None


def data_files(where: Path) -> dict[str, Path]:
    """Every readable file of a folder by its relative path, in sorted order; of a file, itself.

    Hidden files, the folders that mining skips, links that lead out of the folder, and README and LICENSE beside data
    are left out. Names are fit for a terminal. Raises SourceError for a path that is not there or holds nothing
    readable.
    """
    shown = printable(str(where))
    if _is(Path.is_file, where) and check_suffix(where):
        return {printable(where.name): where}
    if not is_folder(where):
        what = "is no regular file" if _is(Path.exists, where) else "there is no such file or folder"
        raise SourceError(f"{shown}: {what}")
    left_out: Counter[str] = Counter()
    found = sorted(_walk(where, left_out))
    said = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items())[:20]) or "nothing"
    if not found:
        raise NoDataError(f"{shown}: holds none of {', '.join(SUFFIXES)}; left out: {said}")
    if left_out:
        logger.warning("%s: left out: %s", shown, said)
    files = dict(found)
    if len(files) < len(found):
        raise SourceError(f"{shown}: two files differ only in characters that do not print; rename one")
    return {name: path for name, path in files.items() if not is_beside(path)} or files


def is_beside(path: Path) -> bool:
    """Whether a file says something of the data rather than being data."""
    return path.name in METADATA or _BESIDE.match(path.name) is not None


def is_folder(where: Path) -> bool:
    return _is(Path.is_dir, where)


def _is(what: Callable[[Path], bool], where: Path) -> bool:
    """Whether a path names such a thing; one that is too long, or may not be looked at, names nothing."""
    try:
        return what(where)
    except OSError:
        return False


def rows(path: Path, name: str, kind: str | None = None, *, words: int = WORDS) -> Iterator[Row]:
    """The canonical rows of a file, each with its `line`, its `file` and, of several in one record, its `part` from 1.

    The first record decides the format of the file. Raises SourceError naming file, line and field.
    """
    unit = "row" if suffix_of(path.name) == ".parquet" else "line"
    remedy = " (the first line must name the columns)" if suffix_of(path.name).startswith((".csv", ".tsv")) else ""
    yield from canonical_rows(records(path, words=words), name, kind, unit=unit, remedy=remedy)


def canonical_rows(
    numbered: Iterable[tuple[int, Record]], name: str, kind: str | None = None, *, unit: str = "line", remedy: str = ""
) -> Iterator[Row]:
    """As `rows`, from numbered records: `unit` is what the numbers count, `remedy` is for an unknown first format."""
    first: Format | None = None
    keys: tuple[str, ...] | None = None
    for number, record in numbered:
        try:
            if keys != (keys := tuple(record)):
                form = _format(record, kind, first)
                named = not NAMES.isdisjoint(column for _, column in form.passed)
            first = first or form
            made = canonical(record, form)
            if named:
                _check_names(made[0])
        except FormatError as error:
            field = f", field {error.field}" if error.field else ""
            raise SourceError(f"{name}, {unit} {number}{field}: {error.problem}{'' if first else remedy}") from None
        for part, row in enumerate(made, start=1):
            row["line"], row["file"] = number, name
            if len(made) > 1:
                row["part"] = part
            yield row
    if first is None:
        logger.warning("%s: holds no rows", name)


def _format(record: Record, kind: str | None, first: Format | None) -> Format:
    """The record's format, which must be the first record's. Raises FormatError."""
    try:
        form = detect(record, kind)
        if first is None or form.name == first.name:
            return form
        keys, what = form.keys, f"is in the format {form.name}"
    except FormatError:
        if first is None or all(key in record for key in first.keys):
            raise
        keys, what = (), f"has {excerpt(', '.join(record)) or 'no keys'}"
    missing = [key for key in first.keys if key not in record]
    field = (missing or [key for key in keys if key not in first.keys])[0]
    change = f"is {'missing' if missing else 'new'}: the record {what}, the file began as {first.name}"
    raise FormatError(field, f"{change}; keep to one format in a file")


def _check_names(row: Row) -> None:
    for column in NAMES & row.keys():
        name = row[column]
        on_one_line = name.isprintable() or ("".join(name.split()).isprintable() and len(name.splitlines()) == 1)
        if not on_one_line or len(name) > LONGEST_NAME:
            problem = f"is {excerpt(repr(name))}; a name on one line, of at most {LONGEST_NAME} characters, is needed"
            raise FormatError(column, problem)


def _walk(where: Path, left_out: Counter[str]) -> Iterator[tuple[str, Path]]:
    """The readable files below a folder; what else is not hidden is counted by its suffix or its name."""
    for parent, folders, files in os.walk(where, onerror=mining.forbidden):
        shown = [name for name in folders if not name.startswith((".", "__pycache__"))]
        folders[:] = [name for name in shown if not _is_skipped(Path(parent, name))]
        left_out.update(f"folder {printable(name)}" for name in shown if name not in folders)
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            name = printable(path.relative_to(where).as_posix())
            if why := mining.why_not(path, where):
                left_out[f"{why} ({name})"] += 1
            elif suffix_of(name) in SUFFIXES and path.name not in METADATA:
                yield name, path
            else:
                left_out[suffix_of(name) or printable(path.name)] += 1


def _is_skipped(folder: Path) -> bool:
    """As for code; but a folder called test is a side of the data where no tests are in it."""
    is_side = folder.name == "test" and not any(folder.glob("*.py"))
    return folder.is_symlink() or (mining.is_skipped(folder.name) and not is_side)
