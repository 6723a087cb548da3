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

"""New views of synthetic rooms: Gaussians of input views, rendered where held-out views look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvdust3r_ros.datatypes import FloatArray, ImageArray, View
from mvdust3r_ros.image_quality import psnr_db, ssim
from mvdust3r_ros.model.heads import Gaussians, finished, size_limits
from mvdust3r_ros.model.network import Network, exchange, slot_order
from mvdust3r_ros.model.splatting import Gaussians3d, RenderOptions, render
from mvdust3r_ros.synthetic.dataset import Batch, collate, make_window
from mvdust3r_ros.window.reference_views import order_views

BLUR_PX2 = 0.1
"""As in the published training."""
POINT_SIZE, POINT_OPACITY = 0.5, 0.99
"""Coloured points to compare with: round Gaussians of half a pixel, as opaque as is rendered."""
HELD_OUT_SHARE = 4
"""One held-out view for so many input views: 1, 3 and 6 for 4, 12 and 24, as in the paper's tests
with 30 views of which 24 are inputs."""
REFERENCES = 4
"""Views that `order_views` puts first; networks that take fewer references take the first ones."""


class Seen(NamedTuple):
    """What a network makes of the input views of a window.

    Attributes:
        gaussians: one a pixel, in the frame of the first view, coloured by the pixels.
        excess: mean squared excess of the sizes over the range that is rendered, in units of the
            window's mean distance.
    """

    gaussians: Gaussians3d
    excess: Tensor


def see(
    network: Network, batch: Batch, views: int, true_points: bool = False, n_ref: int = 1
) -> Seen:
    """What a network makes of the first views of a batch of one window, in true units.

    Args:
        network: with Gaussian heads.
        batch: one window.
        views: input views, which come first.
        true_points: whether true pointmaps take the place of the network's.
        n_ref: reference paths to run, at most `views`; the first one's points are taken.
    """
    decoded, points = predicted(network, batch, views, n_ref)
    order = slot_order(1, views).to(points.device)
    raw = Gaussians(*(exchange(g, order)[0, 0] for g in network.gaussians(decoded)))
    truth = batch.points(0)[0, :views]
    # as in the published training: a window has no size of its own
    distance, true_distance = (p.norm(dim=-1).mean() for p in (points, truth))
    factor = true_distance / distance
    placed = truth if true_points else points * factor
    scaled = raw._replace(scale=raw.scale * factor)
    made = finished(scaled, placed)
    low, high = size_limits(placed)
    outside = (scaled.scale - high).clamp(min=0) + (low - scaled.scale).clamp(min=0)
    rgb = torch.stack([true_image(batch, view) for view in range(views)])
    gaussians = Gaussians3d(
        placed.reshape(-1, 3), made.scale.reshape(-1, 3), made.rotation.reshape(-1, 4),
        made.opacity.reshape(-1), rgb.reshape(-1, 3),
    )  # fmt: skip
    return Seen(gaussians, (outside / true_distance).square().mean())


@torch.no_grad()
def predicted(network: Network, batch: Batch, views: int, n_ref: int = 1) -> tuple[Tensor, Tensor]:
    """Decoder tokens (1, 1, V, S, D) and points (V, H, W, 3) of input views; they do not learn."""
    images = batch.images[:, :views]
    known = batch.K[:, None, (0, 1, 0, 1), (0, 1, 2, 2)].expand(-1, views, -1)
    order = slot_order(min(n_ref, views), views).to(images.device)
    tokens = network.encode(images.flatten(0, 1), known.flatten(0, 1))
    decoded = network.decode(tokens.unflatten(0, (1, views)), order, paths=1)
    maps = network.point_maps(decoded, images, order[:1])
    return decoded, exchange(maps.points, order[:1])[0, 0]


def as_points(gaussians: Gaussians3d, batch: Batch, views: int) -> Gaussians3d:
    """Coloured points in place of Gaussians: all alike, about a pixel of their own view large."""
    centres = batch.relative(0)[0, :views, None, :3, 3]
    distance = (gaussians.means.view(views, -1, 3) - centres).norm(dim=-1)
    size = (distance * (POINT_SIZE / batch.K[0, 0, 0])).view(-1, 1)
    rotation = gaussians.rotation.new_tensor((1.0, 0, 0, 0)).expand(len(size), 4)
    return gaussians._replace(
        scale=size.expand(-1, 3), rotation=rotation,
        opacity=torch.full_like(gaussians.opacity, POINT_OPACITY),
    )  # fmt: skip


def image_of(gaussians: Gaussians3d, batch: Batch, view: int) -> Tensor:
    """(H, W, 3) what a view of a window's batch sees of Gaussians in the frame of the first."""
    T_cam = torch.linalg.inv(batch.relative(0)[0, view])
    hw = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    options = RenderOptions(blur_px2=BLUR_PX2)
    return render(gaussians, batch.K[0], T_cam, hw, options).rgb


def true_image(batch: Batch, view: int) -> Tensor:
    """(H, W, 3) in [0, 1] a view of a window's batch."""
    return batch.images[0, view].permute(1, 2, 0) * 0.5 + 0.5


def held_out_window(seed: int, views: int, hw: tuple[int, int]) -> Batch:
    """A window whose first views are the input, references first, and the last held out.

    Args:
        seed: of the room.
        views: input views; there is a held-out one for every `HELD_OUT_SHARE` of them.
        hw: height and width in pixels.
    """
    held_out = max(1, views // HELD_OUT_SHARE)
    window = make_window(seed, views + held_out, hw)
    step = (views + held_out) / held_out
    apart = [int((k + 0.5) * step) for k in range(held_out)]
    inputs = [k for k in range(views + held_out) if k not in apart]
    order = order_views([View(window.rgb[k]) for k in inputs], min(REFERENCES, views))
    chosen = [*(inputs[k] for k in order), *apart]
    return collate(
        [replace(window, rgb=window.rgb[chosen], depth_m=window.depth_m[chosen],
                 T_world_cam=window.T_world_cam[chosen])]
    )  # fmt: skip


@dataclass(frozen=True)
class NewViews:
    """How well held-out views are predicted, means over views and rooms.

    Attributes:
        psnr_db: of the Gaussians.
        ssim: of the Gaussians.
        points_psnr_db: of coloured points at the same places.
        points_ssim: the same.
        picture: (rows, cols, 3) uint8: truth, Gaussians and points of a view of each room.
    """

    psnr_db: float
    ssim: float
    points_psnr_db: float
    points_ssim: float
    picture: ImageArray


@torch.no_grad()
def measure_new_views(
    network: Network, seeds: Sequence[int], views: int, true_points: bool = False
) -> NewViews:
    """Render held-out views of held-out rooms.

    Args:
        network: with Gaussian heads.
        seeds: of the rooms.
        views: input views.
        true_points: as in `see`.
    """
    scores, rows = [], []
    device = next(network.parameters()).device
    for seed in seeds:
        batch = held_out_window(seed, views, network.config.image_hw).to(device)
        gaussians = see(network, batch, views, true_points, network.config.n_ref).gaussians
        points = as_points(gaussians, batch, views)
        for view in range(views, batch.images.shape[1]):
            truth = _numpy(true_image(batch, view))
            images = [_numpy(image_of(g, batch, view)) for g in (gaussians, points)]
            scores.append([f(image, truth) for image in images for f in (psnr_db, ssim)])
        rows.append(np.concatenate([truth, *images], 1))
    psnr, similarity, points_psnr, points_similarity = np.mean(scores, 0).tolist()
    picture = np.round(np.concatenate(rows) * 255).clip(0, 255).astype(np.uint8)
    return NewViews(psnr, similarity, points_psnr, points_similarity, picture)


def _numpy(image: Tensor) -> FloatArray:
    return np.asarray(image.double().cpu().numpy())
