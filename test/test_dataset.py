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

"""Windows by seed, shards, batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.synthetic import dataset
from mvdust3r_ros.synthetic.dataset import (
    DatasetError,
    RoomShards,
    collate,
    draw_batch,
    make_window,
    overlap,
    write_shard,
)

HW = (32, 32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> RoomShards:
    folder = tmp_path_factory.mktemp("rooms")
    patch = pytest.MonkeyPatch()
    patch.setattr(dataset, "SHARD_ROOMS", 4)
    write_shard(folder, 100, 5, HW)
    write_shard(folder, 104, 5, HW)
    write_shard(folder, 112, 5, HW)  # 108 is missing: not counted
    yield RoomShards(folder)
    patch.undo()


@pytest.mark.slow
def test_window_has_overlapping_neighbours_and_no_holes() -> None:
    for seed in range(5):
        w = make_window(seed, 6, (64, 64))
        assert w.depth_m.min() > 0
        for i in range(5):
            args = (w.K, w.T_world_cam[i], w.T_world_cam[i + 1])
            assert overlap(w.depth_m[i], w.depth_m[i + 1], *args) > 0.15


def test_overlap_of_a_view_with_itself_is_one_and_with_its_back_zero() -> None:
    w = make_window(3, 2, HW)
    T = w.T_world_cam[0]
    assert overlap(w.depth_m[0], w.depth_m[0], w.K, T, T) == 1.0
    behind = T @ np.diag([-1.0, 1.0, -1.0, 1.0])
    assert overlap(w.depth_m[0], w.depth_m[0], w.K, T, behind) == 0.0


@pytest.mark.slow
def test_shards_hold_what_the_seeds_make(shards: RoomShards) -> None:
    assert len(shards) == 8
    made, stored = make_window(105, 5, HW), shards.window(5, [3, 0])
    assert np.array_equal(stored.rgb, made.rgb[[3, 0]])
    assert np.allclose(stored.depth_m, made.depth_m[[3, 0]], rtol=1e-3)
    assert np.array_equal(stored.T_world_cam, made.T_world_cam[[3, 0]])


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="synth rooms"):
        RoomShards(tmp_path)


def test_pointmaps_of_all_views_agree_in_the_reference_frame() -> None:
    """Points that view 1 sees again lie on the surface of view 1 in either reference."""
    batch = collate([make_window(8, 3, (64, 64))])
    for reference in (0, 2):
        points = batch.points(reference)
        own = points[0, reference]
        assert np.allclose(own[..., 2], batch.depth_m[0, reference], atol=1e-4)
    T = batch.relative(2)[0, 0].numpy()  # T_view2_view0
    moved = batch.points(0)[0].numpy() @ T[:3, :3].T + T[:3, 3]
    assert np.abs(moved - batch.points(2)[0].numpy()).max() < 1e-3


def test_batches_follow_the_seed_and_stay_consistent(shards: RoomShards) -> None:
    """Mirrored or not, the depth of one view explains the points seen in another."""
    for seed in range(6):
        a, b = (draw_batch(np.random.default_rng(seed), shards, 8, 3, 4) for _ in range(2))
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.T_world_cam, b.T_world_cam)
        assert float(a.images.abs().max()) <= 1.0
        K, T = a.K[0].numpy(), a.T_world_cam[0].numpy()
        best = max(
            overlap(a.depth_m[0, 0].numpy(), a.depth_m[0, j].numpy(), K, T[0], T[j])
            for j in range(1, 4)
        )
        assert best > 0.1


def test_the_reference_can_be_asked_to_lie_in_the_middle(shards: RoomShards) -> None:
    """The first of five views of the whole path is then the second to fourth, any without."""
    drawn: dict[float, set[float]] = {0.0: set(), 1.0: set()}
    for middle, seen in drawn.items():
        for seed in range(40):
            batch = draw_batch(np.random.default_rng(seed), shards, 1, 1, 5, middle)
            depths = [float(d) for d in batch.depth_m[0].mean((1, 2))]
            seen.add(round(depths[0], 5))
    stored = shards.window(0, range(5)).depth_m.mean((1, 2))
    assert drawn[1.0] == {round(float(d), 5) for d in stored[1:4]}
    assert len(drawn[0.0]) == 5
