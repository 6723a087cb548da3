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

"""LPIPS: equal to the public package on random weights; files that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mvdust3r_ros.model.lpips import LAYERS, Lpips, LpipsError, load_lpips

PUBLISHED = (0.07334724, 0.08236026, 0.04386529)
"""What lpips 0.1.4, `LPIPS(net="alex")`, gives for `images()` with the weights of `state()`."""


def state() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(3)
    made = {}
    for index, (name, shape, _, _) in enumerate(LAYERS):
        fan_in = np.prod(shape[1:])
        made[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / fan_in), shape)
        made[f"{name}.bias"] = rng.normal(0, 0.1, shape[0])
        made[f"lin{index}.model.1.weight"] = rng.uniform(0, 1, (1, shape[0], 1, 1))
    return {k: torch.from_numpy(v).float() for k, v in made.items()}


def images() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(4)
    pairs = []
    for hw in ((64, 64), (128, 96), (31, 47)):
        v, u = np.mgrid[: hw[0], : hw[1]] / 20
        truth = 0.5 + 0.5 * np.sin(np.stack([u, v, u + v], -1))
        pairs.append((np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1), truth))
    return pairs


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "lpips_alex.pth"
    torch.save(state(), path)
    return path


@pytest.fixture
def lpips(weights: Path) -> Lpips:
    return load_lpips(weights)


def test_distances_are_those_of_the_public_package(lpips: Lpips) -> None:
    made = [lpips.distance(*pair) for pair in images()]
    np.testing.assert_allclose(made, PUBLISHED, rtol=1e-5)


def test_equal_images_are_at_no_distance(lpips: Lpips) -> None:
    for image, truth in images():
        assert lpips.distance(truth, truth) == 0
        assert lpips.distance(image, truth) == pytest.approx(lpips.distance(truth, image))


def test_images_that_do_not_fit_are_refused(lpips: Lpips) -> None:
    for shape in ((30, 40, 3), (40, 40)):
        with pytest.raises(LpipsError, match="of 31 by 31 pixels or more"):
            lpips.distance(np.zeros(shape), np.zeros(shape))
    with pytest.raises(LpipsError, match="LPIPS takes two images"):
        lpips.distance(np.zeros((40, 40, 3)), np.zeros((40, 41, 3)))


def test_other_files_are_refused_in_a_line(tmp_path: Path) -> None:
    missing, text, vgg = tmp_path / "none.pth", tmp_path / "text.pth", tmp_path / "vgg.pth"
    text.write_text("no weights")
    torch.save({**state(), "net.slice1.0.weight": torch.zeros(64, 3, 3, 3)}, vgg)
    for path, words in (
        (missing, "cannot read the LPIPS weights"),
        (text, "cannot read the LPIPS weights"),
        (vgg, r"no net.slice1.0.weight of \(64, 3, 11, 11\)"),
    ):
        with pytest.raises(LpipsError, match=words) as refused:
            load_lpips(path)
        assert "\n" not in str(refused.value)
