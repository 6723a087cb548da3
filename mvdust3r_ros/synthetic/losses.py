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

"""Losses of the pointmap network, each a scalar."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvdust3r_ros.synthetic.dataset import Batch

MATCH_DIM = 64
"""Size of the descriptor for learning matches; the released network omits this layer."""


def confidence_loss(
    points: Tensor, conf: Tensor, target: Tensor, alpha: float, normalized: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute confidence-weighted regression, conf * err - alpha * log(conf).

    err is the distance to the target over the mean distance of the target's points from the
    origin. Metric targets keep the prediction's scale; normalised ones, as in DUSt3R (Wang et al.
    2024, eq. 3), divide each by its own mean distance.

    Args:
        points: (B, V, H, W, 3) predicted, metres.
        conf: (B, V, H, W), above 1.
        target: (B, V, H, W, 3), metres.
        alpha: weight of the confidence's logarithm.
        normalized: whether the prediction's scale is free.

    Returns:
        The loss, and the (B, V, H, W) errors without gradient.
    """
    size = target.norm(dim=-1).flatten(1).mean(1).view(-1, 1, 1, 1)
    points = points.float()
    if normalized:
        own_size = points.norm(dim=-1).flatten(1).mean(1).view(-1, 1, 1, 1)
        points = points * (size / own_size.clamp_min(1e-6))[..., None]
    error = (points - target).norm(dim=-1) / size
    conf = conf.float()
    return (conf * error - alpha * conf.log()).mean(), error.detach()


def pose_loss(points: Tensor, target: Tensor, centres: Tensor) -> Tensor:
    """Measure how far the similarity from a view's true to its predicted points is from identity.

    This is the error that affects a pose solver: the part that moves, rotates or scales the view
    as a whole, to first order. The translation is that of the camera centre.

    Args:
        points: (B, V, H, W, 3) predicted, metres.
        target: (B, V, H, W, 3), metres.
        centres: (B, V, 3) true camera centres in the frame of the targets.

    Returns:
        Mean over views of translation (over the mean distance of the targets), angle (radians) and
        logarithm of scale.
    """
    size = target.norm(dim=-1).flatten(1).mean(1)[:, None]
    p, x = points.float().flatten(2, 3), target.flatten(2, 3)
    middle = x.mean(2, keepdim=True)
    error, arm = p - x, x - middle
    spread = torch.einsum("bvni,bvnj->bvij", arm, arm)
    trace = spread.diagonal(dim1=-2, dim2=-1).sum(-1)
    inertia = trace[..., None, None] * torch.eye(3, device=x.device) - spread
    torque = torch.linalg.cross(arm, error).sum(2)
    turn = torch.linalg.solve(inertia + 1e-6 * torch.eye(3, device=x.device), torque)
    grow = (arm * error).sum((2, 3)) / (trace + 1e-6)
    lever = centres - middle[:, :, 0]
    move = error.mean(2) + torch.linalg.cross(turn, lever) + grow[..., None] * lever
    parts: Tensor = move.norm(dim=-1) / size + turn.norm(dim=-1) + grow.abs()
    return parts.mean()


class Matches(NamedTuple):
    """Where each patch centre of each view is visible in the other views.

    Attributes:
        token: (B, V, S, V) int64 index of the token that shows it, per observing view.
        seen: (B, V, S, V) whether it is visible there; never in its own view.
    """

    token: Tensor
    seen: Tensor


def find_matches(batch: Batch, points: Tensor, patch: int) -> Matches:
    """Project patch centres into all views and keep those confirmed by the exact depth.

    Args:
        batch: the views.
        points: (B, V, H, W, 3) pointmaps in the camera frame of view 0.
        patch: side of a token's patch in pixels.
    """
    b, v, h, w = batch.depth_m.shape
    centers = points[:, :, patch // 2 :: patch, patch // 2 :: patch].reshape(b, 1, -1, 3)
    T = batch.relative(0)  # T_view0_cam
    q = (centers - T[..., None, :3, 3]) @ T[..., :3, :3]  # (B, seeing view, V * S, 3)
    z = q[..., 2].clamp_min(1e-3)
    K = batch.K[:, None, None]
    px = (K[..., 0, 0] * q[..., 0] / z + K[..., 0, 2]).round().long()
    py = (K[..., 1, 1] * q[..., 1] / z + K[..., 1, 2]).round().long()
    # in front of the other camera
    inside = (q[..., 2] > 0.1) & (px >= 0) & (px < w) & (py >= 0) & (py < h)
    px, py = px.clamp(0, w - 1), py.clamp(0, h - 1)
    there = batch.depth_m.flatten(2).gather(2, py * w + px)
    seen = inside & ((there - z).abs() < 0.05 * z + 0.03)
    token = (py // patch) * (w // patch) + px // patch
    token, seen = (t.view(b, v, v, -1).permute(0, 2, 3, 1) for t in (token, seen))
    own = torch.eye(v, dtype=torch.bool, device=seen.device)[None, :, None]
    return Matches(token.contiguous(), seen & ~own)


class MatchHead(nn.Module):
    """Projects encoder features for the matching loss; only used in training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, MATCH_DIM)
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, features: Tensor, matches: Matches) -> Tensor:
        """Compute InfoNCE: each visible patch must find its token among all of the observing view.

        Args:
            features: (B, V, S, D) encoder tokens.
            matches: from `find_matches`.
        """
        unit = functional.normalize(self.proj(features).float(), dim=-1)
        scale = self.log_scale.exp().clamp_max(50.0)
        scores = torch.einsum("bisd,bjtd->bisjt", unit, unit) * scale
        if not matches.seen.any():
            return scores.sum() * 0.0
        return functional.cross_entropy(scores[matches.seen], matches.token[matches.seen])


def attention_loss(attention: Tensor, matches: Matches) -> Tensor:
    """Compute minus the log of the attention mass on tokens that show the query's patch centre.

    Args:
        attention: (L, B, V, S, V, S) one head's cross-attention weights of L layers, for the path
            whose reference is view 0.
        matches: from `find_matches`.
    """
    token = matches.token[None, ..., None].expand(len(attention), *matches.token.shape, 1)
    on_target = attention.float().gather(-1, token)[..., 0] * matches.seen
    mass = on_target.sum(-1)[:, matches.seen.any(-1)]
    return -torch.log(mass + 1e-4).mean() if mass.numel() else on_target.sum()
