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

"""Selection of a window's reference views, and of the reference path to use.

The first views passed to an engine are its references. Quality falls with the distance from a
reference, so they are spread over the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError, View, WindowPrediction

STILL_M = 1e-3
"""A shorter path does not order the views along it: below the resolution of odometry."""


REFERENCES = 4
"""Of the published MV-DUSt3R+; its oracle rows, and ours, choose the best of as many."""


class ReferenceViewsError(MvDust3rError):
    """References cannot be chosen from this window."""


def order_views(views: Sequence[View], n_ref: int) -> tuple[int, ...]:
    """Return the order in which to pass the views of a window to an engine, references first.

    References lie evenly along the travelled path, one in the middle of each of n_ref equal parts,
    the most central one first. Path length comes from odometry if all views have it; otherwise
    each view counts as one step.

    Args:
        views: views of the window, oldest first.
        n_ref: number of references, at most the number of views.

    Returns:
        A permutation of all views: position k gets view order[k]. Views that are no reference
        follow, oldest first.

    Raises:
        ReferenceViewsError: n_ref is not in 1..V.
    """
    count = len(views)
    if not 1 <= n_ref <= count:
        raise ReferenceViewsError(f"{n_ref} references in a window of {count} views")
    references = _spread(_travelled(views), n_ref)
    return (*references, *(i for i in range(count) if i not in references))


def best_path(prediction: WindowPrediction) -> int:
    """Return the reference path with the highest mean log confidence.

    Returns:
        Index into the first axis of `prediction.points`.
    """
    conf = np.asarray(prediction.conf, np.float64)
    return int(np.argmax(np.log(conf).reshape(len(conf), -1).mean(1)))


def _travelled(views: Sequence[View]) -> FloatArray:
    """Path length at each view, scaled to 0..1; one step per view without odometry or motion."""
    poses = [view.T_odom_cam for view in views if view.T_odom_cam is not None]
    if len(poses) == len(views) > 1:
        positions = np.array([pose[:3, 3] for pose in poses], np.float64)
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        length: FloatArray = np.concatenate(([0.0], np.cumsum(steps)))
        if np.isfinite(length[-1]) and length[-1] > STILL_M:
            length /= length[-1]
            return length
    return np.linspace(0.0, 1.0, len(views))


def _spread(along: FloatArray, n_ref: int) -> list[int]:
    """Return distinct views nearest the middles of n_ref equal parts, most central first."""
    middles = (np.arange(n_ref) + 0.5) / n_ref
    free = list(range(len(along)))
    chosen = []
    for middle in sorted(middles, key=lambda m: (abs(m - 0.5), m)):
        nearest = min(free, key=lambda i: abs(along[i] - middle))
        free.remove(nearest)
        chosen.append(nearest)
    return chosen
