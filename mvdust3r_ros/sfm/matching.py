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

"""Matches of all pairs of views of a window, and their geometric verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.sfm.correspondence import link_matches, track_pixels
from mvdust3r_ros.sfm.features import Matches, ViewFeatures, match_features
from mvdust3r_ros.sfm.two_view import (
    MIN_MATCHES,
    TwoViews,
    epipolar_distance,
    fundamental_of,
    verify_pair,
)

IndexArray = npt.NDArray[np.intp]
Pair = tuple[int, int]

GUIDE_PX = 12.0
"""Matches farther from the epipolar line of odometry are discarded: 2 degrees at 384 pixels.
Insensitive from 6 to 24 (benchmarks/constants.py, office with odometry)."""
AGREE_PX = 2.5
"""The same for poses from images: the last of `GOOD_PX`. Insensitive from 1.25 to 5
(benchmarks/constants.py, office with odometry)."""
GUIDED_MATCHES = 10
"""Least inliers of a pair guided by odometry: fewer than `two_view.MIN_MATCHES`, as most wrong
matches are discarded before. Insensitive from 5 to 20 (benchmarks/constants.py, office with
odometry, 60 images)."""


@dataclass(frozen=True, eq=False)
class Verified:
    """Geometrically verified matches of a pair.

    Attributes:
        index: (M, 2) feature indices in both views.
        geometry: their two-view geometry.
    """

    index: IndexArray
    geometry: TwoViews


class Matcher:
    """Features of the views of a window and the matches between them.

    Attributes:
        uv: (N, 2) pixels of each view: its features, then those of the tracks between keyframes.
        matches: matches of each pair of views.
    """

    def __init__(self, features: Sequence[ViewFeatures], tracks_uv: FloatArray | None) -> None:
        """Match all pairs.

        Args:
            features: features of each view.
            tracks_uv: (N, V, 2) pixels of tracks through the frames in between; NaN if not seen.
        """
        extra = np.zeros((0, len(features), 2)) if tracks_uv is None else tracks_uv
        self.uv = [np.concatenate([f.uv, extra[:, v]]) for v, f in enumerate(features)]
        self.matches: dict[Pair, Matches] = {}
        for a, b in combinations(range(len(features)), 2):
            own = match_features(features[a], features[b])
            seen = np.flatnonzero(~np.isnan(extra[:, (a, b)]).any((1, 2)))
            more = np.stack([seen + len(features[a]), seen + len(features[b])], 1)
            clear = np.concatenate([own.clear, np.ones(len(more), bool)])
            self.matches[a, b] = Matches(np.concatenate([own.index, more]), clear)

    def pixels_of(self, pair: Pair, index: IndexArray) -> tuple[FloatArray, FloatArray]:
        """Return (M, 2) pixels of matches in both views."""
        return self.uv[pair[0]][index[:, 0]], self.uv[pair[1]][index[:, 1]]

    def verified(
        self, K: Sequence[FloatArray | None], T: FloatArray | None
    ) -> dict[Pair, Verified]:
        """Return the clear matches of each pair that are consistent with one epipolar geometry.

        Args:
            K: (3, 3) intrinsics of each view, or None.
            T: (V, 4, 4) odometry poses for guided matching, or None.
        """
        found = {}
        for pair, matches in self.matches.items():
            index = matches.index[matches.clear]
            K_a, K_b = K[pair[0]], K[pair[1]]
            least = MIN_MATCHES
            if T is not None and K_a is not None and K_b is not None:
                F = fundamental_of(T[pair[0]], T[pair[1]], K_a, K_b)
                index = index[epipolar_distance(F, *self.pixels_of(pair, index)) < GUIDE_PX]
                least = GUIDED_MATCHES
            seen = verify_pair(*self.pixels_of(pair, index), K_a, K_b, min_matches=least)
            if seen is not None:
                found[pair] = Verified(index[seen.inliers], seen)
        return found

    def agreeing(self, T: FloatArray, K: FloatArray, views: Sequence[int]) -> FloatArray:
        """Return tracks of all matches, clear or not, near the epipolar lines of known poses.

        Args:
            T: (V, 4, 4) poses of `views`.
            K: (V, 3, 3) intrinsics of `views`.
            views: indices of the posed views.

        Returns:
            (P, V, 2) pixels, NaN where not seen; V runs over `views`.
        """
        chosen: dict[Pair, IndexArray] = {}
        for a, b in combinations(range(len(views)), 2):
            pair = (views[a], views[b])
            index = self.matches[pair].index
            F = fundamental_of(T[a], T[b], K[a], K[b])
            chosen[a, b] = index[epipolar_distance(F, *self.pixels_of(pair, index)) < AGREE_PX]
        return self.tracks(chosen, views)

    def tracks(self, matches: Mapping[Pair, IndexArray], views: Sequence[int]) -> FloatArray:
        """Return (P, V, 2) pixels of chained matches; NaN where not seen.

        Args:
            matches: matches of pairs; a pair holds positions in `views`.
            views: views of the tracks.
        """
        uv = [self.uv[v] for v in views]
        return track_pixels(link_matches([len(u) for u in uv], matches), uv)
