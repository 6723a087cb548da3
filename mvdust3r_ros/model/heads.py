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

"""Heads that turn the decoder's last tokens into pointmaps, confidences and Gaussians."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvdust3r_ros.model.attention import split_axis
from mvdust3r_ros.model.layers import Linear

SKIP_SCALE = 1e-4
"""As in the published code, like the next three constants: the weights are trained with it."""
MIN_NORM = 1e-8
"""For a point in the camera centre, which has no direction; DUSt3R's `reg_dense_depth`."""
MAX_CONF = 1e9
"""`conf_mode` of the published models, ('exp', 1, 1e9)."""
GAUSSIAN_SCALE = 0.1
"""Scale factor for the Gaussians' sizes."""
SIZE_RANGE = (0.0224, 0.896)
"""Of a Gaussian, in pixels of a camera as long as its image is wide at the window's mean distance:
`scale_range` of the published training, 1e-4 to 4e-3 of that distance, times its 224 pixels."""

NO_ROTATION = 0.5
"""Quaternions are of length 1, or 0 where every hidden unit of the head is."""


class PointMaps(NamedTuple):
    """Pointmaps of V views: points (V, H, W, 3) and confidences (V, H, W), above 1."""

    points: Tensor
    conf: Tensor


class Gaussians(NamedTuple):
    """One Gaussian per pixel of V views, float32.

    Attributes:
        rgb: (V, H, W, 3) colour, spherical harmonics of degree 0.
        opacity: (V, H, W, 1) in (0, 1).
        scale: (V, H, W, 3) raw, times 0.1; may be negative.
        rotation: (V, H, W, 4) unit quaternion, w first.
    """

    rgb: Tensor
    opacity: Tensor
    scale: Tensor
    rotation: Tensor


class FinishedGaussians(NamedTuple):
    """Gaussians as they are rendered; float32, leading axes (..., V, H, W).

    Attributes:
        opacity: (..., V, H, W) in (0, 1).
        scale: (..., V, H, W, 3) standard deviations, positive, in the unit of the points.
        rotation: (..., V, H, W, 4) unit quaternion, w first, in the frame of the points.
    """

    opacity: Tensor
    scale: Tensor
    rotation: Tensor


def finished(gaussians: Gaussians, points: Tensor) -> FinishedGaussians:
    """What the published training renders: sizes limited in units of the window's mean distance.

    The head's colours are left out: published weights were trained with the pixels' own colours
    in their place (`use_img_rgb`), and nothing ever reached that branch.

    Args:
        gaussians: of the heads, leading axes (..., V, H, W).
        points: (..., V, H, W, 3) the pointmaps that they are centred on.
    """
    low, high = size_limits(points)
    scale = torch.minimum(torch.maximum(gaussians.scale, low), high)
    # a head without an answer gives 0, which renderers take for no rotation
    identity = gaussians.rotation.new_tensor((1.0, 0.0, 0.0, 0.0))
    answered = gaussians.rotation.norm(dim=-1, keepdim=True) > NO_ROTATION
    rotation = torch.where(answered, gaussians.rotation, identity)
    return FinishedGaussians(gaussians.opacity[..., 0], scale, rotation)


def size_limits(points: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest scale of Gaussians on pointmaps (..., V, H, W, 3), (..., 1, 1, 1, 1)."""
    unit = points.norm(dim=-1, keepdim=True).mean((-4, -3, -2), keepdim=True) / points.shape[-2]
    return unit * SIZE_RANGE[0], unit * SIZE_RANGE[1]


def unpatchify(x: Tensor, grid_hw: tuple[int, int], patch: int) -> Tensor:
    """Convert (V, S, C * patch * patch) tokens to (V, C, H, W) pixels; channel order c, dy, dx."""
    maps = split_axis(x.transpose(1, 2), 2, grid_hw)  # (V, C * patch * patch, rows, cols)
    return functional.pixel_shuffle(maps, patch)


def distance_exp(xyz: Tensor, max_log_distance: float = 0.0) -> Tensor:
    """Direction of xyz (..., 3), distance exp(|xyz|) - 1.

    Args:
        xyz: what a head puts out.
        max_log_distance: limit on |xyz| before the exponential; 0 for none.
    """
    norm = xyz.norm(dim=-1, keepdim=True)
    log_distance = norm.clamp(max=max_log_distance) if max_log_distance else norm
    exporting = torch.onnx.is_in_onnx_export()  # ONNX has no expm1
    distance = log_distance.exp() - 1 if exporting else log_distance.expm1()
    return xyz * (distance / norm.clamp(min=MIN_NORM))  # type: ignore[no-any-return]


def confidence(raw: Tensor) -> Tensor:
    """Confidence above 1 of what a head puts out, of any shape."""
    return 1 + raw.exp().clamp(max=MAX_CONF - 1)


class SkipConv(nn.Module):
    """Convolution and batch normalisation that keep the image size."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (V, C, H, W) to (V, C', H, W)."""
        if self.training:
            return self.norm(self.conv(x))  # type: ignore[no-any-return]
        weight, bias = self.folded()
        return functional.conv2d(
            x, weight.to(x.dtype), bias.to(x.dtype), padding=self.conv.padding
        )

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the single convolution that equals both steps at inference."""
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        assert self.conv.bias is not None
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = (self.conv.bias - norm.running_mean) * gain + norm.bias
        return self.conv.weight * gain[:, None, None, None], bias


class PointHead(nn.Module):
    """Linear head: maps a token to the points and confidences of its patch's pixels."""

    def __init__(self, dim: int, patch: int, skip_dim: int, max_log_distance: float) -> None:
        super().__init__()
        self.patch = patch
        self.max_log_distance = max_log_distance
        self.skip_dtype = torch.float32
        self.proj = Linear(dim, 4 * patch * patch)
        self.skip_proj: nn.ModuleList | None = None
        if skip_dim:
            sizes = ((6, skip_dim, 3), (skip_dim, skip_dim, 5), (skip_dim, skip_dim, 5),
                     (skip_dim, 3, 3))  # fmt: skip
            self.skip_proj = nn.ModuleList(SkipConv(*size) for size in sizes)

    def forward(
        self, tokens: Tensor, images: Tensor | None, grid_hw: tuple[int, int]
    ) -> PointMaps:
        """Predict the pointmaps of V views.

        Args:
            tokens: (V, S, D) after the decoder's norm, float32.
            images: (V, 3, H, W) in [-1, 1]; None omits the skip branch, if there is one.
            grid_hw: rows and columns of tokens.
        """
        maps = unpatchify(self.proj(tokens), grid_hw, self.patch)
        xyz, raw_conf = maps[:, :3], maps[:, 3]
        if self.skip_proj is not None and images is not None:
            xyz = xyz + SKIP_SCALE * self._skip(torch.cat((images, xyz), 1)).float()
        points = distance_exp(xyz.permute(0, 2, 3, 1), self.max_log_distance)
        return PointMaps(points, confidence(raw_conf))

    def _skip(self, x: Tensor) -> Tensor:
        assert self.skip_proj is not None
        *hidden, last = self.skip_proj
        x = x.to(self.skip_dtype, memory_format=torch.channels_last)
        for layer in hidden:
            x = functional.selu(layer(x))
        return last(x)  # type: ignore[no-any-return]


class GaussianHead(nn.Module):
    """Four small MLPs: colour, opacity, scale and rotation of one Gaussian per pixel."""

    def __init__(self, dim: int, patch: int, hidden: int) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.mlp_rgb = _two_layers(dim, hidden, 3 * patch * patch)
        self.mlp_opacity = _two_layers(dim, hidden, patch * patch)
        self.mlp_scale2 = _two_layers(dim, hidden, 3 * patch * patch)
        self.mlp_rotation = _two_layers(dim, hidden, 4 * patch * patch)

    def forward(self, tokens: Tensor, grid_hw: tuple[int, int]) -> Gaussians:
        """Map (V, S, D) tokens after the decoder's norm to Gaussians of V views."""
        x = self.norm(tokens)
        rgb, opacity, scale, rotation = (
            unpatchify(mlp(x), grid_hw, self.patch).permute(0, 2, 3, 1)
            for mlp in (self.mlp_rgb, self.mlp_opacity, self.mlp_scale2, self.mlp_rotation)
        )
        rotation = functional.normalize(rotation, dim=-1, eps=1e-5)
        return Gaussians(rgb, opacity.sigmoid(), scale * GAUSSIAN_SCALE, rotation)


def _two_layers(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, out, bias=False)
    )
