"""The gate: what a model must show on held-out items, and the verdict on it. Pure: reads a report, decides."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import RegistryError

Scores = Mapping[str, float]
Items = Sequence[Mapping[str, Any]]  # {"id": str, "scores": {metric: float}} for each held-out item

METRICS, ITEMS = "metrics.json", "items.jsonl"


class Gate(BaseModel):
    """What a model must show on held-out items before it becomes the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str = Field("aligned", description="The row of the report that is to be registered.")
    reference: str = Field("sft", description="The row that lengths and first gains are measured against.")
    primary: str = Field("score", description="The metric that must be better than the champion's.")
    min_gain: float = Field(0.0, ge=0, description="The interval of the gain over the champion must lie above it.")
    first_gains: tuple[str, ...] = Field(
        ("guideline", "grounded"),
        description="Without a champion: metrics that must be better than the reference's.",
    )
    guards: dict[str, float] = Field({"rougeL": 0.02}, description="Metrics that may fall by less than so much.")
    length_ratio: tuple[float, float] = Field((0.6, 1.4), description="Mean length over the reference's: from, to.")
    min_items: int = Field(200, ge=1, description="Fewer held-out items decide nothing.")
    level: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    draws: int = Field(2000, ge=100, le=100_000, description="Bootstrap resamples.")
    seed: int = Field(0, ge=0, description="Of the resampling.")


class Check(BaseModel):
    """One condition of the gate with what was measured and what it was held against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    low: float | None = Field(description="Interval of a paired gain; none for a count or a ratio of means.")
    high: float | None
    bound: str
    ok: bool

    @property
    def sentence(self) -> str:
        measured = self.low is not None and self.high is not None
        figure = f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]" if measured else f"{self.value:g}"
        return f"{self.name} {figure}, {'' if self.ok else 'not '}{self.bound} as required"


class Verdict(BaseModel):
    """Whether the candidate becomes the champion, and why: the conditions it failed, or else all that it met."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promote: bool
    reasons: list[str]
    checks: list[Check]


def decide(report: Path, champion_items: Items | None, gate: Gate) -> Verdict:
    """Holds a report against the gate. `champion_items` are the champion's scores on the report's own items.

    Raises RegistryError where the report lacks a row or metric that the gate asks for, ValueError where the
    champion was scored on other items.
    """
    items = read_items(report / ITEMS)
    candidate, reference = (_scores(report, items, row) for row in (gate.candidate, gate.reference))
    if champion_items is None:
        against, rival, gains = gate.reference, reference, dict.fromkeys(gate.first_gains, 0.0)
    else:
        against, rival, gains = "champion", _matched(champion_items, items), {gate.primary: gate.min_gain}
    bounds = [*gains.items(), *((metric, -margin) for metric, margin in gate.guards.items())]
    checks = [
        _exactly("held-out items", len(items), f"at least {gate.min_items}", len(items) >= gate.min_items),
        *(_above(candidate, rival, metric, bound, against, gate) for metric, bound in bounds),
        _length(candidate, reference, gate),
    ]
    promote = all(check.ok for check in checks)
    return Verdict(promote=promote, checks=checks, reasons=[c.sentence for c in checks if promote or not c.ok])


def read_items(path: Path) -> list[dict[str, Any]]:
    """The held-out items of a report, sorted by id."""
    with path.open(encoding="utf-8") as file:
        return sorted(map(json.loads, file), key=lambda item: item["id"])


def _scores(report: Path, items: Items, row: str) -> list[Scores]:
    if not items or row not in items[0]["scores"]:
        rows = sorted(items[0]["scores"]) if items else []
        raise RegistryError(f"the evaluation at {report} has no row {row!r}, only {rows}; name one of them in the gate")
    return [item["scores"][row] for item in items]


def _matched(champion: Items, items: Items) -> list[Scores]:
    scores = {item["id"]: item["scores"] for item in champion}
    missing = [item["id"] for item in items if item["id"] not in scores]
    if missing or len(scores) != len(items):
        raise ValueError(
            f"the champion is scored on {len(scores)} items, the candidate on {len(items)}, and "
            f"{len(missing)} of these lack the champion's score: {missing[:3]}"
        )
    return [scores[item["id"]] for item in items]


def _column(scores: Sequence[Scores], metric: str) -> list[float]:
    if metric not in scores[0]:
        raise RegistryError(f"the gate asks for metric {metric!r}, but items are scored by {sorted(scores[0])}")
    return [each[metric] for each in scores]


def _above(
    candidate: Sequence[Scores], rival: Sequence[Scores], metric: str, bound: float, against: str, gate: Gate
) -> Check:
    from models.metrics import paired

    columns = _column(candidate, metric), _column(rival, metric)
    gain = paired(*columns, draws=gate.draws, seed=gate.seed, level=gate.level)
    name, ok = f"{metric} against {against}", gain.low > bound
    return Check(name=name, value=gain.mean, low=gain.low, high=gain.high, bound=f"above {bound:g}", ok=ok)


def _length(candidate: Sequence[Scores], reference: Sequence[Scores], gate: Gate) -> Check:
    low, high = gate.length_ratio
    ratio = sum(_column(candidate, "chars")) / max(1, sum(_column(reference, "chars")))
    bound = f"within {low:g} and {high:g}"
    return _exactly(f"length over {gate.reference}", round(ratio, 3), bound, low <= ratio <= high)


def _exactly(name: str, value: float, bound: str, ok: bool) -> Check:
    return Check(name=name, value=value, low=None, high=None, bound=bound, ok=ok)
