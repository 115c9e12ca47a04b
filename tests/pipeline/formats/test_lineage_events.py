"""Events of a run, as a receiver gets them from OpenLineage's own client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.lineage_events import _named
from pipeline.publish import main
from tests.runs import read_manifest


class _Server(HTTPServer):
    """A receiver of events, which it keeps."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.events: list[dict[str, Any]] = []


class _Receiver(BaseHTTPRequestHandler):
    """Takes the events of all jobs but "unwanted"."""

    server: _Server

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = event["job"]["name"] == "unwanted"
        if not refused:
            self.server.events.append(event)
        self.send_response(422 if refused else 201)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a receiver of OpenLineage events. Yield its URL and the events it gets."""
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server.events
        server.shutdown()
        thread.join()


def test_openlineage(
    priced: Path,
    receiver: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    url, events = receiver
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "corpora")
    assert main([str(priced), "--to=openlineage", "--name=nightly"]) == 0
    assert main([str(priced), "--to=openlineage", "--name=nightly"]) == 0
    first, again = events[:2], events[2:]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"] * 2
    assert first[0]["eventTime"] <= first[1]["eventTime"]
    assert [event["run"]["runId"] for event in again] == [first[0]["run"]["runId"]] * 2
    assert first[0]["job"]["namespace"] == "corpora"
    assert first[0]["job"]["name"] == "nightly"

    manifest = read_manifest(priced)
    tags = {tag["key"]: tag["value"] for tag in first[1]["run"]["facets"]["tags"]["tags"]}
    assert tags["state"] == "complete"
    assert tags["rows.planned"] == "22"
    assert tags["rows.scored"] == str(manifest["rows"]["scored"])
    [read], [written] = first[1]["inputs"], first[1]["outputs"]
    size = (priced.parent / "in" / "a.parquet").stat().st_size
    assert (read["namespace"], read["name"]) == ("file", str(priced.parent / "in"))
    assert read["inputFacets"]["inputStatistics"]["size"] == size
    assert (written["namespace"], written["name"]) == ("file", f"{priced}/parts")
    statistics = written["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["fileCount"]) == (22, 2)
    columns = {field["name"]: field["type"] for field in written["facets"]["schema"]["fields"]}
    assert columns["nll"] == "double"


def test_openlineage_that_refuses(
    priced: Path,
    receiver: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("OPENLINEAGE_URL", receiver[0])
    assert main([str(priced), "--to=openlineage", "--name=unwanted"]) == 2
    assert "refused: --to=openlineage: " in capsys.readouterr().err
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert main([str(priced), "--to=openlineage", "--name=unwanted"]) == 0
    assert capsys.readouterr().out.startswith("no events: ")
    monkeypatch.delenv("OPENLINEAGE_DISABLED")
    monkeypatch.setenv("OPENLINEAGE_URL", "nonsense")
    assert main([str(priced), "--to=openlineage"]) == 2
    assert "Need valid url" in capsys.readouterr().err
    monkeypatch.delenv("OPENLINEAGE_URL")
    assert main([str(priced), "--to=openlineage"]) == 2
    assert "set OPENLINEAGE_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/data/in #1", ("file", "/data/in #1")),
        ("s3://bucket/a#b?/in", ("s3://bucket", "a#b?/in")),
        ("s3://bucket", ("s3://bucket", "")),
    ],
)
def test_datasets_have_openlineages_names(path: str, names: tuple[str, str]):
    assert _named(path) == names


def test_an_incomplete_run_has_failed(
    priced: Path,
    tmp_path: Path,
    receiver: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    url, events = receiver
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    copy = tmp_path / "out"
    (copy / "parts").mkdir(parents=True)
    for name in ("run.json", "parts/" + min(path.name for path in priced.glob("parts/*"))):
        (copy / name).write_bytes((priced / name).read_bytes())
    assert main([str(copy), "--to=openlineage"]) == 2
    assert "has no manifest.json: the run is not finished" in capsys.readouterr().err
    manifest = read_manifest(priced) | {"state": "incomplete", "why": ["1 chunks failed"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(copy), "--to=openlineage"]) == 0
    assert events[1]["eventType"] == "FAIL"
    assert events[1]["run"]["facets"]["errorMessage"]["message"] == "1 chunks failed"
