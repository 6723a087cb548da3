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

"""Points and poses of some views together: triangulate, adjust, test, again."""

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
"""Largest distance of an observation from its point in each round from a rough start: from what an
odometry leaves open to five sigmas of a feature."""
GOOD_PX = (4.0, 2.5)
"""The same from a good start. Insensitive from half to twice of each, as those above
(benchmarks/constants.py, office with odometry)."""
MIN_ANGLE_RAD = math.radians(1.0)
"""Least angle between the rays of a point: a pixel, a sixth of a degree at 384, is then 17 % of
its depth. Insensitive from half to twice (benchmarks/constants.py, office with odometry)."""
MIN_SCENE_POINTS = 12
"""Fewer points than this say nothing of poses: two samples of RANSAC. Insensitive from 6 to 24
(benchmarks/constants.py, office with odometry)."""
INDEPENDENT = 20
"""Observations of a view beyond this number add no more knowledge: their errors are alike, as from
the lens, the calibration and a rolling shutter. Insensitive from 10 to 40
(benchmarks/constants.py, office with odometry)."""
LEAST_SIGMA_PX, START_SIGMA_PX = 0.5, 1.0
"""Least error of an observation, which is about that of a SIFT feature, and what it is taken for
at the start. The least: insensitive from 0.25 to 1 (benchmarks/constants.py, office with
odometry)."""
START_TRUST = 0.5
"""Weight of the observations in the first round, when outliers are among them."""
MIN_FREEDOM = 0.1
"""Least share of the residuals that the unknowns are taken not to absorb."""


@dataclass(frozen=True, eq=False)
class Cameras:
    """Which views are of one camera, and what is known of it.

    Attributes:
        group: (V,) number of the camera of each view; -1 where K is exact.
        prior: (G, 2) log of fx and its sigma, inf for unknown.
        readout_sigma_s: (G,) how well the time is known that its rows take, of which the pixels
            are straightened already; empty where all rows are read at once.
        turn_rad_s: (V, 3) angular velocity of the views; empty likewise.
        height: rows of the views.
    """

    group: IndexArray
    prior: FloatArray
    readout_sigma_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    turn_rad_s: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    height: int = 0

    @classmethod
    def exact(cls, views: int) -> Cameras:
        """Of so many views, nothing to find."""
        return cls(np.full(views, -1), np.zeros((0, 2)))

    def of(self, views: Sequence[int]) -> Cameras:
        """The same for some of the views."""
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
        """(P, V, 2) of pixels (P, V, 2) for each second of readout; None for at once."""
        if not len(self.readout_sigma_s):
            return None
        return row_drift(pixels, K, self.turn_rad_s, self.height)


@dataclass(frozen=True, eq=False)
class Solution:
    """Views and points that fit.

    Attributes:
        T: (V, 4, 4) poses in the frame of the first view.
        K: (V, 3, 3).
        points: (P, 3) of each track, any value where the track is no good.
        good: (P, V) observations that agree.
        sigma_px: error of an observation, each axis, as the residuals say it.
        median_px: median distance of the good observations.
        covariance: (6V + G, 6V + G) of the steps of the views and the log focal lengths, then G
            more of the readouts where these are looked for.
        readout_s: (V,) time that rows take beside what the pixels are straightened by.
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
        """(V,) number of good observations."""
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
    """Best poses and points from a start.

    Args:
        T: (V, 4, 4) start, the first view at the identity.
        K: (V, 3, 3).
        pixels: (P, V, 2) tracks, NaN where not seen.
        priors: measured motions; without any the unit is that of the start.
        cameras: None where all K are exact.
        rounds_px: largest distance of an observation from its point, round by round.
        iterations: most steps of each round.

    Returns:
        The solution, or None where too little fits.
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
    """The solution with the observations that have turned out to agree."""
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
    """Error of an observation, each axis, from robust residuals and what the unknowns absorb."""
    error, _ = residuals(scene, problem.observations)
    square = (error**2).sum(1)
    freedom = 1 - (3 * len(scene.points) + int(problem.unknown.sum())) / (2 * len(square))
    sigma = problem.sigma_px
    for _ in range(5):  # of re-weighting with Geman and McClure's kernel, three sigmas wide
        weight = 1.0 / (1.0 + square / (3 * sigma) ** 2) ** 2
        mean = float((weight * square).sum() / (2 * weight.sum()))
        sigma = math.sqrt(mean / max(freedom, MIN_FREEDOM))
        sigma = max(sigma, LEAST_SIGMA_PX)
    return sigma


def _farthest(T: FloatArray) -> tuple[int, float]:
    distance = np.linalg.norm(T[:, :3, 3], axis=1)
    return int(distance.argmax()), float(distance.max())
