"""A network on a GPU that never makes the host wait, so that batch after batch is under way before the first is computed.

docs/performance.md has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "spanmill_cuda"


def run_ahead(network: PreTrainedModel) -> None:
    """Changes a loaded network in place: attention as it was, but nothing of it waits for the GPU or plans anew for it.

    cuDNN's attention, which torch prefers on new GPUs, makes a plan for every shape of a batch in every thread, which takes
    longer than the batch; that setting is the process's.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if network.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION, unseen_mask)
        network.set_attn_implementation(ATTENTION)


def unseen_mask(
    attention_mask: torch.Tensor | None = None, allow_is_bidirectional_skip: bool = False, **of: Any
) -> torch.Tensor | None:
    """transformers' mask for torch's attention. That leaves out one that masks nothing, but to see it must wait for the GPU."""
    from transformers.masking_utils import sdpa_mask

    skip = allow_is_bidirectional_skip and attention_mask is None
    return sdpa_mask(attention_mask=attention_mask, allow_is_bidirectional_skip=skip, **of)
