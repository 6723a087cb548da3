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

"""Checks of a window that shares no view with the map, by evidence other than the network's.

A network is as confident of garbage as of good views, and there is no map yet to contradict it.
Two independent sources can: odometry, which measured the rotations, and the images themselves,
where a view's points should have the same grey when projected into the next view. Rotations and
greys discriminate well. In rooms like its training set, the small network errs by 20 % in distance
and 5 degrees per rotation. In others, its points are hardly worse, but its rotations are off by 20
to 100 degrees and its images match no better than by chance.
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
"""Largest median rotation error against odometry: good windows have 3 to 12 deg, bad ones over 20.
"""
MIN_MATCH, MIN_GAIN = 0.55, 0.2
"""Least correlation of the greys, and least gain over assuming a static camera (see `Match.gain`).
Good windows of the small network have 0.64 to 0.91 and 0.23 to 0.7, exact ones from 0.89 and 0.8.
Garbage correlates at 0.0 to 0.4 if the camera moves, and gains nothing if it hardly does.
"""
SURE_MATCH = 0.9
"""Correlation that needs no gain: with a static camera there is none."""
COARSE_FROM = 0.1
"""Relative point error from which a network needs other evidence: between the two bundled
networks, 0.045 and 0.27."""
MIN_COMPARISONS, MIN_CELLS = 3, 30
"""Least pairs of views, and points of each pair. A correlation of 30 values is known to 0.2
(1 / sqrt(N - 3), Fisher 1921), the median of three pairs to better than that."""
MIN_CONTRAST = 4.0
"""Standard deviation of the greys below which there is too little contrast: twice the noise of a
camera, which leaves a correlation of at least 0.75."""
BLUR_PX = 1.0
"""Points are known to a pixel, so finer texture would not match itself."""


class Match(NamedTuple):
    """How well the images of a window match, as medians over neighbouring views.

    Attributes:
        moved: correlation of the greys of a view's points with their greys in the next view.
        still: the same, assuming that the camera did not move.
    """

    moved: float
    still: float

    @property
    def gain(self) -> float:
        """Share of the mismatch of a static camera that the window's motion explains."""
        return (self.moved - self.still) / max(1.0 - self.still, 1e-6)

    @property
    def good(self) -> bool:
        """Whether the images support the window."""
        return self.moved >= SURE_MATCH or (self.moved >= MIN_MATCH and self.gain >= MIN_GAIN)


def check_disconnected_window(geometry: WindowGeometry) -> None:
    """Refuse a window contradicted by odometry or images, or a coarse one supported by neither.

    Odometry that was used to compute the poses agrees with them whatever the quality of the
    points. Then the images have to confirm the points, if they overlap enough.

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
    """Refuse a window whose rotations contradict odometry.

    Args:
        geometry: any window.
        limit_deg: largest median difference of the rotations between its views.
        what: the window, for the message.

    Returns:
        Whether there is odometry to compare with.

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
    """Return the median rotation error against odometry (deg), over all pairs of views.

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
    """Project the points of each view into its neighbours and compare the greys.

    Only views of the same camera are compared. None if too few of them overlap.
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
    """Compare a view's points with another camera's image; None if it sees too few of them."""
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
