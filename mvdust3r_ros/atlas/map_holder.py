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

"""The current map, safe to query from any thread: one holder, one lock."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from mvdust3r_ros.atlas.outcome import snapshot_of
from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.atlas.saved_map import restored, stored_map
from mvdust3r_ros.atlas.session_file import StoredMap
from mvdust3r_ros.config import ConfigError, MapperConfig, structural_changes
from mvdust3r_ros.datatypes import Keyframe, MapSnapshot, OccupancyGrid
from mvdust3r_ros.drawing.voxel_map import Cloud
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.graph.driven_path import OdometryTrack
from mvdust3r_ros.placing.mounting import Mounting
from mvdust3r_ros.rolling_shutter import RollingShutter
from mvdust3r_ros.window.keyframes import KeyframeWindow
from mvdust3r_ros.window.reconstruct import Reconstructor

REFUSALS_KEPT = 20
"""Refusal messages kept, for diagnostics only."""


class MapState:
    """Everything that a reset discards.

    Attributes:
        reconstructor: runs the network; its cached tokens belong to these keyframes.
        now: the map. Replaced only under the lock, by the mapping thread or when settings or the
            engine change.
        keyframes: pending keyframes and the rule that selects the next.
        track: recent robot poses from odometry.
        lost: whether the map was loaded and the camera has not been found in it yet.
        view_hw: height and width of all views; None until the first frame sets them.
        rolled_back: number of windows removed from the map again.
        refused_loops: the latest reasons why a loop closure was refused or another correction
            failed.
        windows_since_loop: windows since the last search for a loop.
    """

    def __init__(self, config: MapperConfig, epoch: int, reconstructor: Reconstructor) -> None:
        self.now = Revision.empty(config.map)
        self.keyframes = KeyframeWindow(config.keyframes, _overlap_of(weakref.ref(self)))
        self.keyframes.epoch = epoch
        self.reconstructor = reconstructor
        self.track = OdometryTrack()
        self.lost = False
        self.view_hw: tuple[int, int] | None = None
        self.rolled_back = 0
        self.refused_loops: deque[str] = deque(maxlen=REFUSALS_KEPT)
        self.windows_since_loop = 0


def _overlap_of(state: weakref.ref[MapState]) -> Callable[[], Sequence[Keyframe]]:
    """Return what returns the keyframes of the last window of a state.

    It holds no reference: in a cycle, a map that was reset would stay in memory for a while.
    """

    def overlap() -> Sequence[Keyframe]:
        found = state()
        return () if found is None else found.now.graph.overlap_keyframes

    return overlap


class MapHolder:
    """Holds the map, its settings and its engine, and answers queries about them.

    The map is a `Revision`, which is immutable: a caller that holds one keeps a consistent state
    of all keyframes while mapping continues.
    """

    def __init__(self, config: MapperConfig, engine: Engine) -> None:
        """Start with an empty map.

        Args:
            config: all settings.
            engine: the network; the mapper does not close it.
        """
        self.config = engine.describe().filled_in(config)
        """The settings; those left to the engine have the engine's defaults."""
        self.path_camera = ""
        """Camera of a rig whose keyframes form the trajectory; empty for all cameras."""
        self.mountings: dict[str, Mounting] = {}
        """Camera -> its mounting on the robot, estimated where extrinsics are not given."""
        readout_ms = config.camera.readout_ms
        self.shutter = RollingShutter(None if readout_ms < 0 else readout_ms / 1000)
        """Known or estimated row readout times of the cameras."""
        self.engine = engine
        """The network."""
        self._given = config
        self._lock = threading.Lock()
        self._state = self._new_state(epoch=0)

    @property
    def view_hw(self) -> tuple[int, int]:
        """Return height and width of the views; before the first frame, the engine's default."""
        return self._state.view_hw or self.engine.describe().image_hw

    def saved(self) -> tuple[MapSnapshot, StoredMap]:
        """Return `snapshot` and the resumable map, both of the same revision."""
        now, cloud, grid = self._drawn()
        return self._snapshot(now, cloud, grid), stored_map(now.graph, self.engine.describe().name)

    def restore(self, stored: StoredMap) -> None:
        """Continue from a saved map; the current one is dropped once the new one is complete.

        The next windows search for the camera in it. Nothing is added before it is found.

        Raises:
            ConfigError: the saved views do not fit the engine.
        """
        info = self.engine.describe()
        size = stored.keyframes[0].keyframe.view.image_rgb.shape[:2]
        if not info.takes(size):
            raise ConfigError(
                f"the map was made with views of {size[1]}x{size[0]}, the engine {info.name} "
                f"takes {info.describe_size()}; use the engine that made it"
            )
        graph = restored(stored, info.rel_error, self.config.map)
        state = self._new_state(self._state.keyframes.epoch + 1)
        state.view_hw, state.now = size, Revision.of(graph, self.config)
        state.keyframes.keyframe_count = max(graph.keyframes) + 1
        state.lost = True
        with self._lock:
            state.keyframes.epoch = self._state.keyframes.epoch + 1
            state.now = state.now.using(self.config)  # settings may have changed meanwhile
            self._state = state

    def snapshot(self) -> MapSnapshot:
        """Return a copy of the current map."""
        return self._snapshot(*self._drawn())

    def _drawn(self) -> tuple[Revision, Cloud, OccupancyGrid | None]:
        """Return the map and copies of its voxels and grid: the next window changes those."""
        with self._lock:
            now = self._state.now
            grid = now.drawing.grid
            return now, now.drawing.voxels.cloud(), None if grid is None else grid.grid()

    def _snapshot(self, now: Revision, cloud: Cloud, grid: OccupancyGrid | None) -> MapSnapshot:
        limit = self.config.stitch.scale_max_rel_sigma
        return snapshot_of(now, cloud, grid, self.path_camera, limit)

    def mapped_keyframes(self) -> list[Keyframe]:
        """Return the keyframes in the map, oldest first."""
        return [m.keyframe for m in self._state.now.graph.keyframes.values()]

    def reset(self) -> None:
        """Discard the map; windows in progress will be rejected as stale."""
        with self._lock:
            self._state = self._new_state(self._state.keyframes.epoch + 1)

    def reconfigure(self, config: MapperConfig) -> None:
        """Use new settings from the next frame on.

        Raises:
            ConfigError: a structural setting differs, which needs a new Mapper.
        """
        with self._lock:
            fixed = structural_changes(self.config, config)
            if fixed:
                raise ConfigError(f"{', '.join(fixed)}: cannot change while there is a map")
            self._given = config
            self.config = config = self.engine.describe().filled_in(config)
            self._state.keyframes.settings = config.keyframes
            self._state.now = self._state.now.using(config)

    def use_engine(self, engine: Engine) -> None:
        """Switch to another engine for views of the same size, between two windows.

        The old engine is not closed. Its encoded views and its defaults for settings are dropped.
        """
        with self._lock:
            state, info = self._state, engine.describe()
            self.engine, state.reconstructor = engine, Reconstructor(engine, self.shutter)
            self.config = info.filled_in(self._given)
            state.keyframes.settings = self.config.keyframes
            graph = state.now.graph
            graph = replace(graph, rel_error=max(graph.rel_error, info.rel_error))
            state.now = replace(state.now, graph=graph).using(self.config)

    @property
    def now(self) -> Revision:
        """Return the current map.

        Its graph never changes. Its drawing does, with the next window: use `snapshot` for a copy.
        """
        return self._state.now

    @property
    def epoch(self) -> int:
        """Number of resets and jumps back in time."""
        return self._state.keyframes.epoch

    @property
    def looking_in(self) -> int:
        """Number of keyframes of a loaded map until the camera is found in it; 0 otherwise."""
        state = self._state
        return len(state.now.graph.keyframes) if state.lost else 0

    @property
    def keyframe_count(self) -> int:
        """Number of keyframes selected since the last reset."""
        return self._state.keyframes.keyframe_count

    @property
    def blurred_count(self) -> int:
        """Number of frames skipped as blurred since the last reset."""
        return self._state.keyframes.blurred_count

    @property
    def rolled_back(self) -> int:
        """Number of windows removed from the map since the last reset."""
        return self._state.rolled_back

    @property
    def refused_loops(self) -> list[str]:
        """Return the latest reasons why a loop was refused or another correction failed."""
        with self._lock:
            return list(self._state.refused_loops)

    def _new_state(self, epoch: int) -> MapState:
        return MapState(self.config, epoch, Reconstructor(self.engine, self.shutter))

    def _swap(self, state: MapState, revision: Revision) -> None:
        with self._lock:
            state.now = revision.using(self.config)  # settings may have changed meanwhile
