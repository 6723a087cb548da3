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

"""Convert a training run into the engine folder of `mvs`, with a calibrated confidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.engines.manifest import EngineManifest, save_manifest
from mvdust3r_ros.engines.mvs.agreement import agreement, on_edges
from mvdust3r_ros.engines.mvs.confidence import ConfidenceRule, fit_rule, rule_inputs
from mvdust3r_ros.engines.mvs.depth_reader import GRAPHS, DepthReader
from mvdust3r_ros.engines.mvs.export import export_graphs
from mvdust3r_ros.engines.mvs.sweep_inputs import half_intrinsics
from mvdust3r_ros.engines.onnx_engine import OnnxOptions
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.sfm.window_poses import WindowPoses, given_poses
from mvdust3r_ros.synthetic.mvs_rooms import make_mvs_window
from mvdust3r_ros.synthetic.train_config import TrainError
from mvdust3r_ros.synthetic.train_mvs import (
    WEIGHTS,
    disturb_images,
    load_average,
    noisy_poses,
)

LICENCE = "Apache-2.0"
LONG_SIDE, RELEASE_HW = 384, (288, 384)
"""Longer side of the engine's views, and their size for a 4:3 camera."""
HELD_OUT_SEED = 9_500_000
"""First seed of the rooms that the confidence is fitted on; no run trains on them."""
FIT_ROOMS, FIT_VIEWS = 24, 8
"""Rooms that the confidence is fitted on, and views in each; half as many more rooms check it."""
RIGHT_SHARE = 0.1
"""A depth is right if its relative error is below this, as the confidence promises."""
REAL_REL_ERROR = 0.045
"""Median relative error on recordings of a real office with the engine's poses; synthetic rooms
give half of it."""
WINDOW_SIGMA = 0.03
"""Depth scale error of a window from a real camera, one sigma: rolling shutter, calibration and
odometry distort its baselines more than `noisy_poses` does."""
POINT_SIGMA = 0.045
"""For the grid: from 2.7 m on, two views that agree outweigh a single view."""
POINTS_A_VIEW = 40
"""Random points that stand in for the points used in pose estimation."""


class _HeldOutPixels(NamedTuple):
    """Pixels of held-out rooms: the rule's inputs (N, F), their votes, their relative errors."""

    inputs: FloatArray
    votes: FloatArray
    rel_error: FloatArray


@dataclass(frozen=True)
class KeyframePreferences:
    """The engine's preferred values for the settings `keyframes.*`."""

    min_overlap: float = 0.75
    max_translation_m: float = 0.3
    max_rotation_deg: float = 15.0
    busy_window_size: int = 12


def release_mvs(run: Path, out: Path, rooms: int = FIT_ROOMS) -> Path:
    """Export the averaged weights of a run, and fit the confidence on held-out rooms.

    Args:
        run: folder of the run.
        out: engine folder to create.
        rooms: number of held-out rooms to fit on; half as many check the fit.

    Returns:
        The folder.

    Raises:
        TrainError: the run has no checkpoint.
    """
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.is_file():
        raise TrainError(f"no checkpoint at {checkpoint}: has the run begun?")
    network = load_average(checkpoint)
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    export_graphs(network, out)
    save_file(network.state_dict(), out / WEIGHTS)
    reader = DepthReader(out, OnnxOptions())
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + rooms)
    judged = _joined(score_room(reader, seed) for seed in seeds)
    rule = fit_rule(judged.inputs, judged.rel_error < RIGHT_SHARE)
    checks = range(HELD_OUT_SEED + rooms, HELD_OUT_SEED + rooms + max(1, rooms // 2))
    checked = _joined(score_room(reader, seed) for seed in checks)
    manifest = EngineManifest(
        name="mvs",
        backend="mvs",
        image_hw=RELEASE_HW,
        rel_error=max(REAL_REL_ERROR, round(float(np.median(checked.rel_error)), 4)),
        licence=LICENCE,
        long_side=LONG_SIDE,
        keyframes=vars(KeyframePreferences()),
        confidence={"min_conf": 6.0, "conf_quantile": 0.0, "point_rel_sigma": POINT_SIGMA},
        files=dict.fromkeys((*GRAPHS, WEIGHTS), ""),
        network={"confidence": [round(w, 4) for w in rule.weights]},
        info={
            "data": "synthetic rooms of this package, no other data",
            "steps": state["step"],
            "hours": round(state["seconds"] / 3600, 2),
            "right_by_confidence": right_by_confidence(rule, checked),
        },
    )
    save_manifest(out, manifest)
    return out


def right_by_confidence(rule: ConfidenceRule, judged: _HeldOutPixels) -> list[dict[str, float]]:
    """Return rows for the manifest: by confidence, fraction of pixels and how many are right."""
    promised = rule.share_from_inputs(judged.inputs.T)
    agreed = judged.votes > 0
    rows = []
    for low, high in ((0.0, 0.5), (0.5, 0.75), (0.75, 0.9), (0.9, 0.95), (0.95, 1.01)):
        chosen = agreed & (promised >= low) & (promised < high)
        if chosen.any():
            rows.append(
                {
                    "from": low,
                    "share_of_pixels": round(float(chosen.mean()), 3),
                    "promised": round(float(promised[chosen].mean()), 3),
                    "right": round(float((judged.rel_error[chosen] < RIGHT_SHARE).mean()), 3),
                }
            )
    return rows


def score_room(reader: DepthReader, seed: int) -> _HeldOutPixels:
    """Estimate depth in a held-out room, from poses with errors like after bundle adjustment."""
    rng = np.random.default_rng([seed, 77])
    window = make_mvs_window(seed, FIT_VIEWS, RELEASE_HW)
    images = torch.from_numpy(window.rgb).permute(0, 3, 1, 2).float().div(255)[None].contiguous()
    disturb_images(rng, images)
    rgb = (images[0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    views = [View(image) for image in rgb]
    T_world_cam = noisy_poses(rng, window.T_world_cam)
    poses = known_poses(rng, invert_se3(T_world_cam[0]) @ T_world_cam, window.K, window.depth_m)
    depth, log_error = reader.depth([reader.encode(v) for v in views], poses, RELEASE_HW)
    votes = agreement(depth, log_error, poses.T_ref_cam, half_intrinsics(poses.K))
    truth = window.depth_m[:, ::2, ::2]
    use = (truth > 0) & (depth > 0) & ~on_edges(depth) & (votes.through <= votes.same)
    inputs = np.stack([column[use] for column in rule_inputs(log_error, votes)], 1)
    too_long = math.exp(rng.normal(0, WINDOW_SIGMA))
    rel_error = np.abs(too_long * votes.depth[use] / truth[use] - 1)
    thin = slice(None, None, 7)
    return _HeldOutPixels(inputs[thin], votes.same[use][thin].astype(np.float32), rel_error[thin])


def known_poses(
    rng: np.random.Generator, T_ref_cam: FloatArray, K: FloatArray, depth_m: FloatArray
) -> WindowPoses:
    """Return poses like those estimated from images, with scattered points."""
    views, height, width = depth_m.shape
    points, seen = [], []
    for view in range(views):
        v, u = rng.integers(height, size=POINTS_A_VIEW), rng.integers(width, size=POINTS_A_VIEW)
        rays = np.stack([u, v, np.ones_like(u)], 1) @ np.linalg.inv(K).T
        own = rays * depth_m[view, v, u][:, None]
        points.append(own @ T_ref_cam[view, :3, :3].T + T_ref_cam[view, :3, 3])
        seen.append(np.tile(np.arange(views) == view, (POINTS_A_VIEW, 1)))
    Ks = np.repeat(K[None], views, 0)
    return given_poses(T_ref_cam, Ks, np.concatenate(points), np.concatenate(seen))


def _joined(parts: Iterator[_HeldOutPixels]) -> _HeldOutPixels:
    return _HeldOutPixels(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
