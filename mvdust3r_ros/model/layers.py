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

"""Building blocks: rotary embedding, attention, encoder and decoder blocks.

Linear layers may be stored in a lower precision (`Linear`). Everything between them, the residual
stream and the normalisations, stays in the precision of the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvdust3r_ros.model.attention import attend, attend_others, plain, split_axis
from mvdust3r_ros.model.onednn import onednn_linear, onednn_serves

LAYER_NORM_EPS = 1e-6
"""Value of CroCo, DUSt3R and the published models."""
VALUES_AT_ONCE = 1 << 17
"""Token values (tokens times width) that a decoder block processes together at inference: half a
megabyte in float32, for the processor's cache."""


def rope_table(grid_hw: tuple[int, int], head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the 2-D rotary embedding (Su et al., 2021, applied to y and x).

    The first half of a head rotates with the row of a token, the second with its column. Within a
    half of D channels, channels i and i + D/2 form a pair of frequency base^(-2i/D).

    Args:
        grid_hw: rows and columns of tokens.
        head_dim: channels of a head, a multiple of 4.
        base: base of the frequencies.

    Returns:
        Two (S, 1, 2, head_dim / 4) float32 tensors for `rotate`, tokens in row-major order.
    """
    rows, cols = grid_hw
    half = head_dim // 2
    frequencies = base ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    y = torch.arange(rows, dtype=torch.float64).repeat_interleave(cols)
    x = torch.arange(cols, dtype=torch.float64).repeat(rows)
    angles = torch.stack((y, x), 1)[:, None, :, None] * frequencies  # (S, 1, 2, half / 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Apply the rotary embedding to (..., S, heads, head_dim)."""
    cos, sin = rope[0].to(x.dtype), rope[1].to(x.dtype)
    a, b = split_axis(x, -1, (2, 2, -1)).unbind(-2)  # (..., S, heads, 2, head_dim / 4)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -2).flatten(-3)


class Linear(nn.Linear):
    """A linear layer that casts its input if its weights have a lower precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        x = self._cast(x)
        if onednn_serves(x):
            return onednn_linear(x, self.weight, self.bias)
        return functional.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Apply the layer and a GELU in one operation: (..., in) to (..., out)."""
        x = self._cast(x)
        if onednn_serves(x):
            return onednn_linear(x, self.weight, self.bias, gelu=True)
        return functional.gelu(functional.linear(x, self.weight, self.bias))

    def _cast(self, x: Tensor) -> Tensor:
        return x if self.weight.dtype is torch.float32 else x.to(self.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with the eps of the published models."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=LAYER_NORM_EPS)


class SelfAttention(nn.Module):
    """Multi-head attention between the tokens of one view."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        qkv = split_axis(self.qkv(x), -1, (3, self.heads, -1))
        q, k, v = qkv.unbind(-3)  # (B, S, heads, d)
        return self.proj(attend(rotate(q, rope), rotate(k, rope), v).flatten(-2))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention from the tokens of some views to the tokens of others."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = Linear(dim, dim)
        self.projk = Linear(dim, dim)
        self.projv = Linear(dim, dim)
        self.proj = Linear(dim, dim)

    def keys_values(self, y: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return keys and values of (B, V, S, D), each (B, V, S, heads, d)."""
        shape = (self.heads, -1)
        k = rotate(split_axis(self.projk(y), -1, shape), rope)
        return k, split_axis(self.projv(y), -1, shape)

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        rope: tuple[Tensor, Tensor],
        own: int,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Attend from (B, Q, S, D) queries of Q views; returns (B, Q, S, D).

        Args:
            x: normalised tokens.
            keys_values: of V views, from `keys_values`.
            rope: table of the grid.
            own: key view of query view 0: query view i excludes key view own + i; negative to
                exclude none.
            weights: if given, receives head 0's attention weights (B, Q, S, V, S).
        """
        k, v = keys_values
        q = split_axis(self.projq(x), -1, (self.heads, -1))
        out = attend_others(rotate(q, rope), k, v, own, masked=self.training, weights=weights)
        return self.proj(out.flatten(-2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(self.fc1.gelu(x))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Pre-norm transformer block on the tokens of one view."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """Self-attention within a view, cross-attention to the other views, MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.norm3 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm_y = LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        others: Tensor,
        rope: tuple[Tensor, Tensor],
        own: int,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Update the tokens x (B, Q, S, D) of Q views from the tokens `others` (B, V, S, D).

        Keys and values are computed once for all queries. `own` and `weights` as in
        `CrossAttention`. At inference, batches beyond `VALUES_AT_ONCE` are processed in parts to
        bound memory.
        """
        items = max(1, VALUES_AT_ONCE // x[0].numel())
        if plain() or weights is not None or len(x) <= items:
            return self._update(x, others, rope, own, weights)
        parts = zip(x.split(items), others.split(items), strict=True)
        return torch.cat([self._update(a, b, rope, own, None) for a, b in parts])

    def _update(
        self,
        x: Tensor,
        others: Tensor,
        rope: tuple[Tensor, Tensor],
        own: int,
        weights: list[Tensor] | None,
    ) -> Tensor:
        keys_values = self.cross_attn.keys_values(self.norm_y(others), rope)
        x = x + self.attn(self.norm1(x).flatten(0, 1), rope).view_as(x)
        x = x + self.cross_attn(self.norm2(x), keys_values, rope, own, weights)
        return x + self.mlp(self.norm3(x))  # type: ignore[no-any-return]
