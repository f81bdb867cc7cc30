"""A few words with a Prefect server over HTTP: Prefect itself would cost seconds and 100 MB in a process that waits."""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from tasks.errors import EvergreenError

TRIES = 6


class Api:
    """The REST API below an address such as `http://127.0.0.1:4200/api`."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def get(self, path: str) -> Any:
        """What lies at a path; None where there is nothing."""
        return self._ask("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self._ask("PUT", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self._ask("PATCH", path, body)

    def every(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """All pages of what a filter finds."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.post(path, {**body, "limit": 200, "offset": len(found)})
            found += page
            if len(page) < 200:
                return found

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Raises EvergreenError with the server's answer when it refuses or does not answer.

        Prefect says 503 while others write to its SQLite file; its own clients ask again as well.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, _headers(), method=method)
        try:
            return _opened(request)
        except urllib.error.HTTPError as error:
            if method == "GET" and error.code == 404:
                return None
            said = error.read().decode(errors="replace")[:300]
            raise EvergreenError(f"Prefect at {self.url} refuses {method} {path} ({error.code}): {said}") from error
        except OSError as error:
            raise EvergreenError(f"Prefect at {self.url} does not answer {method} {path}: {error}") from error


def _opened(request: urllib.request.Request) -> Any:
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != 503 or attempt == TRIES - 1:
                raise
            time.sleep(1 + attempt)
    raise AssertionError("unreachable")


def _headers() -> dict[str, str]:
    """With the password of a server that asks for one."""
    headers = {"Content-Type": "application/json"}
    if password := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
    return headers
