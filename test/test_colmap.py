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

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest

from mvdust3r_ros.datatypes import View, is_point
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.geometry import align_cameras_sim3, invert_se3
from mvdust3r_ros.synthetic.dataset import exact_views

needs_colmap = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None,
    reason="pycolmap, of the extra colmap, is not installed",
)


def blind(views: list[View]) -> list[View]:
    return [replace(view, depth_m=None, T_odom_cam=None) for view in views]


def test_without_pycolmap_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    monkeypatch.delitem(sys.modules, "mvdust3r_ros.engines.colmap_engine", raising=False)
    with pytest.raises(EngineError, match=r"colmap needs pycolmap: .*\[colmap\].* x86-64") as seen:
        create_engine("colmap")
    assert "\n" not in str(seen.value)


@needs_colmap
@pytest.mark.slow
def test_a_room_is_mapped_up_to_its_scale() -> None:
    engine = create_engine("colmap", EngineOptions(threads=1))
    views = exact_views(7_500_002, 8, engine.describe().image_hw)
    window = engine.infer(blind(views))
    assert window.poses is not None
    placed = [k for k, pose in enumerate(window.poses) if pose is not None]
    assert len(placed) >= 4 and window.references[0] == placed[0]
    true = np.stack([v.T_odom_cam for v in views if v.T_odom_cam is not None])[placed]
    found = np.stack([p.T_window_cam for p in window.poses if p is not None])
    S, rms = align_cameras_sim3(found, invert_se3(true[0]) @ true)
    assert rms < 0.05  # metres
    for k in placed:
        pose, z = window.poses[k], views[k].depth_m
        assert pose is not None and z is not None
        np.testing.assert_allclose(pose.K, views[k].K, atol=1e-9)
        cam = (window.points[0, k] - pose.T_window_cam[:3, 3]) @ pose.T_window_cam[:3, :3]
        sparse = is_point(window.conf[0, k])
        assert 20 < sparse.sum() < 0.1 * sparse.size
        assert np.median(np.abs(S.scale * cam[sparse, 2] / z[sparse] - 1)) < 0.02
    assert not is_point(window.conf[0, [k for k in range(8) if k not in placed]]).any()


@needs_colmap
def test_images_that_show_nothing_are_an_error_of_the_window() -> None:
    engine = create_engine("colmap")
    grey = [View(np.full((288, 384, 3), 128, np.uint8)) for _ in range(3)]
    with pytest.raises(EngineError, match="COLMAP registers none of 3 views"):
        engine.infer(grey)
    with pytest.raises(EngineError, match="a view of 100x64 pixels"):
        engine.encode([View(np.zeros((64, 100, 3), np.uint8))])
