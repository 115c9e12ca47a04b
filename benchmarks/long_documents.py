"""Compare ways to answer from long documents: EM and F1 of each, from the same logits.

    python -m benchmarks.long_documents --input eval_long_covid_qa.parquet [--every_nth 1]

passage posterior   Spanmill: the best span of all windows by its score, with one normaliser for the
                    passage; with the checkpoint's window prior, which is the default, and without
softmax per window  the best span of all windows by the product of its window's two softmaxes, as
                    question-answering pipelines rank spans
first window        the best span of the first window, as after truncation

Each line ends with F1 of the rows whose first gold has at most 15 words, and of the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from model.audit.metrics import grade
from model.audit.objective import log_normaliser
from model.checkpoint import LocalFolder, read_settings
from model.reading.batching import assemble, plan_batches
from model.reading.reader import CheckpointReader
from model.reading.spans import ValidSpans, decode_windows
from model.reading.window_prior import match_windows
from model.training.data import make_examples, read_training_rows

SHORT = 15
"""Words of the longest gold that counts as short."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--model", default="model/bundled")
    parser.add_argument("--every_nth", type=int, default=1)
    options = parser.parse_args()
    reader = CheckpointReader(LocalFolder(options.model))
    reader.load()
    rows = [
        row
        for row in read_training_rows(options.input)[:: options.every_nth]
        if row["answers"]["text"]
    ]
    windows = make_examples(
        rows, reader.tokenizer(), max_length=384, overlap=128, max_question=64
    ).windows

    # The best span of each window, its score, and the log-product of its two softmaxes.
    spans = np.zeros((2, len(windows)), np.int64)
    score, softmax = np.zeros(len(windows)), np.zeros(len(windows))
    for chosen in plan_batches(windows.lengths, 4096):
        batch = assemble(windows, chosen)
        with torch.inference_mode():
            start_logits, end_logits = reader.logits(batch)
            everything = torch.full((len(chosen),), 2**40)
            start, end, a, b, _ = decode_windows(
                start_logits, end_logits,
                ValidSpans(batch.can_start, batch.can_end, -everything, everything, 30),
                n_best=1, temperature=1.0,
            )  # fmt: skip
            mass = log_normaliser(start_logits, batch.in_context) + log_normaliser(
                end_logits, batch.in_context
            )
        shift = batch.passage_start - batch.context_start
        spans[:, chosen] = np.stack([(side.squeeze(1) + shift).numpy() for side in (start, end)])
        score[chosen] = (a + b).squeeze(1).numpy()
        softmax[chosen] = score[chosen] - mass.numpy()

    own = read_settings(Path(options.model))
    prior = own.window_prior * match_windows(windows)

    golds = [row["answers"]["text"] for row in rows]
    is_short = np.array([len(gold[0].split()) <= SHORT for gold in golds])

    # The best window of each row in each way.
    ways = {
        "passage posterior with the prior": score / own.temperature + prior,
        "passage posterior": score,
        "softmax per window": softmax,
        "first window": np.where(windows.index == 0, score, -np.inf),
    }
    for name, rank in ways.items():
        best = np.lexsort((-rank, windows.pair))
        best = best[np.unique(windows.pair[best], return_index=True)[1]]
        base = windows.passages.bounds[windows.pair_passage]
        begin = windows.passages.char_start[base + spans[0, best]]
        stop = windows.passages.char_end[base + spans[1, best]]
        texts = [row["context"][low:high] for row, low, high in zip(rows, begin, stop, strict=True)]
        scores = np.array([grade(text, gold) for text, gold in zip(texts, golds, strict=True)])
        em, mean = 100 * scores.mean(0)
        lengths = "; ".join(
            f"{kind} golds F1 {100 * scores[of_kind, 1].mean():.2f} ({of_kind.sum()} rows)"
            for kind, of_kind in (("short", is_short), ("long", ~is_short))
            if of_kind.any()
        )
        print(
            f"{name}: EM {em:.2f}, F1 {mean:.2f} ({len(rows)} rows, {len(windows)} windows); "
            f"{lengths}"
        )


if __name__ == "__main__":
    main()
