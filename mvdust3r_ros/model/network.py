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

"""MV-DUSt3R and MV-DUSt3R+ (Tang et al., CVPR 2025), batched over views and reference paths.

A path predicts all views in the frame of its reference view. Internally, the tokens of a path are
in slot order: its reference in slot 0, view 0 in the reference's slot, all others in their own
(`slot_order`). Results are in view order unless a docstring names slots.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvdust3r_ros.model.attention import plain, split_axis
from mvdust3r_ros.model.config import NetworkConfig
from mvdust3r_ros.model.heads import (
    FinishedGaussians,
    GaussianHead,
    Gaussians,
    PointHead,
    PointMaps,
    finished,
)
from mvdust3r_ros.model.layers import DecoderBlock, EncoderBlock, LayerNorm, Linear, rope_table

RAY_FEATURES = 6
"""x, y, xy, x^2 + y^2 of a ray, and half the field of view along each axis: see `rays`."""
ENCODE_AT_ONCE = 4
"""Number of views encoded together at inference: no view's tokens depend on another view, and
memory grows with each."""


class NetworkOutput(NamedTuple):
    """Output of `Network.forward`; B batch, P paths, V views, S tokens.

    Attributes:
        points: (B, P, V, H, W, 3); path p is in the camera frame of view p.
        conf: (B, P, V, H, W), above 1.
        features: (B, V, S, dec_dim) tokens that enter the decoder; None unless requested.
        attention: (layers - 1, B, V, S, V, S) weights of head 0 of path 0's cross-attentions, from
            the second layer on, 0 on a view's own tokens; None unless requested.
    """

    points: Tensor
    conf: Tensor
    features: Tensor | None = None
    attention: Tensor | None = None


def slot_order(n_ref: int, n_views: int) -> Tensor:
    """Return the (P, V) view in each slot of each path: views 0 and p are swapped in path p.

    The swap is its own inverse, so the same indices map slots back to views.
    """
    order = torch.arange(n_views).repeat(n_ref, 1)
    paths = torch.arange(n_ref)
    order[:, 0] = paths
    order[paths, paths] = 0
    return order


def exchange(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the V axis of each path of (B, P, V, ...) by `order` (P, V)."""
    paths, views = order.shape
    rows = torch.arange(paths, device=order.device)[:, None] * views + order
    flat = x.flatten(1, 2).index_select(1, rows.flatten())
    return split_axis(flat, 1, (-1, views))


def patch_centres(grid_hw: tuple[int, int], patch: int) -> Tensor:
    """(S, 2) x and y of the centres of patches, in pixels, row by row."""
    rows, cols = (torch.arange(n) * patch + (patch - 1) / 2 for n in grid_hw)
    return torch.stack((cols.repeat(len(rows)), rows.repeat_interleave(len(cols))), -1)


def ray_features(
    intrinsics: Tensor, centres: Tensor, image_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Rays through the patch centres of V views.

    Args:
        intrinsics: (V, 4) as in `Network.forward`.
        centres: (S, 2) from `patch_centres`.
        image_hw: height and width of the views, in pixels.

    Returns:
        (V, S, 6) features, and (V, 1, 1) 1 for known intrinsics.
    """
    known = (intrinsics[:, :1] > 0).to(intrinsics.dtype)
    focal = (intrinsics[:, :2] + (1 - known)).unsqueeze(1)  # (V, 1, 2), never 0
    xy = (centres - intrinsics[:, None, 2:]) / focal  # (V, S, 2)
    x, y = xy.unbind(-1)
    height, width = image_hw
    half = xy.new_tensor((width / 2, height / 2)) / focal
    half_x, half_y = half.expand(-1, xy.shape[1], -1).unbind(-1)
    return torch.stack((x, y, x * y, x * x + y * y, half_x, half_y), -1), known.unsqueeze(1)


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """Map (V, 3, H, W) to (V, S, dim), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Network(nn.Module):
    """The complete network; parameter names are those of the published files."""

    enc_rope_cos: Tensor
    enc_rope_sin: Tensor
    dec_rope_cos: Tensor
    dec_rope_sin: Tensor
    patch_centres: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        """Build with torch's default initial weights; see `initialise` for training."""
        super().__init__()
        self.config = c = config
        if c.mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, c.dec_dim))  # in the files, not used
        self.patch_embed = PatchEmbed(c.patch_size, c.enc_dim)
        self.pos_embed = nn.Parameter(torch.zeros(c.tokens, c.enc_dim)) if c.pos_embed else None
        self.ray_embed = nn.Linear(RAY_FEATURES, c.enc_dim) if c.ray_embed else None
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(c.enc_dim, c.enc_heads, c.mlp_ratio) for _ in range(c.enc_depth)
        )
        self.enc_norm = LayerNorm(c.enc_dim)
        self.decoder_embed = Linear(c.enc_dim, c.dec_dim)
        self.dec_blocks = _decoder(c)
        self.dec_norm = LayerNorm(c.dec_dim)
        self.dec_same_view_blocks = _decoder(c) if c.cross_reference else None
        self.dec_blocks2 = _decoder(c)
        head = (c.dec_dim, c.patch_size, c.skip_dim, c.max_log_distance)
        self.downstream_head1 = PointHead(*head)
        self.downstream_head2 = PointHead(*head)
        self.downstream_GS_head: nn.ModuleList | None = None
        if c.gs_mlp_dim:
            self.downstream_GS_head = nn.ModuleList(
                GaussianHead(c.dec_dim, c.patch_size, c.gs_mlp_dim) for _ in range(2)
            )
        self.make_tables()

    def make_tables(self, device: torch.device | None = None) -> None:
        """Recompute the constant tables, which are not part of the weights."""
        c = self.config
        for name, dim, heads in (
            ("enc", c.enc_dim, c.enc_heads), ("dec", c.dec_dim, c.dec_heads),
        ):  # fmt: skip
            cos, sin = rope_table(c.grid_hw, dim // heads, c.rope_base)
            self.register_buffer(f"{name}_rope_cos", cos.to(device), persistent=False)
            self.register_buffer(f"{name}_rope_sin", sin.to(device), persistent=False)
        centres = patch_centres(c.grid_hw, c.patch_size)
        self.register_buffer("patch_centres", centres.to(device), persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int = 0, depth: float = 2.4) -> None:
        """Initialise the weights for training.

        Xavier initialisation for all linear layers; cross-reference blocks that initially change
        nothing; points about `depth` in front of the reference camera.

        Args:
            seed: random seed.
            depth: typical distance of the scene, in the unit of the targets.
        """
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                matrix = module.weight.view(module.weight.shape[0], -1)
                nn.init.xavier_uniform_(matrix, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=0.02, generator=generator)
        for block in self.dec_same_view_blocks or ():
            assert isinstance(block, DecoderBlock)
            for layer in (block.attn.proj, block.cross_attn.proj, block.mlp.fc2):
                nn.init.zeros_(layer.weight)
        for head in (self.downstream_head1, self.downstream_head2):
            head.proj.weight.mul_(0.3)
            head.proj.bias.view(4, -1)[2] = math.log1p(depth)

    def forward(
        self,
        images: Tensor,
        intrinsics: Tensor | None = None,
        n_ref: int = 0,
        paths: int = 0,
        details: bool = False,
    ) -> NetworkOutput:
        """Predict pointmaps of all views in the frames of the first views.

        Args:
            images: (B, V, 3, H, W) in [-1, 1], at least two views; the first n_ref are references.
            intrinsics: (B, V, 4) fx, fy, cx, cy in pixels, all 0 if unknown; only used by networks
                with a ray embedding.
            n_ref: reference paths to run, at most V; 0 for the configured number, or V if smaller.
            paths: number of paths whose pointmaps are computed; 0 for all.
            details: True to also return features and attention (training).
        """
        batch, views = images.shape[:2]
        n_ref = min(n_ref or self.config.n_ref, views)
        known = None if intrinsics is None else intrinsics.flatten(0, 1)
        features = split_axis(self.encode(images.flatten(0, 1), known), 0, (batch, views))
        weights: list[Tensor] | None = [] if details else None
        order = slot_order(n_ref, views).to(images.device)
        points, conf = self.predict(features, images, order, paths, weights)
        if weights is None:
            return NetworkOutput(points, conf)
        return NetworkOutput(points, conf, features, torch.stack(weights))

    def predict(
        self,
        tokens: Tensor,
        images: Tensor | None,
        order: Tensor,
        paths: int = 0,
        weights: list[Tensor] | None = None,
    ) -> PointMaps:
        """Run the decoder and the point heads.

        Args:
            tokens: (B, V, S, dec_dim) from `encode`.
            images: (B, V, 3, H, W) source images of the tokens; None omits the skip branch, which
                changes the result slightly.
            order: (P, V) from `slot_order`.
            paths: number of paths whose pointmaps are computed; 0 for all.
            weights: as in `decode`.

        Returns:
            Points (B, paths, V, H, W, 3) and confidences (B, paths, V, H, W), in view order.
        """
        decoded = self.decode(tokens, order, paths, weights)
        order = order[:paths] if paths else order
        points, conf = self.point_maps(decoded, images, order)
        return PointMaps(exchange(points, order), exchange(conf, order))

    def predict_gaussians(
        self, tokens: Tensor, images: Tensor | None, order: Tensor, paths: int = 0
    ) -> tuple[PointMaps, FinishedGaussians]:
        """As `predict`, and a Gaussian for each point, (B, paths, V, H, W) in view order."""
        decoded = self.decode(tokens, order, paths)
        order = order[:paths] if paths else order
        maps = PointMaps(*(exchange(m, order) for m in self.point_maps(decoded, images, order)))
        raw = Gaussians(*(exchange(g, order) for g in self.gaussians(decoded)))
        return maps, finished(raw, maps.points)

    def lower_precision(self, dtype: torch.dtype) -> None:
        """Store the matrices of the blocks in `dtype`, and compute the skip branch in it.

        Normalisations, the residual stream, the last linear layer and the exponentials stay in
        float32.
        """
        for name, module in self.named_modules():
            if isinstance(module, Linear) and not name.startswith("downstream"):
                module.to(dtype)
        for head in (self.downstream_head1, self.downstream_head2):
            head.skip_dtype = dtype

    def encode(self, images: Tensor, intrinsics: Tensor | None = None) -> Tensor:
        """Encode single views into tokens for the decoder.

        Args:
            images: (V, 3, H, W) in [-1, 1].
            intrinsics: (V, 4) as in `forward`.

        Returns:
            (V, S, dec_dim)
        """
        return self.decoder_embed(self.encoder_tokens(images, intrinsics)).float()  # type: ignore[no-any-return]

    def encoder_tokens(self, images: Tensor, intrinsics: Tensor | None = None) -> Tensor:
        """Return (V, S, enc_dim) tokens after the encoder's norm; arguments as in `encode`."""
        if len(images) > ENCODE_AT_ONCE and not plain():
            known = (
                [None] * len(images) if intrinsics is None else intrinsics.split(ENCODE_AT_ONCE)
            )
            parts = zip(images.split(ENCODE_AT_ONCE), known, strict=False)
            return torch.cat([self.encoder_tokens(i, k) for i, k in parts])
        x = self.patch_embed(images)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if self.ray_embed is not None and intrinsics is not None:
            rays, known = self.rays(intrinsics)
            x = x + self.ray_embed(rays) * known
        rope = (self.enc_rope_cos, self.enc_rope_sin)
        for block in self.enc_blocks:
            x = block(x, rope)
        return self.enc_norm(x)  # type: ignore[no-any-return]

    def rays(self, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        """Ray features of the patch centres; as `ray_features` gives them."""
        return ray_features(intrinsics, self.patch_centres, self.config.image_hw)

    def decode(
        self, tokens: Tensor, order: Tensor, paths: int = 0, weights: list[Tensor] | None = None
    ) -> Tensor:
        """Run all reference paths through the decoder.

        Args:
            tokens: (B, V, S, dec_dim) from `encode`.
            order: (P, V) from `slot_order`.
            paths: number of paths whose tokens are returned; 0 for all.
            weights: if given, receives path 0's attention weights of each layer except the first,
                (B, V, S, V, S).

        Returns:
            (B, paths, V, S, dec_dim) in slot order, after the decoder's norm.
        """
        x = tokens[:, None].expand(-1, order.shape[0], -1, -1, -1)
        x = exchange(x, order)  # (B, P, V, S, D)
        last = len(self.dec_blocks) - 1
        for layer in range(last + 1):
            x = self._layer(layer, x, weights if layer else None)
            if self.dec_same_view_blocks is not None:
                x = self._cross_reference(layer, x, order, paths if layer == last else 0)
        return self.dec_norm(x[:, :paths] if paths else x)  # type: ignore[no-any-return]

    def _layer(self, layer: int, x: Tensor, weights: list[Tensor] | None) -> Tensor:
        """Update (B, P, V, S, D) slots, the reference and the others, from the previous layer."""
        batch = x.shape[0]
        x = x.flatten(0, 1)
        rope = (self.dec_rope_cos, self.dec_rope_sin)
        taken: tuple[list[Tensor], ...] = ([], []) if weights is not None else ()
        keep = taken or (None, None)
        reference = self.dec_blocks[layer](x[:, :1], x[:, 1:], rope, -1, keep[0])
        others = self.dec_blocks2[layer](x[:, 1:], x, rope, 1, keep[1])
        if weights is not None:
            first, rest = (split_axis(taken[i][0], 0, (batch, -1))[:, 0] for i in range(2))
            first = torch.cat((torch.zeros_like(first[:, :, :, :1]), first), 3)
            weights.append(torch.cat((first, rest), 1))
        return split_axis(torch.cat((reference, others), 1), 0, (batch, -1))

    def _cross_reference(self, layer: int, x: Tensor, order: Tensor, paths: int) -> Tensor:
        """Update (B, P, V, S, D) slots: each view attends to itself in the other paths, if any."""
        assert self.dec_same_view_blocks is not None
        n_ref = order.shape[0]
        if n_ref == 1 and not torch.onnx.is_in_onnx_export():
            return x
        batch = x.shape[0]
        views = exchange(x, order).transpose(1, 2).flatten(0, 1)  # (B * V, P, S, D)
        queries = views[:, :paths] if paths else views
        rope = (self.dec_rope_cos, self.dec_rope_sin)
        joined = self.dec_same_view_blocks[layer](queries, views, rope, 0)
        joined = split_axis(joined, 0, (batch, -1)).transpose(1, 2)
        joined = exchange(joined, order[:paths] if paths else order)
        if torch.onnx.is_in_onnx_export():  # an exported graph has a dynamic number of paths
            several = order[-1:, :1] > 0  # the last path's reference is view P - 1
            return torch.where(several, joined, x[:, :paths] if paths else x)
        return joined

    def point_maps(self, tokens: Tensor, images: Tensor | None, order: Tensor) -> PointMaps:
        """Predict pointmaps in slot order; at inference the skip branch runs view by view.

        Args:
            tokens: (B, P, V, S, dec_dim) from `decode`.
            images: (B, V, 3, H, W) in view order; None omits the skip branch.
            order: (P, V) slot order of these paths.

        Returns:
            Points (B, P, V, H, W, 3) and confidences (B, P, V, H, W).
        """
        if self.config.skip_dim == 0:
            images = None
        if images is not None:
            images = exchange(images[:, None].expand(-1, order.shape[0], -1, -1, -1, -1), order)
        parts = []
        slots = ((self.downstream_head1, slice(0, 1)), (self.downstream_head2, slice(1, None)))
        with torch.autocast(tokens.device.type, enabled=False):
            for head, part in slots:
                views = tokens[:, :, part].float()
                pixels = None if images is None else images[:, :, part].flatten(0, 2)
                maps = self._head_maps(head, views.flatten(0, 2), pixels)
                parts.append([split_axis(m, 0, views.shape[:3]) for m in maps])
        return PointMaps(*(torch.cat(maps, 2) for maps in zip(*parts, strict=True)))

    def _head_maps(self, head: PointHead, tokens: Tensor, images: Tensor | None) -> PointMaps:
        """Run the head on all views at once, or one by one to bound the skip branch's memory."""
        if images is None or plain():
            return head(tokens, images, self.config.grid_hw)  # type: ignore[no-any-return]
        pairs = zip(tokens.split(1), images.split(1), strict=True)
        maps = [head(t, i, self.config.grid_hw) for t, i in pairs]
        return PointMaps(*(torch.cat(m) for m in zip(*maps, strict=True)))

    def gaussians(self, tokens: Tensor) -> Gaussians:
        """Predict Gaussians in slot order from the tokens (B, P, V, S, dec_dim) of `decode`.

        Returns:
            Arrays as in `Gaussians`, with leading axes (B, P, V).
        """
        assert self.downstream_GS_head is not None, "the network was built without Gaussian heads"
        parts = []
        for head, part in zip(self.downstream_GS_head, (slice(0, 1), slice(1, None)), strict=True):
            slots = tokens[:, :, part].float()
            maps = head(slots.flatten(0, 2), self.config.grid_hw)
            parts.append([split_axis(m, 0, slots.shape[:3]) for m in maps])
        return Gaussians(*(torch.cat(maps, 2) for maps in zip(*parts, strict=True)))


def _decoder(c: NetworkConfig) -> nn.ModuleList:
    return nn.ModuleList(
        DecoderBlock(c.dec_dim, c.dec_heads, c.mlp_ratio) for _ in range(c.dec_depth)
    )
