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

"""Images in, map out: the whole method on one screen.

`Mapper.process` is `select` (cheap: is this frame a keyframe, is a window full?) followed by
`map_window` (the network and the map). A live node calls the two from different threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from mvdust3r_ros.config import ConfigError, MapperConfig, MapSettings, structural_changes
from mvdust3r_ros.datatypes import (
    FloatArray,
    Frame,
    Keyframe,
    MapSnapshot,
    MapUpdate,
    MvDust3rError,
    Verdict,
    View,
    ViewTokens,
    Window,
    WindowPrediction,
)
from mvdust3r_ros.dense_map import DenseMap, Drawing
from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.keyframes import KeyframeWindow
from mvdust3r_ros.lone_windows import check_lone_window, check_turns
from mvdust3r_ros.loops import LoopCloser
from mvdust3r_ros.mapped_keyframe import MappedKeyframe
from mvdust3r_ros.mounting import Mounting, estimate_mounting
from mvdust3r_ros.pose_recovery import recover_poses
from mvdust3r_ros.pose_refinement import refine_poses
from mvdust3r_ros.preprocess import view_from_frame
from mvdust3r_ros.reference_views import order_views
from mvdust3r_ros.relocalisation import (
    Place,
    RelocalisationError,
    check_same_place,
    describe_image,
    describe_view,
    likely_places,
)
from mvdust3r_ros.rollback import (
    CONTRADICTIONS,
    Commit,
    check_recent_motion,
    joint_keyframes,
    lies_elsewhere,
)
from mvdust3r_ros.rolling_shutter import RollingShutter
from mvdust3r_ros.scale import scale_gate
from mvdust3r_ros.session_file import StoredKeyframe, StoredMap
from mvdust3r_ros.stitching import (
    Placement,
    Stitcher,
    StitchError,
    WindowGeometry,
    agrees_with_odometry,
    attainable,
)
from mvdust3r_ros.wording import plural

MISFITS = {
    Verdict.REJECTED_RESIDUAL: 1.0, Verdict.REJECTED_LOW_CONFIDENCE: 1.0,
    Verdict.REJECTED_DEGENERATE: 1.0, Verdict.REJECTED_POSE: 0.5, Verdict.REJECTED_ODOMETRY: 0.5,
}  # fmt: skip
"""Reasons that say: the views do not show what the map shows, or else contradict themselves."""
ENGINE_FAILURES = {Verdict.REJECTED_ENGINE_ERROR, Verdict.REJECTED_NOT_FINITE}
STITCH_STRIDE = 4
COARSE_POINT = 0.45
"""Sigma of a coarse network's points along their rays over its error, as a share."""
MIN_POSED_SHARE = 0.5
MOUNTING_POSES = 60
"""Newest keyframes to find a mounting from, so that a drive that never shows it costs no more."""
SETTLE_SHARE = 0.5
"""The map is drawn again when of so many of its keyframes it shows an older view: rarely enough
that the time a keyframe takes does not grow with the map."""
RESIZE_SHARE, RESIZE_SIGMAS = 0.003, 0.2
"""Root mean square of the corrections of all windows' sizes that is worth a new map, by itself and
as a share of what the scale may be off by."""


@dataclass
class _MapState:
    """Everything that a reset forgets.

    Only the thread that maps windows changes what the map shows, and only under the mapper's lock:
    corrections are made on drafts beside it, see `Mapper._swap`.
    """

    keyframes: KeyframeWindow
    stitcher: Stitcher
    loops: LoopCloser
    dense: DenseMap
    tokens: dict[int, ViewTokens] = field(default_factory=dict)
    descriptors: dict[int, FloatArray] = field(default_factory=dict)
    window_of: dict[int, int] = field(default_factory=dict)
    """Keyframe of the map -> number of the committed window that it came with."""
    commits: tuple[Commit, ...] = ()
    """The last commits, oldest first: those that can be undone."""
    rolled_back: int = 0
    lost_in: Place | None = None
    """The loaded map in which the camera has not been found yet."""
    view_hw: tuple[int, int] | None = None
    """Height and width of all views; None before the first frame decides."""
    rel_error: float = 0.0
    """Of the coarsest window in the map."""
    uses_odometry: bool = False
    """Whether the engine takes odometry of the views into its poses."""


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
        self.engine = engine
        self.path_camera = ""
        """Camera of a rig whose keyframes make the trajectory; empty for all."""
        self.mountings: dict[str, Mounting] = {}
        """Camera -> where it sits on the robot, found out where nothing says it."""
        readout_ms = config.camera.readout_ms
        self.shutter = RollingShutter(None if readout_ms < 0 else readout_ms / 1000)
        """What is known of how the cameras read their rows."""
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
        if self._state.dense.now.pending:
            self._settle(self._state, StageClock())
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
            state.dense.track.add(frame)
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

        Never raises for what the engine or the data do: the verdict says what happened, and a
        rejected window leaves the map as it was.
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
                if update.verdict in MISFITS and state.stitcher.knows_place(window):
                    state.keyframes.miss(MISFITS[update.verdict])
        return update

    def _join(
        self, state: _MapState, window: Window, clock: StageClock, stored_count: int = 0
    ) -> MapUpdate:
        """Join a window to the map; the first `stored_count` keyframes are a known place."""
        geometry = None
        try:
            geometry, points, conf = self._reconstruct(state, window, clock)
            check_news(geometry, state.dense.keyframes)
            with clock.stage("stitch"):
                placement = state.stitcher.place(geometry)
                if state.stitcher.shares_views(window):
                    # as configured: how the ends turn has a wider limit for a coarse network
                    check_turns(geometry, self.config.stitch.max_odom_rotation_deg, "a window")
                else:
                    check_lone_window(geometry)
                self._check_recent(state, geometry, placement)
                if stored_count:
                    limit = self.config.loop.min_covisible
                    check_same_place(geometry, stored_count, limit)
            with clock.stage("integrate"):
                seen = self._keyframe_points(geometry, placement, points, conf)
                seen = state.dense.levelled(seen)
                check_reach(state.dense, seen)
        except StitchError as error:
            note = "" if geometry is None else geometry.note
            update = MapUpdate(
                window, error.verdict, str(error), latency_ms=clock.stages_ms, note=note
            )
            if geometry is None or error.verdict not in CONTRADICTIONS:
                return update
            return self._reconsider(state, geometry, update, clock)
        except RelocalisationError as error:
            verdict = Verdict.REJECTED_NO_OVERLAP
            return MapUpdate(window, verdict, str(error), latency_ms=clock.stages_ms)
        return self._take_in(state, geometry, placement, seen, clock)

    def _take_in(
        self,
        state: _MapState,
        geometry: WindowGeometry,
        placement: Placement,
        seen: Sequence[MappedKeyframe],
        clock: StageClock,
    ) -> MapUpdate:
        """Commit a checked window, and let the map follow from what it tells."""
        window = geometry.window
        with self._lock:
            if state is not self._state or window.epoch != state.keyframes.epoch:
                return MapUpdate(window, Verdict.REJECTED_STALE, "made before a reset")
            self._commit(state, geometry, placement, seen, clock)
        factors = self._resize(state, clock)
        self._close_loop(state, clock)
        self._set_on_floor(state, clock)
        if len(state.dense.now.pending) > SETTLE_SHARE * len(state.dense.keyframes):
            self._settle(state, clock)
        self._find_mountings(state, window, clock)
        poses = state.loops.poses
        seen = [
            replace(
                m,
                T_map_cam=poses.get(m.keyframe.id, m.T_map_cam),
                points_cam=m.points_cam * np.float32(factors.get(m.keyframe.id, 1.0)),
            )
            for m in seen
        ]
        return self._committed(state, geometry, placement, seen, clock)

    def _settle(self, state: _MapState, clock: StageClock) -> None:
        """Draw what has become better since it was drawn."""
        with clock.stage("settle"), self._swap(state, state.loops, state.dense.settled()):
            pass

    def _find_mountings(self, state: _MapState, window: Window, clock: StageClock) -> None:
        """Compare the motion of each camera with the robot's where nothing says how it sits."""
        for camera in {k.camera_name for k in window.keyframes} - set(self.mountings):
            pairs = [
                (m.keyframe.view.T_odom_base, m.T_map_cam)
                for m in state.dense.keyframes.values()
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

    def _check_recent(
        self, state: _MapState, geometry: WindowGeometry, placement: Placement
    ) -> None:
        """Compare the way over the last commits and this window with odometry's."""
        window, limits = geometry.window, attainable(self.config.stitch, geometry.rel_error)
        recent, known = _recent_ids(state), state.dense.keyframes
        mapped = [m.keyframe for key, m in known.items() if key in recent]
        new = [k for k in window.keyframes if k.id not in known]
        poses = {**placement.T_map_cam, **state.loops.poses}
        check_recent_motion([*mapped, *new], poses, state.commits, limits)

    def _reconsider(
        self, state: _MapState, geometry: WindowGeometry, rejected: MapUpdate, clock: StageClock
    ) -> MapUpdate:
        """Ask whether the last commits are wrong rather than the window that was rejected."""
        if not agrees_with_odometry(geometry):
            return rejected
        tokens, rules, commits = state.tokens, self.config.keyframes, state.commits
        for count in range(1, len(commits) + 1):
            undone = commits[-count:]
            anchors, own = undone[0].anchors, geometry.window.keyframes
            chosen = joint_keyframes(anchors, own, rules.window_overlap, rules.window_size)
            joint = replace(geometry.window, keyframes=chosen)
            stitcher = self._stitcher_before(state, undone)
            if stitcher is None:
                break
            try:
                fit, points, conf = self._reconstruct(state, joint, clock)
                placement = stitcher.place(fit)
                seen = self._keyframe_points(fit, placement, points, conf)
                check_reach(state.dense, seen)
            except StitchError:
                continue
            doubted = {key for commit in undone for key in commit.ids}
            poses = {key: T for key, T in state.loops.poses.items() if key in doubted}
            dense = {key: item[0] for key in poses if (item := state.loops.points(key))}
            if not lies_elsewhere(fit, placement, poses, dense):
                break  # they are right, the window is not
            with clock.stage("rollback"):
                self._roll_back(state, undone, stitcher)
            seen = state.dense.levelled(seen)
            update = self._take_in(state, fit, placement, seen, clock)
            message = f"{plural(count, 'window')} left the map: {rejected.message}"
            return replace(update, message=message, rolled_back=count)
        state.tokens = tokens
        return rejected

    def _stitcher_before(self, state: _MapState, undone: Sequence[Commit]) -> Stitcher | None:
        """A stitcher for the map as it was before the last commits.

        None when the keyframes at the end of that map have been forgotten.
        """
        stitcher = state.stitcher.before(len(undone))
        anchors = undone[0].anchors
        poses = {k.id: state.loops.poses[k.id] for k in anchors if k.id in state.loops.poses}
        dense = {key: state.loops.points(key) for key in poses}
        known = {key: item for key, item in dense.items() if item is not None}
        if not known:
            return None
        newest = next(k for k in reversed(anchors) if k.id in known)
        stitcher.resume(known, {key: poses[key] for key in known}, newest)
        return stitcher

    def _roll_back(self, state: _MapState, undone: Sequence[Commit], stitcher: Stitcher) -> None:
        """Take the last commits out of the map; nothing of them stays."""
        ids = {key for commit in undone for key in commit.ids}
        loops = state.loops.draft()
        before = {m.keyframe.id: m for commit in reversed(undone) for m in commit.improved}
        drawing = state.dense.without(ids, loops.remove(ids), before.values())
        with self._swap(state, loops, drawing):
            stitcher.settings = state.stitcher.settings
            stitcher.camera_height_m = state.stitcher.camera_height_m
            state.stitcher = stitcher
            state.keyframes.commit(undone[0].anchors)
            state.commits = tuple(c for c in state.commits if c not in undone)
            for key in ids:
                state.dense.floor_heights_m.pop(key, None)
                state.descriptors.pop(key, None)
                state.window_of.pop(key, None)
            state.rolled_back += len(undone)

    def _relocalise(
        self, state: _MapState, window: Window, place: Place, clock: StageClock
    ) -> MapUpdate:
        """Look for the camera in the loaded map; until it is found nothing changes."""
        count = max(2, self.config.keyframes.window_size // 2)
        new = window.keyframes[-count:]
        likeliest: MapUpdate | None = None
        try:
            with clock.stage("encode"):
                tokens = self._tokens(state, window)[-count:]
        except MvDust3rError as error:
            return MapUpdate(window, Verdict.REJECTED_ENGINE_ERROR, str(error))
        seen = [self._describe(place, t) for t in tokens]
        for stored in likely_places(place, seen, count):
            dense = {k.id: state.loops.points(k.id) for k in stored}
            poses = {k.id: state.dense.keyframes[k.id].T_map_cam for k in stored}
            known = {key: item for key, item in dense.items() if item is not None}
            state.stitcher.resume(known, poses)
            joint = replace(window, keyframes=(*stored, *new))
            update = self._join(state, joint, clock, len(stored))
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

    def _describe(self, place: Place, tokens: ViewTokens) -> FloatArray:
        """Descriptor of a new view of the kind that the loaded map has."""
        descriptor = describe_view(tokens)
        same = all(len(d) == len(descriptor) for d in place.descriptors.values())
        return descriptor if same else describe_image(tokens.view)

    def stored(self) -> StoredMap:
        """The map as it can be saved and gone on with; empty before the first window."""
        with self._lock:
            return self._stored()

    def saved(self) -> tuple[MapSnapshot, StoredMap]:
        """`snapshot` and `stored` of one moment: files that are written together agree."""
        with self._lock:
            return self._snapshot(), self._stored()

    def _stored(self) -> StoredMap:
        state = self._state
        items = [(m, state.loops.points(m.keyframe.id)) for m in state.dense.keyframes.values()]
        looks = {m.keyframe.id: state.descriptors.get(m.keyframe.id) for m, _ in items}
        if len({None if d is None else len(d) for d in looks.values()}) != 1 or None in looks:
            looks = {m.keyframe.id: describe_image(m.keyframe.view) for m, _ in items}
        keyframes = [
            StoredKeyframe(
                m.keyframe, m.T_map_cam, m.points_cam, m.colors_rgb, m.conf, *dense,
                look if look is not None else describe_image(m.keyframe.view),
            )
            for m, dense in items
            if dense is not None
            for look in [looks[m.keyframe.id]]
        ]  # fmt: skip
        scale, engine = state.stitcher.scale.estimate, self.engine.describe().name
        way = state.dense.now.way.held_by({k.keyframe.id for k in keyframes})
        poses, edges = dict(state.loops.poses), state.loops.edges
        return StoredMap(keyframes, poses, edges, scale, engine, way)

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
        state = self._new_state(self._state.keyframes.epoch + 1)
        state.view_hw, state.rel_error = size, info.rel_error
        state.keyframes.keyframe_count = max(stored.poses) + 1
        state.stitcher.scale.commit(stored.scale)
        state.window_of = dict.fromkeys(stored.poses, 0)
        mapped = [
            MappedKeyframe(k.keyframe, k.T_map_cam, k.points_cam, k.colors_rgb, k.conf)
            for k in stored.keyframes
        ]
        dense = {
            k.keyframe.id: (k.keyframe, k.dense_points_cam, k.dense_conf) for k in stored.keyframes
        }
        state.loops.restore(dense, stored.poses, stored.edges)
        same = stored.engine == info.name
        state.descriptors = {
            i.keyframe.id: i.descriptor if same else describe_image(i.keyframe.view)
            for i in stored.keyframes
        }
        state.dense.now = replace(state.dense.now, way=stored.way)
        state.dense.draw_grid(mapped, state.dense.add(mapped))
        places = {i.keyframe.id: i.keyframe for i in stored.keyframes}
        state.lost_in = Place(places, dict(state.descriptors))
        with self._lock:
            state.keyframes.epoch = self._state.keyframes.epoch + 1
            self._state = state

    def snapshot(self) -> MapSnapshot:
        """The map as it is now, copied."""
        with self._lock:
            return self._snapshot()

    def _snapshot(self) -> MapSnapshot:
        state = self._state
        drawing = state.dense.now
        points, colors, conf = drawing.voxels.cloud()
        drawn = {key: item.T_map_cam for key, item in drawing.keyframes.items()}
        scale = state.stitcher.scale.estimate
        gate_open, gate_hint = scale_gate(scale, self.config.stitch.scale_max_rel_sigma)
        return MapSnapshot(
            points_map=points,
            colors_rgb=colors,
            conf=conf,
            grid=None if drawing.grid is None else drawing.grid.grid(),
            trajectory=state.loops.path(drawn, self.path_camera),
            T_map_odom=state.stitcher.T_map_odom,
            scale=scale,
            floor_z_m=state.dense.floor_z_m,
            gate_open=gate_open,
            gate_hint=gate_hint,
            loop_closures=state.loops.closures,
        )

    def mapped_keyframes(self) -> list[Keyframe]:
        """Keyframes in the map, oldest first."""
        with self._lock:
            return [m.keyframe for m in self._state.dense.keyframes.values()]

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
            self._state.stitcher.settings = config.stitch
            self._state.stitcher.camera_height_m = config.map.camera_height_m
            self._state.loops.settings = config.loop
            self._trim_commits(self._state)
            self._state.dense.use(self._map_settings(self._state.rel_error))

    def use_engine(self, engine: Engine) -> None:
        """Take another engine for views of the same size, between two windows.

        The old one is not closed. What it encoded is forgotten, and what it liked of the settings.
        """
        with self._lock:
            state = self._state
            self.engine = engine
            self.config = engine.describe().filled_in(self._given)
            state.keyframes.settings = self.config.keyframes
            state.tokens, state.uses_odometry = {}, False
            state.rel_error = max(state.rel_error, engine.describe().rel_error)
            state.dense.use(self._map_settings(state.rel_error))

    @property
    def epoch(self) -> int:
        """Counts resets and jumps back in time."""
        return self._state.keyframes.epoch

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
        """Why joint windows were no loop closure, the last ones since the last reset."""
        with self._lock:
            return list(self._state.loops.refused)

    def _map_settings(self, rel_error: float) -> MapSettings:
        """As configured; the points of a coarse network are taken for less certain than that."""
        rule = self.config.map
        sigma = max(rule.point_rel_sigma, COARSE_POINT * rel_error)
        return replace(rule, point_rel_sigma=sigma)

    def _new_state(self, epoch: int) -> _MapState:
        keyframes = KeyframeWindow(self.config.keyframes)
        keyframes.epoch = epoch
        rules = self.config
        return _MapState(
            keyframes,
            Stitcher(rules.stitch, rules.map.camera_height_m),
            LoopCloser(rules.loop, rules.stitch.odom_rel_sigma),
            DenseMap(rules.map),
        )

    def _reconstruct(
        self,
        state: _MapState,
        window: Window,
        clock: StageClock,
        without_odometry: Sequence[Keyframe] = (),
    ) -> tuple[WindowGeometry, FloatArray, FloatArray]:
        """Network and poses: the window in its own frame, full pointmaps and confidence.

        Args:
            state: the map.
            window: the window.
            clock: takes the times.
            without_odometry: keyframes whose odometry an engine that would use it does not get.
        """
        views = [k.view for k in window.keyframes]
        try:
            with clock.stage("encode"):
                tokens = self._tokens(state, window)
                if state.uses_odometry:
                    hidden = {k.id for k in without_odometry}
                    tokens = [
                        _without_odometry(t) if k.id in hidden else t
                        for k, t in zip(window.keyframes, tokens, strict=True)
                    ]
            with clock.stage("decode"):
                info = self.engine.describe()
                n_ref = min(self.config.engine.n_ref or info.n_ref, len(views))
                order = order_views(views, n_ref)
                fed = self.engine.decode([tokens[i] for i in order], n_ref)
                prediction = fed.in_caller_order(order)
                check_size(prediction, views)
                self.shutter.learn(prediction.readouts_s)
        except MvDust3rError as error:
            raise StitchError(Verdict.REJECTED_ENGINE_ERROR, str(error)) from None
        with clock.stage("pose"):
            check_finite(prediction)
            try:
                poses = recover_poses(prediction, views, self.config.pose)
            except MvDust3rError as error:
                raise StitchError(Verdict.REJECTED_POSE, str(error)) from None
        rel_error = info.rel_error if prediction.rel_error is None else prediction.rel_error
        points, note = prediction.points[0], prediction.note
        if self.config.pose.refine == "tracks" and prediction.poses is None:
            with clock.stage("refine"):
                limit = attainable(self.config.stitch, rel_error).max_residual
                refined = refine_poses(prediction, views, poses, rel_error, limit)
            points, poses, note = refined.points, refined.poses, note or refined.note
        state.uses_odometry |= prediction.used_odometry
        placed = sum(p is not None for p in poses)
        if placed < max(2, MIN_POSED_SHARE * len(poses)):
            raise StitchError(
                Verdict.REJECTED_POSE, f"only {placed} of {len(poses)} views have a pose"
            )
        thin = slice(STITCH_STRIDE // 2, None, STITCH_STRIDE)
        conf = prediction.conf[0]
        geometry = WindowGeometry(
            window,
            points[:, thin, thin],
            conf[:, thin, thin],
            poses,
            info.metric if prediction.metric is None else prediction.metric,
            depth_images(views, thin) if self.config.stitch.use_depth else None,
            rel_error,
            prediction.used_odometry,
            prediction.pose_covariance,
            note,
        )
        return geometry, points, conf

    def _tokens(self, state: _MapState, window: Window) -> list[ViewTokens]:
        """Encode the new keyframes of a window; the others are remembered."""
        new = [k for k in window.keyframes if k.id not in state.tokens]
        encoded = self.engine.encode([k.view for k in new]) if new else []
        if len(encoded) != len(new):
            raise EngineError(f"the engine encoded {len(encoded)} of {len(new)} views")
        fresh = dict(zip((k.id for k in new), encoded, strict=True))
        state.tokens = {k.id: fresh.get(k.id) or state.tokens[k.id] for k in window.keyframes}
        return list(state.tokens.values())

    def _commit(
        self,
        state: _MapState,
        geometry: WindowGeometry,
        placement: Placement,
        seen: Sequence[MappedKeyframe],
        clock: StageClock,
    ) -> None:
        """Write a checked window into the map."""
        with clock.stage("integrate"):
            new = [m for m in seen if m.keyframe.id not in state.dense.keyframes]
            better = state.dense.better(seen)
            self._remember(state, new, better)
            state.dense.improve(better)
            if geometry.rel_error > state.rel_error:
                state.rel_error = geometry.rel_error
                state.dense.use(self._map_settings(state.rel_error))
            clouds = state.dense.add(new)
            state.stitcher.commit(geometry, placement)
            state.loops.commit(geometry, placement)
            state.keyframes.commit([m.keyframe for m in seen], geometry.window.keyframes)
            newest = state.stitcher.scale.history.newest
            for key in (m.keyframe.id for m in new):
                state.window_of[key] = newest
                if key in state.tokens:
                    state.descriptors[key] = describe_view(state.tokens[key])
        with clock.stage("grid"):
            state.dense.draw_grid(new, clouds)
            recent = _recent_ids(state) | {m.keyframe.id for m in seen}
            camera, radius_m = seen[-1].T_map_cam[:3, 3], self.config.map.radius_m
            gone = state.dense.thin_out(new, recent) | state.dense.forget_far(camera)
            state.loops.condense(gone)
            if radius_m > 0:
                state.loops.past.keep_within(state.loops.poses, camera, radius_m)
            for key in gone:
                state.descriptors.pop(key, None)
                state.window_of.pop(key, None)

    def _remember(
        self,
        state: _MapState,
        new: Sequence[MappedKeyframe],
        better: Sequence[MappedKeyframe],
    ) -> None:
        """Keep what undoing this commit would need; the first window defines the map and stays."""
        anchors = state.keyframes.anchors
        if not anchors:
            state.commits = ()
            return
        improved = tuple(state.dense.keyframes[m.keyframe.id] for m in better)
        state.commits += (Commit(tuple(m.keyframe.id for m in new), anchors, improved),)
        self._trim_commits(state)

    def _trim_commits(self, state: _MapState) -> None:
        surplus = len(state.commits) - self.config.stitch.rollback_windows
        state.commits = state.commits[max(0, surplus) :]

    def _committed(
        self,
        state: _MapState,
        geometry: WindowGeometry,
        placement: Placement,
        seen: Sequence[MappedKeyframe],
        clock: StageClock,
    ) -> MapUpdate:
        """What became of a window that is in the map."""
        ids = [np.full(len(m.points_cam), m.keyframe.id, np.int64) for m in seen]
        limit = self.config.stitch.scale_max_rel_sigma
        gate_open, gate_hint = scale_gate(placement.scale, limit)
        return MapUpdate(
            window=geometry.window,
            verdict=Verdict.COMMITTED,
            T_map_cam={m.keyframe.id: m.T_map_cam for m in seen},
            K={
                k.id: p.K
                for k, p in zip(geometry.window.keyframes, geometry.poses, strict=True)
                if p is not None
            },
            points_map=np.concatenate([m.points_map() for m in seen]),
            colors_rgb=np.concatenate([m.colors_rgb for m in seen]),
            conf=np.concatenate([m.conf for m in seen]),
            keyframe_ids=np.concatenate(ids),
            residual_m=placement.residual_m,
            latency_ms=clock.stages_ms,
            scale=placement.scale,
            gate_open=gate_open,
            gate_hint=gate_hint,
            loop_closures=state.loops.closures,
            note=geometry.note,
        )

    def _resize(self, state: _MapState, clock: StageClock) -> dict[int, float]:
        """Give all windows the size that all evidence so far says, once it matters.

        Returns:
            Keyframe -> factor of its distances; empty when all stay.
        """
        history = state.stitcher.scale.history
        logs = history.corrections()
        sigma = state.stitcher.scale.estimate.rel_sigma
        known = RESIZE_SIGMAS * sigma if math.isfinite(sigma) else 0.0
        if math.sqrt(float((logs**2).mean())) < max(RESIZE_SHARE, known):
            return {}
        with clock.stage("resize"):
            factors = {key: math.exp(logs[history.index(k)]) for key, k in state.window_of.items()}
            first = next(iter(state.loops.poses.values()))
            anchor = np.array([first[0, 3], first[1, 3], state.dense.floor_z_m])
            loops = state.loops.draft()
            try:
                moved = loops.resize(factors, anchor)
            except MvDust3rError as error:
                self._refuse(state, error)
                return {}
            with self._swap(state, loops, state.dense.moved(moved, factors)):
                history.apply(logs)
                state.stitcher.move(moved, factors)
                state.commits = tuple(commit.resized(factors) for commit in state.commits)
        return factors

    def _close_loop(self, state: _MapState, clock: StageClock) -> None:
        """Look for known ground; a closure moves the keyframes.

        It measures what odometry has lost on the way between both ends: an engine that would use
        odometry gets none of the older end's.
        """
        count = self.config.keyframes.window_size // 2
        candidate = state.loops.candidate(count, state.descriptors)
        if candidate is None:
            return
        window = Window(-1, (*candidate.old, *candidate.new))
        tokens = state.tokens
        with clock.stage("loop"):
            try:
                geometry, _, _ = self._reconstruct(state, window, StageClock(), candidate.old)
                loops = state.loops.draft()
                moved = loops.close(loops.measure(candidate, geometry))
            except MvDust3rError as error:
                self._refuse(state, error)
                return
            finally:
                state.tokens = tokens
            drawing = state.dense.moved(moved) if moved else state.dense.now
            with self._swap(state, loops, drawing):
                state.stitcher.move(moved)

    def _refuse(self, state: _MapState, error: MvDust3rError) -> None:
        with self._lock:
            state.loops.refused.append(str(error))

    def _set_on_floor(self, state: _MapState, clock: StageClock) -> None:
        """Put the floor back to z = 0 when it has turned out to lie elsewhere."""
        rise_m = -state.dense.floor_off_m()
        if rise_m == 0.0:
            return
        with clock.stage("level"):
            loops = state.loops.draft()
            moved = loops.lift(rise_m)
            with self._swap(state, loops, state.dense.redrawn_higher(rise_m)):
                state.dense.lift_floor(rise_m)
                state.stitcher.move(moved)

    @contextmanager
    def _swap(self, state: _MapState, loops: LoopCloser, drawing: Drawing) -> Iterator[None]:
        """Let a corrected graph and its drawing take the place of the present ones, at once.

        What else goes with them is done inside the block: whoever asks sees all or nothing of it.
        """
        with self._lock:
            loops.settings = state.loops.settings  # they may have changed meanwhile
            state.loops, state.dense.now = loops, drawing
            state.dense.use(state.dense.settings)
            yield

    def _keyframe_points(
        self, geometry: WindowGeometry, placement: Placement, points: FloatArray, conf: FloatArray
    ) -> list[MappedKeyframe]:
        """Confident points of each placed view, in its camera frame, in metres."""
        rule = self.config.map
        thin = slice(rule.pixel_stride // 2, None, rule.pixel_stride)
        points = np.ascontiguousarray(points[:, thin, thin])
        conf = np.ascontiguousarray(conf[:, thin, thin])
        valid = conf[conf > 1.0]
        worst = float(np.quantile(valid, rule.conf_quantile)) if valid.size else 1.0
        seen = []
        for index, keyframe in enumerate(geometry.window.keyframes):
            pose = geometry.poses[index]
            if pose is None:
                continue
            R, t = pose.T_window_cam[:3, :3], pose.T_window_cam[:3, 3]
            scale = np.float32(placement.S_map_window.scale)
            cam = (points[index] - t.astype(np.float32)) @ (scale * R.astype(np.float32))
            depth = cam[..., 2]
            trusted = (conf[index] >= worst) & (conf[index] > rule.min_conf)
            use = np.flatnonzero(trusted & (depth > 0) & (depth < rule.max_depth_m))
            colors = np.ascontiguousarray(keyframe.view.image_rgb[thin, thin])
            seen.append(
                MappedKeyframe(
                    keyframe,
                    placement.T_map_cam[keyframe.id],
                    cam.reshape(-1, 3).take(use, 0),
                    colors.reshape(-1, 3).take(use, 0),
                    conf[index].take(use),
                )
            )
        return seen


class StageClock:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        """Start empty."""
        self.stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of what runs inside, also when it raises."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent_ms = (time.perf_counter() - begin) * 1e3
            self.stages_ms[name] = self.stages_ms.get(name, 0.0) + spent_ms


def _without_odometry(tokens: ViewTokens) -> ViewTokens:
    return replace(tokens, view=replace(tokens.view, T_odom_cam=None, T_odom_base=None))


def depth_images(views: Sequence[View], thin: slice) -> FloatArray:
    """(V, h, w) depth images of the views, thinned out; NaN where there is none."""
    height, width = views[0].image_rgb.shape[:2]
    nothing = np.full((height, width), np.nan, np.float32)
    depth = [nothing if v.depth_m is None else v.depth_m for v in views]
    return np.stack(depth)[:, thin, thin]


def check_finite(prediction: WindowPrediction) -> None:
    """Refuse NaN and infinity before they reach anything.

    Raises:
        StitchError: with the share of bad values.
    """
    points, conf = np.isfinite(prediction.points), np.isfinite(prediction.conf)
    if not (points.all() and conf.all()):
        bad = ~(points.all(-1) & conf)
        raise StitchError(
            Verdict.REJECTED_NOT_FINITE, f"{bad.mean():.1%} of the engine's values are not finite"
        )


def check_news(geometry: WindowGeometry, known: Collection[int]) -> None:
    """Refuse a window that says nothing of keyframes that the map does not know.

    Raises:
        StitchError: none of the new views has a pose.
    """
    placed = zip(geometry.window.keyframes, geometry.poses, strict=True)
    if not any(pose is not None and k.id not in known for k, pose in placed):
        raise StitchError(Verdict.REJECTED_POSE, "none of the new views has a pose")


def check_size(prediction: WindowPrediction, views: Sequence[View]) -> None:
    """Refuse pointmaps that do not lie on the pixels of the views.

    Raises:
        EngineError: with both sizes.
    """
    height, width = prediction.conf.shape[2:]
    for view in views:
        if view.image_rgb.shape[:2] != (height, width):
            size = "x".join(map(str, view.image_rgb.shape[1::-1]))
            raise EngineError(f"the engine gave {width}x{height} points for a view of {size}")


def check_reach(dense: DenseMap, seen: Sequence[MappedKeyframe]) -> None:
    """Refuse what the voxel map or the grid cannot hold before anything is written.

    Raises:
        StitchError: the window lies too far away.
    """
    try:
        dense.check_reach(seen)
    except MvDust3rError as error:
        raise StitchError(Verdict.REJECTED_DEGENERATE, str(error)) from None


def _recent_ids(state: _MapState) -> set[int]:
    """Keyframes of the last commits, which may be undone, and those that they were joined to."""
    return {key for c in state.commits for key in (*c.ids, *(a.id for a in c.anchors))}
