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

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from box_room import BoxRoom
from mvdust3r_ros.cli import main
from mvdust3r_ros.drawing.map_files import read_tum
from mvdust3r_ros.recordings.bag import BagOptions, opened_bag, read_frames
from mvdust3r_ros.recordings.bag_messages import BagError
from mvdust3r_ros.recordings.depth_folder import DepthFolder, DepthFolderError
from room_bag import BagKind, RoomBag
from stored_data import OFFICE as DATA
from stored_data import needs_more_data


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("compressed", [False, True])
def test_frames_come_back_as_they_were_recorded(
    room: BoxRoom, make_bag: Callable[[BagKind], RoomBag], storage: StoragePlugin, compressed: bool
) -> None:
    made = make_bag(BagKind(storage=storage, compressed=compressed, frames=5))
    frames = list(read_frames(made.bag, BagOptions(depth_folder=made.depth)))
    assert [f.stamp_ns for f in frames] == made.stamps_ns
    for frame, T in zip(frames, made.poses, strict=True):
        np.testing.assert_array_equal(frame.image_rgb, room.image(T))
        np.testing.assert_allclose(frame.T_odom_cam, T, atol=1e-9)
        np.testing.assert_allclose(frame.depth_m, room.depth(T), atol=0.0006)
        assert frame.camera is not None
        np.testing.assert_array_equal(frame.camera.K, room.K)
        assert frame.camera_name == "camera_optical"


@pytest.mark.parametrize("odometry", ["base", "tf"])
def test_odometry_of_the_robot_reaches_the_camera(
    make_bag: Callable[[BagKind], RoomBag], odometry: str
) -> None:
    made = make_bag(BagKind(odometry=odometry, frames=4))
    places = []
    for frame, T in zip(read_frames(made.bag), made.poses, strict=True):
        np.testing.assert_allclose(frame.T_odom_cam, T, atol=1e-9)
        assert frame.T_odom_base is not None
        places.append(np.linalg.inv(frame.T_odom_base) @ frame.T_odom_cam)
    # the camera does not move on the robot, and the robot is somewhere else than the camera
    np.testing.assert_allclose(places, np.tile(places[0], (4, 1, 1)), atol=1e-9)
    assert np.linalg.norm(places[0][:3, 3]) > 0.1


def test_odometry_of_the_camera_itself_does_not_say_where_a_robot_is(room_bag: RoomBag) -> None:
    frames = list(read_frames(room_bag.bag, BagOptions(max_frames=3)))
    assert [f.T_odom_base for f in frames] == [None] * 3


def test_without_odometry_frames_have_no_pose(
    make_bag: Callable[[BagKind], RoomBag], room_bag: RoomBag
) -> None:
    made = make_bag(BagKind(odometry="none", frames=2))
    assert all(f.T_odom_cam is None for f in read_frames(made.bag))
    ignored = BagOptions(odometry="none", camera_info_topic="none", max_frames=2)
    frames = list(read_frames(room_bag.bag, ignored))
    assert [(f.T_odom_cam, f.camera, f.depth_m) for f in frames] == [(None, None, None)] * 2


def test_odometry_that_nothing_connects_to_the_camera_is_that_of_the_robot(
    room_bag: RoomBag,
) -> None:
    frames = read_frames(room_bag.bag, BagOptions(camera_frame="left", max_frames=3))
    for frame, T in zip(frames, room_bag.poses[:3], strict=True):
        assert frame.T_odom_cam is None
        np.testing.assert_allclose(frame.T_odom_base, T, atol=1e-9)


def test_two_cameras_need_a_choice(make_bag: Callable[[BagKind], RoomBag]) -> None:
    made = make_bag(BagKind(second_camera=True, frames=2))
    with pytest.raises(
        BagError, match=r"choose one by --image-topic: /camera/image_raw, /rear/image_raw"
    ):
        next(read_frames(made.bag))
    frames = list(read_frames(made.bag, BagOptions(image_topic="/rear/image_raw")))
    assert len(frames) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BagOptions(image_topic="/front"), "no image topic /front; it has /camera/image_raw"),
        (BagOptions(camera_info_topic="/info"), "/info; it has /camera/camera_info"),
        (BagOptions(odom_topic="/o"), "no odometry /o; it has /odom"),
        (BagOptions(depth_topic="/d"), "no depth topic /d"),
    ],
)
def test_a_missing_topic_is_named_with_those_there_are(
    room_bag: RoomBag, options: BagOptions, words: str
) -> None:
    with pytest.raises(BagError, match=words):
        next(read_frames(room_bag.bag, options))


def test_a_bag_without_images_lists_its_topics(make_bag: Callable[[BagKind], RoomBag]) -> None:
    made = make_bag(BagKind(frames=0))
    with pytest.raises(BagError, match="no images; its topics: "):
        next(read_frames(made.bag))


def test_what_is_no_bag_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        next(read_frames(tmp_path / "nothing"))
    (tmp_path / "broken.mcap").write_bytes(b"no bag at all")
    with pytest.raises(BagError, match=r"broken\.mcap"):
        next(read_frames(tmp_path / "broken.mcap"))


def test_a_single_file_is_a_bag_too(room_bag: RoomBag) -> None:
    (file,) = room_bag.bag.glob("*.mcap")
    with opened_bag(file) as reader:
        assert reader.message_count == 3 * len(room_bag.stamps_ns)


def test_a_depth_folder_by_number_and_by_stamp(tmp_path: Path, room_bag: RoomBag) -> None:
    by_number = DepthFolder(room_bag.depth)
    assert by_number.path(3, 0) == room_bag.depth / "000003.png"
    assert by_number.path(999, 0) is None
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "b.png").write_bytes((room_bag.depth / "000003.png").read_bytes())
    (tmp_path / "frames.csv").write_text("timestamp,depth_file\n17.000000001,depth/b.png\n")
    by_stamp = DepthFolder(tmp_path / "depth")
    assert by_stamp.path(0, 17_000_000_001) == tmp_path / "depth" / "b.png"
    assert by_stamp.path(0, 17_000_000_002) is None


def test_an_image_whose_depth_is_bad_comes_without(make_bag: Callable[[BagKind], RoomBag]) -> None:
    made = make_bag(BagKind(frames=4))
    (made.depth / "000001.png").write_bytes(b"no picture")
    frames = list(read_frames(made.bag, BagOptions(depth_folder=made.depth)))
    assert [frame.depth_m is None for frame in frames] == [False, True, False, False]


def test_bad_depth_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DepthFolderError, match=r"no \.png"):
        DepthFolder(tmp_path)
    (tmp_path / "000000.png").write_bytes(b"no picture")
    with pytest.raises(DepthFolderError, match="depth image starts with 6e6f2070, neither"):
        DepthFolder(tmp_path).load_mm(0, 0)
    (tmp_path / "frames.csv").write_text("time,file\n1,2\n")
    with pytest.raises(DepthFolderError, match="timestamp and depth_file"):
        DepthFolder(tmp_path)


@needs_more_data
def test_the_real_bag_has_all_it_should() -> None:
    frames = list(read_frames(DATA / "bag", BagOptions(depth_folder=DATA / "depth")))
    truth = read_tum(DATA / "poses.txt")
    assert [f.stamp_ns for f in frames] == truth.stamps_ns.tolist()
    assert all(f.image_rgb.shape == (360, 540, 3) and f.camera is not None for f in frames)
    poses = np.array([f.T_odom_cam for f in frames])
    np.testing.assert_allclose(poses, truth.T_world_cam, atol=1e-5)
    assert all(f.depth_m is not None and (f.depth_m > 0).mean() > 0.2 for f in frames)


@needs_more_data
def test_the_raw_bag_is_the_same_footage_and_its_odometry_is_on_tf_too() -> None:
    raw = list(
        read_frames(DATA / "bag_raw_short", BagOptions(odometry="tf", depth_folder=DATA / "depth"))
    )
    jpeg = {f.stamp_ns: f for f in read_frames(DATA / "bag")}
    assert len(raw) == 12
    for frame in raw:
        twin = jpeg[frame.stamp_ns]
        np.testing.assert_allclose(frame.T_odom_cam, twin.T_odom_cam, atol=1e-9)
        difference = frame.image_rgb.astype(int) - twin.image_rgb
        assert np.abs(difference).mean() < 4
        assert frame.depth_m is not None


@pytest.mark.parametrize("fits", [True, False], ids=["a map", "no map"])
@pytest.mark.slow
def test_without_the_cameras_place_mapping_says_what_to_record(
    make_bag: Callable[[BagKind], RoomBag],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fits: bool,
) -> None:
    made = make_bag(BagKind(odometry="unmounted", frames=20))
    if fits:  # the room model is no good in this room, and without odometry its pictures show it
        monkeypatch.setattr("mvdust3r_ros.mapper.check_disconnected_window", lambda *_: None)
    engine = str(Path(__file__).parents[1] / "models" / "room")
    words = ["map", str(made.bag), "--engine", engine, "--out", str(tmp_path)]
    assert main(words) == (0 if fits else 1)
    out, err = capsys.readouterr()
    printed = out if fits else err
    assert ("no map: " in err) != fits
    assert "nothing in the bag says how the camera sits on it" in printed
    assert "record /tf_static too" in printed
    assert "odometry for 0 of 20 images" in printed
