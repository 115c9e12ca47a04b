"""Keep the host from waiting for the GPU, so that it queues many batches ahead.

benchmarks/LOG.md has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "spanmill_cuda"


def run_ahead(network: PreTrainedModel) -> None:
    """Change a loaded network in place so that its attention never waits for the GPU.

    Networks with another attention than torch's "sdpa" are left unchanged. Switches cuDNN's
    attention off for the process: torch prefers it on new GPUs, but it makes a plan for every batch
    shape in every thread, which takes longer than the batch.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if network.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        AttentionInterface.register(ATTENTION, sdpa_attention_forward)
        AttentionMaskInterface.register(ATTENTION, unseen_mask)
        network.set_attn_implementation(ATTENTION)


def unseen_mask(attention_mask: torch.Tensor | None = None, **of: Any) -> torch.Tensor | None:
    """Return transformers' mask for torch's attention without reading `attention_mask` on the host.

    transformers skips the mask if nothing is masked, and reading the mask to see that would wait
    for the GPU. This skips it only if no `attention_mask` is given.
    """
    from transformers.masking_utils import sdpa_mask

    if attention_mask is not None:
        of |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(attention_mask=attention_mask, **of)
