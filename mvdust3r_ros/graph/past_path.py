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

"""Poses of keyframes that have left the keyframe graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray

MAX_POSES = 10_000
"""Bounds memory to 1.3 MB of poses; half of them still make a path."""

StampArray = npt.NDArray[np.int64]


def _no_ids() -> StampArray:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class PastPath:
    """Poses of past keyframes, each tied to a host: a keyframe still in the graph.

    The path thus moves with the graph. Beyond `MAX_POSES`, every second pose is dropped.

    Attributes:
        cameras: names.
        camera: (N,) index of the camera in `cameras`.
        stamps_ns: (N,) timestamps of the images.
        hosts: (N,) keyframes of the graph.
        T_host_cam: (N, 4, 4) poses in the frames of the hosts.
    """

    cameras: tuple[str, ...] = ()
    camera: StampArray = field(default_factory=_no_ids)
    stamps_ns: StampArray = field(default_factory=_no_ids)
    hosts: StampArray = field(default_factory=_no_ids)
    T_host_cam: FloatArray = field(default_factory=lambda: np.empty((0, 4, 4)))

    def __len__(self) -> int:
        """Number of poses."""
        return len(self.hosts)

    def with_pose(
        self, stamp_ns: int, camera_name: str, host: int, T_host_cam: FloatArray
    ) -> PastPath:
        """Return the path with the pose of a keyframe that leaves the graph.

        Args:
            stamp_ns: timestamp of its image.
            camera_name: its camera.
            host: a keyframe that remains.
            T_host_cam: (4, 4) pose in the frame of the host.
        """
        kept = self
        if len(self) >= MAX_POSES:
            kept = self.part(np.arange(len(self)) % 2 == 0)
        cameras = kept.cameras
        if camera_name not in cameras:
            cameras = (*cameras, camera_name)
        return PastPath(
            cameras,
            np.append(kept.camera, cameras.index(camera_name)),
            np.append(kept.stamps_ns, stamp_ns),
            np.append(kept.hosts, host),
            np.concatenate([kept.T_host_cam, T_host_cam[None]]),
        )

    def rehosted(self, old: int, new: int, T_new_old: FloatArray) -> PastPath:
        """Tie the poses of a removed host to another one, (4, 4) `T_new_old` away."""
        there = self.hosts == old
        hosts, T_host_cam = self.hosts.copy(), self.T_host_cam.copy()
        hosts[there] = new
        T_host_cam[there] = T_new_old @ T_host_cam[there]
        return replace(self, hosts=hosts, T_host_cam=T_host_cam)

    def resized(self, factors: Mapping[int, float]) -> PastPath:
        """Return the path with the motions from each host scaled by its factor."""
        grown, T_host_cam = [factors[host] for host in self.hosts.tolist()], self.T_host_cam.copy()
        T_host_cam[:, :3, 3] *= np.array(grown)[:, None]
        return replace(self, T_host_cam=T_host_cam)

    def within(
        self, T_map_host: Mapping[int, FloatArray], centre: FloatArray, radius_m: float
    ) -> PastPath:
        """Return the poses within `radius_m` of `centre` (3,), map frame."""
        off_m = np.linalg.norm(self._in_map(T_map_host)[:, :3, 3] - centre, axis=1)
        return self.part(off_m <= radius_m)

    def poses(
        self, T_map_host: Mapping[int, FloatArray], camera_name: str = ""
    ) -> tuple[StampArray, FloatArray]:
        """Return timestamps (N,) in ns and (N, 4, 4) map poses, of one camera or all."""
        use = np.ones(len(self), bool)
        if camera_name:
            use = np.array([self.cameras[k] == camera_name for k in self.camera], bool)
        return self.stamps_ns[use], self._in_map(T_map_host)[use]

    def part(self, use: BoolArray) -> PastPath:
        """Return a selection of the poses."""
        return PastPath(
            self.cameras, self.camera[use], self.stamps_ns[use], self.hosts[use],
            self.T_host_cam[use],
        )  # fmt: skip

    def _in_map(self, T_map_host: Mapping[int, FloatArray]) -> FloatArray:
        hosts = np.array([T_map_host[host] for host in self.hosts.tolist()]).reshape(-1, 4, 4)
        poses: FloatArray = hosts @ self.T_host_cam
        return poses
