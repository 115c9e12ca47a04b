"""Split readers of every family, and the same networks run by transformers under a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from model.checkpoint import LocalFolder
from model.reading.batching import Batch
from model.reading.network import takes_types
from model.reading.reader import CheckpointReader
from model.reading.windows import WindowLimits, Windows, cut_windows
from tests.checkpoints import ARCHITECTURES, MPNET, Architecture

FAMILIES = [
    *(kind for kind in ARCHITECTURES if kind.name in ("bert", "distilbert", "roberta", "electra")),
    MPNET,
]

MOST_QUESTION = 12


def with_settings(folder: Path, **settings: Any) -> Path:
    """Change settings of a checkpoint in its config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["spanmill"] = {**config.get("spanmill", {}), **settings}
    path.write_text(json.dumps(config))
    return folder


def build_split(kind: Architecture, folder: Path, lower: int = 1) -> Path:
    """Write a split reader for questions of up to MOST_QUESTION tokens."""
    kind.build(folder)
    whole = CheckpointReader(LocalFolder(str(folder))).tokenizer()
    position = whole.format.split(MOST_QUESTION).passage_position
    return with_settings(folder, split=lower, passage_position=position)


def cut_all(
    reader: CheckpointReader,
    questions: list[str],
    contexts: list[str],
    max_length: int = 48,
    overlap: int = 8,
) -> Windows:
    """Cut windows of every context with every question, one context after the other."""
    tokenizer = reader.tokenizer()
    passage, question = np.indices((len(contexts), len(questions))).reshape(2, -1)
    return cut_windows(
        tokenizer.format,
        tokenizer.passages(contexts),
        tokenizer.questions(questions),
        passage,
        question,
        WindowLimits(max_length, overlap, MOST_QUESTION, 1000),
    )


def by_transformers(folder: Path, batch: Batch, lower: int) -> torch.Tensor:
    """Return the logits of transformers' own `forward`, [2, B, L].

    Hooks on the lower layers replace their mask by one that keeps question and passage apart, and
    position ids are given, with those of the passage from where the config says.
    """
    network: PreTrainedModel = AutoModelForQuestionAnswering.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    spanmill = json.loads((folder / "config.json").read_text())["spanmill"]
    column = torch.arange(batch.input_ids.shape[1])
    in_passage = column >= batch.context_start[:, None]
    positions = torch.where(
        in_passage, column - batch.context_start[:, None] + spanmill["passage_position"], column
    )
    side = torch.where(batch.attention, in_passage.long(), 2)
    mask = torch.where(side[:, None, :, None] == side[:, None, None, :], 0.0, -1e9)
    base: Any = network.base_model
    layers = (base.transformer if hasattr(base, "transformer") else base.encoder).layer
    for layer in layers[:lower]:
        layer.register_forward_pre_hook(lambda _, given: (given[0], mask, *given[2:]))
    reserved = base.embeddings.position_embeddings.padding_idx
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention.long(),
        "position_ids": positions.clamp(max=500) + (0 if reserved is None else reserved + 1),
        **({"token_type_ids": batch.token_types} if takes_types(network) else {}),
    }
    with torch.inference_mode():
        output = network(**inputs, return_dict=True)
    return torch.stack([output.start_logits, output.end_logits])
