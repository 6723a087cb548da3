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

"""Selects keyframes and groups them into windows.

Image overlap with the last keyframe is measured with corners (Shi and Tomasi 1994), tracked from
frame to frame by pyramidal Lucas-Kanade (Lucas and Kanade 1981, Bouguet 2000).

Changing a constant changes which keyframes, and so which windows, are chosen. Over four apartments
(`benchmarks/constants.py --kinds apartment --drives 4`), half and twice `TRACK_SIDE_PX`,
`SEEN_WELL`, `BELIEVED` and `SUDDEN` change every run in either direction and their mean little: an
ATE of 25 to 37 mm instead of 30, 24 to 28 windows instead of 24, 99.2 to 99.7 % of the free cells
right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mvdust3r_ros.config import KeyframeSettings, filled_in
from mvdust3r_ros.datatypes import (
    JUMP_BACK_NS,
    BoolArray,
    FloatArray,
    Frame,
    ImageArray,
    Keyframe,
    MvDust3rError,
    View,
    Window,
)
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg

TRACK_SIDE_PX = 128
"""Shorter side of the image in which corners are tracked; all pixels below are of this image."""
MAX_CORNERS = 120
"""From this many, the share still in view is known to 5 percentage points: sqrt(0.25 / 120)."""
CORNER_QUALITY = 0.01
"""Least strength of a corner relative to the strongest one, as in OpenCV's tutorials."""
FLOW_PATCH_PX, FLOW_LEVELS = 15, 3
"""Patch side and number of pyramid levels above the image. Motions up to 15 times half a patch can
be tracked (Bouguet 2000: 2^(levels + 1) - 1), which is 105 px, nearly the whole image."""
MIN_CORNERS, CLEARLY = 8, 2
"""Fewer corners show no motion: two views need at least as many (`two_view.EPIPOLAR_MATCHES`).
Leaving a textureless reference takes `CLEARLY` times as many, or as many that recur in the
previous image."""
MIN_STRENGTH, SMOOTH_PX = 1e-4, 1.0
"""Least eigenvalue of a corner (`cv2.cornerMinEigenVal`) in the smoothed image: white noise of 3
grey levels stays below 0.6e-4, of 5 levels below 1.6e-4."""
SEEN_WELL = 0.6
"""Share of tracked corners below which they are searched for in the reference again: before
`keyframes.min_overlap` makes a keyframe of a camera that stands still."""
THERE_AND_BACK_PX, BELIEVED = 5.0, 0.5
"""Largest error of a corner tracked forward and back, and share of corners within it for which the
whole step is trusted. The distance is that between corners; insensitive from 2.5 to 5
(benchmarks/constants.py). The share is a majority."""
SAME_CORNER_PX = 5.0
"""Least distance of corners in one image; corners closer than this are the same."""
BLIND_S = 0.5
"""Least time from a textureless keyframe to the next one, when texture appears: by then a camera
on its way to a door or a light has reached it."""
SUDDEN = 0.2
"""If the overlap falls this far below its limit within one frame, the previous frame becomes a
keyframe too: it is the only link."""
MIN_WINDOW = 3
"""Two views have a single baseline, which nothing verifies."""
LOST_AFTER = 2
"""Consecutive mismatches with the map after which a window starts from new keyframes only.
Insensitive from 2 to 4 (benchmarks/constants.py); at 1 the ATE of one apartment is 21 mm instead
of 15."""
MAX_CAMERA_NAMES = 16
"""More than any rig has; frame ids that change with every message would exhaust memory."""
SHARPNESS_FRAMES, MIN_SHARPNESS_FRAMES = 30, 5
"""Frames, about a second of them, whose median defines typical sharpness, and least number before
any is called blurred."""
MAX_WAITING_WINDOWS = 8
"""Most windows' worth of pending keyframes while none is taken; then every second is dropped."""


class KeyframeError(MvDust3rError):
    """A frame's timestamp or size does not fit the stream."""


class MotionGauge:
    """Measures the share of the last keyframe's corners still in view, by pyramidal Lucas-Kanade.

    Corners are tracked from frame to frame, forward and back, so the share falls as they leave the
    image. A frame with hardly any texture (a white wall, darkness, a covered lens, motion blur)
    carries no motion information: it is skipped, and the next one is compared with the last
    textured frame. A textureless reference lasts until texture appears.
    """

    def __init__(self) -> None:
        """Start without a reference."""
        self._reference: _Sight | None = None
        self._last: _Sight | None = None
        self._glimpse: _Sight | None = None

    def restart(self, gray: ImageArray) -> None:
        """Make this image the reference."""
        self._glimpse = None
        self._reference = self._last = _Sight(gray, _corners(gray))

    @property
    def blind(self) -> bool:
        """Whether the reference shows too little to follow."""
        return self._reference is None or len(self._reference.corners) < MIN_CORNERS

    def overlap(self, gray: ImageArray) -> float:
        """Return the share of the reference's corners still in view, 0 to 1.

        For a textureless reference: 1 until there is texture, then 0. A textureless image leaves
        the share unchanged.
        """
        first, last = self._reference, self._last
        if first is None or last is None or first.gray.shape != gray.shape:
            return 0.0
        if self.blind:
            return 0.0 if self._has_texture(gray) else 1.0
        now = last.followed(gray)
        if len(now.corners) < SEEN_WELL * len(first.corners):
            # noise costs a static camera some corners, but they are found again
            now = max(now, first.followed(gray), key=lambda sight: len(sight.corners))
        if len(now.corners) >= MIN_CORNERS or len(_corners(gray)) >= MIN_CORNERS:
            self._last = last = now
        return len(last.corners) / len(first.corners)

    def _has_texture(self, gray: ImageArray) -> bool:
        """Whether an image after a textureless one has texture: noise never repeats a corner."""
        before, self._glimpse = self._glimpse, _Sight(gray, _corners(gray))
        corners = self._glimpse.corners
        if before is None or len(corners) >= CLEARLY * MIN_CORNERS:
            return len(corners) >= CLEARLY * MIN_CORNERS
        off = np.linalg.norm(before.followed(gray).corners - corners[:, 0], axis=2)
        return int((off.min(0, initial=np.inf) < SAME_CORNER_PX).sum()) >= MIN_CORNERS


@dataclass(frozen=True, eq=False)
class _Sight:
    """A grey image and (N, 1, 2) corners in it."""

    gray: ImageArray
    corners: FloatArray

    def followed(self, gray: ImageArray) -> _Sight:
        """Return a new image with the corners tracked into it.

        If most of them are not found again when tracked back, only those that are count.
        """
        if not len(self.corners):
            return _Sight(gray, self.corners)
        there, found = _track(self.gray, gray, self.corners)
        back, found_back = _track(gray, self.gray, there)
        seen = found & np.all((there >= 0) & (there < gray.shape[::-1]), axis=(1, 2))
        near = np.linalg.norm(back - self.corners, axis=2)[:, 0] < THERE_AND_BACK_PX
        same = seen & found_back & near
        return _Sight(gray, there[seen if same.sum() >= BELIEVED * seen.sum() else same])


def _corners(gray: ImageArray) -> FloatArray:
    """Return (N, 1, 2) corners that stand out from the noise of a plain wall."""
    smooth = cv2.GaussianBlur(gray, (0, 0), SMOOTH_PX)
    strength = float(cv2.cornerMinEigenVal(smooth, 3).max())
    if strength < MIN_STRENGTH:
        return np.zeros((0, 1, 2), np.float32)
    quality = max(CORNER_QUALITY, MIN_STRENGTH / strength)
    corners = cv2.goodFeaturesToTrack(smooth, MAX_CORNERS, quality, SAME_CORNER_PX)
    return np.asarray(corners if corners is not None else [], np.float32).reshape(-1, 1, 2)


def _track(a: ImageArray, b: ImageArray, corners: FloatArray) -> tuple[FloatArray, BoolArray]:
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        a, b, corners, np.zeros_like(corners), winSize=(FLOW_PATCH_PX, FLOW_PATCH_PX),
        maxLevel=FLOW_LEVELS,
    )  # fmt: skip
    return np.asarray(moved, np.float32), found[:, 0] == 1


class KeyframeWindow:
    """Sliding window of keyframes.

    A window holds the last `window_overlap` keyframes of the last committed window and the newest
    keyframes since. Until a window is taken, each new keyframe yields an updated window that still
    starts with committed keyframes. It grows to `busy_window_size`; then the keyframes in between
    are thinned evenly. If windows no longer fit the map (see `record_mismatch`), the next one
    starts without committed keyframes.
    """

    def __init__(
        self, settings: KeyframeSettings, overlap: Callable[[], Sequence[Keyframe]]
    ) -> None:
        """Start empty.

        Args:
            settings: those left to the engine get the defaults that suit most engines.
            overlap: returns the keyframes of the last committed window, oldest first.
        """
        self.settings = filled_in(settings)
        self._overlap = overlap
        self._must_restart = True
        self.epoch = 0
        self.keyframe_count = 0
        self.blurred_count = 0
        self._window_count = 0
        self._motion: dict[str, MotionGauge] = {}
        self._sharpness: dict[str, deque[float]] = {}
        self._size_hw: dict[str, tuple[int, ...]] = {}
        self._last: dict[str, Keyframe] = {}
        self._passed_over: dict[str, tuple[int, View]] = {}
        self._last_stamp_ns: dict[str, int] = {}
        self._misses = 0.0
        self._failed: set[int] = set()
        self._pending: list[Keyframe] = []
        self._returned = 0

    def check(self, frame: Frame) -> None:
        """Check a frame's timestamp and size.

        A timestamp at least one second back starts a new epoch: the unfinished window is dropped.

        Raises:
            KeyframeError: the timestamp is not newer than the last one, the size changed, or there
                are too many cameras.
        """
        camera, size = frame.camera_name, frame.image_rgb.shape[:2]
        if camera not in self._size_hw and len(self._size_hw) >= MAX_CAMERA_NAMES:
            raise KeyframeError(
                f"{camera}: images of more than {MAX_CAMERA_NAMES} cameras; do the images change "
                "their frame_id?"
            )
        last_ns = self._last_stamp_ns.get(camera)
        if last_ns is not None and frame.stamp_ns <= last_ns - JUMP_BACK_NS:
            self.start_epoch()
        elif last_ns is not None and frame.stamp_ns <= last_ns:
            raise KeyframeError(
                f"{camera}: stamp {frame.stamp_ns} ns is not newer than {last_ns} ns"
            )
        known = self._size_hw.setdefault(camera, size)
        self._last_stamp_ns[camera] = frame.stamp_ns
        if known != size:
            self._size_hw[camera] = size
            self._motion.pop(camera, None)
            raise KeyframeError(
                f"{camera}: image size changed from {known[1]}x{known[0]} to {size[1]}x{size[0]}; "
                "frames of the new size are used from the next one on"
            )

    def start_epoch(self) -> None:
        """Drop all keyframes: after a jump in time the camera may be anywhere."""
        self.epoch += 1
        self._must_restart = True
        self._pending.clear()
        self._returned = 0
        self._motion.clear()
        self._last.clear()
        self._passed_over.clear()
        self._last_stamp_ns.clear()

    def add(self, frame: Frame, view: View) -> Window | None:
        """Process a checked frame; return a window if the frame completes one."""
        gray = _gray_thumbnail(view.image_rgb)
        if self._is_blurred(frame.camera_name, gray):
            self.blurred_count += 1
            return None
        chosen, overlap = self._is_keyframe(frame, gray)
        before = self._passed_over.pop(frame.camera_name, None)
        if not chosen:
            self._passed_over[frame.camera_name] = frame.stamp_ns, view
            return None
        sudden = overlap < self.settings.min_overlap - SUDDEN
        if before is not None and sudden and self.settings.min_interval_s <= 0:
            self._keep(frame.camera_name, *before)
        self._keep(frame.camera_name, frame.stamp_ns, view)
        self._motion.setdefault(frame.camera_name, MotionGauge()).restart(gray)
        limit = MAX_WAITING_WINDOWS * self.settings.window_size
        if len(self._pending) > limit:
            self._pending = thin_evenly(self._pending, limit // 2)
            self._returned = 0
        return self._compose()

    def _keep(self, camera: str, stamp_ns: int, view: View) -> None:
        """Make a frame a keyframe."""
        keyframe = Keyframe(self.keyframe_count, stamp_ns, view, camera)
        self.keyframe_count += 1
        self._last[camera] = keyframe
        self._pending.append(keyframe)

    def flush(self) -> Window | None:
        """Return a last window of the pending keyframes, filled up with committed ones."""
        rule = self.settings
        spare = rule.window_size - len(self._pending)
        chosen = self._chosen(self._pending, max(spare, rule.window_overlap))
        if not self._pending or len(chosen) < MIN_WINDOW:
            return None
        self._window_count += 1
        return Window(self._window_count - 1, chosen, self.epoch)

    def take(self, window: Window) -> Window:
        """Mark a window's keyframes, and older ones, as no longer pending: it goes to the network.

        Returns:
            The window to use, updated to start with keyframes committed since it was made.
        """
        newest = window.keyframes[-1].id
        waiting = [k for k in self._pending if k.id <= newest]
        self._pending = self._pending[len(waiting) :]
        self._returned = 0
        chosen = self._chosen(waiting)
        return window if len(chosen) < len(window.keyframes) else replace(window, keyframes=chosen)

    def give_back(self, window: Window, engine_failed: bool = False) -> None:
        """Requeue a rejected window's keyframes, so that the next window bridges the gap.

        At most two windows' worth are kept, so that a lost camera does not accumulate its path.
        Keyframes that the engine failed on twice in a row are dropped, so that a view it cannot
        process does not return forever. Before the first commit there is no gap to bridge: windows
        just slide.
        """
        given_up = {k.id for k in self.anchors}
        if engine_failed:
            given_up |= self._failed
            self._failed = {k.id for k in window.keyframes}
        back = [k for k in window.keyframes if k.id not in given_up]
        most = self.settings.window_overlap
        if self.anchors:
            most = 2 * (self.settings.window_size - self.settings.window_overlap)
        fresh = len(self._pending)
        self._pending = [*back, *self._pending][-max(most, fresh) :]
        self._returned = len(self._pending) - fresh

    @property
    def anchors(self) -> tuple[Keyframe, ...]:
        """Mapped keyframes to start the next window with, oldest first; none after a restart."""
        return () if self._must_restart else tuple(self._overlap())

    def committed(self, window: Sequence[Keyframe]) -> None:
        """Record that a window is in the map: the next windows overlap with its keyframes.

        Keyframes newer than any of its mapped ones become pending again, to continue from there.
        """
        self._must_restart, self._misses = False, 0.0
        newest = self.anchors[-1].id
        self._pending = [*(k for k in window if k.id > newest), *self._pending]

    def record_mismatch(self, share: float = 1.0) -> None:
        """Record that a window anchored in the map did not fit, although odometry gives its place.

        After `LOST_AFTER` of them in a row, the views have probably left the mapped area. The next
        window then consists of new keyframes only, placed by odometry.

        Args:
            share: probability that the map is the cause, not the window itself.
        """
        self._misses += share
        if self._misses >= LOST_AFTER:
            self._must_restart = True
            del self._pending[: self._returned]
            self._returned = 0

    def _compose(self) -> Window | None:
        chosen = self._chosen(self._pending)
        shared = min(len(self.anchors), self.settings.window_overlap) or self._returned
        fresh = len(self._pending) - self._returned
        if shared + fresh < self.settings.window_size:
            return None
        window = Window(self._window_count, chosen, self.epoch)
        self._window_count += 1
        return window

    def _chosen(self, pending: list[Keyframe], overlap: int = 0) -> tuple[Keyframe, ...]:
        """Return the end of the last committed window, then pending keyframes spread evenly."""
        rule = self.settings
        shared = self.anchors[-(overlap or rule.window_overlap) :]
        return (*shared, *thin_evenly(pending, rule.busy_window_size - len(shared)))

    def _is_blurred(self, camera: str, gray: ImageArray) -> bool:
        sharpness = float(cv2.Laplacian(gray, cv2.CV_32F).var())
        recent = self._sharpness.setdefault(camera, deque(maxlen=SHARPNESS_FRAMES))
        typical = float(np.median(recent)) if len(recent) >= MIN_SHARPNESS_FRAMES else 0.0
        recent.append(sharpness)
        return sharpness < self.settings.min_sharpness * typical

    def _is_keyframe(self, frame: Frame, gray: ImageArray) -> tuple[bool, float]:
        """Whether the frame is a keyframe, and the overlap with the last keyframe."""
        last = self._last.get(frame.camera_name)
        gauge = self._motion.get(frame.camera_name)
        if last is None or gauge is None:
            return True, 1.0
        rule = self.settings
        overlap, was_blind = gauge.overlap(gray), gauge.blind
        elapsed_s = (frame.stamp_ns - last.stamp_ns) * 1e-9
        if elapsed_s < rule.min_interval_s:
            return False, overlap
        moved_m, turned_deg = _motion_between(last.view.T_odom_cam, frame.T_odom_cam)
        chosen = (
            (overlap < rule.min_overlap and not (was_blind and elapsed_s < BLIND_S))
            or moved_m > rule.max_translation_m
            or turned_deg > rule.max_rotation_deg
            or 0 < rule.max_interval_s <= elapsed_s
        )
        return chosen, 1.0 if was_blind else overlap


def thin_evenly(keyframes: list[Keyframe], count: int) -> list[Keyframe]:
    """Return `count` keyframes, evenly spread for each camera and always with the newest."""
    if len(keyframes) <= count:
        return list(keyframes)
    cameras: dict[str, list[Keyframe]] = {}
    for keyframe in keyframes:
        cameras.setdefault(keyframe.camera_name, []).append(keyframe)
    if 1 < len(cameras) <= count:
        chosen: list[Keyframe] = []
        fewest_first = sorted(cameras.values(), key=len)  # their unused share goes to the others
        for left, own in zip(range(len(cameras), 0, -1), fewest_first, strict=True):
            share = -(-(count - len(chosen)) // left)
            chosen += thin_evenly(own, share)
        return sorted(chosen, key=lambda k: k.id)
    return [keyframes[(i + 1) * len(keyframes) // count - 1] for i in range(count)]


def _gray_thumbnail(image: ImageArray) -> ImageArray:
    """Return a small grey image with shorter side TRACK_SIDE_PX."""
    height, width = image.shape[:2]
    scale = TRACK_SIDE_PX / min(height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _motion_between(T_a: FloatArray | None, T_b: FloatArray | None) -> tuple[float, float]:
    """Return metres and degrees between two poses; zero if one is missing."""
    if T_a is None or T_b is None:
        return 0.0, 0.0
    delta = invert_se3(T_a) @ T_b
    return float(np.linalg.norm(delta[:3, 3])), float(rotation_angle_deg(delta[:3, :3]))
