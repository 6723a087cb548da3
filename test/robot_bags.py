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

"""How the bags of robots differ: edits of a short drive, and what is made of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import Frame
from mvdust3r_ros.messages.input_counts import InputCounts
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from room_bag import STORE
from short_drive import Drive, Recorded

TYPES = STORE.types
IMAGE, TF, STATIC, ODOM = "/camera/image_raw", "/tf", "/tf_static", "/odom"
Edit = Callable[[list[Recorded]], list[Recorded]]


def frame_ids(items: list[Recorded], change: Callable[[str], str], *topics: str) -> list[Recorded]:
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


def without(items: list[Recorded], *topics: str) -> list[Recorded]:
    return [i for i in items if i.topic not in topics]


def renamed(items: list[Recorded], names: dict[str, str]) -> list[Recorded]:
    for item in items:
        for old, new in names.items():
            if item.topic.startswith(old):
                item.topic = item.topic.replace(old, new, 1)
                break
    return items


def child_of_odometry(items: list[Recorded], name: str) -> list[Recorded]:
    for item in items:
        if item.topic == ODOM:
            item.message.child_frame_id = name
    return items


def as_pose(items: list[Recorded], kind: str) -> list[Recorded]:
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


def second_robot(items: list[Recorded]) -> list[Recorded]:
    """Another robot with the same frames elsewhere, each in its own namespace."""
    others = [i for i in copy.deepcopy(items) if i.topic in (TF, STATIC, ODOM)]
    items = renamed(items, {t: f"/robot1{t}" for t in ("/camera", TF, STATIC, ODOM)})
    for item in others:
        item.log_ns += 1000
        for part in getattr(item.message, "transforms", ()):
            part.transform.translation.x += 40.0
            part.transform.rotation = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    return items + renamed(others, {t: f"/robot2{t}" for t in (TF, STATIC, ODOM)})


def shifted(items: list[Recorded], by_s: int, *topics: str) -> list[Recorded]:
    for item in items:
        if item.topic in topics:
            for part in getattr(item.message, "transforms", [item.message]):
                part.header.stamp.sec += by_s
    return items


def late(items: list[Recorded], topic: str) -> list[Recorded]:
    for item in items:
        item.log_ns += 900_000_000 if item.topic == topic else 0
    return items


def with_extra(items: list[Recorded], parent: str, child: str) -> list[Recorded]:
    """One more moving transform beside those there are."""
    more = [copy.deepcopy(i) for i in items if i.topic == TF]
    for item in more:
        item.message.transforms[0].header.frame_id = parent
        item.message.transforms[0].child_frame_id = child
        item.log_ns += 5
    return items + more


def delayed(items: list[Recorded], by_ns: int, *topics: str) -> list[Recorded]:
    """Recorded later, with the stamps that they had."""
    for item in items:
        item.log_ns += by_ns if item.topic in topics else 0
    return items


def another_sender(items: list[Recorded], parent: str, child: str) -> list[Recorded]:
    """Odometry of something else on the same topic, just after that of the robot."""
    others = [copy.deepcopy(i) for i in items if i.topic == ODOM]
    for item in others:
        item.log_ns += 1
        item.message.header.frame_id, item.message.child_frame_id = parent, child
        item.message.pose.pose.position.x += 10.0
    return others


def with_odometry(items: list[Recorded], topic: str) -> list[Recorded]:
    return renamed([copy.deepcopy(i) for i in items if i.topic == ODOM], {ODOM: topic})


def once_on_tf(items: list[Recorded], stamp_s: int) -> list[Recorded]:
    """What /tf_static has, sent as if it moved."""
    for item in items:
        if item.topic == STATIC:
            item.topic = TF
            for part in item.message.transforms:
                part.header.stamp.sec, part.header.stamp.nanosec = stamp_s, 0
    return items


def second_static(
    items: list[Recorded], parent: str, topic: str, shift_m: float
) -> list[Recorded]:
    """The camera's place on the robot once more, before that which is right."""
    first = copy.deepcopy(items[0])
    first.topic = topic
    first.log_ns -= 1
    first.message.transforms[0].header.frame_id = parent
    first.message.transforms[0].transform.translation.z += shift_m
    return [first, *items]


def arm_last(items: list[Recorded]) -> list[Recorded]:
    items = second_static(items, "arm", STATIC, 0.0)
    items[0].log_ns += 10
    return items


def quaternions(items: list[Recorded], factor: float) -> list[Recorded]:
    for item in items:
        if item.topic == ODOM:
            turn = item.message.pose.pose.orientation
            for axis in "xyzw":
                setattr(turn, axis, getattr(turn, axis) * factor)
            item.message.pose.covariance = np.full(36, np.nan)
    return items


def frames_of(
    items: list[Recorded], drive: Drive, folder: Path, **options: Any
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


# What cannot be known: no image has a pose of its camera, and one line says why.
NOT_KNOWN: dict[str, tuple[Edit, dict[str, Any], str]] = {
    "nothing": (lambda m: without(m, ODOM, TF, STATIC), {}, "holds no nav_msgs/msg/Odometry and"),
    "poses that nobody named": (
        lambda m: as_pose(without(m, TF, STATIC), "geometry_msgs/msg/PoseStamped"), {},
        "poses that --odom-topic may name: /odom"),
    "no TF": (
        lambda m: without(m, TF, STATIC), {},
        "no TF came, so the transform from 'base_link'"),
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
