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

"""Joints of a window with points that the map knows, against one pixel at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.geometry import AlignmentError
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.placing.known_points import KnownView, depth_product, joint_of
from room_windows import SPREAD, Scene, begun_with


@pytest.fixture(scope="module")
def scene(room: BoxRoom) -> Scene:
    return Scene(room)


def known(graph: KeyframeGraph, key: int, index: int) -> KnownView:
    return KnownView(index, graph.overlap[key], graph.keyframes[key].T_map_cam)


def test_pairs_are_weighted_by_confidence_over_squared_depth(scene: Scene) -> None:
    graph = begun_with(scene.window(range(6)))
    geometry = scene.window(range(5, 11), 2.0)
    geometry = replace(geometry, conf=np.full_like(geometry.conf, 2.0))  # the map has 3
    joint = joint_of(geometry, [known(graph, 5, 0)])
    truth = scene.room.points(scene.poses[5])[SPREAD, SPREAD].reshape(-1, 3)
    np.testing.assert_allclose(joint.map, truth, atol=0.01)
    distance = np.linalg.norm(truth - scene.poses[5][:3, 3], axis=1)
    np.testing.assert_allclose(np.linalg.norm(joint.window, axis=1), 2.0 * distance, rtol=1e-5)
    np.testing.assert_allclose(joint.depth, distance, rtol=1e-4)
    np.testing.assert_allclose(joint.weight, np.log(2.0) / distance**2, rtol=1e-3)


def test_a_pixel_is_used_that_has_a_point_in_the_window_and_in_the_map(scene: Scene) -> None:
    geometry, graph = scene.window(range(3, 9)), begun_with(scene.window(range(6)))
    conf = geometry.conf.copy()
    conf[1, :5] = 1.0
    geometry, view = replace(geometry, conf=conf), known(graph, 4, 1)
    seen = np.full_like(view.known.conf, 3.0)
    seen[:, 20:] = 1.0
    view = replace(view, known=replace(view.known, conf=seen))
    use = view.use(geometry)
    for row, col in np.ndindex(use.shape):
        assert use[row, col] == (row >= 5 and col < 20)
    assert len(joint_of(geometry, [view])) == use.sum()


def test_a_joint_holds_the_pairs_of_all_views_one_after_the_other(scene: Scene) -> None:
    geometry, graph = scene.window(range(3, 9), 2.0), begun_with(scene.window(range(6)))
    views = [known(graph, key, index) for index, key in enumerate((3, 4, 5))]
    joint, pairs = joint_of(geometry, views), []
    for view in views:
        T = view.T_map_cam
        for pixel in np.ndindex(view.known.conf.shape):
            own = view.known.points_cam[pixel]
            pairs.append((geometry.points[view.index][pixel], T[:3, :3] @ own + T[:3, 3]))
    window, in_map = zip(*pairs, strict=True)
    np.testing.assert_allclose(joint.window, np.stack(window))
    np.testing.assert_allclose(joint.map, np.stack(in_map))
    S, residual = joint.fit()
    assert S.scale == pytest.approx(0.5, rel=1e-4)
    assert residual.max() < 1e-3


def test_a_joint_of_no_pixel_is_empty_and_fits_nothing(scene: Scene) -> None:
    geometry, graph = scene.window(range(3, 9)), begun_with(scene.window(range(6)))
    view = known(graph, 4, 1)
    blind = replace(view.known, conf=np.ones_like(view.known.conf))
    for views in ([], [replace(view, known=blind)]):
        joint = joint_of(geometry, views)
        assert len(joint) == 0
        assert joint.window.shape == joint.map.shape == (0, 3)
        with pytest.raises(AlignmentError):
            joint.fit()


def test_without_a_pose_of_the_view_the_map_alone_says_how_far_its_points_are(
    scene: Scene,
) -> None:
    geometry = scene.window(range(6))
    use = np.zeros((18, 24), bool)
    use[9, :3] = True
    without = replace(geometry, poses=[None, *geometry.poses[1:]])
    divisor = depth_product(without, 0, use, np.array([0.5, 2.0, 3.0]))
    np.testing.assert_allclose(divisor, [0.25, 4.0, 9.0])


def test_a_point_in_the_camera_itself_has_a_finite_weight(scene: Scene) -> None:
    use = np.zeros((18, 24), bool)
    use[9, :3] = True
    divisor = depth_product(scene.window(range(6)), 0, use, np.array([0.0, 1.0, 1.0]))
    assert (divisor > 0).all()
