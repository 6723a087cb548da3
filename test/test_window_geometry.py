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

"""What the views of a window see of its points, against one view and one point at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import invert_se3, project
from mvdust3r_ros.window.window_geometry import (
    IN_FRONT,
    MIN_CONFLICT_SHARE,
    SAME_DEPTH,
    Sighting,
    WindowGeometry,
)
from room_windows import Scene

Seen = tuple[int, int, int, float]
"""Which point, row, column, depth."""


@pytest.fixture(scope="module")
def scene(room: BoxRoom) -> Scene:
    return Scene(room)


def in_view(geometry: WindowGeometry, index: int, points: FloatArray) -> FloatArray:
    pose = geometry.poses[index]
    assert pose is not None
    T = invert_se3(pose.T_window_cam)
    return points.astype(float) @ T[:3, :3].T + T[:3, 3]


def point_by_point(geometry: WindowGeometry, index: int, points: FloatArray) -> Iterator[Seen]:
    """Every point that lies in the image of a view, in pixels of the view."""
    pose, (rows, cols) = geometry.poses[index], geometry.conf.shape[1:]
    assert pose is not None
    cam = in_view(geometry, index, points)
    for which, ((u, v), z) in enumerate(zip(project(cam, pose.K), cam[:, 2], strict=True)):
        if z > 1e-6:
            col, row = round((u - 2) / 4), round((v - 2) / 4)
            if 0 <= row < rows and 0 <= col < cols:
                yield which, row, col, z


def listed(found: Sighting) -> list[tuple[int, int, int]]:
    return list(zip(*(a.tolist() for a in found[:3]), strict=True))


def around(scene: Scene, count: int = 800) -> FloatArray:
    """Points anywhere in the room, in the frame of keyframe 0."""
    anywhere = np.random.default_rng(0).uniform((0, 0, 0), scene.room.size, (count, 3))
    T = invert_se3(scene.poses[0])
    return anywhere @ T[:3, :3].T + T[:3, 3]


@pytest.mark.parametrize("index", [0, 3])
def test_a_view_sights_what_lies_before_it_in_its_image(scene: Scene, index: int) -> None:
    geometry, points = scene.window(range(4)), around(scene)
    expected = list(point_by_point(geometry, index, points))
    found = geometry.sighted(index, points)
    assert 40 < len(expected) < 400
    assert listed(found) == [seen[:3] for seen in expected]
    np.testing.assert_allclose(found.depth, [seen[3] for seen in expected])


def test_a_view_sights_its_own_points_at_their_pixels(scene: Scene) -> None:
    geometry = scene.window(range(4), 2.0)
    found = geometry.sighted(2, geometry.points[2].reshape(-1, 3).astype(float))
    assert np.arange(96)[geometry.thin].tolist() == list(range(2, 96, 4))
    pixels = np.indices(geometry.conf.shape[1:]).reshape(2, -1)
    assert np.array_equal(np.stack([found.row, found.col]), pixels)
    np.testing.assert_allclose(found.depth, geometry.depth(2).ravel(), rtol=1e-5)


def test_both_see_a_point_where_the_view_has_one_at_the_same_depth(scene: Scene) -> None:
    geometry = scene.window(range(4))
    conf = geometry.conf.copy()
    conf[3, ::3] = 1.0
    geometry = replace(geometry, conf=conf)
    points = np.concatenate([geometry.points[0].reshape(-1, 3).astype(float), around(scene)])
    own, expected = in_view(geometry, 3, geometry.points[3])[..., 2], []
    for which, row, col, z in point_by_point(geometry, 3, points):
        if conf[3, row, col] > 1.0 and abs(own[row, col] - z) < SAME_DEPTH * z:
            expected.append((which, row, col))
    found = geometry.seen_by_both(3, points)
    assert listed(found) == expected
    assert 20 < len(expected) < len(geometry.sighted(3, points).which) / 1.5


def test_the_covisible_share_counts_a_point_once_however_many_see_it(scene: Scene) -> None:
    geometry = scene.window(range(5))
    conf, poses = geometry.conf.copy(), list(geometry.poses)
    conf[3:, 9:] = 1.0
    poses[1] = None
    geometry = replace(geometry, conf=conf, poses=poses)
    trusted = [geometry.points[k][conf[k] > 1.0].astype(float) for k in (3, 4)]
    seen = set()
    for index in (0, 2):
        for which, row, col, z in point_by_point(geometry, index, np.concatenate(trusted)):
            there = in_view(geometry, index, geometry.points[index, row, col])[2]
            if abs(there - z) < SAME_DEPTH * z:
                seen.add(which)
    expected = len(seen) / sum(len(points) for points in trusted)
    assert geometry.covisible_share(range(3), [3, 4]) == pytest.approx(expected)
    assert 0.1 < expected < 0.9
    nothing = replace(geometry, conf=np.ones_like(conf))
    assert nothing.covisible_share(range(3), [3, 4]) == 0.0


def test_depths_and_distances_are_those_of_the_points_in_the_camera(scene: Scene) -> None:
    geometry = scene.window(range(3), 2.0)
    cam = in_view(geometry, 2, geometry.points[2])
    near = cam[..., 2] < np.median(cam[..., 2])
    np.testing.assert_allclose(geometry.points_cam(2), cam, atol=1e-5)
    np.testing.assert_allclose(geometry.depth(2), cam[..., 2], atol=1e-5)
    expected = np.linalg.norm(cam[near], axis=1)
    np.testing.assert_allclose(geometry.distance(2, near), expected, rtol=1e-5)


# Views that contradict each other


def conflict_pair_by_pair(geometry: WindowGeometry) -> float:
    """The definition, one pair of views and one point at a time."""
    found, (rows, cols) = [], geometry.conf.shape[1:]
    for a, b in itertools.combinations(range(len(geometry.poses)), 2):
        common = through = 0
        for seeing, seen in ((a, b), (b, a)):
            own = in_view(geometry, seeing, geometry.points[seeing])[..., 2]
            points = geometry.points[seen].reshape(-1, 3)
            for _, row, col, z in point_by_point(geometry, seeing, points):
                if own[row, col] > 0:
                    common += 1
                    through += z < IN_FRONT * own[row, col]
        if common >= MIN_CONFLICT_SHARE * rows * cols:
            found.append(through / common)
    return max(found, default=0.0)


@pytest.mark.parametrize("factor", [1.0, 0.7, 0.3])
def test_the_conflict_is_that_of_the_worst_pair_of_views(scene: Scene, factor: float) -> None:
    good = scene.window(range(8, 12))
    points = good.points.copy()
    points[2:] *= factor
    spoiled = replace(good, points=points)
    expected = conflict_pair_by_pair(spoiled)
    assert spoiled.worst_conflict() == pytest.approx(expected, abs=0.02)
    assert (expected > 0.1) == (factor < 1.0)


def test_views_that_see_through_each_other_both_ways_contradict_each_other_twice(
    scene: Scene,
) -> None:
    """Each has one half of the same picture at half the distance."""
    good = scene.window([8, 8])
    points, cols = good.points.copy(), good.conf.shape[2]
    points[0, :, : cols // 2] *= 0.5
    points[1, :, cols // 2 :] *= 0.5
    spoiled = replace(good, points=points)
    assert spoiled.worst_conflict() == pytest.approx(0.5, abs=0.02)
    assert conflict_pair_by_pair(spoiled) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("pixels", "conflict"), [(40, 0.0), (50, 0.5)])
def test_views_with_few_pixels_in_common_are_not_compared(
    scene: Scene, pixels: int, conflict: float
) -> None:
    """43 of the 432 pixels of both are a fifth of a view together."""
    good = scene.window([8, 8])
    points, conf = good.points.copy(), np.ones_like(good.conf)
    points[1] *= 0.5
    conf[:, 4:9, 4 : 4 + pixels // 5] = 3.0
    assert replace(good, points=points, conf=conf).worst_conflict() == pytest.approx(conflict)


def test_what_lies_behind_a_camera_is_seen_through_by_nobody(scene: Scene) -> None:
    """The pixels of a view that it sees behind itself are no surface to see through."""
    good = scene.window(range(8, 14))
    points = good.points.copy()
    for index, pose in enumerate(good.poses):
        assert pose is not None
        T = pose.T_window_cam
        cam = (points[index] - T[:3, 3]) @ T[:3, :3]
        cam[::2] *= -1.0
        points[index] = cam @ T[:3, :3].T + T[:3, 3]
    assert replace(good, points=points).worst_conflict() < 0.1
    without = replace(good, poses=[None] * len(good.poses))
    assert without.worst_conflict() == 0.0
