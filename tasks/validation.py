"""Runs the suites with Great Expectations: which rows break which rule, what is quarantined, when a run must stop.

A broken row error quarantines the row under the rule's reason, up to the share that is tolerated; a broken table
error, or a larger share, stops the run; a warning is only reported. Files are judged in blocks, so that they need not
fit in memory: counts add up, and copies are told across blocks.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.errors import DataValidationError
from tasks.facts import Facts
from tasks.rows import Row, blocks
from tasks.suites import DEFAULT, MEAN, NOT_NULL, PARTS, ROWS, Bounds, Rule, suite

SHOWN = 5
NO_HASHES = np.zeros(0, np.uint64)
COMPLETE = {"result_format": "COMPLETE", "return_unexpected_index_query": False, "exclude_unexpected_values": True}


@dataclass
class Tally:
    """What one rule has found so far."""

    applicable: int = 0
    failed: int = 0
    total: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list)


class Judge:
    """Holds a kind of file against its suite, block by block."""

    def __init__(self, kind: str, bounds: Bounds = DEFAULT, held_out: np.ndarray = NO_HASHES):
        """`held_out`: content hashes of rows on held-out sides, which no row for training may have."""
        self.kind, self.rules = kind, suite(kind, bounds)
        self.facts = Facts(kind, bounds, held_out)
        self.tallies = [Tally() for _ in self.rules]
        self.reasons: Counter[str] = Counter()
        self.rows = 0
        self.validator = _Validator(kind, self.rules)

    def look(self, rows: Sequence[Row]) -> dict[int, str]:
        """Judges a block; the first reason of each broken row by its place in the block.

        Raises DataValidationError when an expectation cannot be evaluated at all.
        """
        broken: dict[int, str] = {}
        for rule, tally, result in zip(
            self.rules, self.tallies, self.validator.results(self.facts.of(rows)), strict=True
        ):
            failed = result.get("unexpected_index_list") or []
            applicable = int(result.get("element_count", 0)) - int(result.get("missing_count", 0))
            if rule.expectation == NOT_NULL:
                applicable = len(rows)
            tally.applicable += applicable
            tally.failed += int(result.get("unexpected_count", 0))
            tally.total += float(result.get("observed_value") or 0.0) * applicable
            tally.examples += [_shown(self.kind, rows[i]) for i in failed[: SHOWN - len(tally.examples)]]
            if rule.severity == "error" and rule.scope == "row":
                for index in failed:
                    broken.setdefault(index, rule.reason)
        self.rows += len(rows)
        self.reasons.update(broken.values())
        return broken

    def report(self) -> dict[str, Any]:
        """JSON-able: `success`, counts, and every expectation with what it found."""
        entries = [_entry(rule, tally, self.rows) for rule, tally in zip(self.rules, self.tallies, strict=True)]
        return {
            "success": all(entry["success"] for entry in entries if entry["severity"] == "error"),
            "rows": self.rows,
            "kept": self.rows - self.reasons.total(),
            "quarantined": dict(self.reasons.most_common()),
            "expectations": entries,
        }


def check(kind: str, rows: Iterable[Row], bounds: Bounds = DEFAULT) -> tuple[dict[str, Any], dict[int, str]]:
    """The report on all rows, and the first reason of each broken one by its number."""
    judge = Judge(kind, bounds)
    broken: dict[int, str] = {}
    for block in blocks(rows):
        before = judge.rows
        broken |= {before + index: reason for index, reason in judge.look(block).items()}
    return judge.report(), broken


def refuse(file: str, report: Mapping[str, Any], *, on_failure: str) -> None:
    """Raises DataValidationError for a broken table rule, a share above the tolerated and, with `stop`, any row."""
    fatal = [entry for entry in report["expectations"] if _is_fatal(entry, on_failure)]
    if not fatal:
        return
    lines = [f"{file}: {len(fatal)} expectation(s) failed on {report['rows']} rows"]
    for entry in fatal:
        lines.append(
            f"  {entry['name']}: {entry['reason']} ({entry['expectation']} on {entry['column'] or 'the table'}): "
            f"{entry['failed']} of {entry['applicable']} rows, {entry['share']:.1%}, tolerated {entry['tolerated']:.1%}"
        )
        lines += [f"    {located(example)}" for example in entry["examples"]]
    other = "set data.on_failure=quarantine" if on_failure == "stop" else "raise data.tolerated"
    stopped = f"; or {other} to leave single rows out" if any(entry["scope"] == "row" for entry in fatal) else ""
    raise DataValidationError("\n".join([*lines, f"Mend or remove these rows in the source{stopped}."]))


def _is_fatal(entry: Mapping[str, Any], on_failure: str) -> bool:
    if entry["severity"] == "warning" or entry["success"]:
        return False
    return entry["scope"] == "table" or on_failure == "stop" or entry["share"] > entry["tolerated"]


class _Validator:
    """One Great Expectations context for all blocks of a kind."""

    def __init__(self, kind: str, rules: Sequence[Rule]):
        import great_expectations as gx

        logging.getLogger("great_expectations.data_context.types.base").setLevel(
            logging.WARNING
        )  # it announces every temporary folder
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset(kind)
        self.kind, self.rules = kind, rules
        self.batch = asset.add_batch_definition_whole_dataframe("all")

    def results(self, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What GX measured for each rule, in order; nothing where a rule applies to no row."""
        import great_expectations as gx

        frame = _frame(columns)
        needed = [i for i, rule in enumerate(self.rules) if _applies(rule, frame)]
        wanted = gx.ExpectationSuite(name=self.kind, expectations=[expectation(self.rules[i], i) for i in needed])
        found: list[dict[str, Any]] = [{} for _ in self.rules]
        batch = self.batch.get_batch({"dataframe": frame})
        for result in batch.validate(wanted, result_format=COMPLETE).results:
            index = result.expectation_config.meta["rule"]
            self._raise_if_errored(self.rules[index], result.exception_info)
            found[index] = dict(result.result)
            if self.rules[index].expectation == MEAN:  # GX counts nothing for an aggregate
                found[index]["element_count"] = int(frame[self.rules[index].column].notna().sum())
        return found

    def _raise_if_errored(self, rule: Rule, info: Mapping[str, Any]) -> None:
        """GX reports an expectation that crashed as one that failed; only `exception_info` tells them apart."""
        for found in (info, *(value for value in info.values() if isinstance(value, Mapping))):
            if found.get("raised_exception"):
                raise DataValidationError(
                    f"{self.kind}: the expectation {rule.expectation} on {rule.column!r} ({rule.reason}) could not be "
                    f"evaluated: {found.get('exception_message')}. The rows were not judged; check the column's type."
                )


def _frame(columns: Mapping[str, Any]) -> Any:
    import pandas as pd
    import pyarrow as pa

    def native(values: Any) -> Any:
        """GX works on arrays of bool, int64 and float64 as a whole, and calls Python for each value of other types."""
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        if pa.types.is_boolean(values.type) and values.null_count:
            return values.cast(pa.float64()).to_pandas()
        return (values.cast(pa.int64()) if pa.types.is_integer(values.type) else values).to_pandas()

    return pd.DataFrame({name: native(values) for name, values in columns.items()})


def _applies(rule: Rule, frame: Any) -> bool:
    if not rule.column or rule.expectation == NOT_NULL:
        return True
    return rule.column in frame and bool(frame[rule.column].notna().any())


def expectation(rule: Rule, index: int) -> Any:
    """A rule as Great Expectations has it; `index` tells its result from the others."""
    import great_expectations.expectations as gxe

    severity = "warning" if rule.severity == "warning" else "critical"
    column = {"column": rule.column} if rule.column else {}
    return getattr(gxe, rule.expectation)(**column, **rule.arguments, severity=severity, meta={"rule": index})


def _entry(rule: Rule, tally: Tally, rows: int) -> dict[str, Any]:
    applicable = rows if rule.expectation == ROWS else tally.applicable
    observed = tally.total / applicable if rule.expectation == MEAN and applicable else None
    share = tally.failed / applicable if applicable else 0.0
    return {
        "name": rule.name,
        "reason": rule.reason,
        "expectation": rule.expectation,
        "column": rule.column,
        "arguments": dict(rule.arguments),
        "severity": rule.severity,
        "scope": rule.scope,
        "success": _holds(rule, rows, observed, share),
        "applicable": applicable,
        "failed": tally.failed,
        "share": round(share, 6),
        "tolerated": rule.tolerated if rule.scope == "row" else 0.0,
        "observed": None if observed is None else round(observed, 6),
        "examples": tally.examples,
    }


def _holds(rule: Rule, rows: int, observed: float | None, share: float) -> bool:
    """Whether all blocks together meet the expectation; a warning about rows holds up to the share it tolerates."""
    if rule.expectation == ROWS:
        return rows >= rule.arguments["min_value"]
    if rule.expectation == MEAN:
        low, high = rule.arguments.get("min_value", -np.inf), rule.arguments.get("max_value", np.inf)
        return observed is None or bool(low <= observed <= high)
    return share <= (rule.tolerated if rule.severity == "warning" else 0.0)


def _shown(kind: str, row: Row) -> dict[str, Any]:
    """Where a row is and how its parts begin."""
    place: dict[str, Any] = {name: row[name] for name in ("file", "line", "id") if name in row}
    parts = {part: None if row[part] is None else str(row[part])[:160] for part in PARTS[kind]}
    return {**place, **parts, **({"ratings": row["ratings"]} if "ratings" in row else {})}


def located(example: Mapping[str, Any]) -> str:
    """An example in one line, its place first."""
    where = f"{example['file']}, line {example['line']}: " if "line" in example else f"{example.get('id', '')}: "
    return where + "; ".join(
        f"{name} {value!r}" for name, value in example.items() if name not in ("file", "line", "id")
    )
