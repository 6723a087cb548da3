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

"""Save, load, go on: the same frame, or a refusal in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from box_room import BoxRoom
from mvdust3r_ros.atlas.session_file import SessionFileError, read_session, session_bytes
from mvdust3r_ros.config import ConfigError, KeyframeSettings, MapperConfig
from mvdust3r_ros.datatypes import FloatArray, Frame, MapUpdate, Verdict
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.window.window_geometry import WindowError, WindowGeometry

CONFIG = MapperConfig(
    keyframes=KeyframeSettings(window_size=6, window_overlap=3, max_translation_m=0.2)
)
TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
T_NEW_ODOM_WORLD = make_se3(TURN, np.array([7.0, -3.0, 0.4]))


def new_mapper(seed: int = 0) -> Mapper:
    return Mapper(CONFIG, OracleEngine(noise=OracleNoise(points=0.01, scale=0.3, seed=seed)))


def frames(
    room: BoxRoom, poses: list[FloatArray], first_s: int, T_odom_world: FloatArray
) -> Iterator[Frame]:
    """The odometry of a new start has a frame of its own; the truth is for the oracle alone."""
    for i, T in enumerate(poses):
        frame = room.frame((first_s + i) * 10**9, T)
        yield replace(frame, T_odom_cam=T_odom_world @ T, T_world_cam=T)


def drive(mapper: Mapper, driven: Iterator[Frame]) -> list[MapUpdate]:
    updates = [mapper.process(frame) for frame in driven]
    return [u for u in updates if u is not None]


@pytest.fixture(scope="module")
def saved(room: BoxRoom, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapper]:
    mapper = new_mapper()
    drive(mapper, frames(room, room.walk(60)[:40], 1, np.eye(4)))
    path = tmp_path_factory.mktemp("maps") / "map.npz"
    path.write_bytes(session_bytes(mapper.saved()[1]))
    return path, mapper


def as_robot(driven: Iterator[Frame]) -> Iterator[Frame]:
    """The same frames from a robot whose base is below the camera."""
    for frame in driven:
        assert frame.T_odom_cam is not None
        base = np.eye(4)
        base[:3, 3] = frame.T_odom_cam[:3, 3] * (1, 1, 0)
        yield replace(frame, T_odom_base=base)


def test_where_the_robot_has_driven_is_saved_and_loaded(room: BoxRoom, tmp_path: Path) -> None:
    before, after = new_mapper(), new_mapper(1)
    drive(before, as_robot(frames(room, room.walk(60)[:14], 1, np.eye(4))))
    path = tmp_path / "map.npz"
    path.write_bytes(session_bytes(before.saved()[1]))
    after.restore(read_session(path))
    grids = [m.snapshot().grid for m in (before, after)]
    assert grids[0] is not None and grids[1] is not None
    np.testing.assert_array_equal(grids[0].cells, grids[1].cells)
    assert len(after.now.graph.driven_path) == len(before.now.graph.driven_path) > 3


@pytest.mark.slow
def test_a_map_saved_before_there_was_a_driven_path_loads(
    saved: tuple[Path, Mapper], tmp_path: Path
) -> None:
    with np.load(saved[0]) as archive:
        arrays = {name: archive[name] for name in archive.files if not name.startswith("way_")}
    old = tmp_path / "old.npz"
    np.savez_compressed(old, **arrays)
    assert len(read_session(old).driven_path) == 0
    broken = {**arrays, "way_until": np.zeros(3, np.int64)}
    np.savez_compressed(old, **broken)
    with pytest.raises(SessionFileError, match="do not fit together"):
        read_session(old)


def test_the_loaded_map_is_the_saved_one(saved: tuple[Path, Mapper]) -> None:
    path, before = saved
    after = new_mapper(1)
    after.restore(read_session(path))
    old, new = before.snapshot(), after.snapshot()
    assert old.grid is not None and new.grid is not None
    assert len(old.trajectory) >= 10
    np.testing.assert_array_equal(new.trajectory.T_world_cam, old.trajectory.T_world_cam)
    np.testing.assert_array_equal(new.trajectory.stamps_ns, old.trajectory.stamps_ns)
    assert len(new.points_map) == len(old.points_map)
    assert new.scale == old.scale and new.gate_open
    assert (new.grid.cells != old.grid.cells).mean() < 0.01


def test_a_motion_to_a_keyframe_that_is_not_there_is_refused(
    saved: tuple[Path, Mapper], tmp_path: Path
) -> None:
    with np.load(saved[0]) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["edge_ids"][0, 0] = 999
    path = tmp_path / "astray.npz"
    np.savez(path, **arrays)
    with pytest.raises(SessionFileError, match="a motion leads to a keyframe"):
        read_session(path)


@pytest.mark.slow
def test_the_drive_goes_on_in_the_same_frame(saved: tuple[Path, Mapper], room: BoxRoom) -> None:
    path, _ = saved
    mapper = new_mapper(2)
    mapper.restore(read_session(path))
    stored = {k.id for k in mapper.mapped_keyframes()}
    poses = room.walk(60)[25:55]
    updates = drive(mapper, frames(room, poses, 100, T_NEW_ODOM_WORLD))
    assert updates[0].verdict == Verdict.COMMITTED, updates[0].message
    assert all(u.verdict == Verdict.COMMITTED for u in updates)
    off_m = []
    for update in updates:
        for key, T in update.T_map_cam.items():
            if key not in stored:
                stamp_s = next(k.stamp_ns for k in update.window.keyframes if k.id == key) // 10**9
                true = poses[stamp_s - 100]
                off_m.append(
                    float(np.linalg.norm(T[:3, 3] - true[:3, 3] - offset(saved[1], room)))
                )
    assert len(off_m) >= 6
    assert max(off_m) < 0.05


def offset(mapper: Mapper, room: BoxRoom) -> FloatArray:
    """Where the first drive put its map: odometry's axes, moved up or down to the floor."""
    path = mapper.snapshot().trajectory
    truth = room.walk(60)
    off = [
        T[:3, 3] - truth[int(s) // 10**9 - 1][:3, 3]
        for s, T in zip(path.stamps_ns, path.T_world_cam, strict=True)
    ]
    middle: FloatArray = np.median(off, axis=0)
    return middle


def test_of_several_places_that_do_not_fit_the_likeliest_is_told_of(
    saved: tuple[Path, Mapper], room: BoxRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapper = new_mapper(3)
    mapper.restore(read_session(saved[0]))
    tried: list[str] = []

    def refuse(*_: object) -> None:
        tried.append(f"place {len(tried)}")
        raise WindowError(Verdict.REJECTED_POSE, tried[-1])

    monkeypatch.setattr(WindowGeometry, "check_adds_views", refuse)
    frames = [room.frame((200 + i) * 10**9, T) for i, T in enumerate(room.walk(60)[:12])]
    update = next(u for u in map(mapper.process, frames) if u is not None)
    assert len(tried) > 1
    assert "(place 0)" in update.message


@pytest.mark.slow
def test_another_place_is_refused_in_words_and_nothing_is_added(
    saved: tuple[Path, Mapper], room: BoxRoom
) -> None:
    path, _ = saved
    mapper = new_mapper(3)
    mapper.restore(read_session(path))
    before = mapper.snapshot()
    elsewhere = replace(
        room, size=(9.0, 4.0, 3.0), cupboard_low=(4.0, 1.0, 0.0), cupboard_high=(4.6, 3.0, 1.8)
    )
    away = make_se3(np.eye(3), np.array([50.0, 20.0, 0.0]))
    updates = []
    for i, T in enumerate(elsewhere.walk(30)):
        frame = replace(elsewhere.frame((200 + i) * 10**9, T), T_odom_cam=T, T_world_cam=away @ T)
        updates.append(mapper.process(frame))
    done = [u for u in updates if u is not None]
    assert done and all(u.verdict != Verdict.COMMITTED for u in done)
    assert "not found in the loaded map" in done[-1].message
    assert "~/reset" in done[-1].message
    after = mapper.snapshot()
    np.testing.assert_array_equal(before.trajectory.stamps_ns, after.trajectory.stamps_ns)
    np.testing.assert_array_equal(before.points_map, after.points_map)


@pytest.mark.slow
def test_the_same_shapes_in_other_colours_are_another_place(
    saved: tuple[Path, Mapper], room: BoxRoom
) -> None:
    mapper = new_mapper(4)
    mapper.restore(read_session(saved[0]))
    rng = np.random.default_rng(0)
    driven = [
        replace(f, image_rgb=rng.permuted(f.image_rgb.reshape(-1, 3), axis=0).reshape(72, 96, 3))
        for f in frames(room, room.walk(60)[:20], 100, np.eye(4))
    ]
    updates = drive(mapper, iter(driven))
    assert updates and all(u.verdict != Verdict.COMMITTED for u in updates)
    # shuffled pixels resemble a stored place only by chance, so the last one tried, whose reason
    # is given, may have nothing in common with some of the windows
    assert any("colours" in u.message for u in updates)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "flipped", "foreign"])
def test_a_bad_file_is_one_message_that_names_it(
    saved: tuple[Path, Mapper], tmp_path: Path, damage: str
) -> None:
    content = saved[0].read_bytes()
    path = tmp_path / "bad.npz"
    if damage == "foreign":
        np.savez(path, something=np.zeros(3))
    elif damage != "missing":
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0xFF
        text = b"image: map.pgm\n"
        path.write_bytes(
            {"empty": b"", "text": text, "cut": content[:-2000], "flipped": bytes(flipped)}[damage]
        )
    with pytest.raises(SessionFileError, match=r"bad\.npz"):
        read_session(path)


def test_pickled_objects_are_never_loaded(saved: tuple[Path, Mapper], tmp_path: Path) -> None:
    with np.load(saved[0]) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["cameras"] = np.array([{"a": 1}] * len(arrays["ids"]), dtype=object)
    path = tmp_path / "pickled.npz"
    np.savez(path, **arrays)
    with pytest.raises(SessionFileError, match=r"pickled\.npz"):
        read_session(path)


def test_parts_that_do_not_fit_together_are_refused(
    saved: tuple[Path, Mapper], tmp_path: Path
) -> None:
    with np.load(saved[0]) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["counts"] = arrays["counts"] + 1
    path = tmp_path / "uneven.npz"
    np.savez(path, **arrays)
    with pytest.raises(SessionFileError, match="do not fit together"):
        read_session(path)


def test_a_map_for_views_of_another_size_is_refused_and_the_map_unharmed(
    saved: tuple[Path, Mapper], room: BoxRoom
) -> None:
    mapper = Mapper(CONFIG, OracleEngine((64, 64)))
    drive(mapper, frames(room, room.walk(60)[:20], 1, np.eye(4)))
    before = mapper.snapshot()
    with pytest.raises(ConfigError, match="224x224"):
        mapper.restore(read_session(saved[0]))
    assert len(mapper.snapshot().trajectory) == len(before.trajectory) > 0
