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

"""Rolling shutter: correction of the image distortion of a rotating camera.

Most cameras read their rows from top to bottom in 5 to 30 ms. At 50 degrees per second, the last
row looks half a degree past the first one: several pixels, while parallax is measured to a tenth
of a pixel. The rotation is measured with the frames before and after. The readout time is a
property of the camera, estimated by bundle adjustment or set by the user. Views are then rectified
to the time of their middle row, by rotation only (Forssen and Ringaby 2010).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from weakref import WeakSet

import cv2
import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray, ImageArray, View, Window

MAX_READOUT_S = 0.1
"""Largest readout time: a camera that reads its rows more slowly cannot reach 10 Hz."""
WORTH_WORDS_S = 0.003
"""Shorter readouts are not reported: they may be the uncertainty of a global shutter, ten times
`camera_beliefs.LEAST_READOUT_SIGMA_S`. Affects the report alone."""
LEAST_SHIFT_PX = 0.2
"""Images with a smaller shift between first and last row are not corrected, since remapping would
blur them by more. Tests pass from 0.1 to 0.4 (test/test_rolling_shutter.py)."""
MAX_GAPS = 600
"""Stored gaps between frames of a camera, 20 s at 30 Hz: enough for keyframes not yet mapped. It
bounds memory."""
MAX_GAP_S = 0.4
"""Frames farther apart do not reveal the camera's angular velocity at either of them: two periods
at 5 Hz, so that one frame may be missing. Tests pass from 0.2 to 0.8
(test/test_rolling_shutter.py)."""
GUESSED_FOCAL = 1.0
"""Focal length in long sides for an uncalibrated camera. Any value works, since rotation and shift
use the same one."""
CORNERS, CORNER_QUALITY, FLOW_CORNER_DISTANCE_PX = 80, 0.01, 6
"""Corners of Shi and Tomasi (1994) at half the size: enough for three parameters, in 1 to 2 ms.
Tests pass with all three from half to twice (test/test_rolling_shutter.py)."""
PATCH_PX, FLOW_PYRAMID_LEVELS = 13, 4
"""Patch and pyramid of Lucas-Kanade flow: up to 31 times half a patch (Bouguet 2000), the whole
image. Tests pass from 6 to 18 and from 2 to 8; patches of 26 pixels find a rotation between
unrelated images (test/test_rolling_shutter.py)."""
ROUND_TRIP_PX = 1.0
"""A corner tracked forward and back is rejected if its error is larger. Tests pass from 0.5 to 2
(test/test_rolling_shutter.py)."""
MIN_FLOW_CORNERS, MIN_SHARE = 12, 0.3
"""With fewer tracked corners, by number or share, the rotation is unknown. Three parameters need
two corners; more outvote outliers. Tests pass with both from half to twice
(test/test_rolling_shutter.py)."""
MIN_FLOW_SIGMA_PX = 0.3
"""Least sigma of a tracked corner: a better fit is chance. Tests pass from 0.15 to 0.6
(test/test_rolling_shutter.py)."""
ROUNDS = 5
"""Gauss-Newton steps with Geman-McClure weights, from a pure shift as the initial guess. Tests
pass from 2 to 10 (test/test_rolling_shutter.py)."""
READOUT_GRID = (9, 13)
"""Rows and columns of nodes of the remapping, which is smooth: cubic in the position. Tests pass
from 4 to 18 and from 6 to 26 (test/test_rolling_shutter.py)."""


@dataclass(frozen=True, eq=False)
class _Gap:
    """Rotation of the camera from one frame to the next.

    Attributes:
        begin_ns: time of the first frame.
        end_ns: time of the second frame.
        turn_rad_s: (3,) mean angular velocity in its own axes.
    """

    begin_ns: int
    end_ns: int
    turn_rad_s: FloatArray

    @property
    def span_s(self) -> float:
        """Duration in seconds."""
        return (self.end_ns - self.begin_ns) * 1e-9


class RollingShutter:
    """Measures the rotation of cameras and rectifies the views of windows.

    `observe` may run in one thread, `straightened` and `learn` in another.
    """

    def __init__(self, readout_s: float | None = None) -> None:
        """Start with a given readout time, or none.

        Args:
            readout_s: time from the first to the last row of all cameras; None to estimate it.
        """
        self._given_s = readout_s
        self._learned_s: Mapping[str, float] = {}
        self._last: dict[str, tuple[int, ImageArray]] = {}
        self._gaps: dict[str, deque[_Gap]] = {}
        self._lock = threading.Lock()
        self._done: WeakSet[View] = WeakSet()

    def readout_s(self, camera_name: str) -> float:
        """Return the time from the first to the last row; 0 if unknown."""
        known = self._learned_s.get(camera_name, 0.0)
        return known if self._given_s is None else self._given_s

    @property
    def readouts_s(self) -> dict[str, float]:
        """Camera name -> readout time, 0 if unknown."""
        return {name: self.readout_s(name) for name in sorted(self._last)}

    def notes(self) -> list[str]:
        """Report estimated rolling shutters, ready to copy as settings."""
        return [
            f"{name or 'camera'}: the rows of an image take {1e3 * found_s:.0f} ms (rolling "
            f"shutter), which is taken out; camera.readout_ms: {1e3 * found_s:.1f} says it from "
            "the first image on"
            for name, found_s in sorted(self._learned_s.items())
            if self._given_s is None and found_s > WORTH_WORDS_S
        ]

    def learn(self, readouts_s: Mapping[str, float]) -> None:
        """Store estimated readout times by camera name; a setting has priority."""
        self._learned_s = {**self._learned_s, **readouts_s}

    def observe(self, view: View) -> None:
        """Measure the camera's rotation since its last frame, in 1 to 2 ms.

        Args:
            view: each frame of each camera, as it arrives.
        """
        if self._given_s == 0:
            return
        gray = _half_gray(view.image_rgb)
        before = self._last.get(view.camera_name)
        self._last[view.camera_name] = (view.stamp_ns, gray)
        if before is None or before[1].shape != gray.shape:
            return
        span_s = (view.stamp_ns - before[0]) * 1e-9
        if not 0 < span_s < MAX_GAP_S:
            return
        turn = turn_between(before[1], gray, intrinsics_of(view) * np.array([[0.5], [0.5], [1.0]]))
        if turn is not None:
            with self._lock:
                gaps = self._gaps.setdefault(view.camera_name, deque(maxlen=MAX_GAPS))
                gaps.append(_Gap(before[0], view.stamp_ns, turn / span_s))

    def straightened(self, window: Window) -> Window:
        """Return the window with the rows of all views rectified to the time of the middle row."""
        keyframes = [replace(k, view=self.straight(k.view)) for k in window.keyframes]
        return replace(window, keyframes=tuple(keyframes))

    def straight(self, view: View) -> View:
        """Add the camera's rotation to a view and rectify it with the current readout, once."""
        if view in self._done:
            return view
        turn_rad_s = self._turn(view.camera_name, view.stamp_ns)
        if turn_rad_s is not None:
            known = replace(view, turn_rad_s=turn_rad_s, readout_s=self._given_s)
            view = straightened_by(known, self.readout_s(view.camera_name))
        self._done.add(view)
        return view

    def _turn(self, camera_name: str, stamp_ns: int) -> FloatArray | None:
        """(3,) rad/s at the time of a frame, from the adjacent gaps; None when unknown."""
        with self._lock:
            gaps = list(self._gaps.get(camera_name, ()))
        before = next((g for g in gaps if g.end_ns == stamp_ns), None)
        after = next((g for g in gaps if g.begin_ns == stamp_ns), None)
        if before is not None and after is not None:
            share = before.span_s / (before.span_s + after.span_s)
            return np.asarray((1 - share) * before.turn_rad_s + share * after.turn_rad_s)
        if after is not None or before is None:
            return None if after is None else after.turn_rad_s
        earlier = next((g for g in gaps if g.end_ns == before.begin_ns), None)
        if earlier is None:
            return before.turn_rad_s
        # both are means over a gap: extrapolate to the end of the second
        ahead = before.span_s / (before.span_s + earlier.span_s)
        return np.asarray(before.turn_rad_s + ahead * (before.turn_rad_s - earlier.turn_rad_s))


def _half_gray(image_rgb: ImageArray) -> ImageArray:
    """Return the grey image at half size, (H/2, W/2)."""
    height, width = image_rgb.shape[:2]
    small = cv2.resize(image_rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def straightened_by(view: View, readout_s: float) -> View:
    """Rectify a view with known rotation for this readout; unchanged if the shift is small."""
    if view.turn_rad_s is None:
        return view
    K, turn = intrinsics_of(view), view.turn_rad_s * (readout_s - view.straightened_s)
    if K[0, 0] * float(np.linalg.norm(turn)) < LEAST_SHIFT_PX:
        return view
    image = _straight(view.image_rgb, K, turn)
    return replace(view, image_rgb=image, straightened_s=readout_s)


def intrinsics_of(view: View) -> FloatArray:
    """Return (3, 3) intrinsics of a view, a guess if it is not calibrated."""
    if view.K is not None:
        return view.K
    height, width = view.image_rgb.shape[:2]
    focal = GUESSED_FOCAL * max(height, width)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def row_drift(uv: FloatArray, K: FloatArray, turn_rad_s: FloatArray, height: float) -> FloatArray:
    """Return the displacement of pixels per second of readout time.

    Args:
        uv: (..., 2) pixels.
        K: (..., 3, 3) intrinsics.
        turn_rad_s: (..., 3) angular velocity of the camera in its own axes.
        height: rows of the image.

    Returns:
        (..., 2) pixels per second, from a point's position in the middle row's view to that in its
        own row's.
    """
    focal = np.stack([K[..., 0, 0], K[..., 1, 1]], -1)
    x, y = np.moveaxis((uv - K[..., :2, 2]) / focal, -1, 0)
    wx, wy, wz = np.moveaxis(turn_rad_s, -1, 0)
    share = (uv[..., 1] - (height - 1) / 2) / height
    # derivative of a projected ray with respect to the camera's rotation
    flow = np.stack(
        [x * y * wx - (1 + x * x) * wy + y * wz, (1 + y * y) * wx - x * y * wy - x * wz], -1
    )
    return np.asarray(focal * flow * share[..., None])


def turn_between(a: ImageArray, b: ImageArray, K: FloatArray) -> FloatArray | None:
    """Estimate the (3,) rotation vector of the camera between two images, in its own axes.

    Translation is absorbed as the rotation that shifts the image by the same amount on average.
    None if too few corners can be tracked.
    """
    corners = cv2.goodFeaturesToTrack(a, CORNERS, CORNER_QUALITY, FLOW_CORNER_DISTANCE_PX)
    if corners is None or len(corners) < MIN_FLOW_CORNERS:
        return None
    there, found = _followed(a, b, np.asarray(corners, np.float32))
    back, found_back = _followed(b, a, there)
    good = found & found_back & (np.linalg.norm(back - corners, axis=2)[:, 0] < ROUND_TRIP_PX)
    uv_a, uv_b = corners[good, 0].astype(float), there[good, 0].astype(float)
    if len(uv_a) < max(MIN_FLOW_CORNERS, MIN_SHARE * len(corners)):
        return None
    focal = np.array([K[0, 0], K[1, 1]])
    rays = np.concatenate([(uv_a - K[:2, 2]) / focal, np.ones((len(uv_a), 1))], 1)
    shift = np.median(uv_b - uv_a, 0) / focal
    turn = np.array([shift[1], -shift[0], 0.0])
    for _ in range(ROUNDS):
        seen = rays @ cv2.Rodrigues(turn)[0]  # inverse rotation of each ray
        x, y = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
        off = uv_b - np.stack([x, y], 1) * focal - K[:2, 2]
        J = np.empty((len(x), 2, 3))
        J[:, 0, 0], J[:, 0, 1], J[:, 0, 2] = x * y, -1 - x * x, y
        J[:, 1, 0], J[:, 1, 1], J[:, 1, 2] = 1 + y * y, -x * y, -x
        J *= focal[:, None]
        square = (off**2).sum(1)
        sigma = max(float(np.median(square)) ** 0.5, MIN_FLOW_SIGMA_PX)
        weight = 1 / (1 + square / sigma**2)
        A = np.einsum("n,nki,nkj->ij", weight, J, J)
        try:
            step = np.linalg.solve(A, np.einsum("n,nki,nk->i", weight, J, off))
        except np.linalg.LinAlgError:
            return None
        turn = cv2.Rodrigues(cv2.Rodrigues(turn)[0] @ cv2.Rodrigues(step)[0])[0][:, 0]
    return np.asarray(turn)


def _followed(a: ImageArray, b: ImageArray, uv: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Return (N, 1, 2) corners tracked into another image, and (N,) whether they were found."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        a, b, uv, np.zeros_like(uv), winSize=(PATCH_PX, PATCH_PX), maxLevel=FLOW_PYRAMID_LEVELS
    )
    return np.asarray(moved, np.float32), np.asarray(found[:, 0] == 1)


def _straight(image: ImageArray, K: FloatArray, turn: FloatArray) -> ImageArray:
    """Remap the image row by row; `turn` (3,) rad is the rotation over the whole readout."""
    height, width = image.shape[:2]
    v, u = np.meshgrid(
        np.linspace(0, height - 1, READOUT_GRID[0]),
        np.linspace(0, width - 1, READOUT_GRID[1]),
        indexing="ij",
    )
    at = np.stack([u, v], -1)
    source = at
    for _ in range(3):  # the row of the shift is the source's
        source = at + row_drift(source, K, turn, height)
    rows, cols = _hats(READOUT_GRID[0], height), _hats(READOUT_GRID[1], width)
    map_u, map_v = ((rows @ source[..., k] @ cols.T).astype(np.float32) for k in range(2))
    moved = cv2.remap(image, map_u, map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


@lru_cache(maxsize=8)
def _hats(nodes: int, length: int) -> FloatArray:
    """Return (length, nodes) linear interpolation weights of even nodes at every pixel."""
    at = np.linspace(0, nodes - 1, length)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(nodes)))
