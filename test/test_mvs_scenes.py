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

"""The default engine on drives that fool stereo: what is in the map, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from mvdust3r_ros.datatypes import OccupancyGrid, Verdict
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.evaluation.trials.adversarial import AdversarialScores, score_adversarial_drive
from mvdust3r_ros.geometry import backproject
from mvdust3r_ros.synthetic.adversarial import DRIVES, mirror_on_the_wall
from mvdust3r_ros.synthetic.furniture import Part

pytestmark = pytest.mark.slow
ROOM = 41
"""Seed of a room with little in it that a drive with nothing that fools maps without a fault."""


def mapped(name: str, engine: Engine) -> AdversarialScores:
    scores = score_adversarial_drive(DRIVES[name](ROOM), engine)
    assert scores.free > 500
    assert scores.path_m < 1.5 * scores.odometry_m
    return scores


def closed_share(grid: OccupancyGrid | None, part: Part) -> float:
    """Share of the rows of cells across a part of the wall at large x that hold an obstacle."""
    assert grid is not None
    x, y = (
        np.arange(n) * grid.resolution_m + at
        for n, at in zip(grid.cells.shape[::-1], grid.origin_xy_m, strict=True)
    )
    near = np.abs(x - part.center[0]) < 0.3
    along = np.abs(y - part.center[1]) < part.half[1]
    return float((grid.cells[along][:, near] == 100).any(1).mean())


def test_a_turn_on_the_spot_puts_nothing_wrong_into_the_map(engine: Engine) -> None:
    scores = mapped("turn on the spot", engine)
    refused = [u for u in scores.updates if u.verdict != Verdict.COMMITTED]
    assert len(refused) == 2
    assert all("turns on the spot" in u.note for u in refused)
    assert scores.updates[-1].verdict == Verdict.COMMITTED
    assert scores.free_right > 0.98
    assert scores.points_off < 0.01
    assert scores.ghosts < 0.05 * scores.obstacles


def test_a_hand_over_the_lens_puts_nothing_wrong_into_the_map(engine: Engine) -> None:
    scores = mapped("covered lens", engine)
    assert scores.free_right > 0.99
    assert scores.points_off < 0.01
    assert scores.ghosts < 0.02 * scores.obstacles


def test_a_poster_close_by_is_neither_a_floor_nor_a_wrong_pose(engine: Engine) -> None:
    scores = mapped("poster close by", engine)
    assert scores.free_right > 0.96
    assert scores.points_off < 0.02


def test_what_is_wrong_of_a_mirror_lies_behind_it(engine: Engine) -> None:
    scores = mapped("mirror at eye level", engine)
    assert scores.free_solid < 0.02 * scores.free
    assert scores.ghosts < 0.05 * scores.obstacles
    in_the_room = scores.free - scores.free_beyond
    assert (scores.free_right * scores.free) / in_the_room > 0.97
    glass = mirror_on_the_wall(ROOM).drive.scene.parts[-1]
    assert closed_share(scores.snapshot.grid, glass) > 0.95


def test_people_who_cross_leave_no_obstacles_and_hide_none(engine: Engine) -> None:
    scores = mapped("people who cross", engine)
    assert scores.free_right > 0.985  # 0.987 of the same drive with nobody
    assert scores.points_off < 0.04
    assert scores.ghosts < 0.05 * scores.obstacles


def test_a_mirror_changes_what_is_seen_in_its_glass_and_no_depth() -> None:
    adversarial = mirror_on_the_wall(ROOM)
    frame, bare = next(adversarial.frames()), adversarial.drive.rendering(0)
    assert frame.T_world_cam is not None
    assert frame.depth_m is not None
    np.testing.assert_array_equal(frame.depth_m, bare.depth_m)
    T, K = frame.T_world_cam, adversarial.drive.camera.K
    points = backproject(frame.depth_m, K) @ T[:3, :3].T + T[:3, 3]
    glass = adversarial.drive.scene.parts[adversarial.mirror]
    in_glass = (np.abs(points - glass.center) < glass.half + 0.01).all(-1)
    changed = (frame.image_rgb != bare.rgb).any(-1)
    assert not (changed & ~in_glass).any()
    assert changed[in_glass].mean() > 0.9
