"""A verdict of the gate: its conditions, what was measured for each, and the reasons in sentences."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Check(BaseModel):
    """One condition of the gate with what was measured and what it was held against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None = Field(description="None where it could not be measured, which meets no condition.")
    low: float | None = Field(None, description="Interval of a difference or a ratio; none for a count.")
    high: float | None = None
    bound: str
    ok: bool
    note: str = Field("", description="What else there is to know: why it could not be measured, what lies behind.")

    @property
    def sentence(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.name} {figure(self.model_dump())}, {'' if self.ok else 'not '}{self.bound} as required{note}"


def figure(check: Mapping[str, Any]) -> str:
    """The value of a check with its interval, where it has one: "x against y" is a difference, "x over y" a ratio."""
    value, low, high = (check.get(name) for name in ("value", "low", "high"))
    if value is None:
        return "was not measured"
    if low is None or high is None:
        return f"{value:,.0f}" if value == int(value) else f"{value:.3f}"
    sign = "" if " over " in check["name"] else "+"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


class Verdict(BaseModel):
    """Whether the candidate becomes the champion, and why: the conditions it failed, or else all that it met."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promote: bool
    reasons: list[str]
    checks: list[Check]
    skipped: list[str] = Field([], description="The conditions that were not asked, each with why.")
