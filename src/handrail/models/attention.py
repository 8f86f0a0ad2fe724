"""Attention's own small products, kept away from oneDNN.

Where float32 products go to oneDNN (`best_matmul`), attention on a CPU sends it one tiny product for every row and
head, each at a fixed cost that is many times the product's own.  After `keep_attention_plain` they are made by the
default library, forward and backward, whatever the model's linear layers use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_aten = torch.ops.aten


@contextmanager
def default_products() -> Iterator[None]:
    """Inside, float32 products are made by the default library."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    chosen = products.fp32_precision
    products.fp32_precision = "none"
    try:
        yield
    finally:
        products.fp32_precision = chosen


class _Attention(torch.autograd.Function):
    """softmax(q k' scale + mask) v on a CPU, its products by the default library both ways."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
        with default_products():
            out, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        ctx.save_for_backward(query, key, value, out, logsumexp, mask)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, out, logsumexp, mask = ctx.saved_tensors
        with default_products():
            into = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grads[0], query, key, value, out, logsumexp, 0.0, False, attn_mask=mask, scale=ctx.scale
            )
        return *into, None, None


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    if query.device.type != "cpu" or attention_mask is None or dropout:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **rest)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads of the query read the same keys
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mask = attention_mask[..., : key.shape[-2]]
    wide = torch.promote_types(query.dtype, torch.float32)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=wide).masked_fill_(~mask, -torch.inf)
    out = _Attention.apply(query.to(wide), key.to(wide), value.to(wide), mask.to(wide), rest.get("scaling"))
    return out.transpose(1, 2).to(query.dtype).contiguous(), None


def keep_attention_plain() -> None:
    """From now on `sdpa` attention in this process makes its products on a CPU by the default library."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
