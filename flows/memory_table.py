"""How a plan of memory, FLOPs, time and disk reads in a terminal."""

from collections.abc import Mapping
from typing import Any

from models.units import shown

Rows = list[tuple[str, str]]
HEAD = 13
METHODS = {
    "closed form": "a formula; --exact takes a step on tensors without content, which is closer",
    "fake step": "a step on tensors without content, every storage counted",
}


def rows(found: Mapping[str, Any]) -> Rows:
    counted = found["parameters"]
    trained = "" if found["serve"] else f", {shown(counted['trained'])} of them trained"
    lines = [
        _row("model", f"{found['family']}, {shown(counted['total'])} parameters{trained}"),
        _row("serving" if found["serve"] else "step", _step(found)),
        _row("found by", METHODS[found["method"]] if not found["serve"] else "a formula"),
        ("", ""),
        _row("peak memory", f"{size(found['peak_bytes'])} on each device"),
        *(_row("", f"{part:<14}{size(value):>10}") for part, value in found["parts"].items() if value),
        ("", ""),
        _row("FLOPs", f"{_flops(found)}"),
        _row("time", _time(found["time"])),
        _row("disk", ", ".join(f"{part} {size(value)}" for part, value in found["disk_bytes"].items())),
    ]
    return lines + ([_row("fits", _fits(found["fits"], found["serve"]))] if found["fits"] else [])


def size(value: float) -> str:
    """Bytes for people, in powers of ten: 1.42 GB."""
    for scale, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:,.2f} {name}" if value < 1000 * scale else f"{value / scale:,.0f} {name}"
    return f"{value:.0f} B"


def _step(found: Mapping[str, Any]) -> str:
    step = found["step"]
    if found["serve"]:
        return f"{step['batch']:,} x {step['sequence']:,} tokens, {step['precision']}"
    words = [f"{step['batch']:,} x {step['sequence']:,} tokens", step["precision"], step["optimizer"]]
    beside = " with embeddings" if step["embeddings"] else ""
    words += [f"LoRA of rank {step['lora']}{beside}"] if step["lora"] else []
    words += [word for word in ("checkpointing", "accumulated") if step[word]]
    if step["devices"] > 1:
        words.append(f"{step['devices']:,} devices, " + ("no sharding" if step["sharding"] == "none"
                                                         else f"sharded by {step['sharding']}"))  # fmt: skip
    return ", ".join(words)


def _flops(found: Mapping[str, Any]) -> str:
    flops = found["flops"]
    step = f", {flops['per_step']:.3g} a step" if "per_step" in flops else " generated"
    return f"{flops['per_token']:.3g} a token{step}"


def _time(time: Mapping[str, float] | None) -> str:
    if time is None:
        return "give --peak and --utilisation"
    if "tokens_per_second_at_most" in time:
        return f"{shown(time['tokens_per_second_at_most'])} tokens a second at most: memory may be slower"
    whole = f", {_duration(time['training_seconds'])} in all" if "training_seconds" in time else ""
    return f"{_duration(time['step_seconds'])} a step, {shown(time['tokens_per_second'])} tokens a second{whole}"


def _duration(seconds: float) -> str:
    for scale, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.1f} {name}"
    return f"{seconds:.3g} s"


def _fits(fits: Mapping[str, Any], serve: bool) -> str:
    what = "conversations at once" if serve else "the largest micro-batch"
    if not fits["batch"]:
        return f"nothing within {size(fits['bytes'])}: a batch of 1 takes {size(fits['peak_bytes'])}"
    checked = "" if fits["checked"] or serve else ", by the formula alone"
    return f"{what} within {size(fits['bytes'])}: {fits['batch']:,}, which takes {size(fits['peak_bytes'])}{checked}"


def _row(word: str, text: str) -> tuple[str, str]:
    return f"{word:<{HEAD}}", text
