"""Metres per window unit, from whatever gives evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ScaleEstimate, ScaleSource
from mvdust3r_ros.geometry import AlignmentError, align_cameras_sim3

OUTLIER_SIGMAS = 4.0


@dataclass(frozen=True)
class ScaleEvidence:
    """One opinion on the factor from window units to metres.

    Attributes:
        scale: the factor.
        rel_sigma: its one-sigma relative uncertainty.
        source: where it comes from.
    """

    scale: float
    rel_sigma: float
    source: ScaleSource


def odometry_evidence(
    T_window_cam: FloatArray, T_odom_cam: FloatArray, min_baseline_m: float, rel_sigma: float
) -> ScaleEvidence | None:
    """Scale from the motion that odometry measured between the keyframes of a window.

    Args:
        T_window_cam: (N, 4, 4) recovered poses, window units.
        T_odom_cam: (N, 4, 4) odometry poses of the same keyframes, metres.
        min_baseline_m: root mean square spread of the centres below which there is no evidence.
        rel_sigma: relative uncertainty of odometry over a window.

    Returns:
        Evidence whose sigma follows from how well both motions agree, or None.
    """
    try:
        S, rms_m = align_cameras_sim3(T_window_cam, T_odom_cam)
    except AlignmentError:
        return None
    centres = T_odom_cam[:, :3, 3]
    spread_m = float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()))
    if spread_m < min_baseline_m:
        return None
    fit_sigma = rms_m / (spread_m * math.sqrt(len(centres)))
    return ScaleEvidence(S.scale, math.hypot(fit_sigma, rel_sigma), ScaleSource.ODOMETRY)


class ScaleFilter:
    """Recursive estimate of the window-to-metres factor.

    The state is the map's scale error on a logarithmic axis. A window joined to the map by shared
    pixels inherits the map's scale (and adds its own joint's uncertainty); evidence in metres
    corrects it, weighted by inverse variance. Evidence far outside both uncertainties is left out.
    """

    def __init__(self) -> None:
        """Start without any evidence."""
        self.estimate = ScaleEstimate()

    def fuse(
        self, chained: tuple[float, float] | None, evidence: Sequence[ScaleEvidence]
    ) -> tuple[float, ScaleEstimate]:
        """Best factor for a window; nothing is stored until `commit`.

        Args:
            chained: factor and relative sigma of the joint with the map; None without a joint.
            evidence: opinions in metres.

        Returns:
            Factor from window units to map units, and the map's estimate after this window.
        """
        log_scale, variance = 0.0, math.inf
        source = ScaleSource.NONE
        if chained is not None:
            log_scale = math.log(chained[0])
            variance = self.estimate.rel_sigma**2 + chained[1] ** 2
            source = self.estimate.source
        for item in sorted(evidence, key=lambda e: e.rel_sigma):
            innovation = math.log(item.scale) - log_scale
            spread = variance + item.rel_sigma**2
            if math.isfinite(variance) and innovation**2 > OUTLIER_SIGMAS**2 * spread:
                continue
            gain = 1.0 if math.isinf(variance) else variance / spread
            if gain > 0.5 or source == ScaleSource.NONE:
                source = item.source
            log_scale += gain * innovation
            variance = item.rel_sigma**2 if math.isinf(variance) else (1.0 - gain) * variance
        scale = math.exp(log_scale)
        return scale, ScaleEstimate(scale, math.sqrt(variance), source)

    def commit(self, estimate: ScaleEstimate) -> None:
        """The window is in the map."""
        self.estimate = estimate
