"""Attention's own small products, kept away from oneDNN."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, `sdpa` attention makes its products by the default library, whatever the model's layers use.

    Where float32 products go to oneDNN (`models.best_matmul`), attention on a CPU sends it one tiny product for every
    row and head, each at a fixed cost that is many times the product's own: a decode step of 64 rows and 8 heads of 64
    took 16 ms a layer instead of 1.7.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    chosen = products.fp32_precision
    if chosen == "none":
        yield
        return
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend_plainly(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        products.fp32_precision = "none"
        try:
            return attend(*args, **kwargs)
        finally:
            products.fp32_precision = chosen

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend_plainly
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
