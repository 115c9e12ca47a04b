"""A stand-in of the Hugging Face hub: data sets as lists of commits, in memory.

    python -m tests.hub PORT

It has the endpoints that huggingface_hub's file system calls, and wants the token TOKEN.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_token_of_the_tests"


@dataclass
class Commit:
    """The files of a data set after a commit, and the commit that each was changed by last."""

    oid: str
    files: dict[str, bytes] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)


repositories: dict[str, list[Commit]] = {}


class Missing(Exception):
    """What is asked for does not exist; the message is the hub's code."""


class Existing(Exception):
    """What is to be made is there."""


class Moved(Exception):
    """What is asked for is elsewhere; the message is its path."""


def find_commit(repository: str, revision: str) -> Commit:
    if repository not in repositories:
        raise Missing("RepoNotFound")
    commits = repositories[repository]
    if revision == "main":
        return commits[-1]
    found = [each for each in commits if each.oid == revision]
    if not found:
        raise Missing("RevisionNotFound")
    return found[0]


def entry_of(commit: Commit, path: str) -> dict[str, Any]:
    last = {"id": commit.changed.get(path), "title": "", "date": "2026-11-28T00:00:00.000Z"}
    if path not in commit.files:
        return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
    content = commit.files[path]
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "oid": oid, "size": len(content), "lastCommit": last}


def list_tree(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    names = [path.removeprefix(prefix) for path in commit.files if path.startswith(prefix)]
    if not names and folder:
        raise Missing("EntryNotFound")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}
    shown = [name for name in {*names, *folders} if recursive or "/" not in name]
    return [entry_of(commit, prefix + name) for name in sorted(shown)]


def add_commit(repository: str, lines: list[dict[str, Any]]) -> Commit:
    last = repositories[repository][-1]
    commit = Commit("", dict(last.files), dict(last.changed))
    commit.oid = hashlib.sha1(f"{repository} {len(repositories[repository])}".encode()).hexdigest()
    for line in lines:
        if line["key"] == "file":
            path = line["value"]["path"]
            commit.files[path] = base64.b64decode(line["value"]["content"])
            commit.changed[path] = commit.oid
        elif line["key"] == "deletedFile":
            del commit.files[line["value"]["path"]]
    repositories[repository].append(commit)
    return commit


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Missing("RepoNotFound")  # as the hub says for private ones
            content = self.respond(url.path, parse_qs(url.query), body)
        except Missing as code:
            self.send(404, json.dumps({"error": str(code)}).encode(), {"X-Error-Code": str(code)})
            return
        except Existing as name:
            there = f"http://{self.headers['Host']}/datasets/{name}"
            self.send(409, json.dumps({"error": "exists", "url": there}).encode(), {})
            return
        except Moved as location:
            self.send(302, b"", {"Location": str(location)})
            return
        if isinstance(content, bytes):
            self.send_range(content)
        else:
            self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def respond(self, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        if path == "/api/validate-yaml":  # of a data set's card
            return {"errors": [], "warnings": []}
        if path == "/api/repos/delete":
            wanted = json.loads(body)
            if repositories.pop(f"{wanted['organization']}/{wanted['name']}", None) is None:
                raise Missing("RepoNotFound")
            return b""
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in repositories:
                raise Existing(name)
            repositories[name] = [Commit(hashlib.sha1(name.encode()).hexdigest())]
            return {"url": f"http://{self.headers['Host']}/datasets/{name}"}
        resolved = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if resolved:
            repository, revision, name = map(unquote, resolved.groups())
            files = find_commit(repository, revision).files
            if name not in files:
                raise Missing("EntryNotFound")
            if name.endswith(".parquet"):  # the hub keeps such files elsewhere
                raise Moved(f"/stored/{repository}/{hashlib.sha1(files[name]).hexdigest()}")
            return files[name]
        stored = re.fullmatch(r"/stored/([^/]+/[^/]+)/([0-9a-f]{40})", path)
        if stored:
            versions = [file for each in repositories[stored[1]] for file in each.files.values()]
            return next(file for file in versions if hashlib.sha1(file).hexdigest() == stored[2])
        parts = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/([^/]+)/([^/]+)(?:/(.+))?)?", path)
        if parts is None:
            raise Missing("EntryNotFound")
        repository, verb = parts[1], parts[2] or "revision"
        commit = find_commit(repository, unquote(parts[3] or "main"))
        if verb == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            return list_tree(commit, unquote(parts[4] or ""), recursive)
        if verb == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            below = tuple(f"{path}/" for path in commit.files)
            there = [each for each in wanted if any(path.startswith(f"{each}/") for path in below)]
            return [entry_of(commit, each) for each in there]
        if verb == "preupload":
            files = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": each["path"], **regular} for each in files]}
        if verb == "commit":
            made = add_commit(repository, list(map(json.loads, body.splitlines())))
            url = f"http://{self.headers['Host']}/datasets/{repository}/commit/{made.oid}"
            return {"commitUrl": url, "commitOid": made.oid}
        return {"id": repository, "sha": commit.oid, "siblings": [], "tags": [], "private": True}

    def send_range(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self.send(200, content, {})
            return
        begin, end = int(asked[1]), min(int(asked[2]), len(content) - 1)
        self.send(
            206,
            content[begin : end + 1],
            {"Content-Range": f"bytes {begin}-{end}/{len(content)}"},
        )

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving_hub() -> Iterator[str]:
    """Run the hub as a process while the body runs. Yields its address."""
    from tests.servers import free_port, listens, serving

    port = free_port()
    command = [sys.executable, "-m", "tests.hub", str(port)]
    with serving(command, lambda: listens(port)):
        yield f"http://127.0.0.1:{port}"


def set_endpoint(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what HF_ENDPOINT sets, which is read when huggingface_hub is imported."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub).serve_forever()
