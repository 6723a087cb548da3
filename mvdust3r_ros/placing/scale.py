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

"""Metres per window unit, estimated from all available evidence.

A Kalman filter (1960) on the log scale, with one bias state for each source, and a smoother over
all windows. The smoother solves in one least-squares step what Rauch, Tung and Striebel (1965)
compute in a backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve

from mvdust3r_ros.datatypes import FloatArray, ScaleEstimate, ScaleSource
from mvdust3r_ros.geometry import AlignmentError, align_cameras_sim3
from mvdust3r_ros.placing.floor import fit_floor

OUTLIER_SIGMAS = 4.0
"""Chance alone rejects one measurement in 16,000. Insensitive from 2 to 8
(benchmarks/constants.py)."""
UNKNOWN_VARIANCE = 1e8
"""Variance of an unknown log scale: far wider than any scale, yet small enough for doubles to
resolve 1e-8 next to it (1e8 * 2^-53)."""
MIN_VARIANCE = 1e-8
"""Least variance of a log scale: 0.01 %, better than any measurement. It keeps weights finite."""
HEIGHT_REL_SIGMA = 0.02
"""3 cm in 1.5 m: tyres, a bending mast, a floor that is uneven between robot and view. At half the
value the map is 0.3 % too small, at twice the value its ATE is 24 mm instead of 18
(benchmarks/constants.py, wheels)."""
DEPTH_REL_SIGMA = 0.02
"""As specified for depth cameras (Intel RealSense D435: below 2 % at 2 m)."""
BIAS_SHARE = 1 / 2
"""Share of the two sigmas above that is common to all windows."""
MODEL_BIAS_SHARE = 1 / 3
"""The same for a network's metres: less, since its error varies with the scene."""
MIN_DEPTH_PIXELS = 50
"""The median of this many pixels with 10 % noise is known to 2 %: 1.25 * 0.1 / sqrt(50)."""
MAD_TO_SIGMA = 1.4826
"""Ratio of a normal distribution's sigma to its median absolute deviation."""
MAX_WINDOWS = 300
"""Windows with an individual size; older ones follow the oldest of these."""


@dataclass(frozen=True)
class ScaleEvidence:
    """One measurement of the factor from window units to metres.

    Attributes:
        scale: the factor.
        rel_sigma: its one-sigma relative uncertainty.
        source: origin of the measurement.
        bias_sigma: the part of `rel_sigma` shared by all measurements of this source: a wrong
            wheel radius, or a model that overestimates all sizes. More windows do not average it
            out.
    """

    scale: float
    rel_sigma: float
    source: ScaleSource
    bias_sigma: float = 0.0


def odometry_evidence(
    T_window_cam: FloatArray,
    T_odom_cam: FloatArray,
    min_baseline_m: float,
    rel_sigma: float,
    bias_sigma: float = 0.0,
) -> ScaleEvidence | None:
    """Estimate the scale from odometry's motion between the keyframes of a window.

    Args:
        T_window_cam: (N, 4, 4) recovered poses, window units.
        T_odom_cam: (N, 4, 4) odometry poses of the same keyframes, metres.
        min_baseline_m: root mean square spread of the camera centres required for evidence.
        rel_sigma: relative uncertainty of odometry over a window.
        bias_sigma: relative uncertainty of odometry that all windows share.

    Returns:
        Evidence with a sigma from the residual of the fitted motion, or None.
    """
    try:
        # the window has the noise: fitting odometry to it gives an unbiased scale
        S_window_odom, rms = align_cameras_sim3(T_odom_cam, T_window_cam)
    except AlignmentError:
        return None
    centres = T_odom_cam[:, :3, 3]
    spread_m = float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()))
    if spread_m < min_baseline_m:
        return None
    residual = rms / (S_window_odom.scale * spread_m)
    # noise averages out, but a coarse network's common error of all motions does not
    fit_sigma = math.hypot(residual / math.sqrt(len(centres)), residual**2)
    return ScaleEvidence(
        1.0 / S_window_odom.scale,
        math.hypot(fit_sigma, rel_sigma, bias_sigma),
        ScaleSource.ODOMETRY,
        bias_sigma,
    )


def model_evidence(rel_sigma: float) -> ScaleEvidence:
    """Return scale 1 from a metric model, with relative sigma `rel_sigma` per window."""
    return ScaleEvidence(1.0, rel_sigma, ScaleSource.MODEL, MODEL_BIAS_SHARE * rel_sigma)


def height_evidence(
    points: FloatArray, centres: FloatArray, camera_height_m: float, max_tilt_deg: float
) -> ScaleEvidence | None:
    """Estimate the scale from the height of the cameras above the visible floor.

    Args:
        points: (N, 3) points of a window with z roughly up, window units.
        centres: (V, 3) camera centres in the same frame.
        camera_height_m: true height of the cameras above the floor.
        max_tilt_deg: largest angle between the floor's normal and z.

    Returns:
        Evidence with a sigma that grows with the spread of the heights, or None without a floor.
    """
    floor = fit_floor(points, centres.mean(0), max_tilt_deg)
    if floor is None:
        return None
    heights = centres @ floor.normal - floor.offset
    height = float(np.median(heights))
    if height <= 0:
        return None
    spread = float(np.std(heights)) / (height * math.sqrt(len(heights)))
    return ScaleEvidence(
        camera_height_m / height,
        math.hypot(HEIGHT_REL_SIGMA, spread),
        ScaleSource.CAMERA_HEIGHT,
        BIAS_SHARE * HEIGHT_REL_SIGMA,
    )


def depth_evidence(predicted: FloatArray, depth_m: FloatArray) -> ScaleEvidence | None:
    """Estimate the scale from depth images: median of the views' median ratios.

    Args:
        predicted: (V, h, w) the network's depth along the optical axis, window units; NaN where
            not trusted.
        depth_m: (V, h, w) measured depth, metres; NaN or 0 where unknown.

    Returns:
        Evidence with a sigma that grows with the disagreement of the views, or None with too few
        pixels.
    """
    with np.errstate(invalid="ignore"):
        use = (predicted > 0) & (depth_m > 0) & np.isfinite(predicted) & np.isfinite(depth_m)
    logs = [
        float(np.median(np.log(d[u] / p[u])))
        for p, d, u in zip(predicted, depth_m, use, strict=True)
        if u.sum() >= MIN_DEPTH_PIXELS
    ]
    if not logs:
        return None
    middle = float(np.median(logs))
    deviation = float(np.median(np.abs(np.array(logs) - middle)))
    spread = MAD_TO_SIGMA * deviation / math.sqrt(len(logs))
    sigma = math.hypot(DEPTH_REL_SIGMA, spread)
    return ScaleEvidence(math.exp(middle), sigma, ScaleSource.DEPTH, BIAS_SHARE * DEPTH_REL_SIGMA)


def scale_gate(estimate: ScaleEstimate, limit: float) -> tuple[bool, str]:
    """Whether the scale is certain enough for navigation, and if not, why.

    Args:
        estimate: scale and its evidence.
        limit: largest relative sigma (`stitch.scale_max_rel_sigma`).

    Returns:
        (True, "") or (False, a hint for the user).
    """
    if estimate.rel_sigma <= limit:
        return True, ""
    if math.isinf(estimate.rel_sigma):
        return False, (
            "nothing gives metres: publish odometry or TF, set map.camera_height_m, give depth "
            "images (ros.use_depth, stitch.use_depth) or several cameras whose places to each "
            "other TF tells (ros.cameras), or use an engine that predicts metres"
        )
    return False, (
        f"the scale is known to {estimate.rel_sigma:.0%} from {estimate.source.name.lower()} "
        f"(limit {limit:.0%}): let the camera move more, or add another source of metres"
    )


@dataclass(frozen=True, eq=False)
class ScaleFilter:
    """Recursive estimate of the window-to-metres factor.

    A Kalman filter on a log axis. Its state is the map's scale error and one constant bias for
    each source of evidence, so that a hundred windows with the same wheels do not make the wheels
    exact. A window joined to the map by shared pixels inherits the map's scale and adds the
    uncertainty of its joint. Metric evidence corrects it, weighted by inverse variance. Evidence
    far outside both uncertainties is rejected.

    Attributes:
        estimate: of the newest window.
        history: measurements of all windows.
    """

    estimate: ScaleEstimate = field(default_factory=ScaleEstimate)
    history: ScaleHistory = field(default_factory=lambda: ScaleHistory())
    _belief: _Belief = field(default_factory=lambda: _Belief.unknown())

    def fuse(
        self, chained: tuple[float, float] | None, evidence: Sequence[ScaleEvidence]
    ) -> tuple[float, ScaleFilter]:
        """Estimate the scale of a window.

        Args:
            chained: factor and relative sigma of the joint with the map; None without a joint.
            evidence: metric evidence.

        Returns:
            Factor from window units to map units, and the filter after this window.
        """
        belief, source, log_chained = self._belief.copy(), ScaleSource.NONE, 0.0
        if chained is None:
            belief.forget_scale()
        else:
            log_chained = math.log(chained[0])
            belief.covariance[0, 0] += chained[1] ** 2
            source = self.estimate.source
        accepted = []
        for item in sorted(evidence, key=lambda e: e.rel_sigma):
            gain = belief.update(item, math.log(item.scale) - log_chained)
            if gain > 0:
                accepted.append(item)
            # the source that contributes more than half of the estimate
            if gain > 1 / 2 or (gain > 0 and source == ScaleSource.NONE):
                source = item.source
        scale = math.exp(log_chained + belief.mean[0])
        variance = float(belief.covariance[0, 0])
        known = variance < UNKNOWN_VARIANCE / 2
        estimate = ScaleEstimate(scale, math.sqrt(variance) if known else math.inf, source)
        belief.mean[0] = 0.0  # applied to the window
        joint = None
        if chained is not None:
            joint = log_chained - self.history.newest_log_scale, chained[1]
        window = SizedWindow(math.log(scale), joint, tuple(accepted))
        return scale, ScaleFilter(estimate, self.history.with_window(window), belief)

    def known(self, estimate: ScaleEstimate) -> ScaleFilter:
        """Return the filter after a window of known scale, such as that of a saved map."""
        belief = self._belief.copy()
        belief.forget_scale()
        evidence: tuple[ScaleEvidence, ...] = ()
        if math.isfinite(estimate.rel_sigma):
            belief.covariance[0, 0] = estimate.rel_sigma**2
            evidence = (ScaleEvidence(estimate.scale, estimate.rel_sigma, estimate.source),)
        window = SizedWindow(math.log(estimate.scale), None, evidence)
        return ScaleFilter(estimate, self.history.with_window(window), belief)

    def resized(self, corrections: FloatArray) -> ScaleFilter:
        """Return the filter after all windows were rescaled by these (N,) log factors."""
        return replace(self, history=self.history.resized(corrections))


@dataclass(frozen=True)
class SizedWindow:
    """Size measurements of a committed window, as logarithms of factors to metres.

    Attributes:
        log_scale: log of the factor that the map uses for the window.
        joint: log ratio of this factor to the previous window's, from shared pixels, and its
            sigma; None without a joint.
        evidence: metric evidence that was accepted.
    """

    log_scale: float
    joint: tuple[float, float] | None
    evidence: tuple[ScaleEvidence, ...]


@dataclass(frozen=True, eq=False)
class ScaleHistory:
    """The committed windows: later evidence also improves the sizes of earlier ones.

    Windows are numbered in order. Beyond `MAX_WINDOWS`, the oldest is merged into its successor,
    with its measurements.

    Attributes:
        windows: oldest first.
        merged: number of merged windows.
    """

    windows: tuple[SizedWindow, ...] = ()
    merged: int = 0

    @property
    def newest(self) -> int:
        """Number of the newest window; -1 if there is none."""
        return self.merged + len(self.windows) - 1

    def index(self, number: int) -> int:
        """Return the index in `windows` of a numbered window, or of the one it was merged into."""
        return max(0, number - self.merged)

    def with_window(self, window: SizedWindow) -> ScaleHistory:
        """Return the history with one more window."""
        windows, merged = (*self.windows, window), self.merged
        while len(windows) > MAX_WINDOWS:
            windows, merged = (_merged(*windows[:2]), *windows[2:]), merged + 1
        return ScaleHistory(windows, merged)

    @property
    def newest_log_scale(self) -> float:
        """Log of the newest window's factor; 0 if there is none."""
        return self.windows[-1].log_scale if self.windows else 0.0

    def corrections(self) -> FloatArray:
        """Return (N,) log factors by which the windows should be rescaled.

        Least squares over all joints and evidence, with one bias per source: the filter's
        measurements, seen in retrospect (a smoother).
        """
        count, size = len(self.windows), len(self.windows) + len(ScaleSource)
        rows: list[tuple[list[int], list[float], float, float]] = []
        biased = set()
        for k, window in enumerate(self.windows):
            rows.append(([k], [1.0], window.log_scale, math.sqrt(UNKNOWN_VARIANCE)))
            if window.joint is not None and k > 0:
                rows.append(([k, k - 1], [1.0, -1.0], *window.joint))
            for item in window.evidence:
                own = _own_sigma(item)
                bias = count + int(item.source)
                rows.append(([k, bias], [1.0, 1.0], math.log(item.scale), own))
                if bias not in biased:
                    biased.add(bias)
                    rows.append(([bias], [1.0], 0.0, max(item.bias_sigma, 1e-6)))
        rows += [([j], [1.0], 0.0, 1.0) for j in range(count, size) if j not in biased]
        place = [(i, j) for i, row in enumerate(rows) for j in row[0]]
        values = np.array([v / row[3] for row in rows for v in row[1]])
        A = coo_matrix((values, np.array(place).reshape(-1, 2).T), (len(rows), size)).tocsc()
        target = np.array([row[2] / row[3] for row in rows])
        best: FloatArray = spsolve((A.T @ A).tocsc(), A.T @ target)[:count]
        corrections: FloatArray = best - np.array([w.log_scale for w in self.windows])
        return corrections

    def resized(self, corrections: FloatArray) -> ScaleHistory:
        """Return the history with windows rescaled by these (N,) log factors."""
        windows = (
            replace(window, log_scale=window.log_scale + float(c))
            for window, c in zip(self.windows, corrections, strict=True)
        )
        return replace(self, windows=tuple(windows))


def _merged(oldest: SizedWindow, following: SizedWindow) -> SizedWindow:
    """Return the second window with the evidence of both, one measurement per source."""
    evidence = list(following.evidence)
    if following.joint is not None:
        grown, sigma = following.joint
        for item in oldest.evidence:
            scale, rel_sigma = item.scale * math.exp(grown), math.hypot(item.rel_sigma, sigma)
            evidence.append(replace(item, scale=scale, rel_sigma=rel_sigma))
    opinions = []
    for source in {item.source for item in evidence}:
        same = [item for item in evidence if item.source == source]
        weights = np.array([1 / _own_sigma(item) ** 2 for item in same])
        logs = np.array([math.log(item.scale) for item in same])
        bias_sigma = max(item.bias_sigma for item in same)
        rel_sigma = math.hypot(weights.sum() ** -0.5, bias_sigma)
        log_scale = float(weights @ logs / weights.sum())
        opinions.append(ScaleEvidence(math.exp(log_scale), rel_sigma, source, bias_sigma))
    return SizedWindow(following.log_scale, None, tuple(opinions))


def _own_sigma(item: ScaleEvidence) -> float:
    """Return the part of a measurement's sigma not shared with others of its source."""
    return math.sqrt(max(item.rel_sigma**2 - item.bias_sigma**2, MIN_VARIANCE))


@dataclass
class _Belief:
    """Mean and covariance of (scale error, bias of each source), natural logarithms."""

    mean: FloatArray
    covariance: FloatArray

    @staticmethod
    def unknown() -> _Belief:
        size = len(ScaleSource)  # the scale uses the index of ScaleSource.NONE
        belief = _Belief(np.zeros(size), np.zeros((size, size)))
        belief.forget_scale()
        return belief

    def copy(self) -> _Belief:
        return _Belief(self.mean.copy(), self.covariance.copy())

    def forget_scale(self) -> None:
        self.mean[0] = 0.0
        self.covariance[0, :] = self.covariance[:, 0] = 0.0
        self.covariance[0, 0] = UNKNOWN_VARIANCE

    def update(self, item: ScaleEvidence, log_scale: float) -> float:
        """Apply one measurement; return the gain on the scale, 0 if rejected as an outlier."""
        index = int(item.source)
        if self.covariance[index, index] == 0:  # first measurement of this source
            self.covariance[index, index] = item.bias_sigma**2
        row = np.zeros(len(self.mean))
        row[[0, index]] = 1.0
        own = _own_sigma(item) ** 2
        column = self.covariance @ row
        spread = float(row @ column) + own
        innovation = log_scale - float(row @ self.mean)
        known = self.covariance[0, 0] < UNKNOWN_VARIANCE / 2
        if known and innovation**2 > OUTLIER_SIGMAS**2 * spread:
            return 0.0
        gain = column / spread
        self.mean = self.mean + gain * innovation
        left = np.eye(len(gain)) - np.outer(gain, row)
        # Joseph form: stays positive
        self.covariance = left @ self.covariance @ left.T + own * np.outer(gain, gain)
        return float(gain[0])
