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

"""Beliefs about each camera, updated window by window: focal length and readout time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.rolling_shutter import MAX_READOUT_S, intrinsics_of

READOUT_SIGMA_S = 0.015
"""Sigma of the initial belief, a readout of 0: most cameras take 5 to 30 ms."""
CALIBRATION_SIGMA = 0.01
"""Relative one-sigma of a calibrated focal length, which images may correct: a lens may have been
refocused since. Insensitive from 0.005 to 0.02 (benchmarks/constants.py, office with odometry)."""
SURE_FOCAL = 0.03
"""A focal length estimated with a smaller relative sigma counts as given: `MAX_FOCAL_SIGMA`."""
LEAST_FOCAL_SIGMA, LEAST_READOUT_SIGMA_S = 0.003, 0.0003
"""Least sigmas: windows share views and a lens, so their errors do not average out. Chosen limits:
a tenth of `SURE_FOCAL`; at 90 degrees per second, 0.3 ms is a sixth of a pixel at 384. The first
is insensitive from 0.0015 to 0.006; the second is not reached in the office
(benchmarks/constants.py, office with odometry and alone, 60 images): it is for long drives."""
SHOWN_SIGMAS = 2.0
"""A readout within so many sigmas of zero counts as zero: chance exceeds it once in 20.
Insensitive from 1 to 4 (benchmarks/constants.py, office with odometry and alone, 60 images)."""
EXACT_SIGMA_S = 1e-6
"""Sigma of a readout given by a setting: the camera's rotation in a microsecond is far below a
pixel."""
FADING = 1.1
"""Growth of a sigma from window to window, as windows share views and a lens may change: without
new measurements, a sigma doubles in seven windows. Insensitive from 0.55; at 2.2 the ATE is 12 mm
instead of 10, and unchanged without odometry (benchmarks/constants.py, office with odometry and
alone, 60 images)."""

CameraKey = tuple[str, int, int]
"""Camera name, width and height of its views."""


@dataclass(frozen=True)
class CameraBelief:
    """Belief about a camera.

    Attributes:
        focal_px: fx in pixels of the views; None if unknown.
        focal_sigma: its relative one-sigma.
        readout_s: time from the first to the last row.
        readout_sigma_s: its one-sigma.
    """

    focal_px: float | None = None
    focal_sigma: float = math.inf
    readout_s: float = 0.0
    readout_sigma_s: float = READOUT_SIGMA_S

    @property
    def shows_readout(self) -> bool:
        """Whether the readout differs significantly from zero."""
        return abs(self.readout_s) > SHOWN_SIGMAS * self.readout_sigma_s

    def faded(self) -> CameraBelief:
        """Return the belief for the next window, with larger sigmas."""
        return replace(
            self,
            focal_sigma=max(self.focal_sigma * FADING, LEAST_FOCAL_SIGMA),
            readout_s=min(max(self.readout_s, -MAX_READOUT_S), MAX_READOUT_S),
            readout_sigma_s=min(
                max(self.readout_sigma_s * FADING, LEAST_READOUT_SIGMA_S), READOUT_SIGMA_S
            ),
        )


Beliefs = Mapping[CameraKey, CameraBelief]


def camera_key(view: View) -> CameraKey:
    """Return the key of a view's camera."""
    height, width = view.image_rgb.shape[:2]
    return view.camera_name, width, height


def belief_of(view: View, beliefs: Beliefs) -> CameraBelief:
    """Return the belief about a view's camera, combined with its calibration and settings."""
    known = beliefs.get(camera_key(view), CameraBelief())
    if view.readout_s is not None:
        known = replace(known, readout_s=view.readout_s, readout_sigma_s=EXACT_SIGMA_S)
    if view.K is not None:
        return _calibrated(known, float(view.K[0, 0]))
    return known if known.focal_sigma < SURE_FOCAL else replace(
        known, focal_px=None, focal_sigma=math.inf
    )  # fmt: skip


def _calibrated(known: CameraBelief, focal_px: float) -> CameraBelief:
    """Return the weighted mean of a calibration and the estimate of earlier windows."""
    if known.focal_px is None:
        return replace(known, focal_px=focal_px, focal_sigma=CALIBRATION_SIGMA)
    here, there = CALIBRATION_SIGMA**-2, known.focal_sigma**-2
    off = math.log(known.focal_px / focal_px) * there / (here + there)
    return replace(
        known, focal_px=focal_px * math.exp(off), focal_sigma=1 / math.sqrt(here + there)
    )


def with_known_focal(views: Sequence[View], beliefs: Beliefs) -> list[View]:
    """Return the views, with the focal lengths of their beliefs where known."""
    out = []
    for view in views:
        known = belief_of(view, beliefs)
        if known.focal_px is not None:
            view = replace(view, K=_with_focal(intrinsics_of(view), known.focal_px))
        out.append(view)
    return out


def _with_focal(K: FloatArray, focal_px: float) -> FloatArray:
    scaled = K.copy()
    scaled[0, 0], scaled[1, 1] = focal_px, K[1, 1] * focal_px / K[0, 0]
    return scaled
