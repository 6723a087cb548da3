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

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.engines.dust3r.alignment import Aligned, AlignmentSettings, align_pairs
from mvdust3r_ros.engines.dust3r.pairs import PairError, PairMaps, pair_graph
from mvdust3r_ros.geometry import (
    align_cameras_sim3,
    backproject,
    invert_se3,
    make_se3,
    pixel_grid,
    rotation_angle_deg,
)

HEIGHT, WIDTH, FOCAL = 24, 32, 29.0
CONFIDENT = 5.0


@dataclass(frozen=True, eq=False)
class Truth:
    """Cameras before a wavy wall, and the scale of each pair's frame."""

    T: FloatArray
    K: FloatArray
    depth: FloatArray
    scale: FloatArray


def make_truth(views: int, pairs: int) -> Truth:
    rng = np.random.default_rng(3)
    index = np.arange(views)
    angles = np.stack((20 * np.sin(index), 8 * np.cos(2 * index)), -1)
    R = Rotation.from_euler("yx", angles, degrees=True).as_matrix()
    t = np.stack((0.4 * index, 0.1 * np.sin(3 * index), 0.2 * np.cos(index)), -1)
    x, y = np.moveaxis(pixel_grid(HEIGHT, WIDTH) / (WIDTH, HEIGHT), -1, 0)
    depth = [3 + 0.6 * np.sin(5 * x + v) + 0.5 * np.cos(7 * y - v) + 0.8 * x for v in index]
    K = np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]])
    T = np.stack([make_se3(*pose) for pose in zip(R, t, strict=True)])
    scale = np.exp(rng.normal(0, 0.3, pairs))
    return Truth(T, K, np.stack(depth), scale / np.exp(np.log(scale).mean()))


def make_maps(views: int, noise: float = 0.0, graph: str = "complete") -> tuple[PairMaps, Truth]:
    """Pointmaps with noise as a share of the distance, every pair in a scale of its own."""
    rng = np.random.default_rng(7)
    pairs = pair_graph(views, graph, 1)
    truth = make_truth(views, len(pairs))
    points = np.empty((len(pairs), 2, HEIGHT, WIDTH, 3), np.float32)
    for (i, j), scale, out in zip(pairs, truth.scale, points, strict=True):
        for view, own in zip((i, j), out, strict=True):
            T = invert_se3(truth.T[i]) @ truth.T[view]
            cam = backproject(truth.depth[view], truth.K)
            cam = cam + noise * truth.depth[view][..., None] * rng.normal(size=cam.shape)
            own[:] = (cam @ T[:3, :3].T + T[:3, 3]) / scale
    return PairMaps(pairs, points, np.full(points.shape[:4], CONFIDENT, np.float32)), truth


@dataclass(frozen=True)
class Errors:
    """Of cameras (of the distance between the farthest two, degrees) and of what they see."""

    position: float
    angle_deg: float
    depth: float
    focal: float
    scale: float


def errors(aligned: Aligned, truth: Truth) -> Errors:
    T = invert_se3(truth.T[0]) @ truth.T
    S, rms = align_cameras_sim3(aligned.T_ref_cam, T)
    turn = np.swapaxes(aligned.T_ref_cam[:, :3, :3], 1, 2) @ T[:, :3, :3]
    return Errors(
        rms / float(np.linalg.norm(T[-1, :3, 3])),
        float(rotation_angle_deg(turn).max()),
        float(np.sqrt(np.mean((S.scale * aligned.depth / truth.depth - 1) ** 2))),
        float(np.abs(aligned.K[:, 0, 0] / FOCAL - 1).max()),
        float(np.abs(aligned.pair_scale / truth.scale - 1).max()),
    )


@pytest.mark.parametrize("views", [2, 5])
@pytest.mark.parametrize("graph", ["complete", "window"])
def test_exact_pointmaps_are_recovered(views: int, graph: str) -> None:
    maps, truth = make_maps(views, graph=graph)
    aligned = align_pairs(maps, AlignmentSettings(iterations=20))
    found = errors(aligned, truth)
    assert max(found.position, found.depth, found.focal, found.scale) < 1e-5
    assert found.angle_deg < 1e-3
    np.testing.assert_array_equal(aligned.T_ref_cam[0], np.eye(4))
    np.testing.assert_array_equal(aligned.conf, np.float32(CONFIDENT))


@pytest.mark.slow
def test_a_start_from_a_wrong_pair_is_outvoted() -> None:
    maps, truth = make_maps(4)
    points, conf = maps.points.copy(), maps.conf.copy()
    points[0] *= np.array([1.0, 1.1, 0.8], np.float32)
    conf[0] += 1  # the surest of all: the tree begins with it
    wrong = PairMaps(maps.pairs, points, conf)
    start = errors(align_pairs(wrong, AlignmentSettings(0)), truth)
    after = errors(align_pairs(wrong), truth)
    assert start.position > 0.2 and start.depth > 0.4
    assert after.position < 0.03 and after.depth < 0.03 and after.angle_deg < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_noise_is_averaged(noise: float) -> None:
    maps, truth = make_maps(5, noise)
    start = align_pairs(maps, AlignmentSettings(iterations=0))
    aligned = align_pairs(maps, AlignmentSettings())
    found = errors(aligned, truth)
    assert aligned.loss < start.loss
    # eight maps of each pixel: less than half of the noise is left
    assert found.depth < 0.5 * noise
    assert found.position < noise and found.focal < noise and found.scale < noise
    assert found.angle_deg < np.degrees(noise)


@pytest.mark.slow
def test_an_unsure_pair_counts_less() -> None:
    maps, truth = make_maps(4)
    points, conf = maps.points.copy(), maps.conf.copy()
    points[5, 1] *= 1.2
    sure = align_pairs(PairMaps(maps.pairs, points, conf), AlignmentSettings(100))
    conf[5, 1] = 1.0
    unsure = align_pairs(PairMaps(maps.pairs, points, conf), AlignmentSettings(100))
    assert errors(unsure, truth).depth < 1e-4
    assert errors(unsure, truth).depth < errors(sure, truth).depth


def test_known_intrinsics_are_kept() -> None:
    maps, truth = make_maps(4, 0.01)
    K = np.tile(truth.K, (4, 1, 1))
    aligned = align_pairs(maps, AlignmentSettings(50), K)
    np.testing.assert_array_equal(aligned.K, K)
    assert errors(aligned, truth).depth < 0.01


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_unit_of_the_pointmaps_does_not_matter(unit: float) -> None:
    maps, truth = make_maps(3, 0.01)
    scaled = PairMaps(maps.pairs, maps.points * np.float32(unit), maps.conf)
    a, b = (align_pairs(m, AlignmentSettings(30)) for m in (maps, scaled))
    np.testing.assert_allclose(b.depth / unit, a.depth, rtol=2e-3)
    assert errors(b, truth).depth < 0.02


def test_fewer_pixels_give_the_same_scene() -> None:
    maps, truth = make_maps(4)
    found = errors(align_pairs(maps, AlignmentSettings(10, pixels=100)), truth)
    assert max(found.position, found.depth, found.focal) < 1e-5


def test_pairs_of_a_window() -> None:
    assert len(pair_graph(6)) == 30
    near = pair_graph(6, "window", 2)
    assert sorted({int(d) for d in np.abs(near[:, 0] - near[:, 1])}) == [1, 2]
    assert len(near) == 2 * (5 + 4)


def test_the_tree_takes_the_surest_pairs_in_either_direction() -> None:
    maps, truth = make_maps(4)
    conf = maps.conf.copy()
    wanted = {(0, 3): 3, (3, 1): 2, (2, 1): 1}
    for p, (i, j) in enumerate(maps.pairs.tolist()):
        conf[p] += wanted.get((i, j), 0)
    again = PairMaps(maps.pairs, maps.points, conf)
    chosen = again.pairs[again.tree()].tolist()
    assert [tuple(pair) for pair in chosen] == list(wanted)
    found = errors(align_pairs(again, AlignmentSettings(0)), truth)
    assert max(found.position, found.depth, found.focal) < 1e-5


def test_wild_points_of_one_pair_leave_no_trace() -> None:
    maps, truth = make_maps(4)
    points = maps.points.copy()
    points[5, 1, ::3, ::2] *= 3
    found = errors(align_pairs(PairMaps(maps.pairs, points, maps.conf)), truth)
    assert max(found.position, found.depth, found.focal) < 2e-3


def test_what_cannot_be_aligned_is_refused() -> None:
    maps, _ = make_maps(4, graph="window")
    with pytest.raises(PairError, match="and its reverse"):
        PairMaps(maps.pairs[1:], maps.points[1:], maps.conf[1:])
    apart = np.array([[0, 1], [1, 0], [2, 3], [3, 2]])
    with pytest.raises(PairError, match="do not join all 4 views"):
        PairMaps(apart, maps.points[:4], maps.conf[:4])
    with pytest.raises(PairError, match="6 pairs with points"):
        PairMaps(maps.pairs, maps.points[:4], maps.conf)
    with pytest.raises(PairError, match="graph 'ring'"):
        pair_graph(4, "ring")
    with pytest.raises(PairError, match="1 views make no pair"):
        pair_graph(1)
    with pytest.raises(PairError, match="alignment in -1 iterations"):
        AlignmentSettings(-1)
