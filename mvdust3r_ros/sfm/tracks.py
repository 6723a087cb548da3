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

"""Track points through the frames between keyframes.

Corners of Shi and Tomasi (1994), pyramidal Lucas-Kanade flow (1981; Bouguet 2000).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray, ImageArray

MAX_TRACKED_FRAMES = 150
"""Frames stored per camera: some 15 MB at 384 x 288 pixels."""
MAX_KEYFRAMES = 64
"""Keyframes per camera whose points are stored: eight windows."""
MAX_TRACKED_CORNERS, CORNER_QUALITY, CORNER_DISTANCE_PX = 500, 0.01, 7
"""Corners tracked from a keyframe (`cv2.goodFeaturesToTrack`). At this distance, so many cover at
least a fifth of 384 x 288 pixels."""
PATCH_PX, LEVELS = 13, 3
"""Patch and pyramid of the flow: up to 15 times half a patch, 97 pixels (Bouguet 2000)."""
BACK_PX = 0.5
"""A point tracked forward and back is dropped if its error is larger: a sigma of a feature
(`solve.LEAST_SIGMA_PX`)."""


@dataclass(frozen=True, eq=False)
class KeyframeTracks:
    """Points tracked from keyframe to keyframe.

    Attributes:
        uv: (N, V, 2) their pixels in the views of a window, NaN where not seen.
    """

    uv: FloatArray


@dataclass(frozen=True, eq=False)
class _Seen:
    """Points of a keyframe: (N,) ids, ascending and never reused; (N, 2) pixels."""

    number: npt.NDArray[np.intp]
    uv: FloatArray


@dataclass
class _Camera:
    """Stored frames and points of one camera."""

    frames: deque[tuple[int, ImageArray]] = field(
        default_factory=lambda: deque(maxlen=MAX_TRACKED_FRAMES)
    )
    keyframes: dict[int, tuple[_Seen, ImageArray]] = field(default_factory=dict)
    count: int = 0


class FrameTracks:
    """Stores frames, and tracks points through them when a window is mapped.

    `observe` may run in one thread and `between` in another.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._cameras: dict[str, _Camera] = {}
        self._lock = threading.Lock()

    def observe(self, stamp_ns: int, camera_name: str, gray: ImageArray) -> None:
        """Store a frame, without processing it.

        Args:
            stamp_ns: its timestamp; a jump back in time drops earlier frames.
            camera_name: its camera.
            gray: (H, W) uint8 at the size of the views; another size drops earlier frames too.
        """
        with self._lock:
            camera = self._cameras.setdefault(camera_name, _Camera())
            if camera.frames and _must_restart(camera.frames[-1], stamp_ns, gray):
                camera = self._cameras[camera_name] = _Camera()
            camera.frames.append((stamp_ns, gray))

    def between(self, keyframes: Sequence[tuple[int, str]]) -> KeyframeTracks:
        """Return the points seen in two or more of the keyframes.

        Args:
            keyframes: timestamp and camera of the views of a window; unobserved ones are ignored.
        """
        for camera_name in sorted({name for _, name in keyframes}):
            stamps = sorted(stamp for stamp, name in keyframes if name == camera_name)
            self._follow(camera_name, stamps)
        offset, offsets = 0, {}
        for name, camera in self._cameras.items():
            offsets[name] = offset
            offset += camera.count
        known: dict[int, _Seen] = {}
        for row, (stamp, name) in enumerate(keyframes):
            found = self._cameras.get(name, _Camera()).keyframes.get(stamp)
            if found is not None:
                known[row] = _Seen(found[0].number + offsets[name], found[0].uv)
        used = [points.number for points in known.values()]
        numbers = np.unique(np.concatenate([np.zeros(0, int), *used]))
        table = np.full((len(keyframes), len(numbers), 2), np.nan)
        for row, points in known.items():
            table[row, np.searchsorted(numbers, points.number)] = points.uv
        seen = (~np.isnan(table[..., 0])).sum(0) >= 2
        return KeyframeTracks(np.swapaxes(table[:, seen], 0, 1))

    def _follow(self, camera_name: str, stamps: Sequence[int]) -> None:
        """Track the points of the last known keyframe to the new ones, and add new corners."""
        with self._lock:
            camera = self._cameras.get(camera_name)
            frames = [] if camera is None else list(camera.frames)
        if camera is None:
            return
        images = dict(frames)
        newest = max(camera.keyframes, default=-1)
        for stamp in stamps:
            if stamp <= newest or stamp not in images:
                continue
            before = camera.keyframes.get(newest)
            frames_between = [image for at, image in frames if newest < at <= stamp]
            uv = np.zeros((0, 2), np.float32)
            number = np.zeros(0, np.intp)
            if before is not None:
                uv, kept = _through([before[1], *frames_between], before[0].uv)
                number = before[0].number[kept]
            more = _corners(images[stamp], uv)
            number = np.concatenate([number, camera.count + np.arange(len(more))])
            camera.count += len(more)
            seen = _Seen(number, np.concatenate([uv, more]))
            camera.keyframes[stamp] = (seen, images[stamp])
            newest = stamp
        for old in sorted(camera.keyframes)[:-MAX_KEYFRAMES]:
            del camera.keyframes[old]


def _must_restart(last: tuple[int, ImageArray], stamp_ns: int, gray: ImageArray) -> bool:
    """Whether points cannot be tracked from the last frame to this one."""
    return stamp_ns <= last[0] or gray.shape != last[1].shape


def _through(images: Sequence[ImageArray], uv: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Return the points in the last image, and the (N,) mask of initial points still tracked."""
    alive = np.ones(len(uv), bool)
    now = np.asarray(uv, np.float32)
    for a, b in pairwise(images):
        if not len(now):
            break
        there, found = _flow(a, b, now)
        back, found_back = _flow(b, a, there)
        inside = np.all((there >= 0) & (there <= np.array(b.shape[::-1]) - 1), axis=1)
        same = found & found_back & inside & (np.linalg.norm(back - now, axis=1) < BACK_PX)
        alive[np.flatnonzero(alive)[~same]] = False
        now = there[same]
    return now, alive


def _flow(a: ImageArray, b: ImageArray, uv: FloatArray) -> tuple[FloatArray, BoolArray]:
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        a, b, uv[:, None], np.zeros_like(uv[:, None]), winSize=(PATCH_PX, PATCH_PX),
        maxLevel=LEVELS,
    )  # fmt: skip
    return np.asarray(moved, np.float32)[:, 0], np.asarray(found[:, 0] == 1)


def _corners(gray: ImageArray, known: FloatArray) -> FloatArray:
    """Return (N, 2) new corners, away from those already tracked."""
    mask = np.full(gray.shape, 255, np.uint8)
    for u, v in np.rint(known).astype(int).tolist():
        cv2.circle(mask, (u, v), CORNER_DISTANCE_PX, 0, -1)
    count = MAX_TRACKED_CORNERS - len(known)
    if count <= 0:
        return np.zeros((0, 2), np.float32)
    found = cv2.goodFeaturesToTrack(
        gray, count, CORNER_QUALITY, CORNER_DISTANCE_PX, mask=mask, blockSize=5
    )
    return np.zeros((0, 2), np.float32) if found is None else np.asarray(found, np.float32)[:, 0]
