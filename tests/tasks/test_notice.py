"""A notice reaches a webhook, and a webhook that is down fails nothing."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tasks.notice import Notice, notify


@pytest.fixture
def heard():
    """The address of a server on the loopback, and what it was told."""
    told = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    server.server_close()


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("evergreen"), "propagate", True)
    caplog.set_level("INFO", logger="evergreen.notice")
    return caplog


def test_by_default_it_is_a_line_of_the_log(said):
    assert notify.fn(Notice(), "the champion stays", "because")
    assert "the champion stays\nbecause" in said.text


def test_a_webhook_is_told(heard):
    address, told = heard
    assert notify.fn(Notice(webhook=address), "promoted", "- score +0.1")
    assert told == [{"subject": "promoted", "text": "- score +0.1"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "notice", [Notice(webhook="http://127.0.0.1:9/"), Notice(webhook="no address"), Notice(block="slack-webhook/none")]
)
def test_what_cannot_be_told_is_a_warning_and_no_failure(said, notice, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert not notify.fn(notice, "promoted", "text")
    assert "could not be told" in said.text
    assert "promoted\ntext" in said.text
