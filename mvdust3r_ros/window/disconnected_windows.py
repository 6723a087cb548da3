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

"""A window that shares no view with the map: something other than the network has to speak for it.

A network is as sure of garbage as of good views, and there is no map yet that could contradict
it. Two others know: odometry has measured how the cameras turned; and the pictures themselves show
whether a view's points, seen by the window's next camera, meet the same grey there. The test is
made on turns and greys because these tell: on rooms like those that it was trained on the small
network is off by 20 % of the distance and by 5 degrees a turn, on others its points are hardly
worse, but its turns are off by 20 to 100 degrees and its pictures fit no better than by chance.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import NamedTuple

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray, Verdict, ViewPose
from mvdust3r_ros.geometry import project, rotation_angle_deg
from mvdust3r_ros.window.window_geometry import NEAREST, WindowError, WindowGeometry

MAX_OFF_DEG = 15.0
"""Largest median difference of the turns: good windows have 3 to 12 degrees, garbage from 20."""
MIN_MATCH, MIN_GAIN = 0.55, 0.2
"""Least correlation of the greys, and share of what standing still leaves open that the window's
motion explains. Good windows of the small network have 0.64 to 0.91 and 0.23 to 0.7, exact ones
from 0.89 and 0.8; garbage has 0.0 to 0.4 where the camera moves, and no gain where it hardly does.
"""
SURE_MATCH = 0.9
"""Correlation that needs no gain: of a camera that stands there is nothing to explain."""
COARSE_FROM = 0.1
"""Error of a point over its distance from which a network's own word is not enough: between the
two bundled ones, 0.045 and 0.27."""
MIN_COMPARISONS, MIN_CELLS = 3, 30
"""Pairs of views and points of each. A correlation of 30 values is known to 0.2 (1 / sqrt(N - 3),
Fisher 1921), the median of three pairs better than that."""
MIN_CONTRAST = 4.0
"""Standard deviation of the greys below which there is nothing to compare: twice the noise of a
camera, of which a correlation is still at least 0.75."""
BLUR_PX = 1.0
"""The place of a point is known to a pixel: finer texture than that would not meet itself."""


class Match(NamedTuple):
    """How well the pictures of a window fit each other, medians over neighbouring views.

    Attributes:
        moved: correlation of the greys of a view's points with what the next camera sees of them.
        still: the same if the camera had stood still.
    """

    moved: float
    still: float

    @property
    def gain(self) -> float:
        """Share of what standing still leaves open that the window's motion explains."""
        return (self.moved - self.still) / max(1.0 - self.still, 1e-6)

    @property
    def good(self) -> bool:
        """Whether the pictures speak for the window."""
        return self.moved >= SURE_MATCH or (self.moved >= MIN_MATCH and self.gain >= MIN_GAIN)


def check_disconnected_window(geometry: WindowGeometry) -> None:
    """Refuse a window that odometry or the pictures contradict, and a coarse one without either.

    Odometry that has gone into the window's poses agrees with them whatever the points are worth:
    the pictures have to speak for those, where they have enough in common.

    Args:
        geometry: a window that shares no view with the map.

    Raises:
        WindowError: with figure and limit.
    """
    agrees = check_turns(geometry, MAX_OFF_DEG, "a window without a view of the map")
    if agrees and not geometry.used_odometry:
        return
    match = picture_match(geometry)
    if match is None and not agrees and geometry.rel_error >= COARSE_FROM:
        raise WindowError(
            Verdict.REJECTED_POSE,
            "nothing but a coarse network speaks for a window without a view of the map: its "
            "pictures have too little in common to compare; give odometry, or show more texture",
        )
    if match is not None and not match.good:
        raise WindowError(
            Verdict.REJECTED_POSE,
            "the pictures of a window without a view of the map do not fit its motion: they "
            f"correlate by {match.moved:.2f}, standing still by {match.still:.2f} (at least "
            f"{MIN_MATCH:g}, and {MIN_GAIN:.0%} of what standing still leaves)",
        )


def check_turns(geometry: WindowGeometry, limit_deg: float, what: str) -> bool:
    """Refuse a window that turns unlike odometry; whether odometry says anything.

    Args:
        geometry: any window.
        limit_deg: largest median difference of the turns between its views.
        what: the window, in words.

    Raises:
        WindowError: with figure and limit.
    """
    off_deg = turns_off_deg(geometry)
    if off_deg is not None and off_deg > limit_deg:
        raise WindowError(
            Verdict.REJECTED_ODOMETRY,
            f"{what} turns {off_deg:.0f} deg unlike odometry "
            f"(median over its views, limit {limit_deg:g} deg)",
        )
    return off_deg is not None


def turns_off_deg(geometry: WindowGeometry) -> float | None:
    """Median difference of the turns between all pairs of views from odometry's (deg).

    None without two views that have both.
    """
    own, odometry = (T[:, :3, :3] for T in geometry.with_odometry())
    known = zip(own, odometry, strict=True)
    off_deg = [
        rotation_angle_deg((Ra.T @ Rb).T @ (Oa.T @ Ob))
        for (Ra, Oa), (Rb, Ob) in combinations(known, 2)
    ]
    return float(np.median(off_deg)) if off_deg else None


def picture_match(geometry: WindowGeometry) -> Match | None:
    """Carry the points of each view into the neighbouring pictures and compare the greys.

    Only views of one camera are compared. None when too few of them show the same.
    """
    frames = geometry.window.keyframes
    gray = [_gray(keyframe.view.image_rgb) for keyframe in frames]
    cameras: dict[str, list[int]] = {}
    for index, keyframe in enumerate(frames):
        cameras.setdefault(keyframe.camera_name, []).append(index)
    found = []
    for own in cameras.values():
        for a, b in pairwise(own):
            for source, target in ((a, b), (b, a)):
                pose = geometry.poses[target]
                if pose is not None:
                    found.append(_match(geometry, source, pose, gray[source], gray[target]))
    known = [match for match in found if match is not None]
    if len(known) < MIN_COMPARISONS:
        return None
    moved, still = np.median(np.array(known), axis=0)
    return Match(float(moved), float(still))


def _gray(image_rgb: ImageArray) -> FloatArray:
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), BLUR_PX), np.float32)


def _match(
    geometry: WindowGeometry,
    source: int,
    target: ViewPose,
    gray_source: FloatArray,
    gray_target: FloatArray,
) -> Match | None:
    """The points of a view as another camera sees them; None when it sees too few."""
    row, col = np.nonzero(geometry.valid[source])
    points = geometry.points[source][row, col].astype(np.float64)
    cam = (points - target.T_window_cam[:3, 3]) @ target.T_window_cam[:3, :3]
    front = np.flatnonzero(cam[:, 2] > NEAREST)
    uv = project(cam[front], target.K)
    limit = (gray_target.shape[1] - 1, gray_target.shape[0] - 1)
    inside = np.all((uv >= 0) & (uv <= limit), axis=1)
    seen, uv = front[inside], uv[inside].astype(np.float32)
    if len(seen) < MIN_CELLS:
        return None
    thin, at = geometry.thin, (row[seen], col[seen])
    seen_there = cv2.remap(gray_target, uv[:, None, 0], uv[:, None, 1], cv2.INTER_LINEAR)
    there = np.asarray(seen_there, np.float32)[:, 0]
    here = gray_source[thin, thin][at]
    if min(float(here.std()), float(there.std())) < MIN_CONTRAST:
        return None
    return Match(_correlation(here, there), _correlation(here, gray_target[thin, thin][at]))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    spread = float(a.std() * b.std())
    covariance = float(((a - a.mean()) * (b - b.mean())).mean())
    return covariance / spread if spread > 0 and math.isfinite(spread) else 0.0
