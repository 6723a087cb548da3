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

"""Limits of a window by how accurate its engine is."""

from __future__ import annotations

from dataclasses import replace

from mvdust3r_ros.config import StitchSettings

COARSE_RESIDUAL, COARSE_TRANSLATION, COARSE_ROTATION_DEG = 1.5, 5.0, 150.0
"""Limits over the error of a coarse network's points, see `attainable`. For the room model (0.27)
they are 40 % of the depth, 1.3 of the motion and 40 degrees, so that only gross errors exceed
them."""


def attainable(settings: StitchSettings, rel_error: float) -> StitchSettings:
    """Limits that a network of this accuracy can keep: a coarse one gets wider ones.

    Its points are off by `rel_error` of their distance, and two windows disagree by more; its
    cameras, with steps that are short against that distance, by several times that share of the
    motion. Poses and scale still go to whatever is more certain, mostly odometry.

    Args:
        settings: as configured; never made stricter.
        rel_error: typical error of a point over its distance; 0 when unknown.
    """
    return replace(
        settings,
        max_residual=max(settings.max_residual, COARSE_RESIDUAL * rel_error),
        max_lone_sigma=max(settings.max_lone_sigma, rel_error),
        max_odom_translation=max(settings.max_odom_translation, COARSE_TRANSLATION * rel_error),
        max_odom_rotation_deg=max(settings.max_odom_rotation_deg, COARSE_ROTATION_DEG * rel_error),
    )
