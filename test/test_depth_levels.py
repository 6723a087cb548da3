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

"""Windows whose depth is too long or too short are levelled to each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from box_room import BoxRoom
from map_world import SAW_NOTHING, grown, map_of
from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import Keyframe, View
from mvdust3r_ros.geometry import invert_se3, make_se3
from mvdust3r_ros.graph.depth_levels import LEVEL_SIGMA, levels_of
from mvdust3r_ros.graph.map_keyframe import MapKeyframe

FACTORS = (1.05, 0.95, 1.03, 0.96)
"""What the depth of each window is multiplied by."""


def seen(
    room: BoxRoom, count: int = 16, factors: tuple[float, ...] = FACTORS
) -> list[MapKeyframe]:
    """Keyframes on a way around the room, each window with a depth of its own length."""
    made = []
    for key, T in enumerate(room.walk(count, turns=0.25)):
        window = key * len(factors) // count
        points = room.points(T).reshape(-1, 3)
        inverse = invert_se3(T)
        cam = (points @ inverse[:3, :3].T + inverse[:3, 3]) * factors[window]
        view = View(np.zeros((4, 4, 3), np.uint8))
        made.append(
            MapKeyframe(
                Keyframe(key, key, view, "camera"), T, cam.astype(np.float32),
                np.zeros((len(cam), 3), np.uint8), np.full(len(cam), 20.0, np.float32),
                SAW_NOTHING, window,
            )
        )  # fmt: skip
    return made


def by_key(items: list[MapKeyframe]) -> dict[int, MapKeyframe]:
    return {m.keyframe.id: m for m in items}


def test_windows_that_differ_are_levelled_to_their_mean(room: BoxRoom) -> None:
    levels = levels_of(by_key(seen(room)))
    left = np.array([f * levels[w] for w, f in enumerate(FACTORS)])
    assert np.ptp(left) < 0.3 * np.ptp(FACTORS)
    assert left.mean() == pytest.approx(1.0, abs=0.015)


def test_levelling_twice_changes_nothing(room: BoxRoom) -> None:
    items = by_key(seen(room))
    levels = levels_of(items)
    levelled = {k: m.levelled(levels[m.window]) for k, m in items.items()}
    assert levels_of(levelled) == pytest.approx(levels, abs=0.01)
    np.testing.assert_allclose(
        levelled[0].levelled(1.0).points_cam, items[0].points_cam, rtol=1e-5
    )


def test_windows_that_agree_stay_to_the_bit(room: BoxRoom) -> None:
    assert set(levels_of(by_key(seen(room, factors=(1.0,) * 4))).values()) == {1.0}


def test_a_window_alone_or_of_another_place_stays(room: BoxRoom) -> None:
    assert levels_of(by_key(seen(room, factors=(1.05,)))) == {0: 1.0}
    away = make_se3(np.eye(3), np.array([50.0, 0, 0]))
    near = seen(room, factors=(1.05, 0.95))
    far = [replace(m, T_map_cam=away @ m.T_map_cam) if m.window else m for m in near]
    assert levels_of(by_key(far)) == {0: 1.0, 1: 1.0}


def test_a_new_window_is_levelled_to_the_map_which_stays(room: BoxRoom) -> None:
    items = seen(room, factors=(1.0, 1.06))
    nothing = Revision.empty(MapSettings())
    old = nothing.levelled([m for m in items if m.window == 0])
    new = grown(nothing, old).levelled([m for m in items if m.window == 1])
    assert {m.window for m in new} == {old[0].window + 1}
    (level,) = {m.level for m in new}
    assert 1 / 1.06 - 0.005 < level < 1 - 0.25 * LEVEL_SIGMA
    whole = grown(grown(nothing, old), new).graph.keyframes.values()
    assert {m.level for m in whole if m.window == old[0].window} == {1.0}
    assert {m.level for m in whole if m.window == new[0].window} == {level}


def test_a_better_view_is_drawn_when_the_map_is_drawn_again(room: BoxRoom) -> None:
    items = seen(room, factors=(1.0,))
    poor = [replace(m, stored_cam=m.stored_cam[::9], colors_rgb=m.colors_rgb[::9],
                    conf=m.conf[::9]) for m in items]  # fmt: skip
    first = map_of(poor)
    few = len(first.drawing.voxels)
    graph = first.graph.drawn_as([replace(m, window=1) for m in items[:4]])
    better = replace(first, graph=graph)
    assert better.unsettled == 4
    assert len(better.drawing.voxels) == few
    settled = better.settled()
    assert settled.unsettled == 0
    assert len(settled.drawing.voxels) > few
    np.testing.assert_array_equal(graph.keyframes[0].T_map_cam, items[0].T_map_cam)
    assert len(settled.drawing.rebuilt(first.graph).voxels) == few
