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

"""Plain implementation of the published algorithm: the baseline of the speed comparison.

Every view's block receives the tokens of all other views, and normalises and projects them itself.
Python loops over paths and views, and the point heads run for all paths. Torch's layers are used
unchanged. The weights are those of a `Network`, so that both compute the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvdust3r_ros.model.heads import SKIP_SCALE, PointHead, PointMaps, unpatchify
from mvdust3r_ros.model.layers import CrossAttention, DecoderBlock, Mlp, SelfAttention, rotate
from mvdust3r_ros.model.network import Network, slot_order

Rope = tuple[Tensor, Tensor]


def predict(network: Network, images: Tensor, n_ref: int) -> PointMaps:
    """Predict the pointmaps of all views in all paths, in slot order.

    Args:
        network: in evaluation mode.
        images: (V, 3, H, W) in [-1, 1].
        n_ref: number of reference paths.

    Returns:
        Points (P, V, H, W, 3) and confidences (P, V, H, W).
    """
    views = len(images)
    order = slot_order(n_ref, views).tolist()
    tokens = torch.cat([_encode(network, image[None]) for image in images])
    paths = [[tokens[v : v + 1] for v in order[p]] for p in range(n_ref)]
    rope = (network.dec_rope_cos, network.dec_rope_sin)
    for layer in range(len(network.dec_blocks)):
        paths = [_decoder_layer(network, layer, path, rope) for path in paths]
        if network.dec_same_view_blocks is not None and n_ref > 1:
            paths = _cross_reference(network.dec_same_view_blocks[layer], paths, order, rope)
    rows = [_heads(network, path, [images[v : v + 1] for v in order[p]])
            for p, path in enumerate(paths)]  # fmt: skip
    return PointMaps(*(torch.stack(m) for m in zip(*rows, strict=True)))


def _decoder_layer(network: Network, layer: int, path: list[Tensor], rope: Rope) -> list[Tensor]:
    result = []
    for slot, x in enumerate(path):
        block = (network.dec_blocks if slot == 0 else network.dec_blocks2)[layer]
        others = torch.cat([y for other, y in enumerate(path) if other != slot], 1)
        result.append(_block(block, x, others, rope))
    return result


def _cross_reference(
    block: DecoderBlock, paths: list[list[Tensor]], order: list[list[int]], rope: Rope
) -> list[list[Tensor]]:
    by_view = [[path[order[p].index(v)] for p, path in enumerate(paths)]
               for v in range(len(paths[0]))]  # fmt: skip
    joined = [
        [
            _block(block, x, torch.cat([y for q, y in enumerate(same) if q != p], 1), rope)
            for p, x in enumerate(same)
        ]
        for same in by_view
    ]
    return [[joined[v][p] for v in order[p]] for p in range(len(paths))]


def _encode(network: Network, image: Tensor) -> Tensor:
    x = network.patch_embed(image)
    rope = (network.enc_rope_cos, network.enc_rope_sin)
    for block in network.enc_blocks:
        x = x + _self_attention(block.attn, block.norm1(x), rope)
        x = x + _mlp(block.mlp, block.norm2(x))
    return _linear(network.decoder_embed, network.enc_norm(x))


def _block(block: DecoderBlock, x: Tensor, others: Tensor, rope: Rope) -> Tensor:
    x = x + _self_attention(block.attn, block.norm1(x), rope)
    x = x + _cross_attention(block.cross_attn, block.norm2(x), block.norm_y(others), rope)
    return x + _mlp(block.mlp, block.norm3(x))


def _self_attention(layer: SelfAttention, x: Tensor, rope: Rope) -> Tensor:
    q, k, v = _linear(layer.qkv, x).view(*x.shape[:2], 3, layer.heads, -1).unbind(2)
    return _linear(layer.proj, _attend(rotate(q, rope), rotate(k, rope), v))


def _cross_attention(layer: CrossAttention, x: Tensor, y: Tensor, rope: Rope) -> Tensor:
    repeats = y.shape[1] // x.shape[1]
    cos, sin = (t.repeat(repeats, 1, 1, 1) for t in rope)
    q = _linear(layer.projq, x).view(*x.shape[:2], layer.heads, -1)
    k = _linear(layer.projk, y).view(*y.shape[:2], layer.heads, -1)
    v = _linear(layer.projv, y).view(*y.shape[:2], layer.heads, -1)
    return _linear(layer.proj, _attend(rotate(q, rope), rotate(k, (cos, sin)), v))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _mlp(layer: Mlp, x: Tensor) -> Tensor:
    return _linear(layer.fc2, functional.gelu(_linear(layer.fc1, x)))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def _heads(network: Network, path: list[Tensor], images: list[Tensor]) -> PointMaps:
    maps = []
    for slot, (x, image) in enumerate(zip(path, images, strict=True)):
        head = network.downstream_head1 if slot == 0 else network.downstream_head2
        with torch.autocast(image.device.type, enabled=False):
            maps.append(_head(head, network.dec_norm(x).float(), image, network.config.grid_hw))
    return PointMaps(*(torch.cat(m) for m in zip(*maps, strict=True)))


def _head(head: PointHead, x: Tensor, image: Tensor, grid_hw: tuple[int, int]) -> PointMaps:
    maps = unpatchify(_linear(head.proj, x), grid_hw, head.patch)
    xyz = maps[:, :3]
    if head.skip_proj is not None:
        skip = torch.cat((image, xyz), 1)
        for i, layer in enumerate(head.skip_proj):
            skip = layer.norm(layer.conv(skip))
            skip = functional.selu(skip) if i < len(head.skip_proj) - 1 else skip
        xyz = xyz + SKIP_SCALE * skip
    xyz = xyz.permute(0, 2, 3, 1)
    norm = xyz.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return PointMaps(xyz * (norm.expm1() / norm), 1 + maps[:, 3].exp().clamp(max=1e9 - 1))
