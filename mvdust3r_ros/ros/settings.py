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

"""Settings of the node itself, in addition to those of the mapper."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from mvdust3r_ros.config import ConfigError, MapperConfig, Section, setting
from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.geometry import R_BODY_OPTICAL, make_se3

MAX_NAMED_CAMERAS = 6
"""A chosen limit: six cameras of 60 degrees see all around, and all share one network."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class RosSettings(Section):
    """Inputs, frames and outputs of the node. The core does not read these."""

    image_transport: str = setting(
        "raw", "raw takes sensor_msgs/Image on `image`, compressed takes `image/compressed`",
        choices=("raw", "compressed"), structural=True,
    )  # fmt: skip
    image_reliability: str = setting(
        "best_effort", "reliability asked of `image`",
        choices=("best_effort", "reliable"), structural=True,
    )  # fmt: skip
    image_depth: int = setting(5, "history depth of `image`", low=1, high=1000, structural=True)
    camera_info_reliability: str = setting(
        "best_effort", "reliability asked of `camera_info`",
        choices=("best_effort", "reliable"), structural=True,
    )  # fmt: skip
    odom_reliability: str = setting(
        "best_effort", "reliability asked of `odom`",
        choices=("best_effort", "reliable"), structural=True,
    )  # fmt: skip
    odom_depth: int = setting(50, "history depth of `odom`", low=1, high=1000, structural=True)
    use_depth: bool = setting(
        False, "take a depth image for each colour image from `depth`", structural=True
    )
    depth_reliability: str = setting(
        "best_effort", "reliability asked of `depth`",
        choices=("best_effort", "reliable"), structural=True,
    )  # fmt: skip
    cameras: str = setting(
        "", "names of 1 to 6 cameras, as in front,left: topics front/image, front/camera_info, "
        "front/depth and so on, the path is that of the first; empty for one camera on `image`",
        structural=True,
    )  # fmt: skip
    odom_source: str = setting(
        "topic", "where odometry comes from: topic `odom`, or TF from odom_frame to the camera",
        choices=("topic", "tf", "none"), structural=True,
    )  # fmt: skip
    odom_wait_s: float = setting(
        0.2, "an image waits this long for odometry and depth of its time (s)", low=0.0, high=5.0
    )
    odom_extrapolation_s: float = setting(
        0.1, "odometry is extrapolated this far beyond its newest message (s)", low=0.0, high=1.0
    )
    map_frame: str = setting("map", "frame of the map", structural=True)
    odom_frame: str = setting(
        "", "odometry frame; empty to take it from the messages, `odom` with TF", structural=True
    )
    camera_frame: str = setting(
        "", "optical frame of the camera; empty to take it from the images", structural=True
    )
    T_base_cam: str = setting(
        "", "where the only camera sits in the frame of the odometry messages, if TF does not "
        "say: x y z roll pitch yaw (m, rad) of its body axes, x ahead along the view, z up",
        structural=True,
    )  # fmt: skip
    base_frame: str = setting(
        "", "robot frame that bearings of obstacles refer to; empty for below the camera",
        structural=True,
    )  # fmt: skip
    publish_tf: str = setting(
        "auto", "transform to publish; auto: map->odom with odometry, else map->camera",
        choices=("auto", "map_to_odom", "map_to_camera", "none"), structural=True,
    )  # fmt: skip
    tf_ahead_s: float = setting(
        0.1, "map->odom is stamped this far ahead of the newest image (s)", low=0.0, high=2.0
    )
    points_frame: str = setting(
        "map", "frame of `~/points`: map has the whole window, camera its newest view alone",
        choices=("map", "camera"),
    )  # fmt: skip
    map_period_s: float = setting(
        1.0, "shortest time between two publications of the map (s)", low=0.0, high=60.0
    )
    obstacle_cloud_period_s: float = setting(
        0.25, "time between two clouds of a window on `~/obstacle_points`; more than an update of "
        "the costmap, which uses one cloud each time (s); 0 for all at once", low=0.0, high=5.0,
    )  # fmt: skip
    sectors: int = setting(36, "angular sectors of the occupancy summary", low=1, high=360)
    map_dir: str = setting("~/.ros/maps", "folder that ~/save_map writes into", structural=True)
    queue_size: int = setting(
        10,
        "images waiting to be decoded; the oldest is dropped",
        low=1,
        high=1000,
        structural=True,
    )
    max_megapixels: float = setting(
        50.0, "images with more pixels than this are refused (1e6 px)", low=0.01, high=1000.0
    )
    no_image_s: float = setting(
        5.0, "diagnostics warn when no image came for this long (s)", low=0.1
    )
    diagnostics_period_s: float = setting(
        1.0, "time between diagnostics (s)", low=0.1, high=60.0, structural=True
    )
    save_on_shutdown: bool = setting(
        False, "save the map as `last` in ros.map_dir when the node is told to end"
    )
    autostart: bool = setting(
        False, "configure and activate without a lifecycle manager", structural=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.camera_names
        if len(names) > MAX_NAMED_CAMERAS or len(set(names)) != len(names):
            raise ConfigError(
                f"cameras: {self.cameras!r} must be 1 to {MAX_NAMED_CAMERAS} different names"
            )
        if not all(NAME.fullmatch(name) for name in names if self.cameras):
            raise ConfigError(
                f"cameras: {self.cameras!r} must be names such as front,left: letters, digits, _"
            )
        if self.T_base_cam and (len(names) > 1 or not _six_numbers(self.T_base_cam)):
            raise ConfigError(
                f"T_base_cam: {self.T_base_cam!r} must be six numbers, x y z roll pitch yaw, and "
                "is for one camera; several cameras need TF"
            )
        if len(names) > 1 and self.camera_frame:
            raise ConfigError("camera_frame: several cameras take their frames from the images")

    @property
    def camera_names(self) -> list[str]:
        """Names of the cameras; one empty name for a single unnamed camera."""
        return [name.strip() for name in self.cameras.split(",")]

    def mounting(self) -> FloatArray | None:
        """Return `T_base_cam`, (4, 4) optical frame to robot; None if not set."""
        if not self.T_base_cam:
            return None
        x, y, z, *angles = map(float, self.T_base_cam.split())
        R = Rotation.from_euler("xyz", angles).as_matrix()
        return make_se3(R @ R_BODY_OPTICAL, np.array([x, y, z]))


def _six_numbers(text: str) -> bool:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return False
    return len(numbers) == 6 and bool(np.isfinite(numbers).all())


@dataclass(frozen=True)
class DegradationSettings(Section):
    """When the node degrades because the network fails or is too slow, and when it recovers."""

    failures: int = setting(
        3,
        "failures of the network in a row for one step down; out of memory counts at once",
        low=1,
    )
    healthy_windows: int = setting(
        20, "windows without a failure for one step up; more after a step up that failed", low=1
    )
    max_latency_s: float = setting(
        0.0, "one step down when 95 % of the windows take longer than this (s); 0 for no limit",
        low=0.0,
    )  # fmt: skip
    fallback_engine: str = setting(
        "", "engine folder for the last level, run on the CPU, views of the same size; empty for "
        "none", structural=True,
    )  # fmt: skip


@dataclass(frozen=True)
class NodeConfig(MapperConfig):
    """All settings of the node: those of the mapper and its own."""

    ros: RosSettings = field(default_factory=RosSettings)
    ladder: DegradationSettings = field(default_factory=DegradationSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ros.map_frame or self.ros.map_frame in (
            self.ros.odom_frame, self.ros.camera_frame, self.ros.base_frame,
        ):  # fmt: skip
            raise ConfigError(
                f"ros.map_frame: {self.ros.map_frame!r} must be a frame of its own, not that of "
                "odometry, camera or robot"
            )
