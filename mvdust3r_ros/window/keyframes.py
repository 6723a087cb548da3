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

"""Which frames to keep, and when enough of them make a window.

How much of the last keyframe is still in view follows from corners (Shi and Tomasi 1994) that are
followed from frame to frame by Lucas and Kanade's method (1981) in pyramids (Bouguet 2000).

A number that changes here chooses other keyframes, and so other windows. Over four flats
(`benchmarks/constants.py --kinds flat --drives 4`) half and twice of `TRACK_SIDE_PX`, `SEEN_WELL`,
`BELIEVED` and `SUDDEN` change each drive, either way, and their mean little: an ATE of 25 to 37 mm
where it is 30, 24 to 28 windows where there are 24, 99.2 to 99.7 % of the free cells right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mvdust3r_ros.config import KeyframeSettings, filled_in
from mvdust3r_ros.datatypes import (
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
"""Shorter side of the image in which corners are followed; all pixels below are of this image."""
MAX_CORNERS = 120
"""The share of so many that is still in view is known to 5 points: sqrt(0.25 / 120)."""
CORNER_QUALITY = 0.01
"""Least strength of a corner over the strongest one, as in OpenCV's tutorials."""
FLOW_PATCH_PX, FLOW_LEVELS = 15, 3
"""Side of a patch and levels above the image. Up to 15 times half a patch can be followed (Bouguet
2000: 2^(levels + 1) - 1), which is 105 px, nearly the whole image."""
MIN_CORNERS, CLEARLY = 8, 2
"""Fewer corners show no motion: as few as two views need at least (`two_view.EPIPOLAR_MATCHES`);
to begin with an image anew after that takes clearly more, or as many that the image before has as
well."""
MIN_STRENGTH, SMOOTH_PX = 1e-4, 1.0
"""Least eigenvalue of a corner (`cv2.cornerMinEigenVal`) of the smoothed image: white noise of 3
grey levels has none above 0.6e-4, of 5 levels 1.6e-4."""
SEEN_WELL = 0.6
"""Share of the corners below which they are looked for in the reference once more: before
`keyframes.min_overlap` makes a keyframe of a camera that stands."""
THERE_AND_BACK_PX, BELIEVED = 5.0, 0.5
"""A corner that is followed there and back ends this near to where it was; a step is believed as a
whole when this share of the corners does. The distance is that of corners from each other;
insensitive from 2.5 to 5 (benchmarks/constants.py). The share is a majority."""
SAME_CORNER_PX = 5.0
"""Corners of one image keep this distance; nearer to one than that is that one."""
BLIND_S = 0.5
"""A keyframe without texture is followed by another one of what can be seen after this time, in
which a camera on its way to a door or a light has got there."""
SUDDEN = 0.2
"""Where the overlap falls so far below its limit from one frame to the next, the frame before is a
keyframe as well: it is the only one that leads there."""
MIN_WINDOW = 3
"""Of two views there is one baseline alone, which nothing checks."""
LOST_AFTER = 2
"""Windows in a row that do not fit the map before one begins anew. Insensitive from 2 to 4
(benchmarks/constants.py); at 1 the ATE of one flat is 21 mm instead of 15."""
MAX_CAMERA_NAMES = 16
"""More than a rig has: frame ids that change with each message would fill the memory."""
EPOCH_JUMP_NS = 1_000_000_000
"""Stamps that come late by less are out of order; by more, a recording has begun anew."""
SHARPNESS_FRAMES, MIN_SHARPNESS_FRAMES = 30, 5
"""Frames, about a second of them, whose median says how sharp images are; before there are a few
none is called blurred."""
MAX_WAITING_WINDOWS = 8
"""Keyframes of so many windows wait at most while nobody takes any, then every second one goes."""


class KeyframeError(MvDust3rError):
    """A frame does not fit the stream: its stamp or its size."""


class MotionGauge:
    """Share of the last keyframe's corners that can still be seen, by pyramidal Lucas-Kanade.

    Corners are followed from frame to frame, there and back, so the share falls with what left the
    image. A frame that shows next to nothing (a white wall, the dark, a covered lens, a smear)
    tells nothing of motion: it is passed over, and the next one is compared with the last that
    showed something. A reference of that kind lasts until something can be seen again.
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
        """Share of the reference's corners still in view, 0 to 1.

        Of a reference without texture: 1 until there is some, then 0. In an image without texture
        it is what it was before.
        """
        first, last = self._reference, self._last
        if first is None or last is None or first.gray.shape != gray.shape:
            return 0.0
        if self.blind:
            return 0.0 if self._sees_again(gray) else 1.0
        now = last.followed(gray)
        if len(now.corners) < SEEN_WELL * len(first.corners):
            # a camera that stands loses corners to noise, but finds them again
            now = max(now, first.followed(gray), key=lambda sight: len(sight.corners))
        if len(now.corners) >= MIN_CORNERS or len(_corners(gray)) >= MIN_CORNERS:
            self._last = last = now
        return len(last.corners) / len(first.corners)

    def _sees_again(self, gray: ImageArray) -> bool:
        """Whether an image after a blind one has texture: noise has no corner twice."""
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
        """A new image with the corners that are found in it.

        If most of them are not found again from there, only the others count.
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
    """(N, 1, 2) corners that stand out of the noise of a plain wall."""
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
    keyframes since. While nobody takes the windows, each new keyframe gives a newer one that
    still begins with committed keyframes: it grows to `busy_window_size`, then keyframes between
    are thinned out evenly. Where the map does not fit any more, see `miss`, windows begin anew.
    """

    def __init__(
        self, settings: KeyframeSettings, overlap: Callable[[], Sequence[Keyframe]]
    ) -> None:
        """Start empty.

        Args:
            settings: what they leave to the engine is as most engines like it.
            overlap: gives the keyframes of the last committed window, oldest first.
        """
        self.settings = filled_in(settings)
        self._overlap = overlap
        self._begins_anew = True
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
        """Accept a frame's stamp and size, or say what is wrong with them.

        A stamp at least one second back starts a new epoch: the unfinished window is dropped.

        Raises:
            KeyframeError: the stamp is not newer than the last one, the size changed, or there
                are too many cameras.
        """
        camera, size = frame.camera_name, frame.image_rgb.shape[:2]
        if camera not in self._size_hw and len(self._size_hw) >= MAX_CAMERA_NAMES:
            raise KeyframeError(
                f"{camera}: images of more than {MAX_CAMERA_NAMES} cameras; do the images change "
                "their frame_id?"
            )
        last_ns = self._last_stamp_ns.get(camera)
        if last_ns is not None and frame.stamp_ns <= last_ns - EPOCH_JUMP_NS:
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
        """Forget all keyframes: after a jump in time the camera may be anywhere."""
        self.epoch += 1
        self._begins_anew = True
        self._pending.clear()
        self._returned = 0
        self._motion.clear()
        self._last.clear()
        self._passed_over.clear()
        self._last_stamp_ns.clear()

    def add(self, frame: Frame, view: View) -> Window | None:
        """Look at a checked frame; a window when it completes one."""
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
        """A frame becomes a keyframe."""
        keyframe = Keyframe(self.keyframe_count, stamp_ns, view, camera)
        self.keyframe_count += 1
        self._last[camera] = keyframe
        self._pending.append(keyframe)

    def flush(self) -> Window | None:
        """A last window of what is still pending, filled up with committed keyframes."""
        rule = self.settings
        spare = rule.window_size - len(self._pending)
        chosen = self._chosen(self._pending, max(spare, rule.window_overlap))
        if not self._pending or len(chosen) < MIN_WINDOW:
            return None
        self._window_count += 1
        return Window(self._window_count - 1, chosen, self.epoch)

    def take(self, window: Window) -> Window:
        """The window goes to the network now: its keyframes and older ones are no longer pending.

        Returns:
            The window to use: it begins with what was committed since it was made.
        """
        newest = window.keyframes[-1].id
        waiting = [k for k in self._pending if k.id <= newest]
        self._pending = self._pending[len(waiting) :]
        self._returned = 0
        chosen = self._chosen(waiting)
        return window if len(chosen) < len(window.keyframes) else replace(window, keyframes=chosen)

    def give_back(self, window: Window, engine_failed: bool = False) -> None:
        """A taken window has been rejected: the next one bridges the gap with its keyframes.

        No more than those of two windows wait, so that a camera that is lost does not drag the way
        it has come along; and none that the engine has failed on twice in a row, so that a view
        that it cannot take does not come back for ever. Before the first window is in the map
        there is nothing to bridge: windows slide on.
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
        """Keyframes of the map that the next window begins with, oldest first; none anew."""
        return () if self._begins_anew else tuple(self._overlap())

    def committed(self, window: Sequence[Keyframe]) -> None:
        """A window is in the map: the next ones overlap with its keyframes.

        Those that are newer than any of it in the map come again: they lead on from there.
        """
        self._begins_anew, self._misses = False, 0.0
        newest = self.anchors[-1].id
        self._pending = [*(k for k in window if k.id > newest), *self._pending]

    def miss(self, share: float = 1.0) -> None:
        """A window that began in the map did not fit, and odometry knows where the camera is.

        After `LOST_AFTER` of them in a row the views have probably left what the map shows: the
        next window consists of new keyframes alone, for odometry to place.

        Args:
            share: how likely it is that this was due to the map, not to the window itself.
        """
        self._misses += share
        if self._misses >= LOST_AFTER:
            self._begins_anew = True
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
        """The end of the last committed window, then pending keyframes spread evenly."""
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
        """And the share of the last keyframe that is still in view."""
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
    """`count` keyframes spread evenly, each camera by itself, the newest one always among them."""
    if len(keyframes) <= count:
        return list(keyframes)
    cameras: dict[str, list[Keyframe]] = {}
    for keyframe in keyframes:
        cameras.setdefault(keyframe.camera_name, []).append(keyframe)
    if 1 < len(cameras) <= count:
        chosen: list[Keyframe] = []
        fewest_first = sorted(cameras.values(), key=len)  # what they lack goes to the others
        for left, own in zip(range(len(cameras), 0, -1), fewest_first, strict=True):
            share = -(-(count - len(chosen)) // left)
            chosen += thin_evenly(own, share)
        return sorted(chosen, key=lambda k: k.id)
    return [keyframes[(i + 1) * len(keyframes) // count - 1] for i in range(count)]


def _gray_thumbnail(image: ImageArray) -> ImageArray:
    """Small grey image, shorter side TRACK_SIDE_PX."""
    height, width = image.shape[:2]
    scale = TRACK_SIDE_PX / min(height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _motion_between(T_a: FloatArray | None, T_b: FloatArray | None) -> tuple[float, float]:
    """Metres and degrees between two poses; zero when one is missing."""
    if T_a is None or T_b is None:
        return 0.0, 0.0
    delta = invert_se3(T_a) @ T_b
    return float(np.linalg.norm(delta[:3, 3])), float(rotation_angle_deg(delta[:3, :3]))
