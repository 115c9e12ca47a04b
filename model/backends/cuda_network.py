"""A network on a GPU that does not make the host wait, so that batch after batch is under way before the first is computed.

benchmarks/LOG.md has the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "spanmill_cuda"


def run_ahead(network: PreTrainedModel) -> None:
    """Changes a loaded network in place: the same attention, which waits for the GPU no more; leaves what it doesn't know.

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


def unseen_mask(attention_mask: torch.Tensor | None = None, **of: Any) -> torch.Tensor | None:
    """transformers' mask for torch's attention, made without a look at the tokens' own: that would wait for the GPU.

    transformers looks whether they mask anything at all, and makes no mask if not; here it makes none only if none is given.
    """
    from transformers.masking_utils import sdpa_mask

    if attention_mask is not None:
        of |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(attention_mask=attention_mask, **of)
