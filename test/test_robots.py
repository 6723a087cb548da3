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

"""Robots as they come: their frames, transforms, odometry, topics and stamps, from bags."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mvdust3r_ros.cli import main
from mvdust3r_ros.messages.frame_ids import choose_tf_topics, is_rectified, matching_frame
from mvdust3r_ros.messages.input_counts import by_kind
from mvdust3r_ros.recordings.bag import BagOptions, opened_bag
from mvdust3r_ros.recordings.bag_messages import BagError
from mvdust3r_ros.recordings.bag_recording import bag_recording
from mvdust3r_ros.recordings.bag_topics import choose_image_topic
from mvdust3r_ros.recordings.recording import TruthOptions
from mvdust3r_ros.recordings.truth_files import TruthError
from robot_bags import (
    IMAGE,
    NOT_KNOWN,
    ODOM,
    TF,
    TYPES,
    UNDERSTOOD,
    Edit,
    as_pose,
    delayed,
    frame_ids,
    frames_of,
    renamed,
    shifted,
    without,
)
from short_drive import Drive, Recorded


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_the_camera_is_where_it_was(kind: str, drive: Drive, tmp_path: Path) -> None:
    edit, options, words = UNDERSTOOD[kind]
    frames, inputs = frames_of(edit(drive.items()), drive, tmp_path, **options)
    assert len(frames) == len(drive.T_odom_cam)
    for frame, T in zip(frames, drive.T_odom_cam, strict=True):
        np.testing.assert_allclose(frame.T_odom_cam, T, atol=1e-6)
    said = "\n".join(inputs.lines())
    assert words in said
    assert words or not said


def test_stamps_of_other_clocks_are_told_also_by_tf(drive: Drive, tmp_path: Path) -> None:
    """A second apart: still within reach of each other, so the poses are there and wrong."""
    for kept, topic in ((ODOM, ODOM), (TF, TF)):
        items = without(drive.items(), *({ODOM, TF} - {kept}))
        _, inputs = frames_of(shifted(items, 1, topic), drive, tmp_path / topic.strip("/"))
        assert "1.0 s behind those of the odometry" in inputs.lines()[-1]


def test_a_recording_of_a_bag_that_was_played_in_a_loop(drive: Drive, tmp_path: Path) -> None:
    once = Drive(frames=12)
    again = delayed(once.items(), 2 * 10**9, *{i.topic for i in once.items()})
    _, inputs = frames_of(once.items() + again, drive, tmp_path)
    (line,) = inputs.lines()
    assert (
        "the stamps of the images jump back 1 time, by 1.1 s at most: mapping may start again"
        in line
    )


@pytest.mark.parametrize("kind", NOT_KNOWN)
def test_why_odometry_is_not_used_is_one_line(kind: str, drive: Drive, tmp_path: Path) -> None:
    edit, options, words = NOT_KNOWN[kind]
    frames, inputs = frames_of(edit(drive.items()), drive, tmp_path, **options)
    assert len(frames) == len(drive.T_odom_cam)
    assert all(f.T_odom_cam is None for f in frames)
    said = inputs.lines()
    assert sum(line.startswith("odometry for 0 of 8 images: ") for line in said) == 1
    assert words in "\n".join(said)
    assert len(said) <= 2


def test_a_camera_that_names_its_body_frame_is_told(drive: Drive, tmp_path: Path) -> None:
    """The frame looks along its x axis, as base_link does."""
    items = drive.items()
    link = copy.deepcopy(items[0].message.transforms[0])
    link.child_frame_id = "camera_link"
    link.transform.rotation = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    items[0].message.transforms.append(link)
    named = frame_ids(items, lambda _: "camera_link", IMAGE)
    _, inputs = frames_of(named, drive, tmp_path / "named")
    (line,) = inputs.lines()
    assert "frame 'camera_link' looks along its x axis as a body frame does" in line
    frames, inputs = frames_of(named, drive, tmp_path / "told", camera_frame="camera_optical")
    assert inputs.lines() == []
    np.testing.assert_allclose(frames[3].T_odom_cam, drive.T_odom_cam[3], atol=1e-9)


# Topics: which one is taken, or the words of the refusal.
def with_copy(items: list[Recorded], topic: str, **fields: Any) -> list[Recorded]:
    copies = [copy.deepcopy(i) for i in items if i.topic == IMAGE]
    for item in copies:
        item.topic = topic
        for name, value in fields.items():
            setattr(item.message, name, value)
    return items + copies


def compressed_copy(items: list[Recorded], topic: str, form: str) -> list[Recorded]:
    made = with_copy(items, topic)
    for item in made:
        if item.topic == topic:
            kind = TYPES["sensor_msgs/msg/CompressedImage"]
            item.message = kind(item.message.header, form, np.zeros(40, np.uint8))
    return made


TOPIC_CHOICES: dict[str, tuple[Edit, str]] = {
    "Gazebo's name of an RGB-D camera": (
        lambda m: renamed(m, {"/camera": "/depth_camera"}), "/depth_camera/image_raw"),
    "depth beside colour": (
        lambda m: with_copy(m, "/camera/range", encoding="16UC1"), IMAGE),
    "depth as floats": (lambda m: with_copy(m, "/camera/depth/image", encoding="32FC1"), IMAGE),
    "depth that says mono16": (
        lambda m: with_copy(m, "/camera/depth/image_raw", encoding="mono16"), IMAGE),
    "compressed depth": (
        lambda m: compressed_copy(m, f"{IMAGE}/compressedDepth", "16UC1; compressedDepth"), IMAGE),
    "zstd beside": (lambda m: compressed_copy(m, f"{IMAGE}/zstd", "zstd"), IMAGE),
    "compressed beside": (lambda m: compressed_copy(m, f"{IMAGE}/compressed", "jpeg"), IMAGE),
    "two cameras": (
        lambda m: with_copy(m, "/rear/image_raw"), "choose one by --image-topic: /camera/image"),
    "depth alone": (
        lambda m: [i for i in with_copy(m, "/d/image", encoding="16UC1") if i.topic != IMAGE],
        "--image-topic names one; its topics: .*/d/image"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOPIC_CHOICES)
def test_the_camera_is_found_among_topics(kind: str, drive: Drive, tmp_path: Path) -> None:
    edit, expected = TOPIC_CHOICES[kind]
    with opened_bag(drive.write(tmp_path, edit(drive.items()))) as reader:
        if expected.startswith("/"):
            assert choose_image_topic(reader) == expected
        else:
            with pytest.raises(BagError, match=expected):
                choose_image_topic(reader)


@pytest.mark.parametrize("silent", ["/rear/image_raw", f"{IMAGE}"])
def test_a_topic_without_messages_is_not_taken(silent: str, drive: Drive, tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = get_typestore(Stores.ROS2_JAZZY)
    items = compressed_copy(drive.items(), f"{IMAGE}/compressed", "jpeg")
    kept = [i for i in items if i.topic != IMAGE] if silent == IMAGE else drive.items()
    with Writer(tmp_path / "b", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection(silent, "sensor_msgs/msg/Image", typestore=store)
        topics: dict[str, Connection] = {}
        for item in kept:
            kind = item.message.__msgtype__
            if item.topic not in topics:
                topics[item.topic] = writer.add_connection(item.topic, kind, typestore=store)
            writer.write(topics[item.topic], item.log_ns, store.serialize_cdr(item.message, kind))
    with opened_bag(tmp_path / "b") as reader:
        expected = f"{IMAGE}/compressed" if silent == IMAGE else IMAGE
        assert choose_image_topic(reader) == expected


def test_several_odometries_of_one_robot_need_a_choice(drive: Drive, tmp_path: Path) -> None:
    items = drive.items()
    more = [copy.deepcopy(i) for i in items if i.topic == ODOM]
    bag = drive.write(tmp_path, items + renamed(more, {ODOM: "/odometry/filtered"}))
    with pytest.raises(BagError, match="choose one by --odom-topic: /odom, /odometry/filtered"):
        bag_recording(bag, BagOptions(), TruthOptions())


# Stamps.
def stamps(items: list[Recorded], change: Callable[[int], float]) -> list[Recorded]:
    """Other seconds for the n-th image."""
    for n, item in enumerate(i for i in items if i.topic == IMAGE):
        value = round(change(n) * 1e9)
        item.message.header.stamp.sec = value // 10**9
        item.message.header.stamp.nanosec = value % 10**9
    return items


def test_images_without_stamps_are_named(
    drive: Drive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = drive.write(tmp_path, stamps(drive.items(), lambda _: 0))
    assert main(["evaluate", str(bag), "--truth", ODOM, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the 8 images of /camera/image_raw have the stamp 0; their driver" in error


def test_a_video_alone_names_what_makes_images_of_it(drive: Drive, tmp_path: Path) -> None:
    kind, topic = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", f"{IMAGE}/ffmpeg"
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("std_msgs/Header header\nuint8[] data", kind))
    header = drive.items()[-1].message.header
    packet = store.types[kind](header, np.zeros(9, np.uint8))
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, kind, typestore=store)
        writer.write(connection, 1, store.serialize_cdr(packet, kind))
    with opened_bag(tmp_path / "bag") as reader:
        for wanted in ("", topic):
            with pytest.raises(BagError, match="FFMPEGPacket holds video: `ros2 run image_tran"):
                choose_image_topic(reader, wanted)


@pytest.mark.parametrize("wanted", ["camera/image_raw", "/camera/image_raw/", IMAGE])
def test_topics_may_be_named_without_their_slash(
    wanted: str, drive: Drive, tmp_path: Path
) -> None:
    items = compressed_copy(drive.items(), f"{IMAGE}/compressed", "jpeg")
    with opened_bag(drive.write(tmp_path, [i for i in items if i.topic != IMAGE])) as reader:
        assert choose_image_topic(reader, wanted) == f"{IMAGE}/compressed"


def test_a_truth_of_another_clock_names_both_times(drive: Drive, tmp_path: Path) -> None:
    items = as_pose(drive.items(), "geometry_msgs/msg/PoseStamped")
    bag = drive.write(tmp_path, shifted(items, -1_699_999_000, IMAGE))
    words = r"truth /odom is of 17\d+\.000 to .*, the images are of 1000\.000 to .*--truth none"
    with pytest.raises(TruthError, match=words):
        bag_recording(bag, BagOptions(), TruthOptions(truth="odom"))


def test_one_bad_pose_of_the_truth_is_left_out(drive: Drive, tmp_path: Path) -> None:
    items = as_pose(drive.items(), "geometry_msgs/msg/PoseStamped")
    bad = next(i for i in items if i.topic == ODOM)
    bad.message.pose.orientation = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 0.0)
    recording = bag_recording(drive.write(tmp_path, items), BagOptions(), TruthOptions(truth=ODOM))
    assert recording.truth is not None
    assert len(recording.truth.stamps_ns) >= len(drive.stamps_ns) - 1
    assert (
        "truth /odom: 1 message not used: odometry: the quaternion" in recording.notes.lines()[0]
    )


def test_depth_of_another_camera_is_said(drive: Drive, tmp_path: Path) -> None:
    depth = np.full((30, 40), 900, "<u2").tobytes()
    items = with_copy(
        drive.items(), "/depth", encoding="16UC1", step=80, data=np.frombuffer(depth, np.uint8)
    )
    _, inputs = frames_of(items, drive, tmp_path / "same", depth_topic="/depth")
    assert inputs.lines() == []
    items = frame_ids(items, lambda _: "depth_optical", "/depth")
    _, inputs = frames_of(items, drive, tmp_path / "other", depth_topic="/depth")
    (line,) = inputs.lines()
    assert "depth is of frame 'depth_optical', the images are of 'camera_optical'" in line


def test_not_one_usable_image_is_an_error(
    drive: Drive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = compressed_copy(drive.items(), f"{IMAGE}/compressed", "h264")
    bag = drive.write(tmp_path, [i for i in items if i.topic != IMAGE])
    assert main(["evaluate", str(bag), "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "not one of 8 images could be used: compressed image starts with" in captured.err
    assert "8 images not used: compressed image" in captured.out
    assert "images with odometry 0, camera_info 0, depth 0" in captured.out


def test_faults_that_differ_in_numbers_are_one_line() -> None:
    messages = {"left: stamp 12 ns is not newer than 15 ns": 1,
                "left: stamp 13 ns is not newer than 15 ns": 2, "damaged": 4}  # fmt: skip
    assert by_kind(messages) == {"left: stamp 12 ns is not newer than 15 ns": 3, "damaged": 4}


def test_stamps_that_come_twice_are_one_line(
    drive: Drive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [s * 1e-9 for s in drive.stamps_ns]
    items = stamps(drive.items(), lambda n: seconds[n - n % 2])
    bag = drive.write(tmp_path, items)
    main(["evaluate", str(bag), "--truth", "none", "--out", str(tmp_path / "out")])
    said = [x for x in capsys.readouterr().out.splitlines() if "is not newer" in x]
    assert len(said) == 1
    assert said[0].startswith("4 images not used: ")


@pytest.mark.parametrize(
    ("topics", "near", "chosen"),
    [
        (["/tf", "/tf_static"], ["/camera/image"], ["/tf", "/tf_static"]),
        (["/r1/tf", "/r1/tf_static"], ["/camera/image"], ["/r1/tf", "/r1/tf_static"]),
        (["/tf", "/r1/tf", "/tf_static"], ["/r1/cam/image"], ["/r1/tf", "/tf_static"]),
        (["/r1/tf", "/r2/tf"], ["/cam/image", "/r2/odom"], ["/r2/tf"]),
        (["/r1/tf", "/r2/tf"], ["/cam/image"], []),
        (["/tf", "/tf_old"], ["/cam/image"], ["/tf"]),
        (["/r1/tf", "/r11/tf"], ["/r11/image"], ["/r11/tf"]),
    ],
)
def test_transforms_of_the_robot_are_chosen(
    topics: list[str], near: list[str], chosen: list[str]
) -> None:
    taken, left = choose_tf_topics(topics, near)
    assert taken == chosen
    assert sorted(taken + left) == sorted(topics)


def test_frames_with_and_without_the_name_of_the_robot() -> None:
    known = {"robot1/base", "robot1/cam", "robot2/cam", "odom"}
    assert matching_frame("base", known) == "robot1/base"
    assert matching_frame("robot1/odom", known) == "odom"
    assert matching_frame("cam", known) == "cam"
    assert matching_frame("cam", known, "/robot2/image") == "robot2/cam"
    assert matching_frame("case", known) == "case"


def test_rectified_images_are_known_by_their_topic() -> None:
    for topic in ("/cam/image_rect", "/zed/left/image_rect_color/compressed", "/cam/rect/image",
                  "/left/image_rectified"):  # fmt: skip
        assert is_rectified(topic)
    for topic in ("/cam/image_raw", "/direct/image", "/cam/image_color", "/rectory/image"):
        assert not is_rectified(topic)
