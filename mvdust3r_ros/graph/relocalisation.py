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

"""Relocalisation in a loaded map: find similar keyframes, then test each with a joint window.

A place is found if stored and new keyframes, reconstructed together, fit the stored points, and if
both see the same surfaces in the same colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, Keyframe, MvDust3rError, ViewTokens
from mvdust3r_ros.descriptors import of_one_kind, similarity
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.window.window_geometry import WindowGeometry

TRIES = 3
"""Places tested per window: each takes a run of the network."""
MIN_COLOUR_AGREEMENT = 0.4
"""Least correlation of greys: wrong windows have no more (`disconnected_windows.MIN_MATCH`)."""
MIN_COLOUR_POINTS = 100
"""A correlation of this many values is known to 0.1 (1 / sqrt(N - 3), Fisher 1921)."""


class RelocalisationError(MvDust3rError):
    """The camera is not at the tested place; the message gives the reason."""


def likely_places(
    stored: Sequence[MapKeyframe], seen: Sequence[ViewTokens], count: int
) -> list[tuple[Keyframe, ...]]:
    """Return groups of neighbouring stored keyframes, the most similar group first.

    Args:
        stored: the keyframes of the map, in commit order.
        seen: the new views; images are compared if their kind of descriptor is not the map's.
        count: keyframes of a group.
    """
    _, looks = of_one_kind(
        [*(item.descriptor for item in stored), *(item.descriptor for item in seen)],
        [*(item.keyframe.view for item in stored), *(item.view for item in seen)],
    )
    similar = similarity(looks[: len(stored)], looks[len(stored) :]).max(1)
    groups: list[tuple[Keyframe, ...]] = []
    taken: set[int] = set()
    for best in np.argsort(-similar).tolist():
        if best in taken:
            continue
        start = min(max(best - count // 2, 0), max(len(stored) - count, 0))
        around = range(start, min(start + count, len(stored)))
        taken.update(around)
        groups.append(tuple(stored[i].keyframe for i in around))
        if len(groups) == TRIES:
            break
    return groups


def check_same_place(geometry: WindowGeometry, stored_count: int, min_covisible: float) -> None:
    """Refuse a joint window whose new views do not see the same as the stored ones.

    Args:
        geometry: stored keyframes first, then the new ones.
        stored_count: number of stored keyframes.
        min_covisible: share of the new points that must be visible from the stored views.

    Raises:
        RelocalisationError: with the share or the agreement.
    """
    old, new = range(stored_count), range(stored_count, len(geometry.poses))
    share = geometry.covisible_share(old, new)
    if share < min_covisible:
        raise RelocalisationError(f"only {share:.0%} of the points are seen from the stored views")
    agreement = colour_agreement(geometry, old, new)
    if agreement < MIN_COLOUR_AGREEMENT:
        raise RelocalisationError(
            f"the colours of common surfaces agree by {agreement:.2f} "
            f"(at least {MIN_COLOUR_AGREEMENT:g})"
        )


def colour_agreement(geometry: WindowGeometry, old: Sequence[int], new: Sequence[int]) -> float:
    """Correlation of the greys of surfaces seen by both, -1 to 1; 0 with too few points."""
    pairs = [
        _colours(geometry, a, b)
        for a in old
        for b in new
        if geometry.poses[a] is not None and geometry.poses[b] is not None
    ]
    if not pairs:
        return 0.0
    both = np.concatenate(pairs)
    if len(both) < MIN_COLOUR_POINTS or (both.std(0) < 1e-6).any():
        return 0.0
    return float(np.corrcoef(both.T)[0, 1])


def _colours(geometry: WindowGeometry, a: int, b: int) -> FloatArray:
    """(N, 2) greys in views a and b of the points of b that a sees at the same depth."""
    thin = geometry.thin
    grey_a, grey_b = (
        cv2.blur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3))[thin, thin].astype(float)
        for image in (geometry.window.keyframes[i].view.image_rgb for i in (a, b))
    )
    use = geometry.valid[b]
    seen = geometry.seen_by_both(a, geometry.points[b][use].astype(float))
    return np.stack([grey_a[seen.row, seen.col], grey_b[use][seen.which]], 1)
