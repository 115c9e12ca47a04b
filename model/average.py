"""The mean of the weights of several checkpoints: `python -m model.average --checkpoints A,B --output DIR`.

Trainings that began from the same weights can be averaged into one network that answers better than each of them and costs
no more ("model soups", Wortsman et al. 2022, arXiv:2203.05482, section 2: the uniform soup). All but the weights (tokenizer,
config.json) is the first checkpoint's. Temperature and null threshold must be fitted again: `python -m model.calibrate`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import LocalFolder, refuse_unsafe

WEIGHTS = "model.safetensors"


def average(checkpoints: list[Path], output: Path) -> None:
    """Writes a checkpoint with the mean of the weights, computed in float32 and stored in the first one's precision.

    Raises ValueError where the checkpoints are not of one architecture, CheckpointError for a folder that is none.
    """
    total: dict[str, torch.Tensor] = {}
    for folder in checkpoints:
        refuse_unsafe(LocalFolder(str(folder)).folder())
        weights = load_file(folder / WEIGHTS)
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if total and shapes != {name: tensor.shape for name, tensor in total.items()}:
            raise ValueError(f"--checkpoints: {folder} has other weights than {checkpoints[0]}: their mean means nothing")
        for name, tensor in weights.items():
            total[name] = total.get(name, 0) + tensor.float() / len(checkpoints)
    precision = {name: tensor.dtype for name, tensor in load_file(checkpoints[0] / WEIGHTS).items()}
    output.mkdir(parents=True, exist_ok=True)
    for path in [*checkpoints[0].glob("*.json"), *checkpoints[0].glob("*.txt"), *checkpoints[0].glob("*.model")]:
        shutil.copy(path, output)
    stored = {name: tensor.to(precision[name]).contiguous() for name, tensor in total.items()}
    save_file(stored, output / WEIGHTS, metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.average", description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoints", required=True, help="comma-separated folders, of one architecture")
    parser.add_argument("--output", required=True, help="folder of the mean")
    options = parser.parse_args(arguments)
    average([Path(folder) for folder in options.checkpoints.split(",")], Path(options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
