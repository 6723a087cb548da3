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

"""PSNR and SSIM: against their formulae, one window at a time."""

from __future__ import annotations

import numpy as np
import pytest

from mvdust3r_ros.image_quality import ImageQualityError, psnr_db, ssim


def pictures(noise: float, hw: tuple[int, int] = (23, 31)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    v, u = np.mgrid[: hw[0], : hw[1]]
    truth = np.stack([0.5 + 0.4 * np.sin(u / 4), 0.5 + 0.3 * np.cos(v / 3), (u + v) / 60], -1)
    return np.clip(truth + rng.normal(0, noise, truth.shape), 0, 1), truth


def ssim_by_windows(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, equations 13 to 16."""
    axis = np.arange(-5, 6)
    weights = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for c in range(x.shape[2]):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (
                    (weights * (a - mean_a) ** 2).sum(),
                    (weights * (b - mean_b) ** 2).sum(),
                )
                both = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
                    / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
                )  # fmt: skip
    return float(np.mean(values))


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_ssim_is_its_definition(noise: float) -> None:
    image, truth = pictures(noise)
    assert ssim(image, truth) == pytest.approx(ssim_by_windows(image, truth), abs=1e-10)


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_both_are_those_of_scikit_image(noise: float) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    image, truth = pictures(noise)
    theirs = metrics.structural_similarity(
        image, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, channel_axis=2,
    )  # fmt: skip
    assert ssim(image, truth) == pytest.approx(theirs, abs=1e-9)
    theirs = metrics.peak_signal_noise_ratio(truth, image, data_range=1.0)
    assert psnr_db(image, truth) == pytest.approx(theirs, abs=1e-9)


def test_psnr_of_a_known_error() -> None:
    truth = np.full((4, 5, 3), 0.5)
    assert psnr_db(truth + 0.1, truth) == pytest.approx(20.0)
    assert psnr_db(truth, truth) == np.inf


def test_equal_images_have_ssim_1_and_less_alike_ones_less() -> None:
    truth = pictures(0)[1]
    values = [ssim(pictures(noise)[0], truth) for noise in (0, 0.02, 0.1, 0.3)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True) and values[-1] < 0.5


@pytest.mark.parametrize("shape", [(10, 31, 3), (31, 31), (12, 12, 1, 1)])
def test_what_is_no_image_of_a_window_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageQualityError, match="11 by 11"):
        ssim(np.zeros(shape), np.zeros(shape))


def test_images_of_two_sizes_are_refused() -> None:
    for measure in (psnr_db, ssim):
        with pytest.raises(ImageQualityError, match="cannot be compared"):
            measure(np.zeros((20, 20, 3)), np.zeros((20, 21, 3)))
