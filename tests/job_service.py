"""Beam's local job service on the given port, with `--direct_num_workers` workers for each job.

Beam's own `local_job_service_main` gives every job one worker.
"""

from __future__ import annotations

import signal
import sys

from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.local_job_service import BeamJob, LocalJobServicer
from apache_beam.runners.runner import PipelineResult


class _Job(BeamJob):
    def _invoke_runner(self) -> PipelineResult:
        options = self.pipeline_options()
        runner = FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = int(options.view_as(DirectOptions).direct_num_workers)
        return runner.run_via_runner_api(self._pipeline_proto, options)


if __name__ == "__main__":
    service = LocalJobServicer(beam_job_type=_Job)
    service.start_grpc_server(int(sys.argv[1]))
    signal.sigwait([signal.SIGTERM])
    service.stop()
