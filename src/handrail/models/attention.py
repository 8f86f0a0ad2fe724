"""Attention on sequences of different lengths without padding anything else, and without waiting for small products.

Several sequences stand one behind another in one row, so that linear layers and norms meet real tokens only; attention
lays them out as a rectangle for itself, one sequence a row, and looks back only:

    row    a b c d e f .        grid   0 1 2 3      a b c d
                                       4 5 6 6      e f . .

Sequences with the same prompt may share it: it stands in the row once, and in the rectangle wherever it is read.

On a CPU where float32 products go to oneDNN (`best_matmul`), attention would send it one tiny product for every
sequence and head, each at a fixed cost that is many times the product's own.  They are made by the default library,
forward and backward, whatever the model's linear layers use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
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


def rectangle(x: Tensor, grid: Tensor | None) -> Tensor:
    """[1, H, N, D] laid out as [R, H, W, D] by the [R, W] places in `grid`; as it is without one."""
    if grid is None:
        return x
    tokens = x[0].transpose(0, 1)
    return tokens.index_select(0, grid.flatten()).unflatten(0, grid.shape).transpose(1, 2)


def laid_out(query: Tensor, key: Tensor, value: Tensor, grid: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All three as rectangles: every row reads its prompt, and only the sequence that brought it asks there."""
    return rectangle(query, grid if own is None else own), rectangle(key, grid), rectangle(value, grid)


def summed(x: Tensor, grid: Tensor, total: int) -> Tensor:
    """[R, H, W, D] as [1, total, H, D]: at each place the sum over the cells of `grid` that show it."""
    tokens = x.transpose(1, 2).flatten(0, 1)
    return tokens.new_zeros(total, *tokens.shape[1:]).index_add_(0, grid.flatten(), tokens)[None]


def in_a_row(x: Tensor, back: Tensor | None, total: int) -> Tensor:
    """[R, H, W, D] as [1, total, H, D]: the places in `back` one behind another, then zeros; only transposed without one."""
    if back is None:
        return x.transpose(1, 2).contiguous()
    tokens = x.transpose(1, 2).flatten(0, 1)
    found = tokens.index_select(0, back)
    return torch.cat([found, found.new_zeros(total - len(back), *found.shape[1:])])[None]


# Operations of their own, so that torch.compile takes them as they are.
@torch.library.custom_op("handrail::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grid: Tensor | None,
    own: Tensor | None,
    back: Tensor | None,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """softmax(q k' scale + mask) v on a CPU: [B, T, H, D], and the [R, W, H] logarithm of what each softmax was divided by.

    query, key and value are [B, H, T, D], and without a mask attention looks back only.
    """
    q, k, v = laid_out(query, key, value, grid, own)
    with default_products():
        out, divisor = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale)
    return in_a_row(out, back, query.shape[2]), divisor.transpose(1, 2).contiguous()


@torch.library.custom_op("handrail::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    divisor: Tensor,
    grid: Tensor | None,
    own: Tensor | None,
    back: Tensor | None,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, [B, T, H, D] each."""
    q, k, v = laid_out(query, key, value, grid, own)
    of_out, o = (rectangle(x.transpose(1, 2), grid if own is None else own) for x in (grad, out))
    into = _aten._scaled_dot_product_flash_attention_for_cpu_backward
    with default_products():
        q, k, v = into(of_out, q, k, v, o, divisor.transpose(1, 2), 0.0, mask is None, attn_mask=mask, scale=scale)
    total = query.shape[2]
    if own is None or grid is None:
        return in_a_row(q, back, total), in_a_row(k, back, total), in_a_row(v, back, total)
    return in_a_row(q, back, total), summed(k, grid, total), summed(v, grid, total)


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, grid: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, heads, length, _ = query.shape
    rows, width = (batch, length) if grid is None else grid.shape
    return query.new_empty(batch, length, heads, value.shape[3]), query.new_empty(rows, width, heads)


@attention_backward.register_fake
def _(grad: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.transpose(1, 2).shape) for x in (query, key, value))


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    query, key, value, grid, own, back, mask, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output, grid, own, back, mask)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple:
    found = attention_backward(grad, *ctx.saved_tensors, ctx.scale)
    return *(x.transpose(1, 2) for x in found), None, None, None, None, None


attention.register_autograd(_backward, setup_context=_keep)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    layout: tuple[Tensor, Tensor | None, Tensor] | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """What Transformers calls where a model's attention is `sdpa`; with a layout, the mask is ours to make."""
    looks_back = getattr(module, "is_causal", True) if rest.get("is_causal") is None else rest["is_causal"]
    masked = attention_mask is not None or (looks_back and query.shape[2] > 1)
    ours = masked and not (attention_mask is not None and attention_mask.requires_grad)
    ours = ours and not any(rest.get(name) is not None for name in ("position_bias", "softcap", "cache", "s_aux"))
    cpu = query.device.type == "cpu" and not dropout and ours and query.shape[-1] == value.shape[-1]
    if layout and not ours:
        raise NotImplementedError("attention with a bias or a cap of its own, on several sequences in a row")
    if not layout and not cpu:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **rest)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads of the query read the same keys
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    grid, own, back = layout or (None, None, None)
    mask = _window(grid, rest.get("sliding_window")) if grid is not None else attention_mask
    scale = rest.get("scaling") or query.shape[-1] ** -0.5
    if not cpu:
        q, k, v = laid_out(query, key, value, grid, own)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale)
        return in_a_row(out, back, query.shape[2]), None
    wide = torch.promote_types(query.dtype, torch.float32)
    if mask is not None:
        mask = mask[..., : key.shape[-2]] if grid is None else mask
        mask = torch.zeros(mask.shape, dtype=wide).masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else mask.to(wide)
    return attention(query.to(wide), key.to(wide), value.to(wide), grid, own, back, mask, scale)[0].to(query.dtype), None


def _window(grid: Tensor, window: int | None) -> Tensor | None:
    """[W, W] bool: which tokens each may attend to, the last `window` up to itself; none where all before it are in reach."""
    width = grid.shape[1]
    if not window or width <= window:
        return None
    place = torch.arange(width, device=grid.device)
    distance = place[:, None] - place
    return (distance >= 0) & (distance < window)


def take_layouts() -> None:
    """From now on `sdpa` attention in this process is `_attend`."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
