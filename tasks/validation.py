"""Runs the suites with Great Expectations: which rows go to quarantine and why, and when the run must stop.

A broken row rule quarantines the row under the rule's reason, up to the share of rows that is tolerated; a broken
table rule, or a larger share, stops the run; a warning is only reported.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tasks.errors import DataValidationError
from tasks.suites import DEFAULT, Bounds, Row, Rule, facts, suite

SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """What a suite found: the report, and for each broken row its index and first reason."""

    report: dict[str, Any]
    broken: dict[int, str]


def check(kind: str, rows: Sequence[Row], bounds: Bounds = DEFAULT) -> Verdict:
    """Runs the suite. Raises DataValidationError when an expectation cannot be evaluated at all."""
    rules = suite(kind, bounds)
    results = _evaluate(kind, facts(kind, rows), rules)
    broken: dict[int, str] = {}
    entries = []
    for rule, result in zip(rules, results, strict=True):
        failed = result.get("unexpected_index_list") or []
        if rule.level == "row":
            for index in failed:
                broken.setdefault(index, rule.reason)
        entries.append(_entry(rule, result, [rows[index] for index in failed[:SHOWN]]))
    counts = Counter(broken.values())
    report = {
        "rows": len(rows),
        "kept": len(rows) - len(broken),
        "quarantined": dict(counts.most_common()),
        "expectations": entries,
    }
    return Verdict(report, broken)


def refuse(file: str, report: Mapping[str, Any], *, on_failure: str) -> None:
    """Raises DataValidationError for a broken table rule, a share above the tolerated and, with `stop`, any row."""
    fatal = [entry for entry in report["expectations"] if _is_fatal(entry, on_failure)]
    if not fatal:
        return
    lines = [f"{file}: {len(fatal)} expectation(s) failed on {report['rows']} rows"]
    for entry in fatal:
        lines.append(
            f"  {entry['reason']} ({entry['expectation']} on {entry['column'] or 'the table'}): {entry['failed']} of "
            f"{entry['applicable']} rows, {entry['share']:.1%}, tolerated {entry['tolerated']:.1%}"
        )
        lines += [f"    {example}" for example in entry["examples"]]
    stopped = "; or set data.on_failure=quarantine to leave single rows out" if on_failure == "stop" else ""
    raise DataValidationError("\n".join([*lines, f"Mend or remove these rows in the source{stopped}."]))


def _is_fatal(entry: Mapping[str, Any], on_failure: str) -> bool:
    if entry["level"] == "warning" or entry["success"]:
        return False
    return entry["level"] == "table" or on_failure == "stop" or entry["share"] > entry["tolerated"]


def _evaluate(kind: str, columns: Mapping[str, list[Any]], rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The result of each rule, in order; `success` beside what GX measured."""
    import great_expectations as gx
    import pandas as pd

    logging.getLogger("great_expectations.data_context.types.base").setLevel(
        logging.WARNING
    )  # it announces every temporary folder
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset(kind)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.DataFrame(columns)})
    needed = [rule for rule in rules if not rule.column or any(value is not None for value in columns[rule.column])]
    wanted = gx.ExpectationSuite(name=kind, expectations=[_expectation(rule, rules.index(rule)) for rule in needed])
    found: list[dict[str, Any]] = [{"success": True, "element_count": 0} for _ in rules]
    for result in batch.validate(wanted, result_format={"result_format": "COMPLETE"}).results:
        index = result.expectation_config.meta["rule"]
        _raise_if_errored(kind, rules[index], result.exception_info)
        found[index] = {"success": bool(result.success), **result.result}
    return found


def _expectation(rule: Rule, index: int) -> Any:
    import great_expectations.expectations as gxe

    severity = "warning" if rule.level == "warning" else "critical"
    column = {"column": rule.column} if rule.column else {}
    return getattr(gxe, rule.expectation)(**column, **rule.arguments, severity=severity, meta={"rule": index})


def _raise_if_errored(kind: str, rule: Rule, info: Mapping[str, Any]) -> None:
    """GX reports an expectation that crashed as one that failed; only `exception_info` tells them apart."""
    for found in (info, *(value for value in info.values() if isinstance(value, Mapping))):
        if found.get("raised_exception"):
            raise DataValidationError(
                f"{kind}: the expectation {rule.expectation} on {rule.column!r} ({rule.reason}) could not be "
                f"evaluated: {found.get('exception_message')}. The rows were not judged; check the column's type."
            )


def _entry(rule: Rule, result: Mapping[str, Any], examples: Sequence[Row]) -> dict[str, Any]:
    applicable = int(result.get("element_count", 0)) - int(result.get("missing_count", 0))
    failed = int(result.get("unexpected_count", 0))
    observed = result.get("observed_value")
    return {
        "reason": rule.reason,
        "expectation": rule.expectation,
        "column": rule.column,
        "arguments": dict(rule.arguments),
        "level": rule.level,
        "success": result["success"],
        "applicable": applicable,
        "failed": failed,
        "share": round(failed / applicable, 6) if applicable else 0.0,
        "tolerated": rule.tolerated if rule.level == "row" else 0.0,
        "observed": None if observed is None else round(float(observed), 6),
        "examples": [_shown(row) for row in examples],
    }


def _shown(row: Row) -> dict[str, str]:
    wanted = ("id", "prompt", "response", "text", "ratings")
    return {name: str(row[name])[:160] for name in wanted if name in row}


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """All reports as one HTML page that needs no network."""
    parts = [_HEAD]
    for file, report in reports.items():
        parts.append(f"<h2>{escape(file)}</h2><p>{report['rows']} rows, {report['kept']} kept.</p><table>")
        parts.append("".join(f"<th>{name}" for name in _COLUMNS))
        parts += [_table_row(entry) for entry in report["expectations"]]
        parts.append("</table>")
    return "\n".join([*parts, "</html>\n"])


_COLUMNS = ("Rule", "Level", "Expectation", "Applies to", "Broken by", "Share", "Tolerated", "Observed", "")


def _table_row(entry: Mapping[str, Any]) -> str:
    examples = "<br>".join(escape(str(example)) for example in entry["examples"])
    cells = (
        escape(entry["reason"]),
        entry["level"],
        f"{entry['expectation']}({escape(entry['column'])})",
        entry["applicable"],
        entry["failed"],
        f"{entry['share']:.2%}",
        f"{entry['tolerated']:.0%}",
        "" if entry["observed"] is None else f"{entry['observed']:g}",
        f"<details><summary>examples</summary>{examples}</details>" if examples else "",
    )
    state = "ok" if entry["success"] else entry["level"]
    return f"<tr class={state}>" + "".join(f"<td>{cell}" for cell in cells)


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Validation of the data</title>
<style>body{font:15px/1.45 system-ui,sans-serif;margin:2rem;max-width:80rem;color:#1c2321;background:#fff}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #d5dbd8;padding:.3rem .6rem;text-align:left;
vertical-align:top}
tr.row td:nth-child(5){color:#8a5a00}tr.table td{background:#fde8e6}tr.warning td{background:#fff6d9}
@media(prefers-color-scheme:dark){body{color:#e6ebe8;background:#171b19}td,th{border-color:#39413d}
tr.table td{background:#4a211d}tr.warning td{background:#453a14}tr.row td:nth-child(5){color:#e6b34d}}</style>
<h1>Validation of the data</h1>"""
