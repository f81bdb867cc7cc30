"""Nested mappings as MLflow takes them: one level deep, with names of its alphabet."""

import json
import re
from collections.abc import Mapping
from typing import Any


def numbers(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numeric leaves of nested mappings, their paths joined by `/`."""
    found: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + _allowed(str(name))] = float(value)
    return found


def texts(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """All leaves of nested mappings as text, their paths joined by `.`."""
    found: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            found |= texts(value, f"{prefix}{name}.")
        else:
            found[prefix + _allowed(str(name))] = value if isinstance(value, str) else json.dumps(value, default=str)
    return found


def _allowed(name: str) -> str:
    """MLflow takes letters, digits and `_-. :/` in names, and nothing that as a path would be another one."""
    parts = re.sub(r"[^\w\-. :/]", "_", name).split("/")
    return "/".join(part.replace("..", "_") for part in parts if part not in ("", ".")) or "_"


def table(summary: Mapping[str, Any]) -> str:
    """The first few numbers of a summary as an indented table, two columns of it, without the ends of intervals.

    Long names do not fit.
    """
    found = numbers({name: value for name, value in summary.items() if name != "execution"})
    fitting = [
        (name.removeprefix("files/"), value) for name, value in found.items() if not name.endswith(("/low", "/high"))
    ]
    cells = [f"{name:<24} {_figure(value):>11}" for name, value in fitting if len(name) <= 24][:8]
    return "".join("\n  " + "   ".join(cells[i : i + 2]) for i in range(0, len(cells), 2))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"
