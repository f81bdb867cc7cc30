"""The text of a table: comma, semicolon or tab between the cells, or JSON objects, as rows with their lines."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True)
class Table:
    """Rows by column name, and for each the line of the text that it began on (or its number in a JSON list).

    A row with more or fewer cells than the header has its complaint in `broken`, by its place among the rows.
    """

    headers: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    lines: tuple[int, ...]
    broken: Mapping[int, str]
    place: str = "line"


def parse(text: str) -> Table:
    """Raises ValueError for a text that is no table, or one without rows."""
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise ValueError("the table is empty: it needs a line with the names of the columns, and a line for each run")
    if "\x00" in text:
        raise ValueError("the table holds null bytes, so it is no text: save it as CSV (UTF-8)")
    table = _objects(text) if text.lstrip()[0] in "{[" else _delimited(text)
    if not table.rows:
        raise ValueError(
            f"the table has the columns {', '.join(map(repr, table.headers))} and no run below: add a line for each"
        )
    return table


def _delimited(text: str) -> Table:
    mark = _delimiter(text)
    records = list(_records(text, mark))
    (first, names), *records = records
    headers = tuple(name.strip() for name in names)
    _check_headers(headers, first)
    rows, broken = [], {}
    hint = " (numbers with a decimal comma need semicolons between the columns, or quotes)" if mark == "," else ""
    for place, (_, cells) in enumerate(records):
        # spreadsheets end lines with delimiters, so empty cells beyond the header say nothing
        spare = [cell for cell in cells[len(headers) :] if cell.strip()]
        if spare or len(cells) < len(headers):
            broken[place] = f"{len(cells)} cells where the header has {len(headers)}" + hint * bool(spare)
        filled = [*cells, *[""] * len(headers)]
        rows.append({name: cell for name, cell in zip(headers, filled, strict=False) if name})
    return Table(tuple(filter(None, headers)), tuple(rows), tuple(line for line, _ in records), broken)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank with the line it began on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"the table cannot be read as CSV from line {line} on ({error}): is a quote open?") from None


def _delimiter(text: str) -> str:
    """The one that parts the first line into most cells."""
    counts = {mark: len(_first(text, mark)) for mark in DELIMITERS}
    best = max(counts, key=lambda mark: counts[mark])
    if counts[best] < 2:
        header = next(filter(None, map(str.strip, text.splitlines())))
        raise ValueError(
            f"line 1 is one cell, {_short(header)}: part the columns with a comma, a semicolon or a tab"
            + ("; here they seem to be parted by spaces" if re.search(r"\w\s+\w", header) else "")
        )
    return best


def _first(text: str, mark: str) -> list[str]:
    try:
        return next(_records(text, mark), (0, [""]))[1]
    except ValueError:
        return []


def _check_headers(headers: Sequence[str], line: int) -> None:
    named = [name for name in headers if name]
    numbers = [name for name in named if re.fullmatch(r"[+-]?[\d.,_ ]+(e[+-]?\d+)?\s*[kmbt]?", name, re.IGNORECASE)]
    if numbers and 2 * len(numbers) >= len(named):
        raise ValueError(
            f"line {line} holds numbers ({', '.join(map(_short, numbers[:3]))}) where the names of the columns belong: "
            "put a line such as N,D,loss first"
        )
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise ValueError(f"line {line} names two columns {_short(twice[0])}: rename one, or take it out")


def _objects(text: str) -> Table:
    """A list of objects, an object with such a list as `runs`, or an object on each line."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return _json_lines(text)
    found = whole.get("runs", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(found, list):
        raise ValueError(f"`runs` holds {_short(found)}, not a list of objects")
    return _from_objects(list(enumerate(found, 1)), "item")


def _json_lines(text: str) -> Table:
    found = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or too long"
                raise ValueError(f"line {number} is no JSON object ({why}): {_short(line)}") from None
    return _from_objects(found, "line")


def _from_objects(found: Sequence[tuple[int, Any]], place: str) -> Table:
    for number, each in found:
        if not isinstance(each, dict):
            raise ValueError(f"{place} {number} is no JSON object with a run: {_short(each)}")
    headers = dict.fromkeys(name.strip() for _, each in found for name in each)
    rows = [{name.strip(): _cell(value) for name, value in each.items()} for _, each in found]
    filled = tuple({name: row.get(name, "") for name in headers} for row in rows)
    return Table(tuple(headers), filled, tuple(number for number, _ in found), {}, place)


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return ascii(text if len(text) <= 60 else text[:57] + "...")
