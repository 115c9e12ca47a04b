"""The part of the Dataflow service that a launcher uses, on the given port. It runs the jobs.

The graph of a job is fetched from the place where it was staged, and run in this process, without
its containers.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

JOBS: dict[str, dict[str, Any]] = {}
MESSAGES: dict[str, dict[str, Any]] = {}
"""What the service reports about a job that has failed."""

TIME = "2026-11-24T00:00:00Z"


def run(job: dict[str, Any]) -> None:
    try:
        staged = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
        graph = beam_runner_api_pb2.Pipeline.FromString(fsspec.open(staged).open().read())
        for environment in graph.components.environments.values():
            environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()
        job["currentState"] = "JOB_STATE_DONE"
    except Exception:
        error = {
            "time": TIME,
            "messageImportance": "JOB_MESSAGE_ERROR",
            "messageText": traceback.format_exc(),
        }
        MESSAGES[job["id"]] = {"jobMessages": [error]}
        job["currentState"] = "JOB_STATE_FAILED"


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        job |= {"id": f"2026-11-24_00_00_00-{len(JOBS)}", "currentState": "JOB_STATE_RUNNING"}
        JOBS[job["id"]] = job
        threading.Thread(target=run, args=[job], daemon=True).start()
        self.answer(job)

    def do_GET(self) -> None:
        """Answer with a job, with its messages, or with empty metrics."""
        job, _, asked = self.path.partition("?")[0].partition("/jobs/")[2].partition("/")
        self.answer({"": JOBS, "messages": MESSAGES}.get(asked, {}).get(job, {}))

    def answer(self, content: dict[str, Any]) -> None:
        known = {
            name: value
            for name, value in content.items()
            if name not in ("environment", "steps", "type")
        }
        body = json.dumps(known).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
