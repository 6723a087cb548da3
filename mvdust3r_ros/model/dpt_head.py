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

"""The DPT head: pixels from tokens of four layers (Ranftl et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvdust3r_ros.model.attention import split_axis
from mvdust3r_ros.model.heads import PointMaps, confidence, distance_exp

DPT_PATCH = 16
"""Side of a patch in pixels: levels of 4, 2, 1 and 1/2 cells a token, and two doublings after the
finest."""


class DptHead(nn.Module):
    """Points and confidences of all pixels; parameter names are those of the published files."""

    def __init__(
        self, token_dims: Sequence[int], level_dims: Sequence[int], features: int
    ) -> None:
        """A head on four layers of tokens.

        Args:
            token_dims: widths of the tokens of the four layers.
            level_dims: channels of the four levels, finest first.
            features: channels in which the levels are fused.
        """
        super().__init__()
        self.dpt = _Dpt(token_dims, level_dims, features)

    def forward(self, layers: Sequence[Tensor], grid_hw: tuple[int, int]) -> PointMaps:
        """Pointmaps of V views from four layers of tokens (V, S, D), the first layer first."""
        maps = self.dpt(layers, grid_hw)
        return PointMaps(distance_exp(maps[:, :3].permute(0, 2, 3, 1)), confidence(maps[:, 3]))


class _Dpt(nn.Module):
    def __init__(
        self, token_dims: Sequence[int], level_dims: Sequence[int], features: int
    ) -> None:
        super().__init__()
        self.act_postprocess = nn.ModuleList(
            _level(level, token_dim, dim)
            for level, (token_dim, dim) in enumerate(zip(token_dims, level_dims, strict=True))
        )
        self.scratch = _Fusion(level_dims, features)
        self.head = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(features // 2, features // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features // 2, 4, 1),
        )

    def forward(self, layers: Sequence[Tensor], grid_hw: tuple[int, int]) -> Tensor:
        """(V, 4, H, W)."""
        cells = [split_axis(tokens.transpose(1, 2), 2, grid_hw) for tokens in layers]
        levels = [level(x) for level, x in zip(self.act_postprocess, cells, strict=True)]
        return self.head(self.scratch(levels))  # type: ignore[no-any-return]


def _level(level: int, token_dim: int, dim: int) -> nn.Sequential:
    """From the grid of tokens to that of a level: 4, 2, 1 or 1/2 cells a token."""
    narrow = nn.Conv2d(token_dim, dim, 1)
    if level == 2:
        return nn.Sequential(narrow)
    if level == 3:
        return nn.Sequential(narrow, nn.Conv2d(dim, dim, 3, stride=2, padding=1))
    times = 4 >> level
    return nn.Sequential(narrow, nn.ConvTranspose2d(dim, dim, times, stride=times))


class _Fusion(nn.Module):
    """The levels, coarsest first, each added to the doubled sum of those before."""

    def __init__(self, level_dims: Sequence[int], features: int) -> None:
        super().__init__()
        self.layer_rn = nn.ModuleList(
            nn.Conv2d(dim, features, 3, padding=1, bias=False) for dim in level_dims
        )
        self.refinenet1 = _Refine(features)
        self.refinenet2 = _Refine(features)
        self.refinenet3 = _Refine(features)
        self.refinenet4 = _Refine(features)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels (V, dim, rows, cols), finest first -> (V, features, 8 rows, 8 cols) of tokens."""
        a, b, c, d = (layer(x) for layer, x in zip(self.layer_rn, levels, strict=True))
        # half of an odd number of tokens is rounded up: what is doubled from it is one too large
        x = self.refinenet4(d)[:, :, : c.shape[2], : c.shape[3]]
        return self.refinenet1(self.refinenet2(self.refinenet3(x, c), b), a)  # type: ignore[no-any-return]


class _Refine(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.resConfUnit1 = _Residual(features)  # in the files for the coarsest level too
        self.resConfUnit2 = _Residual(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """(V, C, rows, cols), and a level of that size -> twice the rows and columns."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        x = self.resConfUnit2(x)
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(x)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same size out as in."""
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))  # type: ignore[no-any-return]
