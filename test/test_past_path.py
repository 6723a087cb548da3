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

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.graph import past_path
from mvdust3r_ros.graph.past_path import PastPath


def at(x_m: float, turn_rad: float = 0.0) -> np.ndarray:
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    R = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return make_se3(R, np.array([x_m, 0.0, 0.0]))


def test_a_past_pose_moves_and_turns_with_its_host() -> None:
    path = PastPath().with_pose(10, "left", 7, at(1.0)).with_pose(20, "right", 8, at(2.0))
    stamps, poses = path.poses({7: at(5.0, np.pi / 2), 8: at(0.0)})
    assert stamps.tolist() == [10, 20]
    np.testing.assert_allclose(poses[:, :3, 3], [[5.0, 1.0, 0.0], [2.0, 0.0, 0.0]], atol=1e-12)


def test_one_camera_of_a_rig() -> None:
    path = PastPath()
    for stamp, camera in ((10, "left"), (11, "right"), (20, "left")):
        path = path.with_pose(stamp, camera, 7, at(0.0))
    assert path.poses({7: at(0.0)}, "left")[0].tolist() == [10, 20]
    assert path.poses({7: at(0.0)}, "rear")[0].tolist() == []


def test_a_new_host_changes_nothing_and_sizes_scale_the_path_to_it() -> None:
    path = PastPath().with_pose(10, "camera", 7, at(1.0))
    hosts = {7: at(5.0, 0.3), 8: at(3.0, -0.2)}
    before = path.poses(hosts)[1]
    path = path.rehosted(7, 8, np.linalg.inv(hosts[8]) @ hosts[7])
    np.testing.assert_allclose(path.poses({8: hosts[8]})[1], before, atol=1e-12)
    larger = path.resized({8: 2.0})
    way = [poses[0, :3, 3] - hosts[8][:3, 3] for poses in (larger.poses(hosts)[1], before)]
    np.testing.assert_allclose(way[0], 2.0 * way[1])


def test_a_path_stays_as_it_is_whatever_others_are_made_of_it() -> None:
    path = PastPath().with_pose(10, "camera", 7, at(1.0)).with_pose(20, "camera", 8, at(2.0))
    before = pickle.dumps(path)
    path.with_pose(30, "rear", 7, at(3.0))
    path.rehosted(7, 8, at(5.0))
    path.resized({7: 2.0, 8: 3.0})
    path.within({7: at(0.0), 8: at(9.0)}, np.zeros(3), 5.0)
    assert pickle.dumps(path) == before


def test_far_poses_go_on_request() -> None:
    path = PastPath()
    for k in range(6):
        path = path.with_pose(k, "camera", 7, at(float(k)))
    path = path.within({7: at(10.0)}, np.array([11.0, 0.0, 0.0]), 1.5)
    assert path.poses({7: at(10.0)})[0].tolist() == [0, 1, 2]


def test_a_path_without_end_is_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_path, "MAX_POSES", 100)
    path = PastPath()
    for k in range(1000):
        path = path.with_pose(k, "camera", 7, at(0.001 * k))
    stamps, poses = path.poses({7: at(0.0)})
    assert 50 <= len(path) <= 100
    assert stamps[-1] == 999
    assert stamps[0] == 0
    assert np.all(np.diff(stamps) > 0)
    np.testing.assert_allclose(poses[:, 0, 3], 0.001 * stamps)
