"""Every formula, pure: tensors in, tensors out.

Tensors are [B, T] over response tokens, right-padded, unless said otherwise.  `mask` is bool and the only way in
which padding is expressed: what stands under a False mask is never read, not even multiplied by zero.
"""
