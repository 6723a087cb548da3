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

"""Images in, map out: the whole method.

`Mapper.process` is `select` (cheap: is this frame a keyframe, is a window full?) followed by
`map_window` (the network and the map). A live node calls the two from different threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from mvdust3r_ros.atlas.reconsider import (
    CONTRADICTIONS,
    check_recent_motion,
    joint_keyframes,
    lies_elsewhere,
)
from mvdust3r_ros.atlas.revision import SETTLE_SHARE, PlacedWindow, Revision
from mvdust3r_ros.atlas.saved_map import restored, stored_map
from mvdust3r_ros.atlas.session_file import StoredMap
from mvdust3r_ros.config import ConfigError, MapperConfig, structural_changes
from mvdust3r_ros.datatypes import (
    Frame,
    Keyframe,
    MapSnapshot,
    MapUpdate,
    MvDust3rError,
    OccupancyGrid,
    StageClock,
    Verdict,
    Window,
)
from mvdust3r_ros.drawing.voxel_map import Cloud
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.graph.driven_way import OdometryTrack
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.loops import loop_candidate, measure_loop
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.graph.relocalisation import (
    Place,
    RelocalisationError,
    check_same_place,
    likely_places,
)
from mvdust3r_ros.graph.seen_keyframes import seen_keyframes, seen_overlap
from mvdust3r_ros.placing.mounting import Mounting, estimate_mounting
from mvdust3r_ros.placing.scale import scale_gate
from mvdust3r_ros.placing.stitching import (
    MapEnd,
    Stitcher,
    agrees_with_odometry,
)
from mvdust3r_ros.rolling_shutter import RollingShutter
from mvdust3r_ros.window.keyframes import KeyframeWindow
from mvdust3r_ros.window.limits import attainable
from mvdust3r_ros.window.lone_windows import check_lone_window, check_turns
from mvdust3r_ros.window.preprocess import view_from_frame
from mvdust3r_ros.window.reconstruct import Reconstructor
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry
from mvdust3r_ros.wording import plural

MISFITS = {
    Verdict.REJECTED_RESIDUAL: 1.0, Verdict.REJECTED_LOW_CONFIDENCE: 1.0,
    Verdict.REJECTED_DEGENERATE: 1.0, Verdict.REJECTED_POSE: 0.5, Verdict.REJECTED_ODOMETRY: 0.5,
}  # fmt: skip
"""Reasons that say: the views do not show what the map shows, or else contradict themselves, which
of the last two is as likely."""
ENGINE_FAILURES = {Verdict.REJECTED_ENGINE_ERROR, Verdict.REJECTED_NOT_FINITE}
MOUNTING_POSES = 60
"""Newest keyframes to find a mounting from, so that a drive that never shows it costs no more:
five times what a mounting needs."""
REFUSALS_KEPT = 20
"""Words for the diagnostics alone."""


class _State:
    """Everything that a reset forgets.

    Attributes:
        reconstructor: runs the network; what it remembers is of these keyframes.
        now: the map. It is replaced only under the lock: by the thread that maps windows, and
            where settings or the engine change.
        keyframes: those that wait, and which come next.
        track: where odometry saw the robot in the last frames.
        lost_in: the loaded map in which the camera has not been found yet.
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
        self.lost_in: Place | None = None
        self.view_hw: tuple[int, int] | None = None
        self.rolled_back = 0
        self.refused_loops: deque[str] = deque(maxlen=REFUSALS_KEPT)
        self.windows_since_loop = 0


class Mapper:
    """Turns frames into a map, window by window.

    `select` and `map_window` may run in two threads; `snapshot` in any.
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

    def process(self, frame: Frame) -> MapUpdate | None:
        """Take one frame; the outcome of a window when the frame completes one.

        Raises:
            MvDust3rError: the frame is unusable; the map is unharmed.
        """
        window = self.select(frame)
        return None if window is None else self.map_window(window)

    def finish(self) -> MapUpdate | None:
        """Map the keyframes that have not filled a window, at the end of a recording."""
        window = self.unfilled()
        update = None if window is None else self.map_window(window)
        state = self._state
        if state.now.unsettled:
            self._improve(state, "settle", Revision.settled, StageClock())
        return update

    def unfilled(self) -> Window | None:
        """A window of the keyframes that have not filled one yet; None without any."""
        with self._lock:
            return self._state.keyframes.flush()

    def select(self, frame: Frame) -> Window | None:
        """Keyframe rule alone, a few milliseconds; the engine may look at the frame as well.

        A window returned later replaces earlier ones that `map_window` has not been given.

        Raises:
            MvDust3rError: the frame is unusable.
        """
        with self._lock:
            state = self._state
            state.keyframes.check(frame)
        frame = self.mounted(frame)
        view_hw = state.view_hw
        if view_hw is None:
            view_hw = self.engine.describe().view_hw(frame.image_rgb.shape[:2])
        view = view_from_frame(frame, view_hw)
        self.shutter.observe(view)
        self.engine.observe(view)
        with self._lock:
            if state is not self._state:
                return None  # the map was reset meanwhile; views of the new one may differ
            state.view_hw = view_hw
            state.track.add(frame)
            return state.keyframes.add(frame, view)

    @property
    def view_hw(self) -> tuple[int, int]:
        """Height and width of the views of the map; before its first frame the engine's own."""
        return self._state.view_hw or self.engine.describe().image_hw

    def mounted(self, frame: Frame) -> Frame:
        """The frame with the camera's pose by odometry, once it is known how the camera sits."""
        found = self.mountings.get(frame.camera_name)
        if found is None or frame.T_odom_base is None or frame.T_odom_cam is not None:
            return frame
        T_odom_cam = frame.T_odom_base @ found.T_base_cam
        # an estimate does not say that it is a robot that carries the camera
        return replace(frame, T_odom_cam=T_odom_cam, T_odom_base=None)

    def map_window(self, window: Window) -> MapUpdate:
        """Run the network on a window and join it to the map.

        Never raises for what the engine or the data do: the verdict says what happened. A rejected
        window leaves the map as it was; one that shows that the last ones were wrong takes their
        place (`MapUpdate.rolled_back`).
        """
        state, clock = self._state, StageClock()
        with self._lock:
            if window.epoch != state.keyframes.epoch:
                return MapUpdate(window, Verdict.REJECTED_STALE, "made before a jump back in time")
            window = self.shutter.straightened(state.keyframes.take(window))
        if state.lost_in is not None:
            return self._relocalise(state, window, state.lost_in, clock)
        update = self._join(state, window, clock)
        rejected = update.verdict not in (Verdict.COMMITTED, Verdict.REJECTED_STALE)
        with self._lock:
            if rejected and window.epoch == state.keyframes.epoch:
                state.keyframes.give_back(window, engine_failed=update.verdict in ENGINE_FAILURES)
                known = state.now.graph.end.knows_place(window)
                if update.verdict in MISFITS and known:
                    state.keyframes.miss(MISFITS[update.verdict])
        return update

    def _join(
        self, state: _State, window: Window, clock: StageClock, place: Sequence[Keyframe] = ()
    ) -> MapUpdate:
        """Join a window to the map, at its end or at a known place that the window begins with."""
        now, made = state.now, None
        end = now.graph.end_at(place) if place else now.graph.end
        try:
            made = state.reconstructor.reconstruct(window, self.config, clock)
            geometry = made.geometry
            check_news(geometry, now.graph.keyframes)
            with clock.stage("stitch"):
                placement = self._stitcher(end).place(geometry)
                if end.shares_views(window):
                    # as configured: how the ends turn has a wider limit for a coarse network
                    check_turns(geometry, self.config.stitch.max_odom_rotation_deg, "a window")
                else:
                    check_lone_window(geometry)
                limits = attainable(self.config.stitch, geometry.rel_error)
                check_recent_motion(now, window, placement, limits)
                if place:
                    check_same_place(geometry, len(place), self.config.loop.min_covisible)
            with clock.stage("integrate"):
                seen = self._taken_in(now, seen_keyframes(made, placement, self.config.map))
                check_reach(now, seen)
        except WindowError as error:
            note = "" if made is None else made.geometry.note
            update = MapUpdate(
                window, error.verdict, str(error), latency_ms=clock.stages_ms, note=note
            )
            if made is None or error.verdict not in CONTRADICTIONS:
                return update
            return self._reconsider(state, made.geometry, update, clock)
        except RelocalisationError as error:
            verdict = Verdict.REJECTED_NO_OVERLAP
            return MapUpdate(window, verdict, str(error), latency_ms=clock.stages_ms)
        window_of_map = PlacedWindow(geometry, placement, seen, seen_overlap(made, placement))
        return self._commit(state, now, window_of_map, clock)

    def _taken_in(self, now: Revision, seen: Sequence[MapKeyframe]) -> list[MapKeyframe]:
        return now.taken_in(seen, self.config.map.camera_height_m)

    def _stitcher(self, end: MapEnd) -> Stitcher:
        return Stitcher(self.config.stitch, end, self.config.map.camera_height_m)

    def _commit(
        self,
        state: _State,
        onto: Revision,
        placed: PlacedWindow,
        clock: StageClock,
        undone: int = 0,
    ) -> MapUpdate:
        """Write a checked window into the map, and let the map follow from what it tells."""
        window, seen = placed.geometry.window, placed.seen
        with self._lock:
            if state is not self._state or window.epoch != state.keyframes.epoch:
                return MapUpdate(window, Verdict.REJECTED_STALE, "made before a reset")
            begins = not state.keyframes.anchors and not undone
            state.now = onto.with_window(
                placed, state.track, self.config, clock, can_be_undone=not begins
            )
            state.keyframes.committed(window.keyframes)
            state.rolled_back += undone
            state.windows_since_loop += 1
            committed = state.now.graph
        self._correct(state, clock)
        self._find_mountings(state, window, clock)
        seen = [_by_now(item, committed, state.now.graph) for item in seen]
        return self._committed(state.now.graph, replace(placed, seen=seen), clock)

    def _correct(self, state: _State, clock: StageClock) -> None:
        """Sizes, loops, the height of the floor, and a drawing of what is known now."""
        self._improve(state, "resize", Revision.resized, clock)
        self._close_loop(state, clock)
        self._improve(state, "level", Revision.on_the_floor, clock)
        if state.now.unsettled > SETTLE_SHARE * len(state.now.graph.keyframes):
            self._improve(state, "settle", Revision.settled, clock)

    def _improve(
        self,
        state: _State,
        name: str,
        corrected: Callable[[Revision], Revision],
        clock: StageClock,
    ) -> None:
        """Let a corrected map take the place of the present one, if it is another one."""
        own, now = StageClock(), state.now
        try:
            with own.stage(name):
                better = corrected(now)
        except MvDust3rError as error:
            clock.add(own)
            with self._lock:
                state.refused_loops.append(str(error))
            return
        if better is not now:
            clock.add(own)
            self._swap(state, better)

    def _swap(self, state: _State, revision: Revision) -> None:
        with self._lock:
            state.now = revision.using(self.config)  # they may have changed meanwhile

    def _close_loop(self, state: _State, clock: StageClock) -> None:
        """Look for known ground; a closure moves the keyframes.

        It measures what odometry has lost on the way between both ends: an engine that would use
        odometry gets none of the older end's.
        """
        rule, now = self.config.loop, state.now
        if not rule.enabled or state.windows_since_loop < rule.min_windows:
            return
        count = self.config.keyframes.window_size // 2
        candidate = loop_candidate(now.graph, count, rule)
        if candidate is None:
            return
        state.windows_since_loop = 0
        window = Window(-1, (*candidate.old, *candidate.new))

        def closed(revision: Revision) -> Revision:
            made = state.reconstructor.reconstruct(
                window, self.config, StageClock(), aside=True, without_odometry=candidate.old
            )
            edge = measure_loop(revision.graph, candidate, made.geometry, rule)
            return revision.closed(edge, rule)

        self._improve(state, "loop", closed, clock)

    def _reconsider(
        self, state: _State, geometry: WindowGeometry, rejected: MapUpdate, clock: StageClock
    ) -> MapUpdate:
        """Ask whether the last windows are wrong rather than the one that was rejected."""
        if not agrees_with_odometry(geometry):
            return rejected
        now, rules = state.now, self.config.keyframes
        for count in range(1, len(now.undo) + 1):
            before = now.undo[-count]
            chosen = joint_keyframes(
                before.overlap_keyframes, geometry.window.keyframes, rules.window_overlap,
                rules.window_size,
            )  # fmt: skip
            joint = replace(geometry.window, keyframes=chosen)
            try:
                made = state.reconstructor.reconstruct(joint, self.config, clock, aside=True)
                placement = self._stitcher(before.end).place(made.geometry)
                seen = seen_keyframes(made, placement, self.config.map)
                check_reach(now, seen)
            except WindowError:
                continue
            if not lies_elsewhere(made.geometry, placement, now.doubted(count)):
                return rejected  # they are right, the window is not
            with clock.stage("rollback"):
                undone = now.undone(count)
            state.reconstructor.go_on_from(made)
            seen = self._taken_in(undone, seen)
            placed = PlacedWindow(made.geometry, placement, seen, seen_overlap(made, placement))
            update = self._commit(state, undone, placed, clock, undone=count)
            if update.verdict != Verdict.COMMITTED:
                return update
            message = f"{plural(count, 'window')} left the map: {rejected.message}"
            return replace(update, message=message, rolled_back=count)
        return rejected

    def _relocalise(
        self, state: _State, window: Window, place: Place, clock: StageClock
    ) -> MapUpdate:
        """Look for the camera in the loaded map; until it is found nothing changes."""
        count = max(2, self.config.keyframes.window_size // 2)
        new = window.keyframes[-count:]
        likeliest: MapUpdate | None = None
        try:
            with clock.stage("encode"):
                tokens = state.reconstructor.tokens(window.keyframes)[-count:]
        except MvDust3rError as error:
            return MapUpdate(window, Verdict.REJECTED_ENGINE_ERROR, str(error))
        seen = [place.descriptor_of(t) for t in tokens]
        for stored in likely_places(place, seen, count):
            joint = replace(window, keyframes=(*stored, *new))
            update = self._join(state, joint, clock, stored)
            if update.verdict == Verdict.COMMITTED:
                state.lost_in = None
                return update
            likeliest = likeliest or update
        assert likeliest is not None  # a loaded map has keyframes
        return replace(
            likeliest,
            window=window,
            message=f"not found in the loaded map yet ({likeliest.message}); nothing is added to "
            "it: go to a place that it shows, or call ~/reset to start a new one",
        )

    def _find_mountings(self, state: _State, window: Window, clock: StageClock) -> None:
        """Compare the motion of each camera with the robot's where nothing says how it sits."""
        for camera in {k.camera_name for k in window.keyframes} - set(self.mountings):
            pairs = [
                (m.keyframe.view.T_odom_base, m.T_map_cam)
                for m in state.now.graph.keyframes.values()
                if m.keyframe.camera_name == camera
                and m.keyframe.view.T_odom_base is not None
                and m.keyframe.view.T_odom_cam is None
            ][-MOUNTING_POSES:]
            if not pairs:
                continue
            with clock.stage("mounting"):
                found = estimate_mounting(*zip(*pairs, strict=True))
            if found is not None and found.sigma_deg <= self.config.stitch.max_mounting_sigma_deg:
                self.mountings[camera] = found

    def _committed(
        self,
        graph: KeyframeGraph,
        placed: PlacedWindow,
        clock: StageClock,
    ) -> MapUpdate:
        """What became of a window that is in the map; where its keyframes lie by now."""
        geometry, placement, seen = placed.geometry, placed.placement, placed.seen
        ids = [np.full(len(m.stored_cam), m.id, np.int64) for m in seen]
        limit = self.config.stitch.scale_max_rel_sigma
        gate_open, gate_hint = scale_gate(placement.scale.estimate, limit)
        return MapUpdate(
            window=geometry.window,
            verdict=Verdict.COMMITTED,
            T_map_cam={m.id: m.T_map_cam for m in seen},
            K={keyframe.id: pose.K for _, keyframe, pose in geometry.posed()},
            points_map=np.concatenate([m.points_map() for m in seen]),
            colors_rgb=np.concatenate([m.colors_rgb for m in seen]),
            conf=np.concatenate([m.conf for m in seen]),
            keyframe_ids=np.concatenate(ids),
            residual_m=placement.residual_m,
            latency_ms=clock.stages_ms,
            scale=placement.scale.estimate,
            gate_open=gate_open,
            gate_hint=gate_hint,
            loop_closures=graph.closures,
            note=geometry.note,
        )

    def stored(self) -> StoredMap:
        """The map as it can be saved and gone on with; empty before the first window."""
        return stored_map(self._state.now.graph, self.engine.describe().name)

    def saved(self) -> tuple[MapSnapshot, StoredMap]:
        """`snapshot` and `stored` of one moment: files that are written together agree."""
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
                f"takes {info.size_words()}; use the engine that made it"
            )
        graph = restored(stored, info, self.config.map)
        state = self._new_state(self._state.keyframes.epoch + 1)
        state.view_hw, state.now = size, Revision.of(graph, self.config)
        state.keyframes.keyframe_count = max(stored.poses) + 1
        state.lost_in = Place(
            {key: item.keyframe for key, item in graph.keyframes.items()},
            {k: m.descriptor for k, m in graph.keyframes.items() if m.descriptor is not None},
        )
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
        graph = now.graph
        points, colors, conf = cloud
        scale = graph.scale.estimate
        gate_open, gate_hint = scale_gate(scale, self.config.stitch.scale_max_rel_sigma)
        return MapSnapshot(
            points_map=points,
            colors_rgb=colors,
            conf=conf,
            grid=grid,
            trajectory=graph.path(self.path_camera),
            T_map_odom=graph.T_map_odom,
            scale=scale,
            floor_z_m=now.drawing.floor_z_m,
            gate_open=gate_open,
            gate_hint=gate_hint,
            loop_closures=graph.closures,
        )

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
    def encoded_keyframes(self) -> set[int]:
        """Keyframes whose views need not be encoded again."""
        return self._state.reconstructor.encoded

    @property
    def looking_in(self) -> int:
        """Keyframes of a loaded map in which the camera has not been found yet; 0 otherwise."""
        place = self._state.lost_in
        return 0 if place is None else len(place.keyframes)

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

    def _new_state(self, epoch: int) -> _State:
        return _State(self.config, epoch, Reconstructor(self.engine, self.shutter))


def _by_now(item: MapKeyframe, then: KeyframeGraph, now: KeyframeGraph) -> MapKeyframe:
    """What a window saw of a keyframe, where and how large corrections have made it since."""
    before, after = then.keyframes.get(item.id), now.keyframes.get(item.id)
    if before is None or after is None:
        return item
    factor = after.pointmap.size / before.pointmap.size
    return replace(item, T_map_cam=after.T_map_cam, size=item.size * factor)


def check_news(geometry: WindowGeometry, known: Collection[int]) -> None:
    """Refuse a window that says nothing of keyframes that the map does not know.

    Raises:
        WindowError: none of the new views has a pose.
    """
    if all(keyframe.id in known for _, keyframe, _ in geometry.posed()):
        raise WindowError(Verdict.REJECTED_POSE, "none of the new views has a pose")


def check_reach(revision: Revision, seen: Sequence[MapKeyframe]) -> None:
    """Refuse what the voxel map or the grid cannot hold before anything is written.

    Raises:
        WindowError: the window lies too far away.
    """
    try:
        revision.drawing.check_reach(seen)
    except MvDust3rError as error:
        raise WindowError(Verdict.REJECTED_DEGENERATE, str(error)) from None
