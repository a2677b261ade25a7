"""Attention with a mask, where exported graphs would compute something else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of q [batch, heads, t, d] to the keys where a mask [batch, 1, 1 or t, s] is True.

    A query that may attend to none gives zeros. PyTorch computes that; in ONNX, where scores of
    −∞ are the least number, such a query would attend to all, so that exported graphs say it.
    """
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        y = y.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return y
