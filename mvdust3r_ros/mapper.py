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

"""The complete mapping pipeline: images in, map out.

`Mapper.process` calls `select` (cheap: is this frame a keyframe, is a window full?) and then
`map_window`, which reconstructs the window on its own, places it, checks it, commits it to the
map and applies the corrections that follow. A live node calls the two from different threads.
`MapHolder` answers all other requests, at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mvdust3r_ros.atlas.map_holder import MapHolder, MapState
from mvdust3r_ros.atlas.outcome import committed
from mvdust3r_ros.atlas.reconsider import CONTRADICTIONS, check_recent_motion, reconsider
from mvdust3r_ros.atlas.revision import SETTLE_SHARE, PlacedWindow, Revision
from mvdust3r_ros.datatypes import (
    ENGINE_FAULTS,
    Frame,
    Keyframe,
    MapUpdate,
    MvDust3rError,
    StageClock,
    Verdict,
    Window,
)
from mvdust3r_ros.graph.loops import loop_candidate, loop_edge
from mvdust3r_ros.graph.mountings import found_mountings
from mvdust3r_ros.graph.relocalisation import (
    RelocalisationError,
    check_same_place,
    likely_places,
)
from mvdust3r_ros.graph.seen_keyframes import seen_keyframes
from mvdust3r_ros.placing.stitching import Placement, Stitcher
from mvdust3r_ros.window.disconnected_windows import check_disconnected_window, check_turns
from mvdust3r_ros.window.limits import attainable
from mvdust3r_ros.window.preprocess import view_from_frame
from mvdust3r_ros.window.reconstruct import Reconstruction
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry
from mvdust3r_ros.wording import plural

MISMATCHES = {
    Verdict.REJECTED_RESIDUAL: 1.0, Verdict.REJECTED_LOW_CONFIDENCE: 1.0,
    Verdict.REJECTED_DEGENERATE: 1.0, Verdict.REJECTED_POSE: 0.5, Verdict.REJECTED_ODOMETRY: 0.5,
}  # fmt: skip
"""Verdicts of windows whose views do not match the map, with weights. Those of 0.5 may equally
well come from a window that contradicts itself."""


class Mapper(MapHolder):
    """Builds a map from frames, window by window.

    `select` and `map_window` may run in two threads, `snapshot` in any thread.
    """

    def process(self, frame: Frame) -> MapUpdate | None:
        """Process one frame; return the outcome of a window if the frame completes one.

        Raises:
            MvDust3rError: the frame is unusable; the map is unchanged.
        """
        window = self.select(frame)
        return None if window is None else self.map_window(window)

    def finish(self) -> MapUpdate | None:
        """Map the keyframes left over at the end of a recording, too few to fill a window."""
        window = self.unfilled()
        update = None if window is None else self.map_window(window)
        state = self._state
        if state.now.unsettled:
            self._improve(state, "settle", Revision.settled, StageClock())
        return update

    def unfilled(self) -> Window | None:
        """Return a window of the leftover keyframes; None if there are none."""
        with self._lock:
            return self._state.keyframes.flush()

    def select(self, frame: Frame) -> Window | None:
        """Apply the keyframe rule, in a few milliseconds; the engine may observe the frame too.

        A returned window replaces earlier ones that have not been passed to `map_window`.

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
                return None  # the map was reset meanwhile; its view size may differ
            state.view_hw = view_hw
            state.track.add(frame)
            return state.keyframes.add(frame, view)

    def mounted(self, frame: Frame) -> Frame:
        """Return the frame with its camera pose from odometry, once the mounting is known."""
        found = self.mountings.get(frame.camera_name)
        if found is None or frame.T_odom_base is None or frame.T_odom_cam is not None:
            return frame
        T_odom_cam = frame.T_odom_base @ found.T_base_cam
        # an estimated mounting is no proof that a robot carries the camera
        return replace(frame, T_odom_cam=T_odom_cam, T_odom_base=None)

    def map_window(self, window: Window) -> MapUpdate:
        """Run the network on a window and join it to the map.

        Never raises for engine or data failures: the verdict reports them. A rejected window
        leaves the map unchanged. A window that proves the latest ones wrong replaces them
        (`MapUpdate.rolled_back`).
        """
        state, clock = self._state, StageClock()
        with self._lock:
            if window.epoch != state.keyframes.epoch:
                return MapUpdate(window, Verdict.REJECTED_STALE, "made before a jump back in time")
            window = self.shutter.straightened(state.keyframes.take(window))
        if state.lost:
            return self._relocalise(state, window, clock)
        update = self._join(state, window, clock)
        rejected = update.verdict not in (Verdict.COMMITTED, Verdict.REJECTED_STALE)
        with self._lock:
            if rejected and window.epoch == state.keyframes.epoch:
                state.keyframes.give_back(window, engine_failed=update.verdict in ENGINE_FAULTS)
                known = state.now.graph.end.knows_place(window)
                if update.verdict in MISMATCHES and known:
                    state.keyframes.record_mismatch(MISMATCHES[update.verdict])
        return update

    def _join(
        self, state: MapState, window: Window, clock: StageClock, place: Sequence[Keyframe] = ()
    ) -> MapUpdate:
        """Join a window to the end of the map, or to the known place that it starts with."""
        now, made = state.now, None
        end = now.graph.end_at(place) if place else now.graph.end
        try:
            made = state.reconstructor.reconstruct(window, self.config, clock)
            made.geometry.check_adds_views(now.graph.keyframes)
            with clock.stage("stitch"):
                stitcher = Stitcher(self.config.stitch, end, self.config.map.camera_height_m)
                placement = stitcher.place(made.geometry)
                self._check(now, made.geometry, placement, end.shares_views(window), len(place))
            with clock.stage("integrate"):
                placed = self._placed(now, made, placement)
                now.check_reach(placed.seen)
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
        return self._commit(state, now, placed, clock)

    def _check(
        self,
        now: Revision,
        geometry: WindowGeometry,
        placement: Placement,
        shares_views: bool,
        stored_count: int,
    ) -> None:
        """Refuse a placed window that contradicts itself, odometry, or the place it is joined to.

        Raises:
            WindowError: the verdict gives the reason.
            RelocalisationError: the window does not match the stored keyframes it starts with.
        """
        rule = self.config.stitch
        if shares_views:
            # as configured: only the end-to-end rotation gets a wider limit for coarse networks
            check_turns(geometry, rule.max_odom_rotation_deg, "a window")
        else:
            check_disconnected_window(geometry)
        limits = attainable(rule, geometry.rel_error)
        check_recent_motion(now, geometry.window, placement, limits)
        if stored_count:
            check_same_place(geometry, stored_count, self.config.loop.min_covisible)

    def _placed(self, now: Revision, made: Reconstruction, placement: Placement) -> PlacedWindow:
        """Return what the map would store of a window."""
        seen = seen_keyframes(made, placement, self.config.map)
        return PlacedWindow(made.geometry, placement, now.prepared(seen, self.config.map))

    def _reconsider(
        self, state: MapState, geometry: WindowGeometry, rejected: MapUpdate, clock: StageClock
    ) -> MapUpdate:
        """Replace the latest windows with a rejected one if they are the wrong ones."""
        found = reconsider(state.now, geometry, state.reconstructor, self.config, clock)
        if found is None:
            return rejected
        with clock.stage("rollback"):
            undone = state.now.undone(found.count)
        state.reconstructor.continue_from(found.made)
        placed = self._placed(undone, found.made, found.placement)
        update = self._commit(state, undone, placed, clock, undone=found.count)
        if update.verdict != Verdict.COMMITTED:
            return update
        message = f"{plural(found.count, 'window')} left the map: {rejected.message}"
        return replace(update, message=message, rolled_back=found.count)

    def _relocalise(self, state: MapState, window: Window, clock: StageClock) -> MapUpdate:
        """Search for the camera in the loaded map; until it is found, the map stays unchanged."""
        count = max(2, self.config.keyframes.window_size // 2)
        new = window.keyframes[-count:]
        likeliest: MapUpdate | None = None
        try:
            with clock.stage("encode"):
                tokens = state.reconstructor.tokens(window.keyframes)[-count:]
        except MvDust3rError as error:
            return MapUpdate(window, Verdict.REJECTED_ENGINE_ERROR, str(error))
        mapped = list(state.now.graph.keyframes.values())
        for stored in likely_places(mapped, tokens, count):
            joint = replace(window, keyframes=(*stored, *new))
            update = self._join(state, joint, clock, stored)
            if update.verdict == Verdict.COMMITTED:
                state.lost = False
                return update
            likeliest = likeliest or update
        assert likeliest is not None  # a loaded map has keyframes
        return replace(
            likeliest,
            window=window,
            message=f"not found in the loaded map yet ({likeliest.message}); nothing is added to "
            "it: go to a place that it shows, or call ~/reset to start a new one",
        )

    def _commit(
        self,
        state: MapState,
        onto: Revision,
        placed: PlacedWindow,
        clock: StageClock,
        undone: int = 0,
    ) -> MapUpdate:
        """Commit a checked window, then apply the corrections that follow from it."""
        window, rule = placed.geometry.window, self.config.stitch
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
            then = state.now.graph
        self._correct(state, clock)
        cameras = {k.camera_name for k in window.keyframes} - set(self.mountings)
        self.mountings |= found_mountings(
            state.now.graph, cameras, rule.max_mounting_sigma_deg, clock
        )
        return committed(placed, then, state.now.graph, rule.scale_max_rel_sigma, clock)

    def _correct(self, state: MapState, clock: StageClock) -> None:
        """Correct sizes, loops and floor height, and rebuild an outdated drawing."""
        self._improve(state, "resize", Revision.resized, clock)
        self._close_loop(state, clock)
        self._improve(state, "level", Revision.on_the_floor, clock)
        if state.now.unsettled > SETTLE_SHARE * len(state.now.graph.keyframes):
            self._improve(state, "settle", Revision.settled, clock)

    def _improve(
        self,
        state: MapState,
        name: str,
        corrected: Callable[[Revision], Revision],
        clock: StageClock,
    ) -> None:
        """Replace the current map with a corrected one, if the correction changed anything."""
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

    def _close_loop(self, state: MapState, clock: StageClock) -> None:
        """Look for a revisited place; a loop closure moves the keyframes."""
        rule, now = self.config.loop, state.now
        if not rule.enabled or state.windows_since_loop < rule.min_windows:
            return
        candidate = loop_candidate(now.graph, self.config.keyframes.window_size // 2, rule)
        if candidate is None:
            return
        state.windows_since_loop = 0

        def closed(revision: Revision) -> Revision:
            edge = loop_edge(revision.graph, candidate, state.reconstructor, self.config)
            return revision.closed(edge, rule)

        self._improve(state, "loop", closed, clock)
