"""Every architecture's checkpoint, built once, with a loaded reader."""

from __future__ import annotations

import pytest
import torch

from tests.checkpoints import ARCHITECTURES, Checkpoint

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind.name: Checkpoint(kind, kind.build(folder / kind.name)) for kind in ARCHITECTURES}


@pytest.fixture(params=[kind.name for kind in ARCHITECTURES])
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    return checkpoints[request.param]
