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

"""Floor plans, furniture, exact grids."""

from __future__ import annotations

import numpy as np
import pytest

from mvdust3r_ros.synthetic.furniture import Kind, Part
from mvdust3r_ros.synthetic.scenes import (
    Room,
    Scene,
    sample_apartment,
    sample_room,
    scene_occupancy,
)

SEEDS = range(40)


def test_rooms_have_the_promised_size_and_content() -> None:
    for seed in SEEDS:
        scene = sample_room(seed)
        assert 2.4 <= scene.height <= 3.0
        assert all(3.0 <= side <= 8.0 for side in scene.rooms[0].size)
        assert len(scene.parts) >= 10
        assert len(scene.lights) == 2


def test_apartments_have_a_doorway_less_than_rooms() -> None:
    counts = set()
    for seed in SEEDS:
        scene = sample_apartment(seed)
        assert len(scene.doorways) == len(scene.rooms) - 1
        assert all(min(room.size) > 2.2 for room in scene.rooms)
        counts.add(len(scene.rooms))
    assert counts == {2, 3, 4}


def test_every_doorway_is_free_from_room_to_room() -> None:
    for seed in SEEDS:
        scene = sample_apartment(seed)
        grid = scene_occupancy(scene, 0.05, (0.02, 1.9))
        for door in scene.doorways:
            dx, dy = (0.0, 0.5) if door.along == 0 else (0.5, 0.0)
            for s in np.linspace(-1, 1, 21):
                col = int((door.x + s * dx - grid.origin_xy_m[0]) / 0.05)
                row = int((door.y + s * dy - grid.origin_xy_m[1]) / 0.05)
                assert grid.cells[row, col] == 0, (seed, door)


def test_same_seed_same_scene() -> None:
    for sample in (sample_room, sample_apartment):
        assert repr(sample(7)) == repr(sample(7))
        assert repr(sample(7)) != repr(sample(8))


def box_scene(*parts: Part) -> Scene:
    return Scene(parts, (Room(0, 0, 4, 3),), (), 2.5, np.zeros((0, 4), np.float32), 0.5)


def occupied_area(scene: Scene, band: tuple[float, float], resolution: float = 0.02) -> float:
    return float((scene_occupancy(scene, resolution, band).cells == 100).sum()) * resolution**2


def test_grid_of_a_turned_box_has_its_area() -> None:
    part = Part(Kind.BOX, np.array([2.0, 1.5, 0.5]), np.array([0.6, 0.3, 0.5]), 0, yaw=0.7)
    assert occupied_area(box_scene(part), (0.1, 1.5)) == pytest.approx(0.72, rel=0.06)


def test_grid_of_a_cylinder_and_of_a_sphere_within_the_band() -> None:
    cylinder = Part(Kind.CYLINDER, np.array([1.0, 1.0, 0.5]), np.array([0.4, 0.4, 0.5]), 0)
    assert occupied_area(box_scene(cylinder), (0.1, 1.5)) == pytest.approx(np.pi * 0.16, rel=0.06)
    sphere = Part(Kind.SPHERE, np.array([2.5, 1.5, 0.5]), np.full(3, 0.5), 0)
    radius2 = 0.25 - 0.3**2  # where the band from 0.8 m up cuts it
    assert occupied_area(box_scene(sphere), (0.8, 1.5)) == pytest.approx(np.pi * radius2, rel=0.08)


def test_grid_leaves_out_what_is_above_or_below_the_band() -> None:
    shelf = Part(Kind.BOX, np.array([2.0, 1.5, 2.0]), np.array([0.5, 0.3, 0.1]), 0)
    mat = Part(Kind.BOX, np.array([2.0, 1.5, 0.0]), np.array([0.5, 0.3, 0.05]), 0)
    grid = scene_occupancy(box_scene(shelf, mat), 0.05, (0.1, 1.5))
    assert not (grid.cells == 100).any()
    assert (grid.cells == 0).sum() * 0.05**2 == pytest.approx(12.0, rel=0.05)


def test_walker_comes_back_and_leaves_the_rest_alone() -> None:
    scene = sample_room(3, walker=True)
    assert scene.walker > 0
    before, after, back = (scene.at_time(t) for t in (0.0, 2.0, 8.0))
    assert before.parts[: scene.walker] == after.parts[: scene.walker]
    moved = np.linalg.norm(after.parts[-1].center - before.parts[-1].center)
    assert moved == pytest.approx(1.0)
    assert np.allclose(back.parts[-1].center, before.parts[-1].center)
