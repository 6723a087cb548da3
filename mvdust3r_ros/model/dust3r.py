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

"""DUSt3R (Wang et al., CVPR 2024): pointmaps of two views in the frame of the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mvdust3r_ros.model.config import NetworkConfig, NetworkConfigError
from mvdust3r_ros.model.dpt_head import DPT_PATCH, DptHead
from mvdust3r_ros.model.heads import PointHead, PointMaps
from mvdust3r_ros.model.layers import DecoderBlock, EncoderBlock, LayerNorm, Linear, rope_table
from mvdust3r_ros.model.network import RAY_FEATURES, PatchEmbed, patch_centres, ray_features

HEADS = ("linear", "dpt")


@dataclass(frozen=True)
class PairConfig:
    """Sizes of the pairwise network; the defaults are those of the published 224 linear model.

    Attributes:
        image_hw: height and width of the views it was trained with, in pixels; it takes any
            multiples of `patch_size`.
        patch_size: side of a token's patch, in pixels.
        enc_dim: width of the encoder.
        enc_depth: blocks of the encoder.
        enc_heads: attention heads of the encoder.
        dec_dim: width of the two decoders.
        dec_depth: layers of a decoder.
        dec_heads: attention heads of a decoder.
        mlp_ratio: hidden width of an MLP over its input width.
        rope_base: base of the rotary position embedding's frequencies.
        head: one of `HEADS`.
        dpt_levels: channels of the DPT head's four levels, finest first.
        dpt_features: channels in which they are fused.
        ray_embed: whether known intrinsics are embedded as rays; see `NetworkConfig`.
        pos_embed: whether each patch of `image_hw` has a learned position; see `NetworkConfig`.
        max_log_distance: limit of a linear head on log(1 + distance); 0 for none.

    Raises:
        NetworkConfigError: on construction, sizes that do not fit together.
    """

    image_hw: tuple[int, int] = (224, 224)
    patch_size: int = 16
    enc_dim: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_dim: int = 768
    dec_depth: int = 12
    dec_heads: int = 12
    mlp_ratio: float = 4.0
    rope_base: float = 100.0
    head: str = "linear"
    dpt_levels: tuple[int, int, int, int] = (96, 192, 384, 768)
    dpt_features: int = 256
    ray_embed: bool = False
    pos_embed: bool = False
    max_log_distance: float = 0.0

    def __post_init__(self) -> None:
        shared = {field.name for field in dataclasses.fields(NetworkConfig)}
        NetworkConfig(**{k: v for k, v in dataclasses.asdict(self).items() if k in shared})
        if self.head not in HEADS:
            raise NetworkConfigError(f"head {self.head!r} is not one of {', '.join(HEADS)}")
        if self.head == "dpt" and (self.patch_size != DPT_PATCH or self.dec_depth < 4):
            raise NetworkConfigError(
                f"a DPT head with patches of {self.patch_size} pixels and {self.dec_depth} "
                f"decoder layers; it needs patches of {DPT_PATCH} and at least 4 layers"
            )

    @property
    def read_layers(self) -> tuple[int, ...]:
        """Decoder layers that the head reads; 0 is the encoder."""
        depth = self.dec_depth
        return (0, depth // 2, depth * 3 // 4, depth) if self.head == "dpt" else (depth,)


def pair_config_to_dict(config: PairConfig) -> dict[str, Any]:
    """Plain values for JSON or YAML; `pair_config_from_dict` reads them back."""
    values = dataclasses.asdict(config)
    return values | {k: list(values[k]) for k in ("image_hw", "dpt_levels")}


def pair_config_from_dict(values: Mapping[str, Any]) -> PairConfig:
    """A configuration out of plain values; missing ones take their defaults.

    Raises:
        NetworkConfigError: an unknown name or a value of the wrong type.
    """
    known: dict[str, Any] = {spec.name: spec.default for spec in dataclasses.fields(PairConfig)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise NetworkConfigError(f"unknown network setting {unknown[0]!r}; known: {sorted(known)}")
    try:
        typed: dict[str, Any] = {name: type(known[name])(value) for name, value in values.items()}
        for name in ("image_hw", "dpt_levels"):
            if name in typed:
                typed[name] = tuple(int(v) for v in typed[name])
                if len(typed[name]) != len(known[name]):
                    raise ValueError(f"{name} has {len(typed[name])} values")
        return PairConfig(**typed)
    except (TypeError, ValueError) as error:
        raise NetworkConfigError(f"network settings {dict(values)}: {error}") from None


class PairNetwork(nn.Module):
    """The whole network; parameter names are those of the published files.

    Confidences are limited to `heads.MAX_CONF`, which the published code does not do: only a
    confidence whose logarithm is above 20 differs.
    """

    def __init__(self, config: PairConfig) -> None:
        """Build with torch's own initial weights."""
        super().__init__()
        self.config = c = config
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.dec_dim))  # in the files, not used
        self.patch_embed = PatchEmbed(c.patch_size, c.enc_dim)
        tokens = c.image_hw[0] * c.image_hw[1] // c.patch_size**2
        self.pos_embed = nn.Parameter(torch.zeros(tokens, c.enc_dim)) if c.pos_embed else None
        self.ray_embed = nn.Linear(RAY_FEATURES, c.enc_dim) if c.ray_embed else None
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(c.enc_dim, c.enc_heads, c.mlp_ratio) for _ in range(c.enc_depth)
        )
        self.enc_norm = LayerNorm(c.enc_dim)
        self.decoder_embed = Linear(c.enc_dim, c.dec_dim)
        self.dec_blocks = _decoder(c)
        self.dec_norm = LayerNorm(c.dec_dim)
        self.dec_blocks2 = _decoder(c)
        self.downstream_head1 = _head(c)
        self.downstream_head2 = _head(c)
        self._ropes: dict[tuple[tuple[int, int], int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, first: Tensor, second: Tensor) -> tuple[PointMaps, PointMaps]:
        """Pointmaps of P pairs, both in the camera frame of the pair's first view.

        Args:
            first: (P, 3, H, W) in [-1, 1].
            second: (P, 3, H, W) of the same size.

        Returns:
            Of the first views and of the second ones, (P, H, W, 3) and (P, H, W).
        """
        return self.pair_maps(self.encode(first), self.encode(second), self.grid_hw(first))

    def grid_hw(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens of (V, 3, H, W) images."""
        patch = self.config.patch_size
        return images.shape[2] // patch, images.shape[3] // patch

    def encode(self, images: Tensor, intrinsics: Tensor | None = None) -> Tensor:
        """Tokens of single views.

        Args:
            images: (V, 3, H, W) in [-1, 1].
            intrinsics: (V, 4) as `Network.forward` takes them; used with a ray embedding alone.

        Returns:
            (V, S, enc_dim)
        """
        c = self.config
        x = self.patch_embed(images)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if self.ray_embed is not None and intrinsics is not None:
            centres = patch_centres(self.grid_hw(images), c.patch_size).to(images)
            height, width = images.shape[2:]
            rays, known = ray_features(intrinsics, centres, (height, width))
            x = x + self.ray_embed(rays) * known
        rope = self._rope(self.grid_hw(images), c.enc_dim // c.enc_heads, images.device)
        for block in self.enc_blocks:
            x = block(x, rope)
        return self.enc_norm(x).float()  # type: ignore[no-any-return]

    def pair_maps(
        self, first: Tensor, second: Tensor, grid_hw: tuple[int, int]
    ) -> tuple[PointMaps, PointMaps]:
        """Decoders and heads; arguments and result as of `decode` and `forward`."""
        return self.point_maps(self.decode(first, second, grid_hw), grid_hw)

    def point_maps(
        self, decoded: tuple[Sequence[Tensor], Sequence[Tensor]], grid_hw: tuple[int, int]
    ) -> tuple[PointMaps, PointMaps]:
        """Heads alone, on what `decode` gives."""
        heads = (self.downstream_head1, self.downstream_head2)
        a, b = (
            head([x.float() for x in layers], grid_hw)
            if isinstance(head, DptHead)
            else head(layers[-1].float(), None, grid_hw)
            for head, layers in zip(heads, decoded, strict=True)
        )
        return a, b

    def decode(
        self, first: Tensor, second: Tensor, grid_hw: tuple[int, int]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Run both decoders, each of which reads the other's tokens of the layer before.

        Args:
            first: (P, S, enc_dim) tokens of the first views, from `encode`.
            second: (P, S, enc_dim) of the second views.
            grid_hw: rows and columns of tokens.

        Returns:
            Tokens (P, S, D) of `read_layers` for either view; those of the last layer normalised.
        """
        c = self.config
        rope = self._rope(grid_hw, c.dec_dim // c.dec_heads, first.device)
        a, b = (self.decoder_embed(x).float()[:, None] for x in (first, second))  # (P, 1, S, D)
        kept: list[tuple[Tensor, Tensor]] = [(first, second)]
        for block, block2 in zip(self.dec_blocks, self.dec_blocks2, strict=True):
            a, b = block(a, b, rope, -1), block2(b, a, rope, -1)
            kept.append((a[:, 0], b[:, 0]))
        kept[-1] = (self.dec_norm(kept[-1][0]), self.dec_norm(kept[-1][1]))
        chosen = [kept[layer] for layer in c.read_layers]
        return [pair[0] for pair in chosen], [pair[1] for pair in chosen]

    def lower_precision(self, dtype: torch.dtype) -> None:
        """Hold the matrices of the blocks in `dtype`; all else stays in float32."""
        for name, module in self.named_modules():
            if isinstance(module, Linear) and not name.startswith("downstream"):
                module.to(dtype)

    def _rope(
        self, grid_hw: tuple[int, int], head_dim: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The table of a grid, kept: views of one map have one size."""
        key = (grid_hw, head_dim, device)
        if key not in self._ropes:
            cos, sin = rope_table(grid_hw, head_dim, self.config.rope_base)
            self._ropes[key] = (cos.to(device), sin.to(device))
        return self._ropes[key]


def _decoder(c: PairConfig) -> nn.ModuleList:
    return nn.ModuleList(
        DecoderBlock(c.dec_dim, c.dec_heads, c.mlp_ratio) for _ in range(c.dec_depth)
    )


def _head(c: PairConfig) -> PointHead | DptHead:
    if c.head == "linear":
        return PointHead(c.dec_dim, c.patch_size, 0, c.max_log_distance)
    return DptHead((c.enc_dim, *3 * (c.dec_dim,)), c.dpt_levels, c.dpt_features)
