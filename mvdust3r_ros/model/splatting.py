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

"""Images of 3-D Gaussians (Kerbl et al. 2023), in plain PyTorch: differentiable, on any device.

Each Gaussian is projected to a Gaussian of the image (EWA splatting, Zwicker et al. 2001), tiles
list those that reach them, nearest first, and each pixel blends its tile's list front to back. The
result is the exact sum: nothing is left out but what is fainter than one level of 256.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LEAST_ALPHA = 1 / 255
"""Fainter contributions are left out, as in Kerbl et al. 2023."""
MOST_ALPHA = 0.99
"""As there: something of what lies behind always shows, which keeps gradients finite."""
NEAR = 0.01
"""Depth, unit of the centres, up to which Gaussians are left out, as in the training of
MV-DUSt3R."""
FIELD_MARGIN = 0.15
"""Farther than so much of the image's width or height outside of it, the projection is linearised
at that margin, as in Kerbl et al. 2023: far outside, its derivative grows without bound."""
TILE_PX = 4
"""Side of a tile; it changes the time alone. Gaussians of about a pixel reach one to four."""
PRODUCTS_AT_ONCE = 1 << 21
"""Pairs of pixel and Gaussian blended together: 8 MB a tensor. It changes time and memory
alone."""


class Gaussians3d(NamedTuple):
    """What is rendered.

    Attributes:
        means: (N, 3) centres.
        scale: (N, 3) standard deviations along their own axes, unit of the centres.
        rotation: (N, 4) quaternions, w first, from their own axes to the frame of the centres.
        opacity: (N,) in [0, 1].
        rgb: (N, 3) colours.
    """

    means: Tensor
    scale: Tensor
    rotation: Tensor
    opacity: Tensor
    rgb: Tensor


@dataclass(frozen=True)
class RenderOptions:
    """How to render.

    Attributes:
        background: colour behind everything.
        blur_px2: variance added to each projected Gaussian, pixels squared, so that none falls
            between pixels: 0.3 in Kerbl et al. 2023 and in viewers, 0.1 in the training of
            MV-DUSt3R.
    """

    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur_px2: float = 0.3


class Projected(NamedTuple):
    """Gaussians in an image, nearest first.

    Attributes:
        which: (M,) rows of the N Gaussians.
        uv: (M, 2) centres; the centre of the first pixel is (0, 0).
        conic: (M, 3) entries xx, xy, yy of the inverse covariance.
        half_px: (M, 2) half width and height of the box in which one reaches `LEAST_ALPHA`.
        depth: (M,) along the optical axis.
    """

    which: Tensor
    uv: Tensor
    conic: Tensor
    half_px: Tensor
    depth: Tensor


class Rendering(NamedTuple):
    """An image of Gaussians.

    Attributes:
        rgb: (H, W, 3).
        alpha: (H, W) how much of the background is hidden.
        depth: (H, W) mean depth of what is seen, weighted as the colours; 0 where nothing is.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor


def rotation_matrices(quats_wxyz: Tensor) -> Tensor:
    """(N, 3, 3) rotations of quaternions (N, 4), w first, of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3)


def project(
    gaussians: Gaussians3d, K: Tensor, T_cam: Tensor, hw: tuple[int, int], blur_px2: float
) -> Projected:
    """Gaussians that may be seen, in the image.

    Args:
        gaussians: in the frame of the scene.
        K: (3, 3) intrinsics, pixel centres at whole numbers.
        T_cam: (4, 4) from the frame of the scene to that of the camera.
        hw: height and width of the image.
        blur_px2: as in `RenderOptions`.
    """
    height, width = hw
    R = T_cam[:3, :3]
    points = gaussians.means @ R.T + T_cam[:3, 3]
    with torch.no_grad():
        index = torch.nonzero((points[:, 2] > NEAR) & (gaussians.opacity > LEAST_ALPHA)).squeeze(1)
        index = index[points[index, 2].argsort(stable=True)]
    points = points[index]
    x, y, z = points.unbind(-1)
    focal, size = K[(0, 1), (0, 1)], K.new_tensor((width, height))
    low = (-0.5 - FIELD_MARGIN * size - K[:2, 2]) / focal
    high = (-0.5 + (1 + FIELD_MARGIN) * size - K[:2, 2]) / focal
    slope = torch.stack((x, y), -1) / z[:, None]
    inside = slope.clamp(low, high)
    zero = torch.zeros_like(z)
    J = torch.stack(
        (focal[0] / z, zero, -focal[0] * inside[:, 0] / z,
         zero, focal[1] / z, -focal[1] * inside[:, 1] / z), -1,
    ).view(-1, 2, 3)  # fmt: skip
    axes = rotation_matrices(gaussians.rotation[index]) * gaussians.scale[index][:, None]
    half_root = J @ R @ axes  # (M, 2, 3): its square is the covariance in the image
    a, b, c = _covariance(half_root, blur_px2)
    uv = slope * focal + K[:2, 2]
    with torch.no_grad():
        reach = (2 * (gaussians.opacity[index] / LEAST_ALPHA).log()).sqrt()
        half_px = torch.stack((a, c), -1).sqrt() * reach[:, None]
        seen = ((uv + half_px >= 0) & (uv - half_px <= size - 1)).all(-1)
        seen = torch.nonzero(seen).squeeze(1)
    conic = torch.stack((c, -b, a), -1) / (a * c - b * b)[:, None]
    return Projected(index[seen], uv[seen], conic[seen], half_px[seen], z[seen])


def _covariance(root: Tensor, blur_px2: float) -> tuple[Tensor, Tensor, Tensor]:
    first, second = root.unbind(1)
    a = (first * first).sum(-1) + blur_px2
    c = (second * second).sum(-1) + blur_px2
    return a, (first * second).sum(-1), c


def render(
    gaussians: Gaussians3d,
    K: Tensor,
    T_cam: Tensor,
    hw: tuple[int, int],
    options: RenderOptions | None = None,
) -> Rendering:
    """What a camera sees of Gaussians.

    Args:
        gaussians: in the frame of the scene.
        K: (3, 3) intrinsics, pixel centres at whole numbers.
        T_cam: (4, 4) from the frame of the scene to that of the camera.
        hw: height and width of the image.
        options: how to render.
    """
    options = options or RenderOptions()
    height, width = hw
    seen = project(gaussians, K, T_cam, hw, options.blur_px2)
    opacity, rgb = gaussians.opacity[seen.which, None], gaussians.rgb[seen.which]
    table = torch.cat((seen.uv, seen.conic, opacity, rgb, seen.depth[:, None]), -1)
    nothing = torch.zeros_like(table[:1])
    table = torch.cat((table, nothing))  # the last one fills up short lists
    grid_hw = (math.ceil(height / TILE_PX), math.ceil(width / TILE_PX))
    images = table.new_zeros(grid_hw[0] * grid_hw[1], TILE_PX**2, BLENDED)
    places, parts = [], []
    for tiles, lists in _tile_lists(seen, grid_hw):
        origin = torch.stack((tiles % grid_hw[1], tiles // grid_hw[1]), -1) * TILE_PX
        part = (table, lists, origin.to(table))
        if table.requires_grad:  # blended again on the way back: memory is that of a portion
            parts.append(checkpoint(_blend, *part, use_reentrant=False))
        else:
            parts.append(_blend(*part))
        places.append(tiles)
    if parts:
        images = images.index_copy(0, torch.cat(places), torch.cat(parts))
    image = images.view(*grid_hw, TILE_PX, TILE_PX, BLENDED).transpose(1, 2)
    image = image.reshape(grid_hw[0] * TILE_PX, grid_hw[1] * TILE_PX, BLENDED)[:height, :width]
    color, depth, alpha = image.split((3, 1, 1), -1)
    color = color + (1 - alpha) * color.new_tensor(options.background)
    depth = depth / alpha.clamp(min=LEAST_ALPHA)
    return Rendering(color, alpha.squeeze(-1), depth.squeeze(-1))


BLENDED = 5
"""Values of a pixel that are blended: colour, depth, one."""


def _tile_lists(seen: Projected, grid_hw: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles (T,) and the Gaussians (T, L) that reach them, nearest first, some tiles at a time.

    Lists are filled up with M, the number of Gaussians.
    """
    rows, cols = grid_hw
    count = len(seen.which)
    last = seen.uv.new_tensor((cols - 1, rows - 1))
    first = ((seen.uv - seen.half_px) / TILE_PX).detach()
    final = ((seen.uv + seen.half_px) / TILE_PX).detach()
    low = torch.minimum(first.floor().clamp(min=0), last).long()
    high = torch.minimum(final.floor().clamp(min=0), last).long()
    size = high - low + 1
    copies = size.prod(-1)
    owner = torch.arange(count, device=copies.device).repeat_interleave(copies)
    place = torch.arange(len(owner), device=copies.device) - (copies.cumsum(0) - copies)[owner]
    tile = (
        (low[owner, 1] + place // size[owner, 0]) * cols + low[owner, 0] + place % size[owner, 0]
    )
    tile, by_tile = tile.sort(stable=True)
    owner = owner[by_tile]
    lengths = torch.bincount(tile, minlength=rows * cols)
    starts = lengths.cumsum(0) - lengths
    order = lengths.argsort(descending=True)  # lists of a length together
    order = order[lengths[order] > 0]
    position = 0
    while position < len(order):
        longest = int(lengths[order[position]])
        fits = max(1, PRODUCTS_AT_ONCE // (TILE_PX**2 * longest))
        tiles = order[position : position + fits]
        position += len(tiles)
        slots = torch.arange(longest, device=tile.device)
        within = slots < lengths[tiles][:, None]
        at = (starts[tiles][:, None] + slots).clamp(max=max(len(owner) - 1, 0))
        yield tiles, torch.where(within, owner[at], count)


def _blend(table: Tensor, lists: Tensor, origin: Tensor) -> Tensor:
    """(T, P, 5) colour, depth and alpha of the pixels of tiles.

    Args:
        table: (M + 1, 10) uv, conic, opacity, colour, depth; the last row is nothing.
        lists: (T, L) rows of the table, nearest first.
        origin: (T, 2) first pixel of each tile.
    """
    tiles, length = lists.shape
    own = table.index_select(0, lists.flatten()).view(tiles, 1, length, -1)
    side = torch.arange(TILE_PX, device=table.device, dtype=table.dtype)
    v, u = torch.meshgrid(side, side, indexing="ij")
    pixels = origin[:, None] + torch.stack((u, v), -1).view(-1, 2)  # (T, P, 2)
    dx = pixels[..., :1] - own[..., 0]
    dy = pixels[..., 1:] - own[..., 1]
    distance = own[..., 2] * dx * dx + 2 * own[..., 3] * dx * dy + own[..., 4] * dy * dy
    alpha = (own[..., 5] * (-0.5 * distance).exp()).clamp(max=MOST_ALPHA)
    alpha = torch.where(alpha < LEAST_ALPHA, torch.zeros_like(alpha), alpha)
    through = (1 - alpha).cumprod(-1)
    before = torch.cat((torch.ones_like(through[..., :1]), through[..., :-1]), -1)
    values = torch.cat((own[:, 0, :, 6:], torch.ones_like(own[:, 0, :, :1])), -1)
    return (alpha * before) @ values
