# Copyright 2026 mvdust3r_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Scaled dot-product attention, over all tokens or without a view's own tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e4
"""Added to scores that must not count: its exp is 0 in float32, and float16 can represent it."""


BF16_SCORES_AT_ONCE = 1 << 21
"""Number of attention scores computed together on a CPU: 8 MB in float32."""


def split_axis(x: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    """Split one axis into several; like `Tensor.unflatten`, but exported as a plain reshape."""
    axis %= x.dim()
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from (..., S, heads, d) queries to (..., T, heads, d) keys and values.

    Returns:
        (..., S, heads, d)
    """
    q, k, v = (t.transpose(-3, -2) for t in (q, k, v))
    if q.dtype is torch.bfloat16 and q.device.type == "cpu" and not plain():
        return _attend_bf16_cpu(q, k, v).transpose(-3, -2)
    if plain():
        return (_scores(q, k).softmax(-1).to(v.dtype) @ v).transpose(-3, -2)
    return functional.scaled_dot_product_attention(q, k, v).transpose(-3, -2)


def attend_others(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    own: int,
    *,
    masked: bool = False,
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Attend from each view's queries to the keys of all views except its own.

    Args:
        q: (B, Q, S, heads, d) queries of Q views.
        k: (B, V, S, heads, d) keys of V views.
        v: (B, V, S, heads, d) values.
        own: query view i excludes key view own + i; negative to exclude none.
        masked: True for one product with a mask (memory quadratic in the number of views; for
            training and export), False for the form without copies.
        weights: if given, receives head 0's attention weights (B, Q, S, V, S).

    Returns:
        (B, Q, S, heads, d)
    """
    if masked or weights is not None or plain():
        return _attend_masked(q, k, v, own, weights)
    if own < 0:
        return attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)).view_as(q)
    return torch.stack([_attend_ring(*views, own) for views in zip(q, k, v, strict=True)])


def _attend_ring(q: Tensor, k: Tensor, v: Tensor, own: int) -> Tensor:
    """Attend in one batch item, (Q, S, heads, d) to (V, S, heads, d), without copies per query.

    With the views written twice, 0..V-1, 0..V-1, all views except i are the V-1 that follow i.
    """
    views, count, heads, dim = k.shape
    ring = (torch.cat((t, t)).contiguous() for t in (k, v))
    size = (q.shape[0], (views - 1) * count, heads, dim)
    stride = (count * heads * dim, heads * dim, dim, 1)
    keys, values = (t.as_strided(size, stride, (own + 1) * stride[0]) for t in ring)
    return attend(q, keys, values)


def _attend_masked(
    q: Tensor, k: Tensor, v: Tensor, own: int, weights: list[Tensor] | None
) -> Tensor:
    queries, count = q.shape[1:3]
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, heads, views * S, d)
    scores = _scores(q, k)
    if own >= 0:
        views = k.shape[2] // count
        same = torch.arange(queries, device=q.device)[:, None] + own == torch.arange(
            views, device=q.device
        )
        mask = same.to(scores.dtype) * MASKED
        mask = mask[:, None, :, None].expand(-1, count, -1, count)
        scores = scores + mask.reshape(queries * count, views * count)
    attention = scores.softmax(-1)
    if weights is not None:
        kept = split_axis(attention[:, 0], 2, (-1, count))
        weights.append(split_axis(kept, 1, (-1, count)))
    out = attention.to(v.dtype) @ v
    return split_axis(out.transpose(1, 2), 1, (-1, count))


def _attend_bf16_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in plain products, (B..., heads, S, d), a few heads at a time to stay in the cache.

    On CPUs without matrix units the fused kernel computes in float32, at half the speed.
    """
    if q.dim() > 3:
        return torch.stack([_attend_bf16_cpu(*item) for item in zip(q, k, v, strict=True)])
    q, k, v = (t.contiguous() for t in (q, k, v))
    heads = max(1, BF16_SCORES_AT_ONCE // (q.shape[1] * k.shape[1]))
    parts = zip(q.split(heads), k.split(heads), v.split(heads), strict=True)
    return torch.cat([_scores(a, b).softmax(-1) @ c for a, b, c in parts])


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Scale before the product, as fused kernels expect and half precision needs."""
    return (q * int(q.shape[-1]) ** -0.5) @ k.transpose(-1, -2)  # type: ignore[no-any-return]


def plain() -> bool:
    """Whether the graph must consist of plain batched products, for training and export."""
    return torch.is_grad_enabled() or torch.onnx.is_in_onnx_export()
