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
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mvdust3r_ros.cli import main
from mvdust3r_ros.datatypes import Frame
from mvdust3r_ros.messages.frame_ids import choose_tf_topics, is_rectified, matching_frame
from mvdust3r_ros.messages.input_counts import InputCounts, by_kind
from mvdust3r_ros.recordings.bag import BagOptions, opened_bag, read_frames
from mvdust3r_ros.recordings.bag_messages import BagError
from mvdust3r_ros.recordings.bag_recording import bag_recording
from mvdust3r_ros.recordings.bag_topics import choose_image_topic
from mvdust3r_ros.recordings.recording import TruthOptions
from mvdust3r_ros.recordings.truth_files import TruthError

TYPES = get_typestore(Stores.ROS2_JAZZY).types
IMAGE, TF, STATIC, ODOM = "/camera/image_raw", "/tf", "/tf_static", "/odom"
Edit = Callable[[list[Any]], list[Any]]


def frame_ids(items: list[Any], change: Callable[[str], str], *topics: str) -> list[Any]:
    """Other names of frames in the messages of some topics; of all by default."""
    for item in items:
        if topics and item.topic not in topics:
            continue
        message = item.message
        for part in getattr(message, "transforms", [message]):
            part.header.frame_id = change(part.header.frame_id)
            if hasattr(part, "child_frame_id"):
                part.child_frame_id = change(part.child_frame_id)
    return items


def slashed(name: str) -> str:
    return f"/{name}"


def without(items: list[Any], *topics: str) -> list[Any]:
    return [i for i in items if i.topic not in topics]


def renamed(items: list[Any], names: dict[str, str]) -> list[Any]:
    for item in items:
        for old, new in names.items():
            if item.topic.startswith(old):
                item.topic = item.topic.replace(old, new, 1)
                break
    return items


def child_of_odometry(items: list[Any], name: str) -> list[Any]:
    for item in items:
        if item.topic == ODOM:
            item.message.child_frame_id = name
    return items


def as_pose(items: list[Any], kind: str) -> list[Any]:
    """Odometry as a message that holds a pose alone."""
    for item in items:
        if item.topic == ODOM:
            odom, name = item.message, kind.rpartition("/")[2]
            pose = odom.pose if "Covariance" in name else odom.pose.pose
            if name == "TransformStamped":
                place = odom.pose.pose.position
                vector = TYPES["geometry_msgs/msg/Vector3"](place.x, place.y, place.z)
                turn = odom.pose.pose.orientation
                pose = TYPES["geometry_msgs/msg/Transform"](vector, turn)
                item.message = TYPES[kind](odom.header, odom.child_frame_id, pose)
            else:
                item.message = TYPES[kind](odom.header, pose)
    return items


def second_robot(items: list[Any]) -> list[Any]:
    """Another robot with the same frames elsewhere, each in its own namespace."""
    others = [i for i in copy.deepcopy(items) if i.topic in (TF, STATIC, ODOM)]
    items = renamed(items, {t: f"/robot1{t}" for t in ("/camera", TF, STATIC, ODOM)})
    for item in others:
        item.log_ns += 1000
        for part in getattr(item.message, "transforms", ()):
            part.transform.translation.x += 40.0
            part.transform.rotation = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    return items + renamed(others, {t: f"/robot2{t}" for t in (TF, STATIC, ODOM)})


def shifted(items: list[Any], by_s: int, *topics: str) -> list[Any]:
    for item in items:
        if item.topic in topics:
            for part in getattr(item.message, "transforms", [item.message]):
                part.header.stamp.sec += by_s
    return items


def late(items: list[Any], topic: str) -> list[Any]:
    for item in items:
        item.log_ns += 900_000_000 if item.topic == topic else 0
    return items


def with_extra(items: list[Any], parent: str, child: str) -> list[Any]:
    """One more moving transform beside those there are."""
    more = [copy.deepcopy(i) for i in items if i.topic == TF]
    for item in more:
        item.message.transforms[0].header.frame_id = parent
        item.message.transforms[0].child_frame_id = child
        item.log_ns += 5
    return items + more


def delayed(items: list[Any], by_ns: int, *topics: str) -> list[Any]:
    """Recorded later, with the stamps that they had."""
    for item in items:
        item.log_ns += by_ns if item.topic in topics else 0
    return items


def another_sender(items: list[Any], parent: str, child: str) -> list[Any]:
    """Odometry of something else on the same topic, just after that of the robot."""
    others = [copy.deepcopy(i) for i in items if i.topic == ODOM]
    for item in others:
        item.log_ns += 1
        item.message.header.frame_id, item.message.child_frame_id = parent, child
        item.message.pose.pose.position.x += 10.0
    return others


def with_odometry(items: list[Any], topic: str) -> list[Any]:
    return renamed([copy.deepcopy(i) for i in items if i.topic == ODOM], {ODOM: topic})


def once_on_tf(items: list[Any], stamp_s: int) -> list[Any]:
    """What /tf_static has, sent as if it moved."""
    for item in items:
        if item.topic == STATIC:
            item.topic = TF
            for part in item.message.transforms:
                part.header.stamp.sec, part.header.stamp.nanosec = stamp_s, 0
    return items


def second_static(items: list[Any], parent: str, topic: str, shift_m: float) -> list[Any]:
    """The camera's place on the robot once more, before that which is right."""
    first = copy.deepcopy(items[0])
    first.topic = topic
    first.log_ns -= 1
    first.message.transforms[0].header.frame_id = parent
    first.message.transforms[0].transform.translation.z += shift_m
    return [first, *items]


def arm_last(items: list[Any]) -> list[Any]:
    items = second_static(items, "arm", STATIC, 0.0)
    items[0].log_ns += 10
    return items


def quaternions(items: list[Any], factor: float) -> list[Any]:
    for item in items:
        if item.topic == ODOM:
            turn = item.message.pose.pose.orientation
            for axis in "xyzw":
                setattr(turn, axis, getattr(turn, axis) * factor)
            item.message.pose.covariance = np.full(36, np.nan)
    return items


def frames_of(
    items: list[Any], drive: Any, folder: Path, **options: Any
) -> tuple[list[Frame], InputCounts]:
    inputs = InputCounts()
    frames = []
    for frame in read_frames(drive.write(folder, items), BagOptions(**options), inputs=inputs):
        inputs.add(frame)
        frames.append(frame)
    return frames, inputs


# What is understood: every image has the pose of its camera. Words that are said, if any.
UNDERSTOOD: dict[str, tuple[Edit, dict[str, Any], str]] = {
    "as it should be": (lambda m: m, {}, ""),
    "slashes everywhere": (lambda m: frame_ids(m, slashed), {}, ""),
    "slashes in images": (lambda m: frame_ids(m, slashed, IMAGE), {}, ""),
    "slashes in odometry": (lambda m: frame_ids(m, slashed, ODOM), {}, ""),
    "slashes in TF": (lambda m: frame_ids(m, slashed, TF, STATIC), {}, ""),
    "two slashes and spaces": (lambda m: frame_ids(m, lambda f: f" //{f} ", IMAGE, ODOM), {}, ""),
    "a slash behind": (lambda m: frame_ids(m, lambda f: f + "/", ODOM), {}, ""),
    "names with spaces": (lambda m: frame_ids(m, lambda f: f.replace("_", " ")), {}, ""),
    "TF alone": (lambda m: without(m, ODOM), {}, ""),
    "TF alone with slashes": (lambda m: frame_ids(without(m, ODOM), slashed), {}, ""),
    "TF when asked for": (lambda m: m, {"odometry": "tf"}, ""),
    "map->odom of a mapper": (lambda m: with_extra(without(m, ODOM), "map", "odom"), {}, ""),
    "static TF at the end": (lambda m: late(m, STATIC), {}, ""),
    "TF of robot1 with its name in front": (
        lambda m: frame_ids(m, lambda f: f"robot1/{f}", TF, STATIC), {}, ""),
    "images of robot1 with its name in front": (
        lambda m: frame_ids(m, lambda f: f"robot1/{f}", IMAGE), {}, ""),
    "frames of two robots in one TF": (
        lambda m: frame_ids(
            renamed(m, {"/camera": "/robot1/camera"}), lambda f: f"robot1/{f}", TF, STATIC)
        + [i for i in frame_ids(copy.deepcopy(m), lambda f: f.replace("robot1", "robot2"))
           if i.topic in (TF, STATIC)], {}, ""),
    "root named by hand": (
        lambda m: frame_ids(without(m, ODOM), lambda f: f.replace("odom", "world"), TF),
        {"odom_frame": "/world"}, ""),
    "a robot in a namespace": (
        lambda m: renamed(m, {t: f"/robot1{t}" for t in ("/camera", TF, STATIC, ODOM)}), {}, ""),
    "its moving TF alone in a namespace": (
        lambda m: renamed(without(m, ODOM), {"/tf": "/robot1/tf", "/camera": "/robot1/camera"}),
        {}, ""),
    "two robots": (second_robot, {}, "left out: /robot2/tf, /robot2/tf_static"),
    "two robots, TF alone": (
        lambda m: [i for i in second_robot(m) if not i.topic.endswith(ODOM)], {}, "left out"),
    "two robots, camera at the root": (
        lambda m: renamed(second_robot(m), {"/robot1/camera": "/camera"}),
        {"tf_topic": "/robot1/tf", "odom_topic": "/robot1/odom"}, ""),
    "TF of a motion capture beside": (
        lambda m: m + [
            i for i in renamed(copy.deepcopy(m), {STATIC: "/s", TF: "/mocap/tf"})
            if i.topic == "/mocap/tf"], {}, "left out: /mocap/tf"),
    "odometry names no child": (
        lambda m: child_of_odometry(m, ""), {}, "odometry names no child frame; 'base_link'"),
    "no child, static TF alone": (
        lambda m: child_of_odometry(without(m, TF), ""), {}, "'base_link' of TF is taken"),
    "images name no frame, camera_info does": (
        lambda m: frame_ids(m, lambda _: "", IMAGE), {}, ""),
    "images name no frame, the user does": (
        lambda m: frame_ids(m, lambda _: "", IMAGE, "/camera/camera_info"),
        {"camera_frame": "camera_optical"}, ""),
    "a frame that is its own parent": (
        lambda m: with_extra(m, "odd", "odd"), {}, "8 messages not used: TF 'odd' -> 'odd'"),
    "a loop in TF beside": (
        lambda m: with_extra(with_extra(m, "a", "b"), "b", "a"), {}, ""),
    "quaternions of length 0.5": (lambda m: quaternions(m, 0.5), {}, ""),
    "poses named by hand": (
        lambda m: as_pose(m, "geometry_msgs/msg/PoseStamped"), {"odom_topic": ODOM},
        "names no child frame"),
    "poses with covariance": (
        lambda m: as_pose(m, "geometry_msgs/msg/PoseWithCovarianceStamped"),
        {"odom_topic": ODOM}, "names no child frame"),
    "transforms of a tracker": (
        lambda m: as_pose(m, "geometry_msgs/msg/TransformStamped"), {"odom_topic": ODOM}, ""),
    "odometry names no frame at all": (
        lambda m: frame_ids(m, lambda _: "", ODOM), {}, "'base_link' of TF is taken"),
    "a topic without its slash": (
        lambda m: [*m, *with_odometry(m, "/wheels/odom")], {"odom_topic": "odom/"}, ""),
    "another base_link on an arm": (
        lambda m: frame_ids(m, lambda f: f.replace("base_link", "arm/base_link"), TF, STATIC),
        {}, "frame 'base_link' is not in TF; 'arm/base_link' is taken for it"),
    "two robots on one topic": (
        lambda m: [*m, *another_sender(m, "r2/odom", "r2/base_link")], {},
        "'odom' -> 'base_link' is taken, 'r2/odom' -> 'r2/base_link' left out"),
    "first messages without frames": (
        lambda m: [*m, *another_sender(m, "", "")[:2]], {}, "' -> '' left out"),
    "a second place of the camera": (
        lambda m: second_static(m, "base_link", STATIC, 0.2), {},
        "fixed transforms of 'camera_optical' with different values were sent: the last is taken"),
    "the same place twice": (lambda m: second_static(m, "base_link", STATIC, 0.0), {}, ""),
    "images that came late": (
        lambda m: delayed(m, 400_000_000, IMAGE), {}, "0.4 s behind those of the odometry that"),
    "odometry that came late": (
        lambda m: delayed(m, 700_000_000, ODOM), {}, "0.7 s ahead of those of the odometry"),
    "all came late": (lambda m: delayed(m, 900_000_000, IMAGE, ODOM, TF), {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_the_camera_is_where_it_was(kind: str, drive: Any, tmp_path: Path) -> None:
    edit, options, words = UNDERSTOOD[kind]
    frames, inputs = frames_of(edit(drive.items()), drive, tmp_path, **options)
    assert len(frames) == len(drive.T_odom_cam)
    for frame, T in zip(frames, drive.T_odom_cam, strict=True):
        np.testing.assert_allclose(frame.T_odom_cam, T, atol=1e-6)
    said = "\n".join(inputs.lines())
    assert words in said
    assert words or not said


def test_stamps_of_other_clocks_are_told_also_by_tf(drive: Any, tmp_path: Path) -> None:
    """A second apart: still within reach of each other, so the poses are there and wrong."""
    for kept, topic in ((ODOM, ODOM), (TF, TF)):
        items = without(drive.items(), *({ODOM, TF} - {kept}))
        _, inputs = frames_of(shifted(items, 1, topic), drive, tmp_path / topic.strip("/"))
        assert "1.0 s behind those of the odometry" in inputs.lines()[-1]


def test_a_recording_of_a_bag_that_was_played_in_a_loop(drive: Any, tmp_path: Path) -> None:
    once = type(drive)(frames=12)
    again = delayed(once.items(), 2 * 10**9, *{i.topic for i in once.items()})
    _, inputs = frames_of(once.items() + again, drive, tmp_path)
    (line,) = inputs.lines()
    assert (
        "the stamps of the images jump back 1 time, by 1.1 s at most: mapping may start again"
        in line
    )


# What cannot be known: no image has a pose of its camera, and one line says why.
NOT_KNOWN: dict[str, tuple[Edit, dict[str, Any], str]] = {
    "nothing": (lambda m: without(m, ODOM, TF, STATIC), {}, "holds no nav_msgs/msg/Odometry and"),
    "poses that nobody named": (
        lambda m: as_pose(without(m, TF, STATIC), "geometry_msgs/msg/PoseStamped"), {},
        "poses that --odom-topic may name: /odom"),
    "no TF": (lambda m: without(m, TF, STATIC), {}, "no TF came, so the way from 'base_link'"),
    "another base": (
        lambda m: child_of_odometry(m, "/base_footprint"), {},
        "frame 'base_footprint' is not in TF, which has 'camera_optical', 'base_link', 'odom'"),
    "another camera": (
        lambda m: frame_ids(m, lambda _: "left", IMAGE), {}, "frame 'left' is not in TF"),
    "two trees": (
        lambda m: frame_ids(m, lambda f: f.replace("base_link", "base"), STATIC), {},
        "no transform leads from 'base_link' to 'camera_optical': their trees end at 'odom' and"),
    "empty frames": (
        lambda m: frame_ids(m, lambda _: "", IMAGE, "/camera/camera_info"), {},
        "the images name no frame (header.frame_id is empty)"),
    "root of another name": (
        lambda m: frame_ids(without(m, ODOM), lambda f: f.replace("odom", "world"), TF), {},
        "frame 'odom' is not in TF, which has 'camera_optical', 'base_link', 'world'; name where"),
    "camera counts from boot": (
        lambda m: shifted(m, -1_699_999_000, IMAGE), {}, "odometry is of another time: it covers"),
    "odometry counts from boot": (
        lambda m: shifted(m, -1_699_999_000, ODOM), {}, "odometry is of another time"),
    "TF counts from boot": (
        lambda m: shifted(without(m, ODOM), -1_699_999_000, TF), {},
        "TF from 'odom' to 'camera_optical' is of another time"),
    "quaternions of zeros": (lambda m: quaternions(m, 0.0), {}, "no usable odometry message came"),
    "transforms of two other robots": (
        lambda m: renamed(
            [i for i in second_robot(m) if not i.topic.endswith(ODOM)],
            {"/robot1/camera": "/camera"}), {}, "transforms taken: none, as several robots"),
    "a fixed transform on /tf, of no time": (
        lambda m: once_on_tf(m, 0), {}, "holds a single pose of 'camera_optical'"),
    "a second parent of the camera": (
        arm_last, {}, "'camera_optical' has two parents in TF, 'base_link' and 'arm'"),
    "two nodes that send one frame": (
        lambda m: with_extra(without(m, ODOM), "map", "base_link"), {},
        "'base_link' has two parents in TF, 'odom' and 'map': only one may send it"),
    "no child and no TF": (
        lambda m: child_of_odometry(without(m, TF, STATIC), ""), {}, "odometry names no child"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_KNOWN)
def test_why_odometry_is_not_used_is_one_line(kind: str, drive: Any, tmp_path: Path) -> None:
    edit, options, words = NOT_KNOWN[kind]
    frames, inputs = frames_of(edit(drive.items()), drive, tmp_path, **options)
    assert len(frames) == len(drive.T_odom_cam)
    assert all(f.T_odom_cam is None for f in frames)
    said = inputs.lines()
    assert sum(line.startswith("odometry for 0 of 8 images: ") for line in said) == 1
    assert words in "\n".join(said)
    assert len(said) <= 2


def test_a_camera_that_names_its_body_frame_is_told(drive: Any, tmp_path: Path) -> None:
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
def with_copy(items: list[Any], topic: str, **fields: Any) -> list[Any]:
    copies = [copy.deepcopy(i) for i in items if i.topic == IMAGE]
    for item in copies:
        item.topic = topic
        for name, value in fields.items():
            setattr(item.message, name, value)
    return items + copies


def compressed_copy(items: list[Any], topic: str, form: str) -> list[Any]:
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
def test_the_camera_is_found_among_topics(kind: str, drive: Any, tmp_path: Path) -> None:
    edit, expected = TOPIC_CHOICES[kind]
    with opened_bag(drive.write(tmp_path, edit(drive.items()))) as reader:
        if expected.startswith("/"):
            assert choose_image_topic(reader) == expected
        else:
            with pytest.raises(BagError, match=expected):
                choose_image_topic(reader)


@pytest.mark.parametrize("silent", ["/rear/image_raw", f"{IMAGE}"])
def test_a_topic_without_messages_is_not_taken(silent: str, drive: Any, tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = get_typestore(Stores.ROS2_JAZZY)
    items = compressed_copy(drive.items(), f"{IMAGE}/compressed", "jpeg")
    kept = [i for i in items if i.topic != IMAGE] if silent == IMAGE else drive.items()
    with Writer(tmp_path / "b", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection(silent, "sensor_msgs/msg/Image", typestore=store)
        topics: dict[str, Any] = {}
        for item in kept:
            kind = item.message.__msgtype__
            if item.topic not in topics:
                topics[item.topic] = writer.add_connection(item.topic, kind, typestore=store)
            writer.write(topics[item.topic], item.log_ns, store.serialize_cdr(item.message, kind))
    with opened_bag(tmp_path / "b") as reader:
        expected = f"{IMAGE}/compressed" if silent == IMAGE else IMAGE
        assert choose_image_topic(reader) == expected


def test_several_odometries_of_one_robot_need_a_choice(drive: Any, tmp_path: Path) -> None:
    items = drive.items()
    more = [copy.deepcopy(i) for i in items if i.topic == ODOM]
    bag = drive.write(tmp_path, items + renamed(more, {ODOM: "/odometry/filtered"}))
    with pytest.raises(BagError, match="choose one by --odom-topic: /odom, /odometry/filtered"):
        bag_recording(bag, BagOptions(), TruthOptions())


# Stamps.
def stamps(items: list[Any], change: Callable[[int], float]) -> list[Any]:
    """Other seconds for the n-th image."""
    for n, item in enumerate(i for i in items if i.topic == IMAGE):
        value = round(change(n) * 1e9)
        item.message.header.stamp.sec = value // 10**9
        item.message.header.stamp.nanosec = value % 10**9
    return items


def test_images_without_stamps_are_named(
    drive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = drive.write(tmp_path, stamps(drive.items(), lambda _: 0))
    assert main(["evaluate", str(bag), "--truth", ODOM, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the 8 images of /camera/image_raw have the stamp 0; their driver" in error


def test_a_video_alone_names_what_makes_images_of_it(drive: Any, tmp_path: Path) -> None:
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
def test_topics_may_be_named_without_their_slash(wanted: str, drive: Any, tmp_path: Path) -> None:
    items = compressed_copy(drive.items(), f"{IMAGE}/compressed", "jpeg")
    with opened_bag(drive.write(tmp_path, [i for i in items if i.topic != IMAGE])) as reader:
        assert choose_image_topic(reader, wanted) == f"{IMAGE}/compressed"


def test_a_truth_of_another_clock_names_both_times(drive: Any, tmp_path: Path) -> None:
    items = as_pose(drive.items(), "geometry_msgs/msg/PoseStamped")
    bag = drive.write(tmp_path, shifted(items, -1_699_999_000, IMAGE))
    words = r"truth /odom is of 17\d+\.000 to .*, the images are of 1000\.000 to .*--truth none"
    with pytest.raises(TruthError, match=words):
        bag_recording(bag, BagOptions(), TruthOptions(truth="odom"))


def test_one_bad_pose_of_the_truth_is_left_out(drive: Any, tmp_path: Path) -> None:
    items = as_pose(drive.items(), "geometry_msgs/msg/PoseStamped")
    bad = next(i for i in items if i.topic == ODOM)
    bad.message.pose.orientation = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 0.0)
    recording = bag_recording(drive.write(tmp_path, items), BagOptions(), TruthOptions(truth=ODOM))
    assert recording.truth is not None
    assert len(recording.truth.stamps_ns) >= len(drive.stamps_ns) - 1
    assert (
        "truth /odom: 1 message not used: odometry: the quaternion" in recording.notes.lines()[0]
    )


def test_depth_of_another_camera_is_said(drive: Any, tmp_path: Path) -> None:
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
    drive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    drive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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


# The node understands a robot as the reader of bags does: the same messages, over DDS.
LIVE = (
    "slashes everywhere", "two slashes and spaces", "TF of robot1 with its name in front",
    "odometry names no child", "images name no frame, camera_info does",
    "odometry names no frame at all", "two robots on one topic",
)  # fmt: skip
LIVE_TF = ("TF alone with slashes",)
LIVE_NOT_KNOWN = ("another base", "empty frames", "camera counts from boot", "two trees")


class Robot:
    """The node's inputs, and a publisher of a bag's messages beside them."""

    def __init__(self, odom_source: str) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from mvdust3r_ros.ros.inputs import Inputs
        from mvdust3r_ros.ros.settings import RosSettings

        self.context = rclpy.Context()
        self.context.init()
        names = {"image": IMAGE, "camera_info": "/camera/camera_info", "odom": ODOM}
        words = [w for name, to in names.items() for w in ("-r", f"{name}:={to}")]
        self.node = rclpy.create_node(
            "robot_test", context=self.context, cli_args=["--ros-args", *words]
        )
        self.images: list[Any] = []
        self.faults: list[tuple[str, str]] = []
        kinds = ("image", "camera_info", "odom")
        reliable = dict.fromkeys((f"{k}_reliability" for k in kinds), "reliable")
        settings = RosSettings(odom_source=odom_source, image_depth=50, **reliable)
        self.inputs = Inputs(
            self.node, settings, self.images.append, lambda *words: self.faults.append(words)
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def hear(self, items: list[Any]) -> None:
        """Publish everything and take it in."""
        from rclpy.duration import Duration
        from rclpy.qos import QoSProfile
        from rclpy.serialization import deserialize_message

        from mvdust3r_ros.ros.message_types import message_class
        from mvdust3r_ros.ros.qos import STATIC_TF

        store = get_typestore(Stores.ROS2_JAZZY)
        kinds = {i.topic: i.message.__msgtype__ for i in items}
        outputs = {
            topic: self.node.create_publisher(
                message_class(kind), topic, STATIC_TF if topic == STATIC else QoSProfile(depth=50)
            )
            for topic, kind in kinds.items()
        }
        self.spin_until(lambda: all(o.get_subscription_count() for o in outputs.values()))
        count = len(self.images) + sum(i.topic == IMAGE for i in items)
        for item in sorted(items, key=lambda i: (i.topic == IMAGE, i.log_ns)):
            kind = item.message.__msgtype__
            raw = bytes(store.serialize_cdr(item.message, kind))
            outputs[item.topic].publish(deserialize_message(raw, message_class(kind)))
        for output in outputs.values():
            assert output.wait_for_all_acked(Duration(seconds=30))
        self.spin_until(lambda: len(self.images) == count)
        end_s = time.monotonic() + 0.3
        while time.monotonic() < end_s:
            self.executor.spin_once(0.05)

    def spin_until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 30.0
        while not condition():
            assert time.monotonic() < end_s
            self.executor.spin_once(0.05)

    def frames(self) -> list[Frame]:
        return [self.inputs.frame(image) for image in self.images]

    def close(self) -> None:
        self.inputs.close()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.mark.parametrize("kind", [*LIVE, *LIVE_TF, *LIVE_NOT_KNOWN])
def test_the_node_agrees_with_the_reader_of_bags(kind: str, drive: Any, tmp_path: Path) -> None:
    edit, options, words = UNDERSTOOD.get(kind) or NOT_KNOWN[kind]
    items = edit(drive.items())
    bag_frames, _ = frames_of(items, drive, tmp_path, **options)
    robot = Robot("tf" if kind in LIVE_TF else "topic")
    try:
        robot.hear(items)
        frames = robot.frames()
        said = "\n".join(words for _, words in robot.faults)
    finally:
        robot.close()
    assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in bag_frames]
    for live, read in zip(frames, bag_frames, strict=True):
        assert live.camera_name == read.camera_name
        np.testing.assert_allclose(live.camera.K, read.camera.K)
        for name in ("T_odom_cam", "T_odom_base"):
            one, other = getattr(live, name), getattr(read, name)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, atol=1e-9)
    assert words in said
    assert words or not said


def test_the_first_image_waits_for_a_calibration_that_comes(drive: Any) -> None:
    """The driver's first camera_info is zero, the next one comes while the image waits."""
    items = drive.items()
    calibrations = [i for i in items if i.topic == "/camera/camera_info"]
    calibrations[0].message.k = np.zeros(9)
    calibrations[0].message.p = np.zeros(12)
    robot = Robot("none")
    try:
        robot.hear([calibrations[0], *[i for i in items if i.topic == IMAGE][:1]])
        taken: list[Frame] = []
        thread = threading.Thread(target=lambda: taken.extend(robot.frames()))
        robot.inputs.settings = replace(robot.inputs.settings, odom_wait_s=5.0)
        thread.start()
        robot.hear(calibrations[1:2])
        thread.join()
    finally:
        robot.close()
    assert taken[0].camera is not None
    np.testing.assert_allclose(taken[0].camera.K, drive.K)
