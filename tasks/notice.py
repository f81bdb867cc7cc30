"""Tells people what a run decided: the log always, a Prefect notification block or a webhook where one is named."""

import json
import logging
import urllib.request

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

logger = logging.getLogger("evergreen.notice")
PATIENCE = 10.0  # seconds


class Notice(BaseModel):
    """Who is told. Telling never fails a run: what could not be sent is a warning in the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: str = Field(
        "", description="A notification block of the Prefect server, as slack-webhook/ops or custom-webhook/ops."
    )
    webhook: str = Field(
        "", description="An address that takes a POST of JSON with `subject` and `text`. For secrets use a block."
    )


@task(task_run_name="tell: {subject}", cache_policy=NO_CACHE)
def notify(notice: Notice, subject: str, text: str) -> bool:
    """Says it in the log and to whom the recipe names; whether all of them took it."""
    logger.info("%s\n%s", subject, text)
    senders = [(notice.block, _to_block), (notice.webhook, _to_webhook)]
    taken = [_sent(send, to, subject, text) for to, send in senders if to]
    return all(taken)


def _sent(send: "object", to: str, subject: str, text: str) -> bool:
    assert callable(send)
    try:
        send(to, subject, text)
    except Exception as error:  # a run that did its work must not fail because a chat server is down
        logger.warning("%s could not be told (%s: %s): %s", to, type(error).__name__, str(error)[:200], subject)
        return False
    return True


def _to_block(reference: str, subject: str, text: str) -> None:
    from prefect.blocks.core import Block

    block = Block.load(reference)
    if not hasattr(block, "notify"):
        raise TypeError(f"{type(block).__name__} is no notification block")
    block.notify(body=text, subject=subject)


def _to_webhook(address: str, subject: str, text: str) -> None:
    body = json.dumps({"subject": subject, "text": text}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
    urllib.request.urlopen(request, timeout=PATIENCE).close()
