"""A table of training runs as columns of numbers in one set of units, or a message that says what is wrong with it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.run_checks import check_count, check_loss, odd, some
from models.run_columns import MEANINGS, Column, chosen, missing, no_loss, recognised, run_column
from models.run_table import Table
from models.units import factor, has_unit, number, squash, surely_decimal

SUMMARIES = {"total", "totals", "grandtotal", "sum", "average", "avg", "mean", "median", "std", "stdev", "min", "max"}
COUNTS = ("N", "D", "C", "U")
HIGHEST = 1e40
LEAST_MADE = 1e3  # parameters or tokens, worked out from FLOPs


@dataclass(frozen=True)
class Runs:
    """Runs as float64 columns of one length: `L` in nats per token, counts as counts, `C` in FLOPs, `P*` in bits.

    `run` names each, `lines` says where it was; `convention` how N is counted, `notes` what was assumed, `warnings`
    what looks odd, `dropped` which rows were left out and why.
    """

    L: np.ndarray
    N: np.ndarray | None = None
    D: np.ndarray | None = None
    C: np.ndarray | None = None
    U: np.ndarray | None = None
    Pw: np.ndarray | None = None
    Pa: np.ndarray | None = None
    Pkv: np.ndarray | None = None
    run: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()
    convention: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    dropped: tuple[str, ...] = field(default=())
    place: str = "line"

    def __len__(self) -> int:
        return len(self.L)

    @property
    def names(self) -> tuple[str, ...]:
        """Where each run stands in its table, with its name if it has one: line 7 (small)."""
        called = (f" ({_printable(name)})" if name else "" for name in self.run or [""] * len(self.lines))
        return tuple(f"{self.place} {line}{name}" for line, name in zip(self.lines, called, strict=True))

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that there are, by symbol."""
        symbols = ("L", "N", "D", "C", "U", "Pw", "Pa", "Pkv")
        return {symbol: column for symbol in symbols if (column := vars(self)[symbol]) is not None}


@dataclass(frozen=True)
class Reading:
    """How to read a table: what is needed of it, and what the user said about its columns, by symbol or `run`."""

    needed: tuple[str, ...] = ("N", "D")
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    count: str = ""
    drop_invalid: bool = False


def read(table: Table, how: Reading | None = None) -> Runs:
    """The runs of a table. What `needed` asks and no column has is made from others: C = 6 N D, U = D / epochs.

    Raises ValueError for what is missing, ambiguous, no number, negative, doubled or in another unit than its name
    says, with the lines, the values and the remedy.
    """
    how = how or Reading()
    for symbol in how.units:
        if symbol not in MEANINGS:
            raise ValueError(
                f"--unit {symbol}={how.units[symbol]}: there is no symbol {symbol!r}, only {', '.join(MEANINGS)}"
            )
    words = {symbol: name for symbol, name in how.columns.items() if symbol != "run"}
    picked, assumed = chosen(table.headers, ("L", *how.needed), words, how.count)
    _require(picked, how, table.headers)
    notes = list(assumed)
    factors = {symbol: _factor(symbol, column, how, notes) for symbol, column in picked.items()}
    strict = _strict(picked, how)
    values, problems = _numbers(table, picked, factors, strict, notes)
    names = run_column(table.headers, how.columns.get("run", ""))
    for place, why in _summaries(table, values, names).items():
        problems.setdefault(place, []).append(why)
    kept, dropped = _sound(table, problems, drop=how.drop_invalid)
    values = {symbol: column[kept] for symbol, column in values.items()}
    lines = tuple(table.lines[place] for place in kept)
    check_loss(values["L"], picked["L"].header)
    for symbol in COUNTS:
        if symbol in values and _bare(symbol, picked[symbol], table, how):
            check_count(symbol, values, picked[symbol].header)
    warnings = odd(values, lines, table.place)
    _derive(values, notes)
    values.pop("epochs", None)
    return Runs(
        **values,
        run=tuple(table.rows[place][names].strip() for place in kept) if names else (),
        lines=lines,
        convention=_convention(picked.get("N")),
        notes=tuple(notes),
        warnings=tuple(warnings),
        dropped=dropped,
        place=table.place,
    )


def _printable(name: str) -> str:
    short = name if len(name) <= 40 else name[:37] + "..."
    return short if short.isprintable() else ascii(short)


def _require(picked: Mapping[str, Column], how: Reading, headers: Sequence[str]) -> None:
    if "L" not in picked:
        raise ValueError(missing("L", headers))
    if (refused := no_loss(picked["L"].header)) and "L" not in how.units:
        raise ValueError(refused)
    trio = [symbol for symbol in "NDC" if symbol in picked]
    for symbol in how.needed:
        derivable = symbol in ("N", "D", "C") and len(trio) >= 2
        derivable |= symbol == "U" and "epochs" in picked and ("D" in picked or len(trio) >= 2)
        if symbol not in picked and not derivable:
            raise ValueError(missing(symbol, headers))


def _strict(picked: Mapping[str, Column], how: Reading) -> set[str]:
    """The columns that must be right: what is asked for, and what the rest of that is made from."""
    needed = {"L", *how.needed, *how.columns}
    if "U" in needed and "U" not in picked:
        needed |= {"D", "epochs"}
    if any(symbol in needed and symbol not in picked for symbol in ("N", "D", "C")):
        needed |= {"N", "D", "C"}
    return needed & picked.keys()


def _factor(symbol: str, column: Column, how: Reading, notes: list[str]) -> float:
    """What one of a column's numbers is worth, by --unit or by its name."""
    unit = how.units.get(symbol, column.unit)
    worth = factor(symbol, unit)
    if worth != 1:
        named = "as --unit says" if symbol in how.units else "as the name of its column says"
        notes.append(f"{symbol} was converted from {unit!r}, {named} ({column.header!r}): times {worth:.6g}")
    return worth


def _numbers(
    table: Table, picked: Mapping[str, Column], factors: Mapping[str, float], strict: set[str], notes: list[str]
) -> tuple[dict[str, np.ndarray], dict[int, list[str]]]:
    """The columns with NaN where a cell is wrong, and what is wrong by row. A spare column with wrong cells is left."""
    problems = {place: [why] for place, why in table.broken.items()}
    values = {}
    comma = _decimal_comma(table, picked)
    if comma:
        notes.append("numbers have decimal commas, as in 2,35")
    for symbol, column in picked.items():
        cells = [row[column.header] for row in table.rows]
        numbers, wrong = _column(cells, symbol, factors[symbol], decimal_comma=comma and _with_comma(cells))
        if wrong and symbol not in strict:
            notes.append(f"the column {column.header!r} ({symbol}) was left out: {len(wrong)} cells cannot be used")
            continue
        for place, why in wrong.items():
            problems.setdefault(place, []).append(f"{column.header!r} {why}")
        values[symbol] = numbers
    return values, problems


def _summaries(table: Table, values: Mapping[str, np.ndarray], names: str) -> dict[int, str]:
    """Rows that sum up others, as spreadsheets end with, by their place: by what they are called, or by arithmetic."""
    found: dict[int, str] = {}
    for header in {names, table.headers[0]} - {""}:
        words = [squash(row[header]) for row in table.rows]
        once = Counter(words)
        found |= {
            place: f"{header!r} is {table.rows[place][header].strip()!a}, which sums up runs and is none"
            for place, word in enumerate(words)
            if word in SUMMARIES and once[word] == 1
        }
    columns = [values[symbol] for symbol in ("L", "N", "D") if symbol in values]
    last = len(table.rows) - 1
    for how, name in ((np.sum, "sum"), (np.mean, "mean")):
        if last > 2 and all(len(set(column)) > 2 and math.isclose(column[-1], how(column[:-1]), rel_tol=2e-4)
                            for column in columns):  # fmt: skip
            found.setdefault(last, f"is the {name} of the rows above in every column, and no run")
    return found


def _column(
    cells: Sequence[str], symbol: str, unit: float, *, decimal_comma: bool
) -> tuple[np.ndarray, dict[int, str]]:
    """A column's numbers, NaN where a cell is wrong, and what is wrong there."""
    found = [_value(cell, symbol, unit, decimal_comma=decimal_comma) for cell in cells]
    numbers = np.array([value for value, _ in found], np.float64)
    wrong = {place: why for place, (_, why) in enumerate(found) if why}
    if symbol in COUNTS and (numbers >= 1).any():  # where all are less than one, their unit is wrong, not the cells
        small = np.flatnonzero(numbers < 1)
        wrong |= {place: f"is {cells[place].strip()[:40]!a}, which is less than 1" for place in small.tolist()}
    return numbers, wrong


def _value(cell: str, symbol: str, unit: float, *, decimal_comma: bool) -> tuple[float, str]:
    """A cell's number, or NaN and what is wrong with the cell."""
    if not cell.strip():
        return math.nan, "is empty"
    written = ascii(cell.strip()[:40])
    try:
        value = number(cell, symbol, unit=unit, decimal_comma=decimal_comma)
    except ValueError:
        return math.nan, f"is {written}, which is no number" + (" with a decimal comma" if decimal_comma else "")
    if not math.isfinite(value):
        return math.nan, f"is {written}, which is not finite"
    if value <= 0:
        return math.nan, f"is {written}, which is not above 0"
    if not 1e-12 < value < HIGHEST:
        return math.nan, f"is {written}, which no run can have"
    return value, ""


def _decimal_comma(table: Table, picked: Mapping[str, Column]) -> bool:
    return any(surely_decimal(row[column.header]) for row in table.rows for column in picked.values())


def _with_comma(cells: Sequence[str]) -> bool:
    """Whether a column of a table with decimal commas has them as well: not if it only has decimal points."""
    return any(map(surely_decimal, cells)) or not any(surely_decimal(cell, ".") for cell in cells)


def _sound(table: Table, problems: dict[int, list[str]], *, drop: bool) -> tuple[list[int], tuple[str, ...]]:
    """The places of the rows to take, and what was dropped. Raises ValueError for wrong rows that are not to be."""
    seen: dict[tuple[str, ...], int] = {}
    for place, row in enumerate(table.rows):
        first = seen.setdefault(tuple(cell.strip() for cell in row.values()), place)
        if first != place and place not in problems:
            problems[place] = [f"repeats {table.place} {table.lines[first]} in every column"]
    said = [f"{table.place} {table.lines[place]}: {'; '.join(problems[place])}" for place in sorted(problems)]
    if said and not drop:
        raise ValueError(
            f"{len(said)} of {len(table.rows)} runs cannot be used. {some(said)}. "
            "Correct them, or leave them out with --drop-invalid" + _about_repeats(problems)
        )
    kept = [place for place in range(len(table.rows)) if place not in problems]
    if not kept:
        raise ValueError(f"none of {len(said)} runs can be used. {some(said)}")
    return kept, tuple(said)


def _about_repeats(problems: Mapping[int, Sequence[str]]) -> str:
    repeats = any(why.startswith("repeats") for each in problems.values() for why in each)
    return "; runs that differ in their seed alone need a column that says so" if repeats else ""


def _bare(symbol: str, column: Column, table: Table, how: Reading) -> bool:
    """Whether nobody gave a unit: no option, no name, no cell."""
    return not (symbol in how.units or column.unit or any(has_unit(row[column.header]) for row in table.rows))


def _derive(values: dict[str, np.ndarray], notes: list[str]) -> None:
    """Whichever of N, D and C is missing by C = 6 N D (Kaplan et al. 2020), and U = D / epochs."""
    parts: dict[str, tuple[str, str, str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
        "C": ("N", "D", "6 N D", lambda n, d: 6 * n * d),
        "D": ("C", "N", "C / (6 N)", lambda c, n: c / (6 * n)),
        "N": ("C", "D", "C / (6 D)", lambda c, d: c / (6 * d)),
    }
    for symbol, (first, second, formula, made) in parts.items():
        if symbol not in values and first in values and second in values:
            values[symbol] = made(values[first], values[second])
            if values[symbol].max() < LEAST_MADE:
                raise ValueError(
                    f"{formula} gives at most {values[symbol].max():.3g} {MEANINGS[symbol]}: one of the two columns is "
                    f"in another unit; give it, as in --unit {first}=PF-days or --unit {second}=M"
                )
            notes.append(f"{symbol} = {formula}: no column holds the {MEANINGS[symbol]}")
            break
    if "U" not in values and "epochs" in values and "D" in values:
        values["U"] = values["D"] / np.maximum(values["epochs"], 1)
        notes.append("U = D / epochs, where there was more than one: no column holds the unique tokens")


def _convention(column: Column | None) -> str:
    if column is None:
        return "N does not come from the table"
    own = recognised(column.header)
    if own and own.symbol == "N without embeddings":
        return f"N leaves out the embeddings (column {column.header!r})"
    said = "N counts every parameter" if "total" in column.header.lower() else "N as the table counts it"
    return f"{said} (column {column.header!r})"
