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

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdust3r_ros.datatypes import FloatArray, ImageArray
from mvdust3r_ros.drawing.voxel_map import VoxelMap, VoxelMapError

Points = tuple[FloatArray, ImageArray, FloatArray]


def sample(count: int, seed: int = 0, spread: float = 1.0) -> Points:
    rng = np.random.default_rng(seed)
    return (
        (rng.normal(size=(count, 3)) * spread).astype(np.float32),
        rng.integers(0, 256, (count, 3), dtype=np.uint8),
        rng.uniform(1.1, 9.0, count).astype(np.float32),
    )


def sorted_cloud(voxels: VoxelMap, min_hits: int = 1) -> Points:
    points, colors, conf = voxels.cloud(min_hits)
    order = np.lexsort(points.T)
    return points[order], colors[order], conf[order]


def filled(*batches: Points, size: float = 0.25) -> VoxelMap:
    voxels = VoxelMap(size)
    for batch in batches:
        voxels.integrate(*batch)
    return voxels


def test_an_empty_map() -> None:
    points, colors, conf = VoxelMap(0.1).cloud()
    assert points.shape == colors.shape == (0, 3)
    assert conf.shape == (0,)
    voxels = filled(sample(0))
    assert len(voxels) == 0


def test_one_point_comes_back() -> None:
    points, colors, conf = filled(
        (np.array([[0.1, -0.2, 0.3]]), np.array([[1, 2, 255]], np.uint8), np.array([3.0]))
    ).cloud()
    np.testing.assert_allclose(points, [[0.1, -0.2, 0.3]], rtol=1e-6)
    assert (points.dtype, colors.dtype, conf.dtype) == (np.float32, np.uint8, np.float32)
    assert colors.tolist() == [[1, 2, 255]]
    assert conf.tolist() == [3.0]


def test_the_mean_is_weighted_by_the_logarithm_of_confidence() -> None:
    e = np.e
    pair = np.array([[0.0, 0.0, 0.0], [0.2, 0.1, 0.04]])
    pair_rgb = np.array([[0, 100, 7], [80, 20, 7]], np.uint8)
    points, colors, conf = filled((pair, pair_rgb, np.array([e, e**3]))).cloud()
    np.testing.assert_allclose(points, [[0.15, 0.075, 0.03]], rtol=1e-6)
    assert colors.tolist() == [[60, 40, 7]]
    np.testing.assert_allclose(conf, [(e + 3 * e**3) / 4], rtol=1e-6)


def test_confidence_of_one_has_a_tiny_weight_and_less_is_no_worse() -> None:
    pair, black = np.array([[0.0, 0, 0], [0.2, 0, 0]]), np.zeros((2, 3), np.uint8)
    voxels = filled((pair, black, np.array([1.0, np.exp(0.999)])))
    np.testing.assert_allclose(voxels.cloud()[0][0, 0], 0.2 * 0.999, rtol=1e-6)
    voxels = filled((np.ones((1, 3)), np.zeros((1, 3), np.uint8), np.array([0.0])))
    np.testing.assert_allclose(voxels.cloud()[0], np.ones((1, 3)))


def test_voxels_are_half_open_and_meet_at_zero() -> None:
    points = np.array([[0.0, 0, 0], [0.249, 0, 0], [0.25, 0, 0], [-0.001, 0, 0]])
    voxels = filled((points, np.zeros((4, 3), np.uint8), np.full(4, 2.0)))
    np.testing.assert_allclose(sorted_cloud(voxels)[0][:, 0], [-0.001, 0.1245, 0.25], atol=1e-6)


@settings(max_examples=25)
@given(st.integers(1, 400), st.integers(0, 1000), st.integers(1, 399))
def test_neither_order_nor_batches_matter(count: int, seed: int, cut: int) -> None:
    points, colors, conf = sample(count, seed)
    once = filled((points, colors, conf))
    mixed = np.random.default_rng(seed).permutation(count)
    halves = [
        tuple(a[part] for a in (points, colors, conf)) for part in (mixed[:cut], mixed[cut:])
    ]
    for a, b in zip(sorted_cloud(once), sorted_cloud(filled(*halves)), strict=True):
        np.testing.assert_allclose(a, b, atol=1.0 if a.dtype == np.uint8 else 1e-5)


@given(st.integers(1, 200), st.integers(0, 100))
def test_each_mean_lies_in_a_voxel_of_its_own(count: int, seed: int) -> None:
    points, colors, conf = sample(count, seed)
    cloud = filled((points, colors, conf)).cloud()[0]
    expected = {tuple(c) for c in np.floor(points / 0.25).astype(int)}
    cells = np.floor(cloud.astype(float) / 0.25 + 1e-6).astype(int)
    near = np.floor(cloud.astype(float) / 0.25 - 1e-6).astype(int)
    assert len(cloud) == len(expected)
    assert all(
        tuple(a) in expected or tuple(b) in expected for a, b in zip(cells, near, strict=True)
    )


def test_against_a_plain_loop() -> None:
    points, colors, conf = sample(3000, 5)
    sums: dict[tuple[int, ...], list[FloatArray]] = {}
    for p, color, c in zip(points, colors, conf, strict=True):
        row = np.concatenate([p, color, [c, 1.0]])
        sums.setdefault(tuple(np.floor(p / np.float32(0.25))), []).append(np.log(c) * row)
    truth = np.array([np.sum(rows, 0) for rows in sums.values()])
    truth = truth[:, :7] / truth[:, 7:]
    truth = truth[np.lexsort(truth[:, :3].astype(np.float32).T)]
    first, rest = ((points[s], colors[s], conf[s]) for s in (slice(1000), slice(1000, None)))
    found = sorted_cloud(filled(first, rest))
    assert len(found[0]) > 1024  # the table has grown
    np.testing.assert_allclose(found[0], truth[:, :3], atol=1e-6)
    np.testing.assert_allclose(found[1], np.rint(truth[:, 3:6]), atol=1)
    np.testing.assert_allclose(found[2], truth[:, 6], rtol=1e-6)


def test_voxels_with_few_points_can_be_left_out() -> None:
    points = np.array([[0.1, 0.1, 0.1]] * 3 + [[1.1, 0.1, 0.1]] * 2 + [[2.1, 0.1, 0.1]])
    voxels = filled((points[::-1], np.zeros((6, 3), np.uint8), np.full(6, 2.0)))
    for min_hits, count in [(1, 3), (2, 2), (3, 1), (4, 0)]:
        assert len(voxels.cloud(min_hits)[0]) == count
    assert len(voxels) == 3


def test_a_cloud_is_a_copy() -> None:
    voxels = filled(sample(50))
    before = [a.copy() for a in voxels.cloud()]
    for a in voxels.cloud():
        a[:] = 0
    for a, b in zip(before, voxels.cloud(), strict=True):
        assert np.array_equal(a, b)


def test_far_voxels_do_not_collide() -> None:
    far = 0.25 * (2**20 - 2)
    corners = np.array([[x, y, z] for x in (-far, far) for y in (-far, far) for z in (-far, far)])
    voxels = filled((corners, np.zeros((8, 3), np.uint8), np.full(8, 2.0)))
    assert len(voxels) == 8
    np.testing.assert_allclose(np.abs(voxels.cloud()[0]), far)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.25 * 2**20, -0.25 * 2**20])
def test_points_out_of_reach_leave_the_map_as_it_was(bad: float) -> None:
    voxels = filled(sample(20))
    before = voxels.cloud()
    points, colors, conf = sample(5)
    points[3, 1] = bad
    with pytest.raises(VoxelMapError, match="not finite or farther than 262144 m"):
        voxels.integrate(points, colors, conf)
    for a, b in zip(before, voxels.cloud(), strict=True):
        assert np.array_equal(a, b)


def test_columns_of_different_length_are_refused() -> None:
    points, colors, conf = sample(5)
    with pytest.raises(VoxelMapError, match="5 points, 5 colours, 4 confidences"):
        VoxelMap(0.1).integrate(points, colors, conf[:4])
    with pytest.raises(VoxelMapError, match="5 points, 3 colours, 5 confidences"):
        VoxelMap(0.1).integrate(points, colors[:3], conf)
