"""What a validation found as a page: HTML that needs no network, and Markdown for Prefect."""

from collections.abc import Mapping
from html import escape
from typing import Any

Reports = Mapping[str, Mapping[str, Any]]


def page(reports: Reports) -> str:
    """All reports as one HTML page."""
    parts = [_HEAD]
    for file, report in reports.items():
        parts.append(f"<h2>{escape(file)}</h2><p>{report['rows']:,} rows, {report['kept']:,} kept.</p><table>")
        parts.append("<tr>" + "".join(f"<th>{name}" for name in _COLUMNS))
        parts += [_table_row(entry) for entry in report["expectations"]]
        parts.append("</table>")
    return "\n".join([*parts, "</html>\n"])


def markdown(reports: Reports) -> str:
    """What was not met, file by file; the rest as a count."""
    lines = ["# Validation of the data"]
    for file, report in reports.items():
        met = sum(entry["success"] for entry in report["expectations"])
        lines += [f"\n## {file}\n", f"{report['rows']:,} rows, {report['kept']:,} kept; "
                  f"{met} of {len(report['expectations'])} expectations met.\n"]  # fmt: skip
        missed = [entry for entry in report["expectations"] if not entry["success"]]
        if missed:
            lines += ["| expectation | severity | broken by | of | example |", "|---|---|---:|---:|---|"]
        lines += [
            f"| {_cell(entry['reason'])} | {entry['severity']} | {entry['failed']:,} | {entry['applicable']:,} "
            f"| {_cell(_example(entry))} |"
            for entry in missed
        ]
    return "\n".join(lines) + "\n"


def _example(entry: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in entry["examples"][0].items()) if entry["examples"] else ""


def _cell(text: str) -> str:
    return escape(" ".join(text.split())[:160], quote=False).replace("|", "\\|").replace("`", "'")


_COLUMNS = ("Rule", "Severity", "Expectation", "Applies to", "Broken by", "Share", "Tolerated", "Observed", "")


def _table_row(entry: Mapping[str, Any]) -> str:
    examples = "<br>".join(escape(str(example)) for example in entry["examples"])
    cells = (
        escape(entry["reason"]),
        entry["severity"],
        f"{entry['name']}<br>{entry['expectation']}({escape(entry['column'])})",
        f"{entry['applicable']:,}",
        f"{entry['failed']:,}",
        f"{entry['share']:.2%}",
        f"{entry['tolerated']:.0%}",
        "" if entry["observed"] is None else f"{entry['observed']:g}",
        f"<details><summary>examples</summary>{examples}</details>" if examples else "",
    )
    state = "ok" if entry["success"] else entry["severity"]
    return f"<tr class={state}>" + "".join(f"<td>{cell}" for cell in cells)


_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Validation of the data</title>
<style>body{font:15px/1.45 system-ui,sans-serif;margin:2rem;max-width:80rem;color:#1c2321;background:#fff}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #d5dbd8;padding:.3rem .6rem;text-align:left;
vertical-align:top}details{max-width:30rem;overflow-wrap:anywhere}
tr.error td{background:#fde8e6}tr.warning td{background:#fff6d9}
@media(prefers-color-scheme:dark){body{color:#e6ebe8;background:#171b19}td,th{border-color:#39413d}
tr.error td{background:#4a211d}tr.warning td{background:#453a14}}</style>
<h1>Validation of the data</h1>"""
