"""A person's word before a promotion, asked for in the Prefect UI."""

import logging
from typing import TYPE_CHECKING

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from tasks.artifacts import RegisteredModel

logger = logging.getLogger("evergreen.approval")


class Approval(BaseModel):
    """Whether a person has to agree before the champion changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool = Field(False, description="Pause after the gate's yes until somebody answers in the Prefect UI.")
    hours: float = Field(12.0, gt=0, le=24 * 14, description="After so long without an answer the champion stays.")


class Decision(RunInput):
    """The form that the paused run shows."""

    promote: bool = Field(False, description="Make it the champion.")
    why: str = Field("", description="Stored with the version.")


def refusal(registered: "RegisteredModel", approval: Approval) -> str:
    """Waits for a person; returns why the version is not to be promoted, empty where it is."""
    version = f"{registered.name} version {registered.summary['version']}"
    logger.info("%s waits for a person: resume this run in the Prefect UI within %g hours", version, approval.hours)
    form = Decision.with_initial_data(description=_question(registered))
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=round(3600 * approval.hours))
    except FlowPauseTimeout:
        return f"nobody agreed within {approval.hours:g} hours"
    return "" if answer.promote else f"a person said no: {answer.why or 'no reason given'}"


def _question(registered: "RegisteredModel") -> str:
    reasons = "\n".join(f"- {reason}" for reason in registered.summary["reasons"])
    return f"# Shall {registered.name} version {registered.summary['version']} become the champion?\n\n{reasons}\n"
