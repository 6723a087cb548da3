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

"""What a place looks like, as a vector: views of one place have alike ones.

Engines with tokens give the mean of them. Without, a view is its own small image, as in the
relocaliser of PTAM (Klein and Murray 2008) and in SeqSLAM (Milford and Wyeth 2012).
"""

from __future__ import annotations

import cv2

from mvdust3r_ros.datatypes import FloatArray, View

THUMBNAIL_PX = 16
"""Coarse enough for a turn of a few degrees to change little: a pixel is about 4 degrees."""


def image_descriptor(view: View) -> FloatArray:
    """(D,) float32 thumbnail of a view without brightness and contrast, for engines without."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = cv2.resize(view.image_rgb, size, interpolation=cv2.INTER_AREA).astype("f4")
    flat = small.reshape(-1, 3)
    spread: FloatArray = ((flat - flat.mean(0)) / (flat.std(0) + 1e-3)).ravel()
    return spread
