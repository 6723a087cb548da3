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

"""Limits of a window, adapted to the accuracy of its engine."""

from __future__ import annotations

from dataclasses import replace

from mvdust3r_ros.config import StitchSettings

COARSE_RESIDUAL, COARSE_TRANSLATION, COARSE_ROTATION_DEG = 1.5, 5.0, 150.0
"""Limits relative to the error of a coarse network's points, see `attainable`. For the room model
(0.27) they are 40 % of the depth, 1.3 times the motion and 40 degrees, so that only gross errors
exceed them."""


def attainable(settings: StitchSettings, rel_error: float) -> StitchSettings:
    """Return limits that a network of this accuracy can meet, wider for a coarse one.

    Its points are off by `rel_error` of their distance, and two windows disagree by more. Its
    camera positions are off by several times that share of the motion if steps are short compared
    to the distance. Poses and scale still follow the more certain source, mostly odometry.

    Args:
        settings: as configured; never made stricter.
        rel_error: typical relative error of a point's distance; 0 when unknown.
    """
    return replace(
        settings,
        max_residual=max(settings.max_residual, COARSE_RESIDUAL * rel_error),
        max_lone_sigma=max(settings.max_lone_sigma, rel_error),
        max_odom_translation=max(settings.max_odom_translation, COARSE_TRANSLATION * rel_error),
        max_odom_rotation_deg=max(settings.max_odom_rotation_deg, COARSE_ROTATION_DEG * rel_error),
    )
