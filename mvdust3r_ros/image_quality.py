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

"""How alike two images are: PSNR and SSIM."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError

WINDOW_SIGMA_PX, WINDOW_REACH_PX = 1.5, 5
"""Gaussian window of 11 by 11 pixels of Wang et al. 2004, section III-B."""
K1, K2 = 0.01, 0.03
"""Constants of Wang et al. 2004, section III-B."""


class ImageQualityError(MvDust3rError):
    """Two images cannot be compared."""


def psnr_db(image: FloatArray, truth: FloatArray) -> float:
    """Peak signal-to-noise ratio in dB; inf for equal images.

    Args:
        image: (H, W, 3), or of any one shape, in [0, 1].
        truth: of the same shape.

    Raises:
        ImageQualityError: the shapes differ.
    """
    _check(image, truth)
    error = float(np.mean((np.asarray(image, float) - np.asarray(truth, float)) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(image: FloatArray, truth: FloatArray) -> float:
    """Structural similarity (Wang et al. 2004): mean over colours and whole windows; 1 for equal.

    Args:
        image: (H, W, C) in [0, 1], at least 11 by 11 pixels.
        truth: of the same shape.

    Raises:
        ImageQualityError: the shapes differ, or are no images of that size.
    """
    _check(image, truth)
    size = 2 * WINDOW_REACH_PX + 1
    if image.ndim != 3 or min(image.shape[:2]) < size:
        raise ImageQualityError(
            f"SSIM takes (H, W, C) images of {size} by {size} pixels or more, not {image.shape}"
        )
    x, y = np.asarray(image, float), np.asarray(truth, float)
    mean_x, mean_y = _windows(x), _windows(y)
    var_x = _windows(x * x) - mean_x**2
    var_y = _windows(y * y) - mean_y**2
    covariance = _windows(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2  # of a dynamic range of 1
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (var_x + var_y + c2)))


def _windows(values: FloatArray) -> FloatArray:
    """Weighted means of all whole windows, colour by colour."""
    reach = WINDOW_REACH_PX
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / WINDOW_SIGMA_PX) ** 2)
    weights /= weights.sum()
    means = correlate1d(correlate1d(values, weights, 0), weights, 1)
    return np.asarray(means[reach:-reach, reach:-reach], float)


def _check(image: FloatArray, truth: FloatArray) -> None:
    if np.shape(image) != np.shape(truth):
        raise ImageQualityError(
            f"images of {np.shape(image)} and {np.shape(truth)} cannot be compared"
        )
