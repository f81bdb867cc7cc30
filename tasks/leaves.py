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
