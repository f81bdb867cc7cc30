"""A notification block of the Prefect server is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from tasks.notice import Notice, notify

pytestmark = pytest.mark.flow


def test_a_block_is_told() -> None:
    told: list[Any] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    block = CustomWebhookNotificationBlock(
        name="ops", url=f"http://127.0.0.1:{server.server_port}/", method="POST",
        json_data={"title": "{{subject}}", "text": "{{body}}"},
    )  # fmt: skip
    block.save("ops", overwrite=True)
    try:
        assert notify.fn(Notice(block="custom-webhook/ops"), "version 3 is promoted", "- score +0.1")
    finally:
        server.shutdown()
        server.server_close()
    assert told == [{"title": "version 3 is promoted", "text": "- score +0.1"}]
