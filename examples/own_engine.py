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

"""Write your own engine: pointmaps from a depth camera instead of a network.

Needs depth registered to the colour images, camera_info and odometry.

python examples/own_engine.py demo/room/bag demo/room/depth out
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import View, ViewTokens, WindowPrediction
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.drawing.map_files import save_map
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.geometry import backproject, invert_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.bag import BagOptions, read_frames

MAX_DEPTH_M = 6.0


class DepthCameraEngine(Engine):
    """Computes pointmaps from recorded depth and odometry poses."""

    def describe(self) -> EngineInfo:
        """Metric with 2 % error; views keep the camera's aspect, at most 256 pixels wide."""
        return EngineInfo(
            "depth camera", "depth", (192, 256), metric=True, rel_error=0.02, long_side=256
        )

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Keep the views: a single view needs no computation."""
        return [ViewTokens(None, view, image_descriptor(view)) for view in views]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:  # noqa: ARG002
        """Return points of all views in the first view's frame; confidence 1 is invalid."""
        points, conf, T_first_odom = [], [], None
        for view in (token.view for token in tokens):
            if view.depth_m is None or view.K is None or view.T_odom_cam is None:
                raise EngineError("this engine needs depth, camera_info and odometry")
            if T_first_odom is None:
                T_first_odom = invert_se3(view.T_odom_cam)
            T_first_cam = T_first_odom @ view.T_odom_cam
            seen = (view.depth_m > 0) & (view.depth_m < MAX_DEPTH_M)  # False for NaN
            points_cam = backproject(np.where(seen, view.depth_m, 1.0), view.K)
            points.append(points_cam @ T_first_cam[:3, :3].T + T_first_cam[:3, 3])
            conf.append(np.where(seen, 5.0, 1.0))
        return WindowPrediction(
            np.array([points], dtype=np.float32), np.array([conf], dtype=np.float32)
        )

    def close(self) -> None:
        """Nothing to release."""


def main(bag: Path, depth: Path, out: Path) -> None:
    """Map `bag` with the depth images in `depth` and save the map in `out`."""
    mapper = Mapper(MapperConfig(), DepthCameraEngine())
    for frame in read_frames(bag, BagOptions(depth_folder=depth)):
        mapper.process(frame)
    mapper.finish()
    for path in save_map(mapper.snapshot(), out, "map"):
        print(path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
