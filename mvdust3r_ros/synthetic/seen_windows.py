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

"""Gaussians of the input views of training windows, and images of them, with gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvdust3r_ros.model.heads import Gaussians, finished, size_limits
from mvdust3r_ros.model.network import Network, exchange, slot_order
from mvdust3r_ros.model.splatting import Gaussians3d, RenderOptions, render
from mvdust3r_ros.synthetic.dataset import Batch
from mvdust3r_ros.synthetic.losses import confidence_loss
from mvdust3r_ros.synthetic.new_views import BLUR_PX2

CONFIDENCE_ALPHA = 0.2
"""Weight of the confidences' logarithm, as in the published training (DUSt3R, eq. 4)."""


class Seen(NamedTuple):
    """What a network makes of the input views of a window.

    Attributes:
        gaussians: one a pixel, in the frame of the first view, coloured by the pixels.
        excess: mean squared excess of the sizes over the range that is rendered, in units of the
            window's mean distance.
        points: loss of the pointmaps; 0 where they do not learn.
    """

    gaussians: Gaussians3d
    excess: Tensor
    points: Tensor


def see(
    network: Network,
    batch: Batch,
    views: int,
    true_points: bool = False,
    n_ref: int = 1,
    joint: bool = False,
) -> Seen:
    """What a network makes of the first views of a batch of one window, in true units.

    Args:
        network: with Gaussian heads.
        batch: one window.
        views: input views, which come first.
        true_points: whether true pointmaps take the place of the network's.
        n_ref: reference paths to run, at most `views`; the first one's points are taken.
        joint: whether all of the network learns, rather than its heads alone.
    """
    with torch.set_grad_enabled(joint and torch.is_grad_enabled()):
        decoded, points, conf = predicted(network, batch, views, n_ref)
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
    excess = (outside / true_distance).square().mean()
    if not joint:
        return Seen(gaussians, excess, torch.zeros_like(excess))
    found, target = (p[None] for p in (points, truth))
    loss, _ = confidence_loss(found, conf[None], target, CONFIDENCE_ALPHA, normalized=True)
    return Seen(gaussians, excess, loss)


def predicted(
    network: Network, batch: Batch, views: int, n_ref: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Decoder tokens (1, 1, V, S, D), points (V, H, W, 3) and confidences of input views."""
    images = batch.images[:, :views]
    known = batch.K[:, None, (0, 1, 0, 1), (0, 1, 2, 2)].expand(-1, views, -1)
    order = slot_order(min(n_ref, views), views).to(images.device)
    tokens = network.encode(images.flatten(0, 1), known.flatten(0, 1))
    decoded = network.decode(tokens.unflatten(0, (1, views)), order, paths=1)
    maps = network.point_maps(decoded, images, order[:1])
    points, conf = (exchange(part, order[:1])[0, 0] for part in maps)
    return decoded, points, conf


def image_of(gaussians: Gaussians3d, batch: Batch, view: int) -> Tensor:
    """(H, W, 3) what a view of a window's batch sees of Gaussians in the frame of the first."""
    T_cam = torch.linalg.inv(batch.relative(0)[0, view])
    hw = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    options = RenderOptions(blur_px2=BLUR_PX2)
    return render(gaussians, batch.K[0], T_cam, hw, options).rgb


def true_image(batch: Batch, view: int) -> Tensor:
    """(H, W, 3) in [0, 1] a view of a window's batch."""
    return batch.images[0, view].permute(1, 2, 0) * 0.5 + 0.5
