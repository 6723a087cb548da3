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

"""Appearance of a place as a vector, similar for views of the same place.

Engines with tokens use their mean. Otherwise a view is represented by its thumbnail, as in the
relocaliser of PTAM (Klein and Murray 2008) and in SeqSLAM (Milford and Wyeth 2012).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mvdust3r_ros.datatypes import Descriptor, FloatArray, View

THUMBNAIL = "thumbnail"
"""Kind of descriptor available for any view."""
THUMBNAIL_PX = 16
"""Coarse enough to be insensitive to a rotation of a few degrees: a pixel is about 4 degrees."""


def image_descriptor(view: View) -> Descriptor:
    """Return a view's thumbnail, normalised for brightness and contrast."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = cv2.resize(view.image_rgb, size, interpolation=cv2.INTER_AREA).astype("f4")
    flat = small.reshape(-1, 3)
    return Descriptor(THUMBNAIL, ((flat - flat.mean(0)) / (flat.std(0) + 1e-3)).ravel())


def of_one_kind(
    descriptors: Sequence[Descriptor], views: Sequence[View]
) -> tuple[str, FloatArray]:
    """Return comparable descriptors: the given ones, or thumbnails if their kinds differ.

    Args:
        descriptors: N of them, at least one.
        views: their views.

    Returns:
        Their kind, and (N, D) float32 vectors.
    """
    kinds = {(d.kind, len(d.vector)) for d in descriptors}
    if len(kinds) > 1:
        descriptors = [image_descriptor(view) for view in views]
    return descriptors[0].kind, np.stack([d.vector for d in descriptors])


def similarity(stored: FloatArray, seen: FloatArray) -> FloatArray:
    """Return (N, M) cosines of vectors (N, D) and (M, D), both less the mean of the stored."""
    centre = stored.mean(0)
    cosines: FloatArray = _unit(stored - centre) @ _unit(seen - centre).T
    return cosines


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return unit
