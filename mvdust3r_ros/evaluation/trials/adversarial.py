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

"""Score the maps of drives that fool stereo: false points, free cells and obstacles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    FloatArray,
    MapSnapshot,
    MapUpdate,
    Verdict,
    View,
)
from mvdust3r_ros.datatypes import WindowPrediction as Prediction
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    on_common_lattice,
)
from mvdust3r_ros.evaluation.window_scores import WatchedEngine
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.adversarial import AdversarialDrive
from mvdust3r_ros.synthetic.scenes import scene_occupancy

GHOST_M = 0.1
"""An obstacle farther than this from any real surface is a ghost: two grid cells."""
OFF_SHARE = 0.2
"""A point whose depth error exceeds this fraction of its depth is wrong: a chosen limit, far above
the noise of stereo."""


@dataclass(frozen=True)
class AdversarialScores:
    """Scores without any alignment to the truth, which excludes people and what they carry.

    Attributes:
        free: number of free cells.
        free_right: fraction of the free cells that are truly free.
        free_solid: free cells that are truly occupied.
        free_beyond: free cells outside the room.
        obstacles: number of occupied cells.
        ghosts: occupied cells farther than `GHOST_M` from any cell that is not truly free.
        points_off: fraction of the points confident enough for the map, in committed windows,
            whose depth is off by more than `OFF_SHARE` of the depth at that moment.
        path_m: largest position error of a keyframe.
        odometry_m: largest position error of odometry alone.
        updates: outcome of each window.
        snapshot: the map.
    """

    free: int
    free_right: float
    free_solid: int
    free_beyond: int
    obstacles: int
    ghosts: int
    points_off: float
    path_m: float
    odometry_m: float
    updates: tuple[MapUpdate, ...]
    snapshot: MapSnapshot

    @property
    def committed(self) -> int:
        """Number of committed windows."""
        return sum(u.verdict == Verdict.COMMITTED for u in self.updates)


def score_adversarial_drive(drive: AdversarialDrive, engine: Engine) -> AdversarialScores:
    """Map a drive with odometry and compare the map with the scene.

    Args:
        drive: the drive to map.
        engine: stays open.
    """
    watched = WatchedEngine(engine)
    mapper = Mapper(MapperConfig(), watched)
    updates: list[MapUpdate] = []
    wrong: list[FloatArray] = []
    off_m = []
    for frame in drive.frames():
        assert frame.T_odom_cam is not None and frame.T_world_cam is not None
        off_m.append(float(np.linalg.norm((frame.T_odom_cam - frame.T_world_cam)[:3, 3])))
        _note(mapper.process(frame), watched, mapper, updates, wrong)
    _note(mapper.finish(), watched, mapper, updates, wrong)
    snapshot = mapper.snapshot()
    return AdversarialScores(
        *_grid_scores(snapshot, drive, mapper.config),
        points_off=float(np.concatenate(wrong).mean()) if wrong else 0.0,
        path_m=_path_error(snapshot, drive),
        odometry_m=max(off_m),
        updates=tuple(updates),
        snapshot=snapshot,
    )


def _note(
    update: MapUpdate | None,
    watched: WatchedEngine,
    mapper: Mapper,
    updates: list[MapUpdate],
    wrong: list[FloatArray],
) -> None:
    """Record an outcome, and which points of a committed window are wrong."""
    if update is None:
        return
    updates.append(update)
    prediction = watched.prediction_of(update.window.keyframes)
    if update.verdict == Verdict.COMMITTED and prediction is not None:
        views = [k.view for k in update.window.keyframes]
        wrong.append(_wrong_points(prediction, views, mapper.config))


def _wrong_points(
    prediction: Prediction, views: Iterable[View], config: MapperConfig
) -> FloatArray:
    """Return (N,) bool for points confident enough for the map: whether they are wrong."""
    assert prediction.poses is not None
    parts = [np.zeros(0, bool)]
    for view, points, conf, pose in zip(
        views, prediction.points[0], prediction.conf[0], prediction.poses, strict=True
    ):
        if pose is None or view.depth_m is None:
            continue
        T = pose.T_window_cam
        depth = (points - T[:3, 3]) @ T[:3, 2]
        sure = (conf > config.map.min_conf) & (view.depth_m > 0)
        sure &= (depth > 0) & (depth < config.map.max_depth_m)
        parts.append(np.abs(depth[sure] / view.depth_m[sure] - 1) > OFF_SHARE)
    return np.concatenate(parts)


def _grid_scores(
    snapshot: MapSnapshot, drive: AdversarialDrive, config: MapperConfig
) -> tuple[int, float, int, int, int, int]:
    """Compute the first six scores."""
    if snapshot.grid is None:
        return 0, 1.0, 0, 0, 0, 0
    rule = config.map
    band = (rule.obstacle_min_z_m, rule.obstacle_max_z_m)
    truth = scene_occupancy(drive.drive.scene, rule.grid_resolution_m, band)
    cells, true = on_common_lattice(snapshot.grid, truth)
    radius = round(GHOST_M / rule.grid_resolution_m)
    disc = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    near = cv2.dilate((true != FREE).astype(np.uint8), disc) > 0
    free, occupied = cells == FREE, cells == OCCUPIED
    return (
        int(free.sum()),
        float((true[free] == FREE).mean()) if free.any() else 1.0,
        int((free & (true == OCCUPIED)).sum()),
        int((free & (true == UNKNOWN)).sum()),
        int(occupied.sum()),
        int((occupied & ~near).sum()),
    )


def _path_error(snapshot: MapSnapshot, drive: AdversarialDrive) -> float:
    """Return the largest position error of a keyframe, metres; 0 without keyframes."""
    truth = drive.drive.truth
    index = np.searchsorted(truth.stamps_ns, snapshot.trajectory.stamps_ns)
    off = snapshot.trajectory.T_world_cam[:, :3, 3] - truth.T_world_cam[index, :3, 3]
    return float(np.linalg.norm(off, axis=1).max(initial=0.0))
