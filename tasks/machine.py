"""What of a platform decides whether two runs of the same step give the same bits: processor, libraries, devices."""

import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "numpy", "scipy", "transformers", "accelerate", "peft", "trl", "tokenizers", "safetensors", "datasets",
)  # fmt: skip
# Instruction sets among which numeric libraries choose: another one rounds at other places.
DECISIVE = re.compile(r"(avx|amx|fma|f16c|sse|bf16|sve|asimd|neon|i8mm).*")
# Of a training step: as decisive as the machine.
EXECUTION = (
    "device",
    "threads",
    "bf16",
    "precision",
    "attention",
    "compiled",
    "micro_batch",
    "checkpointing",
    "devices",
)


@cache
def facts() -> dict[str, Any]:
    """The platform of this process: plain JSON, gathered without importing a numeric library."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu("model name") or platform.processor() or "unknown",
        "flags": sorted(filter(DECISIVE.fullmatch, _cpu("flags", "Features").split())),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "libraries": {name: _build(name) for name in LIBRARIES},
    }


def sentence(found: Mapping[str, Any]) -> str:
    """The platform in a line."""
    libraries = found.get("libraries", {})
    parts = (
        f"{found.get('system', 'unknown system')} {found.get('machine', '')}",
        f"{found.get('cpu', 'unknown processor')}, {found.get('cores', '?')} cores",
        *found.get("gpus", []),
        f"Python {found.get('python', '?')}",
        *(f"{name} {libraries[name]}" for name in ("torch", "transformers", "trl") if name in libraries),
    )
    return "; ".join(part.strip() for part in parts)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of a step's execution, as `threads 2 -> 1`; nothing where neither is known.

    A record holds the machine's facts as `machine`, and what EXECUTION names. The number of cores decides nothing.
    """
    old, new = before.get("machine", {}), now.get("machine", {})
    found = [_change(name, before[name], now.get(name)) for name in EXECUTION if name in before]
    if old and new:
        found += [
            _change(name, old.get(name), new.get(name)) for name in ("system", "machine", "cpu", "gpus", "python")
        ]
        found += [_sets(old.get("flags", []), new.get("flags", []))]
        earlier, later = old.get("libraries", {}), new.get("libraries", {})
        found += [_change(name, earlier.get(name), later.get(name)) for name in sorted({*earlier, *later})]
    return [each for each in found if each]


def _change(name: str, old: Any, new: Any) -> str:
    shown = [", ".join(each) or "none" if isinstance(each, list) else str(each) for each in (old, new)]
    return "" if old == new else f"{name} {shown[0]} -> {shown[1]}"


def _sets(old: list[str], new: list[str]) -> str:
    lost, gained = sorted({*old} - {*new}), sorted({*new} - {*old})
    signed = [f"-{each}" for each in lost] + [f"+{each}" for each in gained]
    return f"instruction sets {' '.join(signed)}" if signed else ""


def _build(library: str) -> str:
    """The version with its build tag: 2.13.0+cpu and 2.13.0+cu130 round differently."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"


def _cpu(*fields: str) -> str:
    """The first such field of Linux' description of the processor; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^(?:{'|'.join(fields)})\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _gpus() -> list[str]:
    """NVIDIA devices as their driver names them: torch would take seconds to say it."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        found.append(model[1].strip() if model else "NVIDIA")
    return found
