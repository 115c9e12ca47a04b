"""A page on the loopback address that shows snapshots of a run in a browser.

Other sites that the browser shows must not read it, nor other users of the machine: the address has
a random part, and requests under another host's name (DNS rebinding) are refused. The page loads
nothing from elsewhere and shows texts of the corpus as text.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from pipeline.job.options import Refused
from pipeline.looks.snapshot import Snapshot
from pipeline.looks.snapshot_words import (
    covered,
    describe_state,
    figures,
    outcome_counts,
    share_done,
)

_ADDRESS = "127.0.0.1"
_HOSTS = (_ADDRESS, "localhost")

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def state_json(snapshot: Snapshot) -> bytes:
    """Return what the page shows of a snapshot."""
    state = {
        "folder": snapshot.folder,
        "stage": snapshot.stage,
        "state": describe_state(snapshot),
        "share": share_done(snapshot),
        "figures": list(figures(snapshot)),
        "accounting": list(outcome_counts(snapshot)),
        "covered": covered(snapshot),
        "answers": [
            [each.question or each.id, each.text, f"{each.probability:.2f}"]
            for each in snapshot.answers
        ],
    }
    return json.dumps(state).encode()


class LivePage:
    """The files of the page, with the last snapshot that was shown."""

    def __init__(self) -> None:
        self.path = f"/{secrets.token_urlsafe(12)}/"
        looks = files("pipeline.looks")
        style = files("transforms.report").joinpath("page.css").read_bytes()
        self._content = {
            "": ("text/html", looks.joinpath("watch.html").read_bytes()),
            "watch.js": ("text/javascript", looks.joinpath("watch.js").read_bytes()),
            "watch.css": ("text/css", style + looks.joinpath("watch.css").read_bytes()),
        }

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot in all browsers from now on."""
        self._content["state.json"] = ("application/json", state_json(snapshot))

    def response(self, host: str, path: str) -> tuple[int, str, bytes]:
        """Return status, type and content of the response to a request.

        host  the request's header of that name
        """
        # With DNS rebinding, a browser believes that this server is another site's.
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name not in _HOSTS:
            return 403, "text/plain", b"This page is served under 127.0.0.1 and localhost only."
        content = self._content.get(path.removeprefix(self.path))
        if content is None or not path.startswith(self.path):
            return 404, "text/plain", b"There is no such page: copy the whole address."
        return 200, *content


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server_version, sys_version, timeout = "spanmill", "", 60

    def __init__(self, page: LivePage, *connection: Any):
        self._page = page
        super().__init__(*connection)  # which answers the requests

    def do_GET(self) -> None:
        """Answer a request."""
        status, kind, content = self._page.response(self.headers.get("Host", ""), self.path)
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing: the terminal shows the address of the page."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Print nothing: a browser may end any connection."""


@contextmanager
def serving(page: LivePage, port: int) -> Iterator[str]:
    """Serve a page on threads while the body runs; yield its URL.

    port  0: any free one. Raises Refused if it can't be used
    """
    try:
        server = _Server((_ADDRESS, port), partial(_Handler, page))
    except OSError as error:
        raise Refused(f"--port={port}: {error.strerror or error}") from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{_ADDRESS}:{server.server_port}{page.path}"
        finally:
            server.shutdown()
