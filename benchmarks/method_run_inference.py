"""Serve runs of Beam's RunInference with a torch handler.

The pipeline includes tokenization, decoding and the writing of Parquet, as Spanmill's does.
Decoding uses the usual shortlist of 20 starts and 20 ends.

Without --max_batch_size it is as Beam's documentation shows it: all windows are padded to
`max_length`, because the handler stacks tensors, and BatchElements has its defaults. With it,
windows are batched by length (`batch_length_fn`, new in Beam 2.77) and padded to the longest of
their batch. That needs three things:

* `max_batch_duration_secs`: without it, `batch_length_fn` is ignored;
* a length of keyed elements: in a KeyedModelHandler the function gets (key, example);
* an `inference_fn` that pads.

`max_batch_weight`, a limit on the tokens of a batch, can't be used: the handler passes it to
BatchElements, which has no such parameter.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
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

    def __init__(self, folder: str, dtype: str):
        super().__init__()
        self.network = AutoModelForQuestionAnswering.from_config(
            AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype)
        )

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        output = self.network(**inputs)
        return torch.stack([output.start_logits, output.end_logits], -1).float()


def padded_inference(
    batch: Sequence[dict[str, torch.Tensor]], model: torch.nn.Module, device: str, *_: Any
) -> Iterator[PredictionResult]:
    """Pad the windows of a batch to its longest, and yield the logits without padding."""
    inputs = {
        name: torch.nn.utils.rnn.pad_sequence([each[name] for each in batch], batch_first=True)
        for name in batch[0]
    }
    with torch.inference_mode():
        logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).cpu()
    for example, found in zip(batch, logits, strict=True):
        yield PredictionResult(example, found[: len(example["input_ids"])])


def bucketed(max_batch_size: int) -> dict[str, Any]:
    """Return the handler's options that batch windows by length, in steps of 32 tokens."""
    return {
        "inference_fn": padded_inference,
        "max_batch_size": max_batch_size,
        "max_batch_duration_secs": 60,
        "batch_length_fn": lambda keyed: len(keyed[1]["input_ids"]),
        "batch_bucket_boundaries": list(range(32, 384, 32)),
    }


class Tokenize(beam.DoFn):
    """Cut rows into windows, keyed by the row's id.

    padded  whether to pad all windows to `max_length`
    """

    def __init__(self, folder: str, padded: bool):
        self.folder = folder
        self.padded = padded

    def setup(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def process(self, row: dict[str, Any]) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        windows = self.tokenizer(
            row["question"],
            row["context"],
            truncation="only_second",
            max_length=384,
            stride=128,
            padding="max_length" if self.padded else False,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        offsets = windows.pop("offset_mapping")
        windows.pop("overflow_to_sample_mapping")
        for k in range(len(offsets)):
            inside = torch.tensor([part == 1 for part in windows.sequence_ids(k)])
            key = (row["id"], row["context"], offsets[k], inside.numpy())
            yield key, {name: torch.tensor(values[k]) for name, values in windows.items()}


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


def save_state(model: str, path: str) -> None:
    """Write the state dict that the handler loads into a `Network`."""
    network = Network(model, "float32")
    network.network.load_state_dict(
        AutoModelForQuestionAnswering.from_pretrained(model, dtype=torch.float32).state_dict()
    )
    torch.save(network.state_dict(), path)


def answer(path: str, model: str, folder: str, dtype: str, batching: dict[str, Any]) -> None:
    """Answer the rows of a file, from Parquet to Parquet in a folder that has `state.pt`.

    batching  `bucketed`, or {} for windows of one length in batches of Beam's choice
    """
    schema = pa.schema([("id", pa.string()), ("answer", pa.string()), ("score", pa.float32())])
    handler = KeyedModelHandler(
        PytorchModelHandlerKeyedTensor(
            state_dict_path=f"{folder}/state.pt",
            model_class=Network,
            model_params={"folder": model, "dtype": dtype},
            **batching,
        )
    )
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromParquet(path, columns=["id", "question", "context"])
            | beam.ParDo(Tokenize(model, padded=not batching))
            | RunInference(handler)
            | beam.Map(decode)
            | beam.CombinePerKey(max)
            | beam.MapTuple(lambda row, best: {"id": row, "answer": best[1], "score": best[0]})
            | beam.io.WriteToParquet(f"{folder}/answers", schema)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--max_batch_size", type=int, default=0, help="batch windows by length, at most this many"
    )
    options = parser.parse_args()
    batching = bucketed(options.max_batch_size) if options.max_batch_size else {}

    with tempfile.TemporaryDirectory() as folder:
        save_state(options.model, f"{folder}/state.pt")

        def run() -> dict[str, float]:
            answer(options.input, options.model, folder, options.dtype, batching)
            return {}

        serve(run)


if __name__ == "__main__":
    main()
