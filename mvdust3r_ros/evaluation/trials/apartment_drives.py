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

"""Synthetic drives through apartments: path, drifting odometry, occasional corrupted windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.datatypes import (
    FloatArray,
    Frame,
    MvDust3rError,
    Trajectory,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.engines.oracle_engine import window_seed
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.scenes import SEED_STEP
from mvdust3r_ros.synthetic.sequence import Sequence as Drive
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence, sequence_frames

CORRUPTIONS = ("scale", "pose", "confidence")
FRAMES_PER_SECOND = 10
"""Frame rate of the drives; the mapper selects keyframes by content, not by time."""
MAX_APARTMENTS = 20
"""A limit on attempts: most apartments have enough rooms."""


class ApartmentsError(MvDust3rError):
    """An evaluation on apartments is impossible."""


@dataclass(frozen=True)
class ApartmentOptions:
    """Options for driving and for corrupting windows.

    Attributes:
        path_m: length of the drive.
        min_rooms: minimum number of rooms that the camera visits.
        step_m: distance between frames; a turn of 5 degrees counts as one step.
        hw: height and width of the images.
        drift: random walk of the odometry, see `synthetic.sequence.odometry`.
        bias: constant bias of the odometry over a drive, see there.
        points: point noise of the oracle, as a fraction of depth.
        scale: standard deviation of the logarithm of the oracle's scale per window.
        corrupt: fraction of windows that are corrupted.
    """

    path_m: float = 60.0
    min_rooms: int = 3
    step_m: float = 0.2
    hw: tuple[int, int] = (112, 112)
    drift: float = 0.02
    bias: float = 0.0
    points: float = 0.02
    scale: float = 0.5
    corrupt: float = 0.0


class CorruptedEngine(Engine):
    """A wrapper around an engine that corrupts some windows in one of three ways.

    Which windows and how depends on the seed and on their views, not on earlier windows: two runs
    that differ otherwise get the same corrupted windows.
    """

    def __init__(self, inner: Engine, share: float, seed: int) -> None:
        """Corrupt a fraction of the windows, but never the first: it defines the map."""
        self._inner, self._share, self._seed = inner, share, seed
        self.corrupted: list[bool] = []

    def observe(self, view: View) -> None:
        """Forward to the inner engine."""
        self._inner.observe(view)

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Forward to the inner engine."""
        return self._inner.encode(views)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Forward to the inner engine and maybe corrupt the result; `corrupted` records which."""
        prediction = self._inner.decode(tokens, n_ref)
        rng = np.random.default_rng([self._seed, 21, window_seed(t.view for t in tokens)])
        draw, kind = rng.random(), str(rng.choice(CORRUPTIONS))
        self.corrupted.append(len(self.corrupted) > 0 and draw < self._share)
        return corrupt_prediction(prediction, kind, rng) if self.corrupted[-1] else prediction

    def describe(self) -> EngineInfo:
        """Forward to the inner engine."""
        return self._inner.describe()

    def close(self) -> None:
        """Close the inner engine."""
        self._inner.close()


def corrupt_prediction(
    prediction: WindowPrediction, kind: str, rng: np.random.Generator
) -> WindowPrediction:
    """Corrupt a prediction.

    Args:
        prediction: a good one.
        kind: "scale": half of the views are three times too large; "pose": half of the views are
            rotated by 180 degrees; "confidence": random points, all with high confidence.
        rng: source of randomness.
    """
    points, conf = prediction.points.copy(), prediction.conf.copy()
    half = points.shape[1] // 2
    if kind == "scale":
        points[:, half:] *= 3.0
    elif kind == "pose":
        points[:, half:] *= np.array([-1.0, 1.0, -1.0], np.float32)
    else:
        size = np.abs(points).mean()
        points = rng.normal(0, size, points.shape).astype(np.float32)
        conf = np.full_like(conf, 10.0)
    return replace(prediction, points=points, conf=conf)


def apartment_drive(seed: int, options: ApartmentOptions, rig: Rig) -> Drive:
    """Drive about `options.path_m` through the first apartment of a seed with enough rooms.

    Raises:
        ApartmentsError: no apartment was found.
    """
    for attempt in range(MAX_APARTMENTS):
        drive = _drive(seed + attempt * SEED_STEP, options, rig)
        if rooms_visited(drive) >= options.min_rooms:
            return drive
    raise ApartmentsError(
        f"seed {seed}: no drive of {options.path_m:g} m in {options.min_rooms} rooms"
    )


def _drive(seed: int, options: ApartmentOptions, rig: Rig) -> Drive:
    frames = math.ceil(options.path_m / options.step_m)
    for _ in range(4):  # turns count as distance: ask for more until it is long enough
        drive = make_sequence(
            SequenceConfig(
                seed=seed, frames=frames, hw=options.hw, step_m=options.step_m, apartment=True,
                noise=0.0, supersample=1, rig=rig, rate_hz=FRAMES_PER_SECOND,
            )
        )  # fmt: skip
        along = np.concatenate([[0.0], np.cumsum(steps_m(drive.truth.T_world_cam))])
        if along[-1] >= options.path_m:
            break
        frames = math.ceil(1.1 * frames * options.path_m / max(along[-1], 1.0))
    count = int(np.searchsorted(along, options.path_m)) + 1
    truth = Trajectory(drive.truth.stamps_ns[:count], drive.truth.T_world_cam[:count])
    return replace(drive, truth=truth)


def steps_m(T: FloatArray) -> FloatArray:
    """Return (N - 1,) distances between consecutive poses (N, 4, 4), metres."""
    steps: FloatArray = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    return steps


def rooms_visited(drive: Drive) -> int:
    """Count the rooms that the camera has visited."""
    x, y = drive.truth.T_world_cam[:, 0, 3], drive.truth.T_world_cam[:, 1, 3]
    return sum(
        bool(((r.x0 < x) & (x < r.x1) & (r.y0 < y) & (y < r.y1)).any()) for r in drive.scene.rooms
    )


def drifting_frames(drive: Drive, T_odom_cam: FloatArray) -> Iterator[Frame]:
    """Yield the frames of a drive with the given odometry, and with the truth for the oracle."""
    T_cam_base = invert_se3(drive.config.rig.T_base_cam)
    for frame, T in zip(sequence_frames(drive), T_odom_cam, strict=False):
        yield replace(
            frame, T_world_cam=frame.T_odom_cam, T_odom_cam=T, T_odom_base=T @ T_cam_base
        )
