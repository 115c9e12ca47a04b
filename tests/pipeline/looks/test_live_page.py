"""The page of a run: what is served to whom, over real connections."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from pipeline.job.options import Refused
from pipeline.looks.live_page import LivePage, serving
from pipeline.looks.snapshot import LatestAnswer, Snapshot
from tests.servers import free_port

RUNNING = Snapshot(
    "/out",
    state="running",
    stage="annotate",
    parts=1,
    rows=4,
    planned_parts=2,
    planned_rows=8,
    receipts=1,
    outcomes={"answered": 4},
    answers=(LatestAnswer("row 1", "", "\ud800 <b>", 0.5),),
)


@pytest.fixture
def page() -> LivePage:
    page = LivePage()
    page.show(RUNNING)
    return page


@pytest.fixture
def url(page: LivePage) -> Iterator[str]:
    with serving(page, 0) as url:
        yield url


def get(url: str, path: str, host: str | None = None) -> http.client.HTTPResponse:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def test_the_files_of_the_page(page: LivePage, url: str):
    for name, kind in (
        ("", "text/html"),
        ("watch.js", "text/javascript"),
        ("watch.css", "text/css"),
    ):
        response = get(url, page.path + name)
        assert (response.status, response.headers.get_content_type()) == (200, kind)
        assert response.read()
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-store"


def test_the_state_is_that_of_the_last_snapshot(page: LivePage, url: str):
    state = json.loads(get(url, f"{page.path}state.json").read())
    assert (state["state"], state["share"], state["stage"]) == ("running", 0.5, "annotate")
    assert state["figures"][0] == ["rows", "4 of 8 (50 %)"]
    assert state["accounting"] == [["answered", 4]]
    assert state["answers"] == [["row 1", "\ud800 <b>", "0.50"]]
    page.show(Snapshot("/out"))
    assert json.loads(get(url, f"{page.path}state.json").read())["state"].startswith("waiting")


def test_it_is_reached_on_the_loopback_address_only(url: str):
    assert urlsplit(url).hostname == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST"])
def test_a_tunnel_may_have_another_port(page: LivePage, url: str, host: str):
    assert get(url, page.path, host).status == 200


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org:80", "[::", "a@b:x", ""])
def test_other_hosts_are_refused(page: LivePage, host: str):
    """A site whose name an attacker's server resolves to this address must read nothing."""
    status, _, content = page.response(host, f"{page.path}state.json")
    assert status == 403
    assert b"/out" not in content


@pytest.mark.parametrize("path", ["/", "/state.json", "/x/state.json", "{}../state.json", "{}x"])
def test_only_who_knows_the_address_reads_the_page(page: LivePage, url: str, path: str):
    response = get(url, path.format(page.path))
    assert response.status == 404
    assert page.path.encode() not in response.read()


def test_addresses_can_not_be_guessed():
    assert len({LivePage().path for _ in range(9)}) == 9


def test_a_port_in_use_is_refused(page: LivePage):
    port = free_port()
    with serving(page, port), pytest.raises(Refused, match=f"--port={port}"), serving(page, port):
        pass
