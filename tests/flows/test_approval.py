"""A person's word before a promotion: yes, no, and nobody there."""

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from flows import approval
from flows.approval import Approval, refusal
from tasks.artifacts import RegisteredModel

pytestmark = pytest.mark.flow

WAITING = RegisteredModel(
    stage="registry", name="asked", key="k", digest="d", path=Path("/nowhere"),
    summary={"version": 3, "reasons": ["score against champion +0.1"]},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect asks for the answer every ten seconds."""
    monkeypatch.setattr(approval, "pause_flow_run", partial(approval.pause_flow_run, poll_interval=1))


@flow
def asks(hours: float) -> str:
    return refusal(WAITING, Approval(required=True, hours=hours))


def answered(answer: dict[str, Any] | None, hours: float = 0.05) -> str:
    """The flow's word after a person gave this answer to the paused run."""
    person = threading.Thread(target=_answer, args=(answer,)) if answer is not None else None
    if person:
        person.start()
    said = asks(hours)
    if person:
        person.join()
    return said


def _answer(answer: dict[str, Any]) -> None:
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            paused = [run for run in client.read_flow_runs() if run.state and run.state.is_paused()]
            if paused:
                client.resume_flow_run(paused[0].id, run_input=answer)
                return
            time.sleep(0.3)
    raise AssertionError("no run paused")


def test_yes_is_no_refusal() -> None:
    assert answered({"promote": True, "why": "read the answers"}) == ""


def test_no_gives_the_reason() -> None:
    assert answered({"promote": False, "why": "it is rude"}) == "a person said no: it is rude"


def test_nobody_there_means_no() -> None:
    assert answered(None, hours=3 / 3600) == "nobody agreed within 0.000833333 hours"
