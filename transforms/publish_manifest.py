"""PublishManifest: the pending manifest of an audit becomes `manifest.json`, once all else is written."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from transforms.claim import Output
from transforms.storage import exists, join, read
from transforms.write_manifest import MANIFEST, PENDING


def publish_manifest(output: Output) -> None:
    """Nothing is pending when a runner repeats the step, and nothing happens. Raises ClaimLost."""
    pending = join(output.folder, PENDING)
    if exists(pending):
        output.publish(read(pending), MANIFEST)
        output.remove(PENDING)


@dataclass
class PublishManifest(beam.PTransform):
    """Whatever was waited for, once -> `manifest.json`."""

    output: Output

    def expand(self, waited: beam.PCollection) -> beam.PCollection:
        return waited | beam.Map(lambda _, output: publish_manifest(output), self.output)
