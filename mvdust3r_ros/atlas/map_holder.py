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

"""The map at any moment, from whatever thread: one holder, one lock."""

from __future__ import annotations

import threading
from collections import deque
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
"""Words for the diagnostics alone."""


class MapState:
    """Everything that a reset forgets.

    Attributes:
        reconstructor: runs the network; what it remembers is of these keyframes.
        now: the map. It is replaced only under the lock: by the thread that maps windows, and
            where settings or the engine change.
        keyframes: those that wait, and which come next.
        track: where odometry saw the robot in the last frames.
        lost: whether the camera has not been found yet in the map, which was loaded.
        view_hw: height and width of all views; None before the first frame decides.
        rolled_back: windows taken out of the map again.
        refused_loops: why joint windows were no closure, or another correction failed; the last
            ones.
        windows_since_loop: windows since one was looked for.
    """

    def __init__(self, config: MapperConfig, epoch: int, reconstructor: Reconstructor) -> None:
        self.now = Revision.empty(config.map)
        self.keyframes = KeyframeWindow(config.keyframes, lambda: self.now.graph.overlap_keyframes)
        self.keyframes.epoch = epoch
        self.reconstructor = reconstructor
        self.track = OdometryTrack()
        self.lost = False
        self.view_hw: tuple[int, int] | None = None
        self.rolled_back = 0
        self.refused_loops: deque[str] = deque(maxlen=REFUSALS_KEPT)
        self.windows_since_loop = 0


class MapHolder:
    """Holds the map, its settings and its engine, and answers for them.

    The map is a `Revision`, which never changes: who has asked for one keeps one state of all
    keyframes, whatever is mapped meanwhile.
    """

    def __init__(self, config: MapperConfig, engine: Engine) -> None:
        """Start with an empty map.

        Args:
            config: all settings.
            engine: the network; the mapper does not close it.
        """
        self.config = engine.describe().filled_in(config)
        """The settings, with what they leave to the engine as it likes it."""
        self.path_camera = ""
        """Camera of a rig whose keyframes make the trajectory; empty for all."""
        self.mountings: dict[str, Mounting] = {}
        """Camera -> where it sits on the robot, found out where nothing says it."""
        readout_ms = config.camera.readout_ms
        self.shutter = RollingShutter(None if readout_ms < 0 else readout_ms / 1000)
        """What is known of how the cameras read their rows."""
        self.engine = engine
        """The network."""
        self._given = config
        self._lock = threading.Lock()
        self._state = self._new_state(epoch=0)

    @property
    def view_hw(self) -> tuple[int, int]:
        """Height and width of the views of the map; before its first frame the engine's own."""
        return self._state.view_hw or self.engine.describe().image_hw

    def saved(self) -> tuple[MapSnapshot, StoredMap]:
        """`snapshot`, and the map as it can be gone on with, of one moment: their files agree."""
        now, cloud, grid = self._drawn()
        return self._snapshot(now, cloud, grid), stored_map(now.graph, self.engine.describe().name)

    def restore(self, stored: StoredMap) -> None:
        """Go on with a saved map; the present one is forgotten once the new one is complete.

        The next windows look for the camera in it. Nothing is added before it is found.

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
            state.now = state.now.using(self.config)  # they may have changed meanwhile
            self._state = state

    def snapshot(self) -> MapSnapshot:
        """The map as it is now, copied."""
        return self._snapshot(*self._drawn())

    def _drawn(self) -> tuple[Revision, Cloud, OccupancyGrid | None]:
        """The map now, and copies of its voxels and grid: the next window is drawn into these."""
        with self._lock:
            now = self._state.now
            grid = now.drawing.grid
            return now, now.drawing.voxels.cloud(), None if grid is None else grid.grid()

    def _snapshot(self, now: Revision, cloud: Cloud, grid: OccupancyGrid | None) -> MapSnapshot:
        limit = self.config.stitch.scale_max_rel_sigma
        return snapshot_of(now, cloud, grid, self.path_camera, limit)

    def mapped_keyframes(self) -> list[Keyframe]:
        """Keyframes in the map, oldest first."""
        return [m.keyframe for m in self._state.now.graph.keyframes.values()]

    def reset(self) -> None:
        """Forget the map; windows under way will come back as stale."""
        with self._lock:
            self._state = self._new_state(self._state.keyframes.epoch + 1)

    def reconfigure(self, config: MapperConfig) -> None:
        """Use other settings from the next frame on.

        Raises:
            ConfigError: a structural setting differs; it needs a new Mapper.
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
        """Take another engine for views of the same size, between two windows.

        The old one is not closed. What it encoded is forgotten, and what it liked of the settings.
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
        """The map at this moment.

        Its graph stays as it is. The next window is drawn into its drawing: ask `snapshot` for
        that.
        """
        return self._state.now

    @property
    def epoch(self) -> int:
        """Counts resets and jumps back in time."""
        return self._state.keyframes.epoch

    @property
    def looking_in(self) -> int:
        """Keyframes of a loaded map in which the camera has not been found yet; 0 otherwise."""
        state = self._state
        return len(state.now.graph.keyframes) if state.lost else 0

    @property
    def keyframe_count(self) -> int:
        """Keyframes chosen since the last reset."""
        return self._state.keyframes.keyframe_count

    @property
    def blurred_count(self) -> int:
        """Frames skipped as blurred since the last reset."""
        return self._state.keyframes.blurred_count

    @property
    def rolled_back(self) -> int:
        """Windows taken out of the map again since the last reset."""
        return self._state.rolled_back

    @property
    def refused_loops(self) -> list[str]:
        """Why joint windows were no loop closure, or another correction failed; the last ones."""
        with self._lock:
            return list(self._state.refused_loops)

    def _new_state(self, epoch: int) -> MapState:
        return MapState(self.config, epoch, Reconstructor(self.engine, self.shutter))

    def _swap(self, state: MapState, revision: Revision) -> None:
        with self._lock:
            state.now = revision.using(self.config)  # they may have changed meanwhile
