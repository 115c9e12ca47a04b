"""Serve runs of Beam's RunInference as its documentation shows it, with a torch handler.

The pipeline includes tokenization, decoding and the writing of Parquet, as Spanmill's does. All
windows of a row are padded to `max_length`, because the handler stacks tensors. Decoding uses the
usual shortlist of 20 starts and 20 ends. BatchElements has its defaults.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import torch
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerKeyedTensor
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from benchmarks.serve import serve


class Network(torch.nn.Module):
    """A network that the handler can build from parameters and load a state dict into."""

    def __init__(self, folder: str):
        super().__init__()
        self.network = AutoModelForQuestionAnswering.from_config(
            AutoConfig.from_pretrained(folder), dtype=torch.float32
        )

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        output = self.network(**inputs)
        return torch.stack([output.start_logits, output.end_logits], -1)


class Tokenize(beam.DoFn):
    """Cut rows into windows, keyed by the row's id."""

    def __init__(self, folder: str):
        self.folder = folder

    def setup(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def process(self, row: dict[str, Any]) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        windows = self.tokenizer(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=384,
            stride=128,
            padding="max_length",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = windows.pop("offset_mapping")
        windows.pop("overflow_to_sample_mapping")
        for k in range(len(offsets)):
            inside = torch.tensor([part == 1 for part in windows.sequence_ids(k)])
            key = (row["id"], row["context"], offsets[k].numpy(), inside.numpy())
            yield key, {name: tensor[k] for name, tensor in windows.items()}


def decode(element: tuple[Any, PredictionResult]) -> tuple[str, tuple[float, str]]:
    """Return the row's id and the best span of one window, (score, text)."""
    (row, context, offsets, inside), result = element
    logits = np.where(inside[:, None], result.inference.numpy(), -np.inf)
    starts, ends = (np.argsort(-logits[:, side])[:20] for side in (0, 1))
    score, start, end = max(
        ((logits[s, 0] + logits[e, 1], s, e) for s in starts for e in ends if s <= e < s + 30),
        default=(-np.inf, 0, 0),
    )
    return row, (float(score), context[offsets[start][0] : offsets[end][1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    schema = pa.schema([("id", pa.string()), ("answer", pa.string()), ("score", pa.float32())])

    with tempfile.TemporaryDirectory() as folder:
        network = Network(options.model)
        network.network.load_state_dict(
            AutoModelForQuestionAnswering.from_pretrained(
                options.model, dtype=torch.float32
            ).state_dict()
        )
        torch.save(network.state_dict(), f"{folder}/state.pt")

        def run() -> dict[str, float]:
            handler = KeyedModelHandler(
                PytorchModelHandlerKeyedTensor(
                    state_dict_path=f"{folder}/state.pt",
                    model_class=Network,
                    model_params={"folder": options.model},
                )
            )
            with beam.Pipeline("FnApiRunner") as pipeline:
                _ = (
                    pipeline
                    | beam.io.ReadFromParquet(options.input, columns=["id", "question", "context"])
                    | beam.ParDo(Tokenize(options.model))
                    | RunInference(handler)
                    | beam.Map(decode)
                    | beam.CombinePerKey(max)
                    | beam.MapTuple(
                        lambda row, best: {"id": row, "answer": best[1], "score": best[0]}
                    )
                    | beam.io.WriteToParquet(f"{folder}/answers", schema)
                )
            return {}

        serve(run)


if __name__ == "__main__":
    main()
