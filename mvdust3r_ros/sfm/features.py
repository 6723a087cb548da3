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

"""SIFT features of a view, and matches between two views."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import BoolArray, FloatArray, View

IndexArray = npt.NDArray[np.intp]

MAX_FEATURES = 1200
"""Strongest features kept of a view. Insensitive from 600 to 2400 (benchmarks/constants.py, office
with odometry)."""
CONTRAST = 0.01
"""SIFT's least contrast; Lowe uses 0.03. Walls have little texture, and noise finds no match.
Insensitive from 0.005 to 0.02 (benchmarks/constants.py, office with odometry)."""
SIFT_SHIFT_PX = 0.25
"""Offset of OpenCV's keypoints in x and y, which results from doubling the image first."""
RATIO, FAINT_RATIO = 0.8, 0.9
"""A match is clear if its distance is below the first share of that of the second best (0.8: Lowe
2004, figure 11). Up to the second share it is used once poses are known: insensitive from 0.9 to
1; at 0.45 the ATE is 12 mm instead of 10 (benchmarks/constants.py, office with odometry)."""


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Features of one view.

    Attributes:
        uv: (N, 2) pixels, integers at pixel centres; no duplicates.
        size_px: (N,) diameter of the described patch.
        descriptors: (N, 128) float32 of unit length (RootSIFT).
        size_wh: width and height of the view in pixels.
    """

    uv: FloatArray
    size_px: FloatArray
    descriptors: FloatArray
    size_wh: tuple[int, int]

    def __len__(self) -> int:
        """Number of features."""
        return len(self.uv)


def view_features(view: View) -> ViewFeatures:
    """Detect SIFT features (Lowe 2004) with RootSIFT descriptors (Arandjelovic 2012)."""
    gray = cv2.cvtColor(view.image_rgb, cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=MAX_FEATURES, contrastThreshold=CONTRAST)
    keypoints, raw = sift.detectAndCompute(gray, None)
    size_wh = (gray.shape[1], gray.shape[0])
    if raw is None:
        nothing = np.zeros((0, 128), np.float32)
        return ViewFeatures(np.zeros((0, 2)), np.zeros(0), nothing, size_wh)
    uv = np.array([k.pt for k in keypoints]) - SIFT_SHIFT_PX
    size_px = np.array([k.size for k in keypoints])
    # a keypoint with two orientations appears twice: keep the first, stronger one
    first = np.sort(np.unique(uv, axis=0, return_index=True)[1])
    share = raw[first] / np.maximum(raw[first].sum(1, keepdims=True), 1e-9)
    return ViewFeatures(uv[first], size_px[first], np.sqrt(share).astype(np.float32), size_wh)


@dataclass(frozen=True, eq=False)
class Matches:
    """Mutual nearest neighbours of two views.

    Attributes:
        index: (M, 2) feature indices in both views.
        clear: (M,) mask of matches clearly better than the second best.
    """

    index: IndexArray
    clear: BoolArray


_known: WeakKeyDictionary[ViewFeatures, WeakKeyDictionary[ViewFeatures, Matches]]
_known = WeakKeyDictionary()


def match_features(a: ViewFeatures, b: ViewFeatures) -> Matches:
    """Return mutual nearest neighbours that pass the ratio test.

    Results are cached while both views are in use, since windows share views.
    """
    of_a = _known.setdefault(a, WeakKeyDictionary())
    found = of_a.get(b)
    if found is None:
        found = of_a[b] = _matched(a, b)
    return found


def _matched(a: ViewFeatures, b: ViewFeatures) -> Matches:
    if len(a) < 2 or len(b) < 2:
        return Matches(np.zeros((0, 2), np.intp), np.zeros(0, bool))
    cosine = a.descriptors @ b.descriptors.T
    rows = np.arange(len(a))
    best, best_back = cosine.argmax(1), cosine.argmax(0)
    first = cosine[rows, best]
    cosine[rows, best] = -1.0
    near, next_near = (np.sqrt(np.maximum(2 - 2 * c, 0)) for c in (first, cosine.max(1)))
    keep = (best_back[best] == rows) & (near < FAINT_RATIO * next_near)
    return Matches(np.stack([rows[keep], best[keep]], 1), (near < RATIO * next_near)[keep])
