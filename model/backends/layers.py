"""Encoders whose layers can be run one by one, so that the lower ones read texts apart.

DeFormer (Cao et al. 2020, arXiv:2005.00697, section 3): layers 1 to k read the question and the
passage apart, layers k + 1 to n read the pair. What the lower layers make of a passage then does
not depend on the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Values of `model_type` whose embeddings, layers and head this module knows. MiniLM is a BERT."""

_PROJECTIONS = {
    "distilbert": ("attention", ("q_lin", "k_lin", "v_lin")),
    "mpnet": ("attention.attn", ("q", "k", "v")),
}
"""Where a layer has its query, key and value networks; `_BERT_PROJECTIONS` for other families."""

_BERT_PROJECTIONS = ("attention.self", ("query", "key", "value"))


class LayeredNetwork:
    """A question answering network as embeddings, lower layers, upper layers and a head.

    A view: it shares the modules of the network, so that training or replacing them there changes
    them here. B rows, L positions, H hidden units.

    lower, upper  the layers that read texts apart, and those that read the pair

    Raises ValueError for a network of another family, and unless 1 to n - 1 of its n layers are
    lower ones.
    """

    def __init__(self, network: PreTrainedModel, lower_layers: int, takes_types: bool):
        kind = network.config.model_type
        if kind not in FAMILIES:
            raise ValueError(
                f"the layers of a {kind} network can't be run one by one, but those of "
                f"{', '.join(FAMILIES)} can"
            )
        self._network, self._takes_types = network, takes_types
        self._base: Any = network.base_model
        self._encoder = self._base.transformer if kind == "distilbert" else self._base.encoder
        layers = list(self._encoder.layer)
        if not 1 <= lower_layers < len(layers):
            raise ValueError(
                f"the network has {len(layers)} layers, of which 1 to {len(layers) - 1} can be the "
                f"lower ones, not {lower_layers}"
            )
        self.lower, self.upper = layers[:lower_layers], layers[lower_layers:]
        # RoBERTa and its relatives reserve the positions up to the padding index.
        padding = self._base.embeddings.position_embeddings.padding_idx
        self._first_position = 0 if padding is None else padding + 1
        self._projections: list[_Projection] = []

    @property
    def device(self) -> torch.device:
        """Return where the network computes."""
        return self._network.device

    def embed(
        self, ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return the input of the first layer, [B, L, H].

        ids, types, positions  int64 [B, L]; positions count from 0
        """
        inputs = {"input_ids": ids, "position_ids": positions + self._first_position}
        if self._takes_types:
            inputs["token_type_ids"] = types
        hidden: torch.Tensor = self._base.embeddings(**inputs)
        # ELECTRA's small networks have narrower embeddings than layers.
        project = getattr(self._base, "embeddings_project", None)
        return hidden if project is None else project(hidden)

    def run(
        self, layers: Sequence[torch.nn.Module], hidden: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the output of layers, [B, L, H].

        hidden  [B, L, H]
        mask    as `key_mask` or `block_mask` returns it
        """
        # MPNet adds a bias for the distance of two tokens within the row to every layer's scores.
        biased = hasattr(self._encoder, "compute_position_bias")
        bias = (self._encoder.compute_position_bias(hidden),) if biased else ()
        for layer in layers:
            output = layer(hidden, mask, *bias)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden

    def keep_projections(self) -> None:
        """Let the first upper layer take its queries, keys and values from `run_upper`'s input.

        Changes the network in place; it still computes what comes without them.
        """
        place, names = _PROJECTIONS.get(self._network.config.model_type, _BERT_PROJECTIONS)
        attention = self.upper[0].get_submodule(place)
        for name in names:
            self._projections.append(_Projection(getattr(attention, name)))
            setattr(attention, name, self._projections[-1])

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the lower layers' output with its queries, keys and values, [..., 4 H].

        Like that output, they do not depend on the other text.
        """
        return torch.cat([hidden, *(each.linear(hidden) for each in self._projections)], -1)

    def run_upper(self, projected: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the last layer's output, [B, L, H].

        projected  what `project` returned of these tokens, [B, L, 4 H]
        """
        hidden, *ready = projected.chunk(1 + len(self._projections), -1)
        # The layer hands this very tensor on to its `_Projection`s.
        hidden.__dict__["projections"] = dict(zip(self._projections, ready, strict=True))
        return self.run(self.upper, hidden, mask)

    def key_mask(self, hidden: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor | None:
        """Return the mask by which every token attends to the tokens in `attention`, bool [B, L].

        The form is that of the network's attention function. None for a batch without padding.
        """
        from transformers.masking_utils import create_bidirectional_mask

        return create_bidirectional_mask(
            config=self._network.config, inputs_embeds=hidden, attention_mask=attention
        )

    def block_mask(self, hidden: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """Return the mask by which every token attends to those of its own part of the row.

        part  int64 [B, L], number of the part; padding must have one of its own
        """
        same = (part[:, :, None] == part[:, None, :])[:, None]
        if self._network.config._attn_implementation != "eager":
            return same
        lowest = torch.finfo(hidden.dtype).min
        return torch.zeros(same.shape, dtype=hidden.dtype, device=same.device).masked_fill_(
            ~same, lowest
        )

    def logits(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits of the last layer's output, float32 [B, L] each."""
        network: Any = self._network
        if hasattr(network, "dropout"):  # DistilBERT's head
            hidden = network.dropout(hidden)
        start, end = network.qa_outputs(hidden).float().unbind(-1)
        return start.contiguous(), end.contiguous()


class _Projection(torch.nn.Module):
    """A linear layer that is not run on inputs that bring its outputs along, in `projections`."""

    def __init__(self, linear: torch.nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the outputs, [B, L, H]."""
        ready: dict[_Projection, torch.Tensor] = getattr(hidden, "projections", {})
        return ready[self] if self in ready else self.linear(hidden)
