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

"""Where keyframes were that have left the keyframe graph."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray

MAX_POSES = 10_000


class PastPath:
    """Poses of past keyframes, each tied to a host: a keyframe that is still in the graph.

    The path so moves with the graph. Of more than `MAX_POSES`, every second one goes.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._cameras: list[str] = []
        self._camera = np.empty(0, np.int64)
        self._stamps_ns = np.empty(0, np.int64)
        self._host = np.empty(0, np.int64)
        self._T_host_cam = np.empty((0, 4, 4))

    def __len__(self) -> int:
        """Number of poses."""
        return len(self._host)

    def copy(self) -> PastPath:
        """The same poses; neither follows what happens to the other."""
        return deepcopy(self)

    def add(self, stamp_ns: int, camera_name: str, host: int, T_host_cam: FloatArray) -> None:
        """Remember a keyframe that leaves the graph.

        Args:
            stamp_ns: when its image was taken.
            camera_name: by which camera.
            host: a keyframe that stays.
            T_host_cam: (4, 4) pose in the frame of the host.
        """
        if len(self) >= MAX_POSES:
            self._keep(np.arange(len(self)) % 2 == 0)
        if camera_name not in self._cameras:
            self._cameras.append(camera_name)
        self._camera = np.append(self._camera, self._cameras.index(camera_name))
        self._stamps_ns = np.append(self._stamps_ns, stamp_ns)
        self._host = np.append(self._host, host)
        self._T_host_cam = np.concatenate([self._T_host_cam, T_host_cam[None]])

    def rehost(self, old: int, new: int, T_new_old: FloatArray) -> None:
        """A host leaves: what was tied to it is tied to another one, (4, 4) `T_new_old` away."""
        there = self._host == old
        self._host[there] = new
        self._T_host_cam[there] = T_new_old @ self._T_host_cam[there]

    def resize(self, factors: Mapping[int, float]) -> None:
        """Scale the motions from the hosts by a factor for each host."""
        grown = np.array([factors[host] for host in self._host.tolist()])
        self._T_host_cam[:, :3, 3] *= grown[:, None]

    def keep_within(
        self, T_map_host: Mapping[int, FloatArray], centre: FloatArray, radius_m: float
    ) -> None:
        """Drop the poses farther than `radius_m` from `centre` (3,), map frame."""
        off_m = np.linalg.norm(self._in_map(T_map_host)[:, :3, 3] - centre, axis=1)
        self._keep(off_m <= radius_m)

    def poses(
        self, T_map_host: Mapping[int, FloatArray], camera_name: str = ""
    ) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """Stamps (N,) in ns and (N, 4, 4) poses in the map, of one camera or of all."""
        use = np.ones(len(self), bool)
        if camera_name:
            use = np.array([self._cameras[k] == camera_name for k in self._camera], bool)
        return self._stamps_ns[use], self._in_map(T_map_host)[use]

    def _in_map(self, T_map_host: Mapping[int, FloatArray]) -> FloatArray:
        hosts = np.array([T_map_host[host] for host in self._host.tolist()]).reshape(-1, 4, 4)
        poses: FloatArray = hosts @ self._T_host_cam
        return poses

    def _keep(self, use: BoolArray) -> None:
        self._camera, self._stamps_ns = self._camera[use], self._stamps_ns[use]
        self._host, self._T_host_cam = self._host[use], self._T_host_cam[use]
