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

"""Sizes and switches of the network, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvdust3r_ros.datatypes import MvDust3rError


class NetworkConfigError(MvDust3rError):
    """The sizes of a network are inconsistent."""


@dataclass(frozen=True)
class NetworkConfig:
    """All settings that determine the weight shapes, and the default number of paths.

    The defaults are those of the published MV-DUSt3R+.

    Attributes:
        image_hw: height and width of the views, in pixels, multiples of `patch_size`.
        patch_size: side of a token's patch, in pixels.
        enc_dim: width of the encoder.
        enc_depth: number of encoder blocks.
        enc_heads: attention heads of the encoder.
        dec_dim: width of the decoder.
        dec_depth: number of decoder layers.
        dec_heads: attention heads of the decoder.
        mlp_ratio: hidden width of an MLP over its input width.
        rope_base: base of the rotary position embedding's frequencies.
        cross_reference: True for MV-DUSt3R+ (blocks that join the reference paths).
        n_ref: default number of reference paths.
        skip_dim: hidden width of the point heads' convolutional skip branch; 0 for none.
        gs_mlp_dim: hidden width of the Gaussian heads; 0 for no Gaussian heads.
        mask_token: True to include the unused `mask_token` of the published files.
        ray_embed: True to embed known intrinsics as rays, with one linear layer.
        pos_embed: True to add a learned absolute position to each patch.
        max_log_distance: limit on log(1 + distance) before the exponential; 0 for none.
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
    cross_reference: bool = True
    n_ref: int = 4
    skip_dim: int = 256
    gs_mlp_dim: int = 768
    mask_token: bool = True
    ray_embed: bool = False
    pos_embed: bool = False
    max_log_distance: float = 0.0

    def __post_init__(self) -> None:
        if any(side <= 0 or side % self.patch_size for side in self.image_hw):
            raise NetworkConfigError(
                f"image_hw {self.image_hw} is not a multiple of patch_size {self.patch_size}"
            )
        for name, dim, heads in (
            ("enc", self.enc_dim, self.enc_heads), ("dec", self.dec_dim, self.dec_heads),
        ):  # fmt: skip
            if heads < 1 or dim % (4 * heads):
                raise NetworkConfigError(
                    f"{name}_dim {dim} over {name}_heads {heads} is not a multiple of 4 a head, "
                    "which the rotary embedding needs"
                )
        if self.n_ref < 1:
            raise NetworkConfigError(f"n_ref {self.n_ref} must be at least 1")

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the tokens of one view."""
        return self.image_hw[0] // self.patch_size, self.image_hw[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """Number of tokens in one view."""
        return self.grid_hw[0] * self.grid_hw[1]


NAMED_CONFIGS: dict[str, NetworkConfig] = {
    "mvd": NetworkConfig(cross_reference=False, n_ref=1),
    "mvdp": NetworkConfig(),
    "room": NetworkConfig(
        image_hw=(128, 128), enc_dim=192, enc_depth=6, enc_heads=3, dec_dim=192, dec_depth=4,
        dec_heads=3, skip_dim=0, gs_mlp_dim=0, mask_token=False, ray_embed=True, pos_embed=True,
        max_log_distance=4.0,
    ),
}  # fmt: skip
"""`mvd` and `mvdp` are the published models; `room` is this package's small model."""


def config_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """Convert to plain values for JSON or YAML; `config_from_dict` reads them back."""
    return dataclasses.asdict(config) | {"image_hw": list(config.image_hw)}


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """Build a configuration from plain values; missing ones get their defaults.

    Raises:
        NetworkConfigError: an unknown name or a value of the wrong type.
    """
    known: dict[str, Any] = {spec.name: spec.default for spec in dataclasses.fields(NetworkConfig)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise NetworkConfigError(f"unknown network setting {unknown[0]!r}; known: {sorted(known)}")
    try:
        typed: dict[str, Any] = {
            name: tuple(int(v) for v in value) if name == "image_hw" else type(known[name])(value)
            for name, value in values.items()
        }
    except (TypeError, ValueError) as error:
        raise NetworkConfigError(f"network settings {dict(values)}: {error}") from None
    if len(typed.get("image_hw", (0, 0))) != 2:
        raise NetworkConfigError(f"image_hw {values['image_hw']} must be height and width")
    return NetworkConfig(**typed)
