"""What the commands print for people: tables of at most 80 columns, their last column wrapped below itself."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 80


def plan(planned: Mapping[str, Any]) -> str:
    steps = planned["steps"]
    width = min(30, max((len(step["name"]) for step in steps), default=0))
    lines = [planned["deployment"]]
    for step in steps:
        mark = "reused" if step["reused"] else "runs"
        lines.append(row(f"  {step['name']:<{width}} {step['key'][:8]:<8} {mark:<6} ", step["why"]))
    forecast = [row(f"  {name:<{width}} ", text) for name, text in _flat(planned["forecast"])]
    return "\n".join([*lines, *(["forecast", *forecast] if forecast else [])])


def findings(found: Mapping[str, Any]) -> str:
    missed = [entry for entry in found["expectations"] if not entry["success"]]
    met = len(found["expectations"]) - len(missed)
    lines = [f"{found['rows']:,} rows, {found['kept']:,} sound; {met} of {len(found['expectations'])} expectations met"]
    for entry in missed:
        share = f"{entry['failed']:,} of {entry['applicable']:,} rows ({entry['share']:.1%})"
        observed = "" if entry["observed"] is None else f"is {entry['observed']:.3f}"
        lines.append(row(f"{entry['severity']:<8} {entry['name']:<26} ", f"{entry['reason']}: {observed or share}"))
        lines += [row("         ", _example(example)) for example in entry["examples"]]
    return "\n".join(lines)


def _example(example: Mapping[str, Any]) -> str:
    """Where a broken row is, and how it begins."""
    place = f"{example['file']} line {example['line']}" if "line" in example else str(example.get("id", ""))
    parts = {name: value for name, value in example.items() if name not in ("file", "line", "id")}
    return f"{place}: " + "; ".join(
        f"{name} {value if value is None else ascii(value[:60])}" for name, value in parts.items()
    )


def models(listed: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for model in listed:
        aliases = "".join(f" @{alias}" for alias in model["aliases"])
        size = "" if model["parameters"] is None else f"  {model['parameters']:,} parameters"
        lines.append(row(f"{model['name']}/{model['version']}{aliases}  ", f"{model['verdict']}{size}"))
        figures = "  ".join(f"{name} {value:.4g}" for name, value in model["metrics"].items())
        lines.append(row("    ", figures or "no metrics"))
    return "\n".join(lines)


def forecasts(found: Mapping[str, Any]) -> str:
    listed, overall = found["forecasts"], found["summary"]
    if not listed:
        return "no forecast is registered yet: `evergreen run` makes one before it pre-trains"
    lines = []
    for each in listed:
        family = "" if each["family"] == "llama" else f"{each['family']} "
        lines.append(f"{each['made'][:16].replace('T', ' ')} UTC  {each['for']} {each['step'][:8]}")
        lines.append(row("    ", f"{family}size {each['size']}, N {each['N']:,}, D {each['D']:,}: {_foreseen(each)}"))
    if not overall["scored"]:
        return "\n".join([*lines, "none of them is scored yet"])
    told = (
        f"{overall['scored']} scored: {overall['inside']:.0%} inside the interval, mean absolute error "
        f"{overall['mean_absolute_relative_error']:.1%}, mean error {overall['mean_error']:+.3f} nats"
    )
    return "\n".join([*lines, row("", told)])


def _foreseen(each: Mapping[str, Any]) -> str:
    predicted = f"predicted {each['loss']:.3f} [{each['low']:.3f}, {each['high']:.3f}]"
    if each["actual"] is None:
        return f"{predicted}, " + ("started, not scored yet" if each["started"] else "not run yet")
    inside = "inside" if each["inside"] else "OUTSIDE"
    late = "" if each["before"] else "; made after the run had started, so not counted"
    return (
        f"{predicted}, actual {each['actual']:.3f}, error {each['error']:+.3f} ({each['relative_error']:+.1%}), "
        f"{inside}{late}"
    )


def champion(model: Mapping[str, Any]) -> str:
    lines = [f"{model['name']}/{model['version']} is the champion"]
    return "\n".join([*lines, *(row("  - ", reason) for reason in model["reasons"])])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text) lines."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, _figure(name, value)))
    return found


def _figure(name: str, value: Any) -> str:
    """A value as a person reads it; the last word of its name is its unit."""
    if value is None:
        return "not known yet"
    if isinstance(value, list | tuple):
        return ", ".join(_figure(name, each) for each in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name.endswith("bytes"):
        return f"{value / 1e6:,.1f} MB" if value < 1e9 else f"{value / 1e9:,.1f} GB"
    if name.endswith("seconds"):
        return f"{value / 60:,.1f} min" if value >= 60 else f"{value:.0f} s"
    return f"{value:,}" if isinstance(value, int) and value < 1e9 else f"{value:,.4g}"


def rows(pairs: Sequence[tuple[str, str]]) -> str:
    """Lines from heads and the texts that wrap beside them."""
    return "\n".join(row(head, text) for head, text in pairs)


def row(head: str, text: str) -> str:
    """A line of a table, its last column wrapped below itself where there is room for that."""
    indent = " " * min(len(head), WIDTH // 2)
    return textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False) or head
