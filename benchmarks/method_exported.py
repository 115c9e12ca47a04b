"""Serve bare forward passes of the same network in another engine or precision.

Engines are ONNX Runtime (float32, int8), OpenVINO (float32, bfloat16) and Spanmill's own reader in
half precision. Batches are those of the limit (`method_bare.py`). Each engine computes as many
batches at a time as there are threads, as the reader does.

In the first run, Spanmill also decodes answers from the engine's logits and compares them with
those from torch in float32. Figures are the share of equal spans, the number of other spans whose
float32 margin over the second span is above 0.3, and the change of F1.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering

from benchmarks.serve import serve
from model.audit.metrics import grade
from model.backends.lanes import in_lanes
from model.checkpoint import LocalFolder, read_settings
from model.reading.batching import Batch, assemble, plan_batches
from model.reading.decoding import DecodeSpans, Decoding
from model.reading.network import takes_types
from model.reading.posterior import PassageSpans, merge_windows
from model.reading.prediction import predict
from model.reading.reader import CheckpointReader, Reader
from model.reading.tokenizer import Tokenizer
from model.training.data import best_texts, make_examples, read_training_rows

NAMES = ("input_ids", "attention_mask", "token_type_ids")


class ExportedReader:
    """An engine with the interface of a reader."""

    def __init__(self, reader: CheckpointReader, engine: str, precision: str):
        self.reader = reader
        if read_settings(reader.folder).split:
            raise SystemExit(
                f"{reader.folder} is a split reader: engines would run it as a whole one"
            )
        # As transformers loads it: the reader's own variant for the CPU can't be traced.
        network = AutoModelForQuestionAnswering.from_pretrained(
            reader.folder, dtype=torch.float32
        ).eval()
        self.names = NAMES if takes_types(network) else NAMES[:2]
        example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in self.names)
        example[1][1, 8:] = 0  # tracing would remove a mask that is all ones
        if engine == "openvino":
            self.infer = _openvino(network, example, self.names, precision, self.lanes())
        else:
            self.infer = _onnx(network, example, self.names, precision)

    def load(self) -> None:
        """Do nothing: the engine is loaded on construction."""

    def tokenizer(self) -> Tokenizer:
        return self.reader.tokenizer()

    def lanes(self) -> int:
        return self.reader.lanes()

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        tensors = (batch.input_ids, batch.attention.to(torch.int64), batch.token_types)
        named = zip(NAMES, tensors, strict=True)
        inputs = {name: tensor.numpy() for name, tensor in named if name in self.names}
        start, end = (np.array(side, np.float32) for side in self.infer(inputs))
        return torch.from_numpy(start), torch.from_numpy(end)


class _Pair(torch.nn.Module):
    """The network with positional inputs and a tuple of outputs, for tracing."""

    def __init__(self, network: torch.nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.network(**dict(zip(self.names, inputs, strict=True)))
        return output.start_logits, output.end_logits


def _openvino(
    network: torch.nn.Module, example: Any, names: tuple[str, ...], precision: str, lanes: int
) -> Any:
    """Return a function from inputs by name to logits that runs the network in OpenVINO."""
    import openvino

    converted = openvino.convert_model(_Pair(network, names), example_input=example)
    for given, name in zip(converted.inputs, names, strict=True):
        given.get_tensor().set_names({name})
        given.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    converted.validate_nodes_and_infer_types()
    hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[precision]
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": lanes,
        "NUM_STREAMS": lanes,
    }
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(lanes):
        idle.put(compiled.create_infer_request())

    def infer(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        request = idle.get()
        try:
            return [np.array(value) for value in request.infer(inputs).values()]
        finally:
            idle.put(request)

    return infer


def _onnx(network: torch.nn.Module, example: Any, names: tuple[str, ...], precision: str) -> Any:
    """Return a function from inputs by name to logits that runs the network in ONNX Runtime."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        axes = {name: {0: "batch", 1: "length"} for name in (*names, "start", "end")}
        torch.onnx.export(
            _Pair(network, names),
            example,
            str(path),
            input_names=list(names),
            output_names=["start", "end"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        if precision == "int8":
            quantize_dynamic(
                path, Path(folder) / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8
            )
            path = Path(folder) / "int8.onnx"
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path.read_bytes(), settings, providers=["CPUExecutionProvider"]
        )
    return lambda inputs: session.run(["start", "end"], inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", choices=["onnxruntime", "openvino", "torch"], required=True)
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16", "float16", "int8"], default="float32"
    )
    parser.add_argument("--batch_tokens", type=int, default=4096)
    options = parser.parse_args()

    # The reference in float32, the windows, and the engine.
    reader = CheckpointReader(LocalFolder(options.model), dtype="float32")
    reader.load()
    rows = read_training_rows(options.input)
    windows = make_examples(rows, reader.tokenizer(), 384, 128, 64).windows
    if options.engine == "torch":
        exported: Reader = CheckpointReader(LocalFolder(options.model), dtype=options.precision)
        exported.load()
    else:
        exported = ExportedReader(reader, options.engine, options.precision)

    def answers(by: Reader) -> tuple[PassageSpans, float]:
        """Return the two best spans of each row, and the mean F1."""
        observer = DecodeSpans(windows, Decoding(n_best=2))
        predict(by, windows, options.batch_tokens, [observer])
        spans = merge_windows(
            observer.result(), windows.pair, windows.index, len(rows), n_best=2, temperature=1.0
        )
        texts = best_texts(spans, windows, [row["context"] for row in rows])
        golds = [row["answers"]["text"] for row in rows]
        grades = [grade(text, gold)[1] for text, gold in zip(texts, golds, strict=True) if gold]
        return spans, 100 * float(np.mean(grades))

    @cache  # computed once, in the round that warms up
    def compare() -> dict[str, float]:
        """Compare the engine's answers with the reference's."""
        reference, f1_float32 = answers(reader)
        spans, f1_exported = answers(exported)
        equal = (spans.start[:, 0] == reference.start[:, 0]) & (
            spans.end[:, 0] == reference.end[:, 0]
        )
        margin = (reference.span_score[:, 0] - reference.span_score[:, 1])[~equal]
        return {
            "equal_spans_percent": 100 * float(equal.mean()),
            "flips_with_margin": int((margin > 0.3).sum()),
            "f1_change": f1_exported - f1_float32,
        }

    # Timing uses the same batches in the same order for every engine.
    planned = plan_batches(windows.lengths, options.batch_tokens)
    batches = [assemble(windows, chosen) for chosen in planned]

    def run() -> dict[str, float]:
        comparison = compare()
        begun = time.perf_counter()
        in_lanes(torch.inference_mode()(exported.logits), batches[::-1], exported.lanes())
        return {"seconds": time.perf_counter() - begun, **comparison}

    serve(run)


if __name__ == "__main__":
    main()
