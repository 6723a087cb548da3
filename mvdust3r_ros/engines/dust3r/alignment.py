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

"""Global alignment of pairwise pointmaps (DUSt3R, Wang et al., CVPR 2024, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.engines.dust3r.pairs import PairError, PairMaps
from mvdust3r_ros.engines.dust3r.tree_start import Start, own_focals, start_from_tree
from mvdust3r_ros.geometry import (
    invert_se3,
    pixel_grid,
    quaternion_xyzw,
    se3_from_quaternion,
)

BETAS = (0.9, 0.9)
"""Of Adam, as in the published code: the second moment forgets as fast as the first."""
FINAL_RATE = 1e-4
"""Last learning rate over the first: the last steps are a millionth of a depth."""
FOCAL_RATE = 0.05
"""Of the learning rate, as in the published code: focal lengths start well, as medians over pairs,
and would otherwise make up for depths that are still wrong."""
DEPTH_ROUNDS = 10
"""Rounds of re-weighting for the depth of a pixel; as many as for a focal length."""


@dataclass(frozen=True)
class AlignmentSettings:
    """How pairs are aligned.

    Attributes:
        iterations: steps of Adam, 300 as in the published code; 0 for the start alone.
        learning_rate: of the first step, in logarithms of scale, depth and focal length, and in
            median depths; falls as half a cosine.
        pixels: of a view, at most, that poses, scales and focal lengths are adjusted on. The depth
            of all others follows from those.

    Raises:
        PairError: on construction, a value out of range.
    """

    iterations: int = 300
    learning_rate: float = 0.01
    pixels: int = 4096

    def __post_init__(self) -> None:
        if self.iterations < 0 or not self.learning_rate > 0 or self.pixels < 16:
            raise PairError(
                f"alignment in {self.iterations} iterations at rate {self.learning_rate} on "
                f"{self.pixels} pixels; at least 0, more than 0, and 16"
            )


@dataclass(frozen=True, eq=False)
class Aligned:
    """Views of one scene in one frame, that of the first view.

    Attributes:
        T_ref_cam: (V, 4, 4) poses; the first is the identity.
        K: (V, 3, 3) pinhole matrices.
        depth: (V, H, W) float32.
        conf: (V, H, W) float32, the highest of all pairs.
        pair_scale: (P,) factors from the scales of the pairs; their geometric mean is 1.
        loss: mean weighted distance between points of views and pairs, over the median depth.
    """

    T_ref_cam: FloatArray
    K: FloatArray
    depth: FloatArray
    conf: FloatArray
    pair_scale: FloatArray
    loss: float


class _Unknowns(NamedTuple):
    """Float32 tensors: quaternions x y z w, translations, logarithms."""

    view_quat: Tensor
    view_t: Tensor
    log_focal: Tensor
    log_depth: Tensor
    pair_quat: Tensor
    pair_t: Tensor
    log_scale: Tensor


class _Given(NamedTuple):
    """Pairs (P, 2); their points (P, 2, N, 3) and weights (P, 2, N); pixels (V, N, 2).

    Pixels are counted from the principal point, and divided by the focal length where it is known.
    """

    pairs: Tensor
    points: Tensor
    weight: Tensor
    pixels: Tensor
    focal_known: bool


def align_pairs(
    maps: PairMaps,
    settings: AlignmentSettings | None = None,
    K: FloatArray | None = None,
    device: str = "cpu",
) -> Aligned:
    """Poses, focal lengths, depth maps and scales of pairs that agree best with all pointmaps.

    Minimises the sum over pairs e, their views v and pixels of log(conf) |chi_v - S_e X_ev|, where
    chi_v is the depth map of a view put into the world by its pose and focal length, and S_e a
    similarity with product of scales 1.

    Args:
        maps: of all pairs.
        settings: how.
        K: (V, 3, 3) pinhole matrices, kept as they are; None to find focal lengths, with square
            pixels and a central principal point.
        device: torch's device.

    Raises:
        AlignmentError: the points of a pair determine no similarity or focal length.
        PairError: nothing in front of the cameras.
    """
    settings = settings or AlignmentSettings()
    height, width = maps.points.shape[2:4]
    stride = max(1, math.ceil(math.sqrt(height * width / settings.pixels)))
    sample = slice(stride // 2, None, stride)
    start = start_from_tree(maps, sample)
    unit = float(np.median(start.depth))
    if not np.isfinite(unit) or unit <= 0:
        raise PairError(f"the median depth of the views is {unit}: they see nothing")
    focal_known = K is not None
    focal_px = np.ones(maps.views) if focal_known else own_focals(maps)
    matrices = _matrices(focal_px, (height, width)) if K is None else K
    given = _given(maps, matrices, focal_known, sample, device)
    given = given._replace(points=given.points / unit)
    unknowns, loss = _adjusted(_unknowns(start, focal_px, unit, device), given, settings)
    if not focal_known:
        matrices = _matrices(_numpy(unknowns.log_focal.exp()), (height, width))
    return _finished(maps, unknowns, matrices, unit, loss)


def _matrices(focal_px: FloatArray, image_hw: tuple[int, int]) -> FloatArray:
    """Principal points in the middle of the image; coordinates are integers at pixel centres.

    The published code has them half a pixel further: its cameras are turned by that, 0.3 degrees
    at 128 pixels and a field of view of 70 degrees.
    """
    K = np.tile(np.eye(3), (len(focal_px), 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = focal_px
    K[:, 0, 2], K[:, 1, 2] = (image_hw[1] - 1) / 2, (image_hw[0] - 1) / 2
    return K


def _given(maps: PairMaps, K: FloatArray, focal_known: bool, sample: slice, device: str) -> _Given:
    grid = pixel_grid(*maps.points.shape[2:4])[sample, sample].reshape(-1, 2)
    pixels = grid - K[:, None, :2, 2]
    if focal_known:
        pixels = pixels / np.stack((K[:, 0, 0], K[:, 1, 1]), -1)[:, None]
    seen = maps.points[:, :, sample, sample].reshape(len(maps.pairs), 2, -1, 3)
    conf = maps.conf[:, :, sample, sample].reshape(len(maps.pairs), 2, -1)
    points, weight, xy = (
        torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device)
        for a in (seen, np.log(conf), pixels)
    )
    return _Given(torch.from_numpy(maps.pairs).to(device), points, weight, xy, focal_known)


def _unknowns(start: Start, focal_px: FloatArray, unit: float, device: str) -> _Unknowns:
    """The start with a median depth of 1."""
    S = start.S_world_pair
    arrays: Sequence[FloatArray] = (
        quaternion_xyzw(start.T_world_cam[:, :3, :3]),
        start.T_world_cam[:, :3, 3] / unit,
        np.log(focal_px),
        np.log(start.depth / unit),
        quaternion_xyzw(np.stack([s.R for s in S])),
        np.stack([s.t for s in S]) / unit,
        np.log([s.scale for s in S]),
    )
    tensors = [torch.from_numpy(np.asarray(a, np.float32)).to(device) for a in arrays]
    u = _Unknowns(*tensors)
    mean = u.log_scale.mean()  # the product of scales is 1 from here on
    shrunk = {"view_t": u.view_t / mean.exp(), "pair_t": u.pair_t / mean.exp()}
    return u._replace(log_depth=u.log_depth - mean, log_scale=u.log_scale - mean, **shrunk)


def _adjusted(
    start: _Unknowns, given: _Given, settings: AlignmentSettings
) -> tuple[_Unknowns, float]:
    """The best of all steps, the start among them, and its loss."""
    with torch.inference_mode(False), torch.enable_grad():
        current = _Unknowns(*(t.clone().requires_grad_() for t in start))
        focal = [] if given.focal_known else [current.log_focal]
        groups = (
            ([t for t in current if t is not current.log_focal], settings.learning_rate),
            (focal, settings.learning_rate * FOCAL_RATE),
        )
        optimiser = torch.optim.Adam([{"params": p, "lr": r} for p, r in groups if p], betas=BETAS)
        best, least = start, math.inf
        for step in range(settings.iterations + 1):
            share = step / max(1, settings.iterations)
            rate = FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2
            for group, (_, first) in zip(optimiser.param_groups, groups, strict=False):
                group["lr"] = first * rate
            optimiser.zero_grad()
            loss = _loss(current, given)
            value = float(loss.detach())
            if value < least:
                best, least = _Unknowns(*(t.detach().clone() for t in current)), value
            loss.backward()
            optimiser.step()
    return best, least


def _loss(u: _Unknowns, given: _Given) -> Tensor:
    """Mean of log(conf) |chi - S X| over all points of all pairs."""
    depth = u.log_depth.exp()[..., None]
    xy = depth * given.pixels / u.log_focal.exp()[:, None, None]
    views = torch.cat((xy, depth), -1) @ _rotations(u.view_quat).mT + u.view_t[:, None]
    scale = (u.log_scale - u.log_scale.mean()).exp()
    S = scale[:, None, None] * _rotations(u.pair_quat)  # (P, 3, 3)
    points = given.points.flatten(1, 2) @ S.mT + u.pair_t[:, None]
    distance = (views[given.pairs].flatten(1, 2) - points).norm(dim=-1)
    mean: Tensor = (given.weight.flatten(1) * distance).mean()
    return mean


def _rotations(quat: Tensor) -> Tensor:
    """(N, 3, 3) of quaternions (N, 4) x y z w of any length but zero."""
    x, y, z, w = (quat / quat.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _finished(maps: PairMaps, u: _Unknowns, K: FloatArray, unit: float, loss: float) -> Aligned:
    """Everything in the frame of the first view, with the depth of all pixels."""
    T_world_cam = np.stack(
        [
            se3_from_quaternion(q, t * unit)
            for q, t in zip(_numpy(u.view_quat), _numpy(u.view_t), strict=True)
        ]
    )
    log_scale = _numpy(u.log_scale)
    scale = np.exp(log_scale - log_scale.mean())
    T_world_pair = np.stack(
        [
            se3_from_quaternion(q, t * unit)
            for q, t in zip(_numpy(u.pair_quat), _numpy(u.pair_t), strict=True)
        ]
    )
    depth = np.empty((maps.views, *maps.points.shape[2:4]), np.float32)
    conf = np.empty_like(depth)
    for view, T in enumerate(T_world_cam):
        p, slot = np.nonzero(maps.pairs == view)
        T_cam_pair = invert_se3(T) @ T_world_pair[p]
        S = (scale[p, None, None] * T_cam_pair[:, :3, :3]).astype(np.float32)
        t = T_cam_pair[:, None, None, :3, 3].astype(np.float32)
        seen = maps.points[p, slot]
        points = (seen.reshape(len(p), -1, 3) @ S.swapaxes(1, 2)).reshape(seen.shape) + t
        depth[view] = _depth(points, np.log(maps.conf[p, slot]), K[view])
        conf[view] = maps.conf[p, slot].max(0)
    T_ref_cam = invert_se3(T_world_cam[0]) @ T_world_cam
    T_ref_cam[0] = np.eye(4)
    return Aligned(T_ref_cam, K, depth, conf, scale, loss)


def _depth(points_cam: FloatArray, weight: FloatArray, K: FloatArray) -> FloatArray:
    """(H, W) depth along each pixel's ray that is nearest to M points (M, H, W, 3) of it.

    Weighted distances are summed (Weiszfeld), as in the alignment itself.
    """
    pixels = pixel_grid(*points_cam.shape[1:3])
    ray = np.ones((*pixels.shape[:2], 3), np.float32)
    ray[..., :2] = (pixels - K[:2, 2]) / (K[0, 0], K[1, 1])
    along, square = (points_cam * ray).sum(-1), (ray**2).sum(-1)
    least = np.finfo(np.float32).eps * float(np.abs(along).max())  # of a distance, against 0 / 0
    w = weight + np.finfo(np.float32).eps  # a pixel that nobody is sure of has a depth too
    depth: FloatArray = (w * along).sum(0) / (w.sum(0) * square)
    for _ in range(DEPTH_ROUNDS):
        off = np.maximum(np.linalg.norm(depth[..., None] * ray - points_cam, axis=-1), least)
        depth = (w / off * along).sum(0) / ((w / off).sum(0) * square)
    return depth


def _numpy(tensor: Tensor) -> FloatArray:
    return np.asarray(tensor.double().cpu().numpy())
