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

"""Choose the topics of a bag: camera, camera_info and odometry of its robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rosbags.interfaces import Connection

from mvdust3r_ros.messages.frame_ids import choose_tf_topics, namespace, plain_frame
from mvdust3r_ros.messages.images import IMAGE_TYPES, ConversionError
from mvdust3r_ros.recordings.bag_files import BagReader
from mvdust3r_ros.recordings.bag_messages import BagError, decoded, raw_messages

DEPTH_TYPE = IMAGE_TYPES[0]
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOM_TYPE = "nav_msgs/msg/Odometry"
TF_TYPE = "tf2_msgs/msg/TFMessage"
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
)
TRUTH_NAMES = ("truth", "vicon", "mocap", "optitrack")
COMPRESSED = "/compressed"
OTHER_TRANSPORTS = ("/compressedDepth", "/zstd", "/theora", "/ffmpeg")
VIDEO_TYPES = ("/FFMPEGPacket", "/CompressedVideo", "/Packet")
DEPTH_ENCODINGS = ("16UC1", "32FC1", "compressedDepth")
EITHER_ENCODINGS = ("", "mono16")


def camera_of(image_topic: str) -> str:
    """Return the namespace of a camera's topics: "/camera" of "/camera/image_raw/compressed"."""
    return namespace(image_topic.removesuffix(COMPRESSED))


def choose_image_topic(reader: BagReader, wanted: str = "") -> str:
    """Choose the image topic: colour, and not empty if others have messages.

    Raises:
        BagError: it is not in the bag, or several are possible; the message lists them.
    """
    images = {c.topic: c for c in reader.connections if c.msgtype in IMAGE_TYPES}
    if wanted:
        topic = full_name(wanted)
        if topic in images or topic + COMPRESSED in images:
            return topic if topic in images else topic + COMPRESSED
        kinds = [c.msgtype for c in reader.connections if c.topic == topic]
        if kinds:
            raise BagError(f"{topic} is {kinds[0]}, no image{_video_hint(kinds)}")
        raise BagError(f"the bag has no image topic {wanted}; it has {listed(sorted(images))}")
    if not images:
        video = _video_hint([c.msgtype for c in reader.connections])
        there = listed(all_topics(reader))
        raise BagError(f"the bag has no images{video}; its topics: {there}")
    usable = {t: c for t, c in images.items() if not t.endswith(OTHER_TRANSPORTS)}
    heard = {t: c for t, c in usable.items() if c.msgcount} or usable
    colour = sorted(t for t, c in heard.items() if not _is_depth(reader, c))
    # A topic and its compressed copy are of one camera; the raw one needs no decoding.
    distinct = [t for t in colour if not _is_copy(t, colour)]
    if len(distinct) == 1:
        return distinct[0]
    if not distinct:
        raise BagError(
            "the bag has no image topic that is taken by itself, --image-topic names one; "
            f"its topics: {listed(all_topics(reader))}"
        )
    raise BagError(f"several image topics, choose one by --image-topic: {listed(distinct)}")


def full_name(topic: str) -> str:
    """Return a topic's name in a bag: with one leading slash and no trailing one."""
    return f"/{topic.strip('/')}"


def _video_hint(kinds: Sequence[str]) -> str:
    """Explain how to get images if any message type is a video."""
    video = [k for k in kinds if k.endswith(VIDEO_TYPES)]
    if not video:
        return ""
    return (
        f" ({video[0].rpartition('/')[2]} holds video: "
        "`ros2 run image_transport republish` makes images of it)"
    )


def _is_copy(topic: str, topics: Sequence[str]) -> bool:
    return topic.endswith(COMPRESSED) and topic.removesuffix(COMPRESSED) in topics


def _is_depth(reader: BagReader, connection: Connection) -> bool:
    """Whether images hold depth: by their encoding, or if ambiguous by the topic's name."""
    message = first_message(reader, connection.topic)
    encoding = str(getattr(message, "encoding", getattr(message, "format", "")))
    if any(word in encoding for word in DEPTH_ENCODINGS):
        return True
    return encoding in EITHER_ENCODINGS and "depth" in connection.topic.lower()


def choose_info_topic(reader: BagReader, image_topic: str, wanted: str = "") -> tuple[str, str]:
    """Choose the camera_info next to an image topic, or the only one of the same frame.

    Returns:
        The topic, empty for none, and a remark if the choice is not obvious.

    Raises:
        BagError: the requested topic is not in the bag.
    """
    found = {c.topic: c for c in reader.connections if c.msgtype == INFO_TYPE}
    if wanted == "none":
        return "", ""
    if wanted:
        if full_name(wanted) not in found:
            raise BagError(f"the bag has no camera_info {wanted}; it has {listed(sorted(found))}")
        return full_name(wanted), ""
    beside = f"{camera_of(image_topic)}/camera_info"
    if beside in found and found[beside].msgcount:
        return beside, ""
    heard = sorted(t for t, c in found.items() if c.msgcount)
    lacking = f"the bag has no {beside}" if beside not in found else f"{beside} is empty"
    if not heard:
        return "", lacking
    frame = _frame_of(reader, image_topic)
    same = [t for t in heard if frame and _frame_of(reader, t) == frame]
    if len(same) == 1:
        return same[0], f"{lacking}; {same[0]} is of the same frame {frame!r} and is taken"
    others = ", ".join(f"{t} (of {_frame_of(reader, t)!r})" for t in heard)
    return "", (
        f"{lacking}, and others may be of other cameras than {frame!r}: {others}; "
        "--camera-info-topic takes one of them"
    )


def choose_odom_topic(
    reader: BagReader, odometry: str = "auto", wanted: str = "", image_topic: str = ""
) -> str:
    """Choose the odometry topic; empty if odometry does not come from a topic.

    Args:
        reader: the bag.
        odometry: "auto", "topic", "tf" or "none".
        wanted: its name; a topic of poses is accepted if named.
        image_topic: among several robots, the one with this camera is chosen.

    Raises:
        BagError: it is not in the bag, or several are possible; the message lists them.
    """
    if odometry not in ("auto", "topic"):
        return ""
    counts = {c.topic: c.msgcount for c in reader.connections if c.msgtype == ODOM_TYPE}
    if wanted:
        poses = {c.topic for c in reader.connections if c.msgtype in POSE_TYPES}
        if full_name(wanted) not in {*counts, *poses}:
            raise BagError(
                f"the bag has no odometry {wanted}; it has {listed(sorted({*counts, *poses}))}"
            )
        return full_name(wanted)
    found = sorted(t for t, n in counts.items() if n) or sorted(counts)
    if len(found) > 1:
        found = [t for t in found if not any(w in t.lower() for w in TRUTH_NAMES)] or found
    if len(found) > 1 and len({t.rpartition("/")[2] for t in found}) == 1:
        own = [t for t in found if image_topic.startswith(f"{namespace(t)}/")]
        found = [max(own, key=len)] if own else found
    if len(found) > 1:
        raise BagError(f"several odometry topics, choose one by --odom-topic: {listed(found)}")
    if not found and odometry == "topic":
        raise BagError(f"the bag has no odometry; its topics: {listed(all_topics(reader))}")
    return found[0] if found else ""


def choose_transforms(
    reader: BagReader, near: Sequence[str], wanted: str = ""
) -> tuple[list[str], str]:
    """Choose one robot's transform topics, with a remark if others are left out.

    Args:
        reader: the bag.
        near: topics of the robot, images first.
        wanted: a topic whose namespace is used; empty to use `near`.

    Raises:
        BagError: the requested topic is not in the bag.
    """
    topics = sorted({c.topic for c in reader.connections if c.msgtype == TF_TYPE and c.msgcount})
    wanted = full_name(wanted) if wanted else ""
    if wanted and wanted not in topics:
        raise BagError(f"the bag has no transforms {wanted}; it has {listed(topics)}")
    chosen, left = choose_tf_topics(topics, [wanted] if wanted else near)
    if not left or wanted:
        return chosen, ""
    taken = listed(chosen) if chosen else "none, as several robots have some"
    return chosen, f"transforms taken: {taken}; left out: {listed(left)} (--tf-topic names others)"


def first_message(reader: BagReader, topic: str) -> Any | None:
    """Return the first message of a topic that can be decoded."""
    wanted = [c for c in reader.connections if c.topic == topic and c.msgcount]
    for connection, log_ns, raw in raw_messages(reader, wanted):
        try:
            return decoded(reader, connection, log_ns, raw)
        except ConversionError:
            continue
    return None


def _frame_of(reader: BagReader, topic: str) -> str:
    message = first_message(reader, topic)
    return "" if message is None else plain_frame(message.header.frame_id)


def all_topics(reader: BagReader) -> list[str]:
    """Return topics of a bag with their types."""
    return sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})


def listed(names: Sequence[str]) -> str:
    """Join names with commas; "none" without any."""
    return ", ".join(names) if names else "none"
