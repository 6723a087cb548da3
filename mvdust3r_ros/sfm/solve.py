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

"""Solve for points and poses of several views: triangulate, adjust, reject outliers, repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray
from mvdust3r_ros.geometry import rigid
from mvdust3r_ros.rolling_shutter import row_drift
from mvdust3r_ros.sfm.bundle import (
    BundleError,
    MotionPrior,
    Problem,
    Scene,
    adjust,
    covariance,
    residuals,
)
from mvdust3r_ros.sfm.correspondence import observations_of, triangulate

IndexArray = npt.NDArray[np.intp]

ROUGH_PX = (12.0, 5.0, 2.5)
"""Largest reprojection error in each round from a rough initial guess: from the error of odometry
(`matching.GUIDE_PX`) down to five sigmas of a feature."""
GOOD_PX = (4.0, 2.5)
"""The same from a good initial guess. Each number of both is insensitive from half to twice
(benchmarks/constants.py, office with odometry)."""
MIN_ANGLE_RAD = math.radians(1.0)
"""Least angle between the rays of a point: one pixel, a sixth of a degree at 384, is then 17 % of
the depth. Insensitive from half to twice (benchmarks/constants.py, office with odometry)."""
MIN_SCENE_POINTS = 12
"""Least points to determine poses: two samples of RANSAC. Insensitive from 6 to 24
(benchmarks/constants.py, office with odometry)."""
INDEPENDENT = 20
"""Number of independent observations per view. More add no information, as their errors are
correlated by the lens, the calibration and a rolling shutter. Insensitive from 10 to 40
(benchmarks/constants.py, office with odometry)."""
LEAST_SIGMA_PX, START_SIGMA_PX = 0.5, 1.0
"""Least one-sigma of an observation, about that of a SIFT feature, and its initial value. The
least is insensitive from 0.25 to 1 (benchmarks/constants.py, office with odometry)."""
START_TRUST = 0.5
"""Weight of the observations in the first round, while they contain outliers. Only a start: the
number of observations sets the weight from then on (`INDEPENDENT`). Insensitive from 0.25 to 1
(benchmarks/constants.py, office with odometry, 60 images)."""
MIN_FREEDOM = 0.1
"""Least share of degrees of freedom that the unknowns leave: a guard against division by zero for
windows with hardly more observations than unknowns."""


@dataclass(frozen=True, eq=False)
class Cameras:
    """Camera of each view, and priors on the cameras.

    Attributes:
        group: (V,) camera number of each view; -1 if K is exact.
        prior: (G, 2) log of fx and its sigma, inf for unknown.
        readout_sigma_s: (G,) one-sigma of the readout time, whose current estimate is already
            corrected in the pixels; empty for a global shutter.
        turn_rad_s: (V, 3) angular velocity of the views; empty for a global shutter.
        height: rows of the views.
    """

    group: IndexArray
    prior: FloatArray
    readout_sigma_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    turn_rad_s: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    height: int = 0

    @classmethod
    def exact(cls, views: int) -> Cameras:
        """Return cameras of views with exact intrinsics."""
        return cls(np.full(views, -1), np.zeros((0, 2)))

    def of(self, views: Sequence[int]) -> Cameras:
        """Return the cameras of some of the views."""
        groups, at = np.unique(self.group[list(views)], return_inverse=True)
        offset = int(groups[0] < 0)
        known = groups[offset:]
        some = replace(self, group=at - offset, prior=self.prior[known])
        if not len(self.readout_sigma_s):
            return some
        return replace(
            some, readout_sigma_s=self.readout_sigma_s[known],
            turn_rad_s=self.turn_rad_s[list(views)],
        )  # fmt: skip

    def drift(self, pixels: FloatArray, K: FloatArray) -> FloatArray | None:
        """Return (P, V, 2) displacement per second of readout; None for a global shutter."""
        if not len(self.readout_sigma_s):
            return None
        return row_drift(pixels, K, self.turn_rad_s, self.height)


@dataclass(frozen=True, eq=False)
class Solution:
    """Solved views and points.

    Attributes:
        T: (V, 4, 4) poses in the frame of the first view.
        K: (V, 3, 3) intrinsics.
        points: (P, 3) point of each track; arbitrary if the track is rejected.
        good: (P, V) inlier observations.
        sigma_px: one-sigma of an observation, each axis, from the residuals.
        median_px: median reprojection error of the inliers.
        covariance: (6V + G, 6V + G) of the steps of the views and the log focal lengths, then G
            more of the readouts if estimated.
        readout_s: (V,) readout time in addition to that already corrected in the pixels.
    """

    T: FloatArray
    K: FloatArray
    points: FloatArray
    good: BoolArray
    sigma_px: float
    median_px: float
    covariance: FloatArray
    readout_s: FloatArray

    @property
    def view_points(self) -> IndexArray:
        """(V,) number of inlier observations."""
        return np.asarray(self.good.sum(0))


def solve(
    T: FloatArray,
    K: FloatArray,
    pixels: FloatArray,
    priors: Sequence[MotionPrior] = (),
    cameras: Cameras | None = None,
    rounds_px: Sequence[float] = GOOD_PX,
    iterations: int = 8,
) -> Solution | None:
    """Solve for poses and points from an initial guess.

    Args:
        T: (V, 4, 4) initial poses, the first at the identity.
        K: (V, 3, 3) intrinsics, or initial guesses.
        pixels: (P, V, 2) tracks, NaN where not seen.
        priors: measured motions; without any, the scale is that of the initial poses.
        cameras: camera groups and priors; None if all K are exact.
        rounds_px: largest reprojection error in each round.
        iterations: maximum number of steps per round.

    Returns:
        The solution, or None if too few observations fit.
    """
    cameras = cameras or Cameras.exact(len(T))
    drift, at_once = cameras.drift(pixels, K), pixels
    kept = None if priors else _farthest(T)
    sigma, trust = START_SIGMA_PX, START_TRUST
    scene = Scene(rigid(T), K, np.zeros((0, 3)), np.zeros(len(T)))
    problem, found = None, None
    for max_px in rounds_px:
        if drift is not None:
            at_once = pixels - scene.readout_s[:, None] * drift
        found = triangulate(scene.T, scene.K, at_once, max_px, MIN_ANGLE_RAD)
        seen, at = observations_of(pixels, found.good, drift)
        if len(at) < MIN_SCENE_POINTS:
            return None
        free = np.ones(len(T), bool) if priors else np.bincount(seen.view, minlength=len(T)) > 3
        problem = Problem(
            seen, priors, sigma, free, cameras.group, cameras.prior, kept, trust,
            cameras.readout_sigma_s,
        )  # fmt: skip
        try:
            adjusted = adjust(replace(scene, points=found.points[at]), problem, iterations)
        except BundleError:
            return None
        scene = adjusted.scene
        sigma = noise_px(scene, problem)
        trust = min(1.0, INDEPENDENT * len(T) / len(seen))
    assert problem is not None and found is not None
    problem = replace(problem, sigma_px=sigma, trust=trust)
    return _tested(scene, problem, found.good, at, len(pixels))


def _tested(
    scene: Scene, problem: Problem, good: BoolArray, at: IndexArray, tracks: int
) -> Solution | None:
    """Return the solution with its inliers; None if a pose is undetermined."""
    error, depth = residuals(scene, problem.observations)
    distance = np.linalg.norm(error, axis=1)
    agree = (depth > 0) & (distance < GOOD_PX[-1])
    fit = np.zeros_like(good)
    seen = problem.observations
    fit[at[seen.point[agree]], seen.view[agree]] = True
    fit &= (fit.sum(1) >= 2)[:, None]
    points = np.zeros((tracks, 3))
    points[at] = scene.points
    try:
        spread = covariance(adjust(scene, problem, 1), problem)
    except BundleError:
        return None
    median = float(np.median(distance[agree])) if agree.any() else math.inf
    return Solution(
        scene.T, scene.K, points, fit, problem.sigma_px, median, spread, scene.readout_s
    )


def noise_px(scene: Scene, problem: Problem) -> float:
    """Return the one-sigma of an observation, each axis, from robust residuals.

    Corrected for the degrees of freedom that the unknowns absorb.
    """
    error, _ = residuals(scene, problem.observations)
    square = (error**2).sum(1)
    freedom = 1 - (3 * len(scene.points) + int(problem.unknown.sum())) / (2 * len(square))
    sigma = problem.sigma_px
    for _ in range(5):  # re-weighting with the Geman-McClure kernel, three sigmas wide
        weight = 1.0 / (1.0 + square / (3 * sigma) ** 2) ** 2
        mean = float((weight * square).sum() / (2 * weight.sum()))
        sigma = math.sqrt(mean / max(freedom, MIN_FREEDOM))
        sigma = max(sigma, LEAST_SIGMA_PX)
    return sigma


def _farthest(T: FloatArray) -> tuple[int, float]:
    distance = np.linalg.norm(T[:, :3, 3], axis=1)
    return int(distance.argmax()), float(distance.max())
