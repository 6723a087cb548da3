"""A recorded ROS 2 bag (MCAP or sqlite3) to frames; needs no ROS installation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from mvdust3r_ros.datatypes import FloatArray, Frame
from mvdust3r_ros.ros.bag_messages import BagError, decoded, raw_messages
from mvdust3r_ros.ros.conversions import (
    frame_from_msgs,
    pose_from_odometry,
    pose_from_transform,
    stamp_to_ns,
)
from mvdust3r_ros.ros.depth_folder import DepthFolder
from mvdust3r_ros.ros.images import ConversionError
from mvdust3r_ros.ros.transforms import FrameTree, PoseBuffer

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEPTH_TYPE = IMAGE_TYPES[0]
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOM_TYPE = "nav_msgs/msg/Odometry"
TF_TYPE = "tf2_msgs/msg/TFMessage"
DEPTH_MATCH_NS = 20_000_000
DEPTH_WAIT_NS = 500_000_000
BAG_SUFFIXES = (".mcap", ".db3", ".bag")
EXTRAPOLATION_NS = 100_000_000
OnBad = Callable[[ConversionError], None]


@dataclass(frozen=True)
class BagOptions:
    """What to take from a bag. Empty names are found out from the types in the bag.

    Attributes:
        image_topic: sensor_msgs Image or CompressedImage.
        camera_info_topic: sensor_msgs/CameraInfo; "none" to ignore it.
        odometry: "auto" (topic, else TF), "topic", "tf" or "none".
        odom_topic: nav_msgs/Odometry.
        odom_frame: root of the odometry in TF.
        depth_topic: depth images registered to the colour images; empty for none.
        depth_folder: folder of 16-bit PNGs in millimetres, named by frame number (000000.png) or
            listed with their stamps in `frames.csv` in it or beside it; None for none.
        camera_frame: optical frame; empty for the frame id of the images.
        max_frames: stop after this many images; 0 for all.
    """

    image_topic: str = ""
    camera_info_topic: str = ""
    odometry: str = "auto"
    odom_topic: str = ""
    odom_frame: str = "odom"
    depth_topic: str = ""
    depth_folder: Path | None = None
    camera_frame: str = ""
    max_frames: int = 0


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a folder of one, or one of its files."""
    if path.is_dir():
        files = (path.glob(f"*{suffix}") for suffix in BAG_SUFFIXES)
        return (path / "metadata.yaml").exists() or any(any(found) for found in files)
    return path.suffix in BAG_SUFFIXES


@contextmanager
def opened_bag(bag: Path) -> Iterator[AnyReader]:
    """A reader of a bag folder or a single .mcap or .db3 file.

    Raises:
        BagError: no such bag, or it is damaged.
    """
    if not bag.exists():
        raise BagError(f"bag {bag} does not exist")
    try:
        reader = AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # noqa: BLE001 - rosbags raises whatever it stumbles over
        raise BagError(f"bag {bag} cannot be read: {error}{_remedy(bag, error)}") from None
    try:
        yield reader
    finally:
        reader.close()


def _remedy(bag: Path, error: Exception) -> str:
    text = str(error).lower()
    if "magic" in text or "malformed" in text:
        return " (it seems to be cut off; `mcap recover` or sqlite3's `.recover` saves the rest)"
    if "metadata" in text and bag.is_dir():
        return " (`ros2 bag reindex` makes a new metadata.yaml)"
    return ""


def read_frames(
    bag: Path,
    options: BagOptions | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[Frame]:
    """All images of a bag, in its order, each with what the bag knows about it.

    Args:
        bag: bag folder (with metadata.yaml) or a single .mcap or .db3 file.
        options: which topics to use; None to find out.
        on_bad: called for a message that cannot be used, which is then left out; None to raise
            instead.

    Yields:
        Frames; with odometry when the bag has some for the time of the image.

    Raises:
        BagError: the bag cannot be read or lacks a topic; the message lists those there are.
        ConversionError: an image cannot be decoded.
    """
    with opened_bag(bag) as reader:
        yield from _frames(reader, options or BagOptions(), on_bad)


def image_topics(reader: AnyReader) -> dict[str, str]:
    """Image topics of an open bag with their types, those that look like depth left out."""
    return {
        c.topic: c.msgtype
        for c in reader.connections
        if c.msgtype in IMAGE_TYPES and "depth" not in c.topic.lower()
    }


def choose_image_topic(reader: AnyReader, wanted: str = "") -> str:
    """The image topic to use.

    Raises:
        BagError: it is not in the bag, or several could be meant; the message lists them.
    """
    found = image_topics(reader)
    every = sorted(c.topic for c in reader.connections if c.msgtype in IMAGE_TYPES)
    if wanted:
        if wanted in every:
            return wanted
        raise BagError(f"the bag has no image topic {wanted}; it has {_listed(every)}")
    # A topic and its compressed copy are one camera; the raw one needs no decoding.
    distinct = [
        t for t in found if t.removesuffix("/compressed") not in found or t[-11:] != "/compressed"
    ]
    if len(distinct) == 1:
        return distinct[0]
    if not distinct:
        raise BagError(f"the bag has no image topic; its topics: {_listed(_all_topics(reader))}")
    raise BagError(f"several image topics, choose one: {_listed(sorted(found))}")


def choose_info_topic(reader: AnyReader, image_topic: str, wanted: str = "") -> str:
    """The camera_info beside an image topic, or the only one of the bag; empty for none.

    Raises:
        BagError: the topic asked for is not in the bag.
    """
    found = sorted({c.topic for c in reader.connections if c.msgtype == INFO_TYPE})
    if wanted == "none":
        return ""
    if wanted:
        if wanted not in found:
            raise BagError(f"the bag has no camera_info {wanted}; it has {_listed(found)}")
        return wanted
    camera = image_topic.removesuffix("/compressed").rsplit("/", 1)[0]
    if f"{camera}/camera_info" in found:
        return f"{camera}/camera_info"
    return found[0] if len(found) == 1 else ""


class BagOdometry:
    """Camera poses in the odometry frame from a topic or TF, read ahead for the whole bag."""

    def __init__(
        self, reader: AnyReader, options: BagOptions, on_bad: OnBad | None = None
    ) -> None:
        """Read all odometry and transforms of an open bag; `on_bad` as in `read_frames`."""
        self._tree = FrameTree()
        self._odom = PoseBuffer()
        self._child = ""
        self.odom_frame = options.odom_frame
        topic = choose_odom_topic(reader, options)
        use_tf = options.odometry == "tf" or (options.odometry == "auto" and not topic)
        types = {ODOM_TYPE: bool(topic), TF_TYPE: options.odometry != "none"}
        wanted = [
            c
            for c in reader.connections
            if types.get(c.msgtype) and (c.msgtype == TF_TYPE or c.topic == topic)
        ]
        for connection, log_ns, raw in raw_messages(reader, wanted):
            try:
                message = decoded(reader, connection, log_ns, raw)
                if connection.msgtype == ODOM_TYPE:
                    self._child = message.child_frame_id
                    self._odom.add(stamp_to_ns(message.header.stamp), pose_from_odometry(message))
                else:
                    self._add_transforms(message, fixed=connection.topic.endswith("tf_static"))
            except ConversionError as error:
                if on_bad is None:
                    raise
                on_bad(error)
        self._use_tf = use_tf

    def _add_transforms(self, message: Any, *, fixed: bool) -> None:
        for item in message.transforms:
            T = pose_from_transform(item.transform)
            parent, child = item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/")
            if fixed:
                self._tree.set_fixed(parent, child, T)
            else:
                self._tree.set_moving(parent, child, stamp_to_ns(item.header.stamp), T)

    def root_of(self, frame: str) -> str:
        """The frame at the top of the tree of transforms that a frame is in."""
        return self._tree.root_of(frame)

    def camera_pose(self, camera_frame: str, stamp_ns: int) -> FloatArray | None:
        """(4, 4) T_odom_cam, or None where the bag does not know it."""
        if self._use_tf:
            return self._tree.lookup(self.odom_frame, camera_frame, stamp_ns, EXTRAPOLATION_NS)
        T_odom_child = self._child_pose(stamp_ns)
        if T_odom_child is None or self._child in ("", camera_frame):
            return T_odom_child
        T_child_cam = self._tree.lookup(self._child, camera_frame, stamp_ns, EXTRAPOLATION_NS)
        if T_child_cam is None:
            return None
        pose: FloatArray = T_odom_child @ T_child_cam
        return pose

    def robot_pose(self, camera_frame: str, stamp_ns: int) -> FloatArray | None:
        """(4, 4) T_odom_base of what odometry is of, or None where that is the camera itself."""
        if not self._use_tf:
            return None if self._child in ("", camera_frame) else self._child_pose(stamp_ns)
        base = self._tree.below(self.odom_frame, camera_frame)
        if base in (None, camera_frame):
            return None
        return self._tree.lookup(self.odom_frame, base, stamp_ns, EXTRAPOLATION_NS)

    def _child_pose(self, stamp_ns: int) -> FloatArray | None:
        return self._odom.at(stamp_ns, EXTRAPOLATION_NS) if len(self._odom) else None


def _frames(
    reader: AnyReader,
    options: BagOptions,
    on_bad: OnBad | None,
) -> Iterator[Frame]:
    image_topic = choose_image_topic(reader, options.image_topic)
    info = _first_info(reader, choose_info_topic(reader, image_topic, options.camera_info_topic))
    odometry = BagOdometry(reader, options, on_bad)
    folder = None if options.depth_folder is None else DepthFolder(options.depth_folder)
    for index, (image, depth) in enumerate(
        _images_with_depth(reader, image_topic, options, on_bad)
    ):
        if options.max_frames and index >= options.max_frames:
            return
        stamp_ns = stamp_to_ns(image.header.stamp)
        if folder is not None:
            depth = _depth_message(folder.load_mm(index, stamp_ns))
        camera_frame = options.camera_frame or image.header.frame_id
        T_odom_cam = odometry.camera_pose(camera_frame, stamp_ns)
        try:
            frame = frame_from_msgs(
                image,
                info,
                T_odom_cam,
                depth,
                camera_name=camera_frame,
                T_odom_base=odometry.robot_pose(camera_frame, stamp_ns),
            )
        except ConversionError as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        yield frame


def _images_with_depth(
    reader: AnyReader, image_topic: str, options: BagOptions, on_bad: OnBad | None
) -> Iterator[tuple[Any, Any | None]]:
    """Images in order, each with the depth image of its time when there is one."""
    topics = [t for t in (image_topic, options.depth_topic) if t]
    wanted = [c for c in reader.connections if c.topic in topics]
    if options.depth_topic and not any(c.topic == options.depth_topic for c in wanted):
        raise BagError(
            f"the bag has no depth topic {options.depth_topic}; "
            f"its topics: {_listed(_all_topics(reader))}"
        )
    waiting: deque[Any] = deque()
    depths: dict[int, Any] = {}
    newest_ns = 0
    for connection, log_ns, raw in raw_messages(reader, wanted):
        try:
            message = decoded(reader, connection, log_ns, raw)
        except ConversionError as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        if connection.topic == options.depth_topic:
            depths[stamp_to_ns(message.header.stamp)] = message
        else:
            waiting.append((log_ns, message))
        newest_ns = max(newest_ns, log_ns)
        while waiting:
            image_ns = stamp_to_ns(waiting[0][1].header.stamp)
            depth = _closest(depths, image_ns)
            late = newest_ns - waiting[0][0] > DEPTH_WAIT_NS
            if depth is None and options.depth_topic and not late:
                break
            yield waiting.popleft()[1], depth
            depths = {s: d for s, d in depths.items() if s > image_ns - DEPTH_WAIT_NS}
    for _, image in waiting:
        yield image, _closest(depths, stamp_to_ns(image.header.stamp))


def _closest(depths: dict[int, Any], stamp_ns: int) -> Any | None:
    best = min(depths, key=lambda s: abs(s - stamp_ns), default=None)
    if best is None or abs(best - stamp_ns) > DEPTH_MATCH_NS:
        return None
    return depths[best]


def _depth_message(depth_mm: Any | None) -> Any | None:
    """The fields of a depth image message that the conversion reads."""
    if depth_mm is None:
        return None
    height, width = depth_mm.shape
    return SimpleNamespace(
        encoding="16UC1", height=height, width=width, step=2 * width,
        is_bigendian=0, data=depth_mm.astype("<u2").tobytes(),
    )  # fmt: skip


def _first_info(reader: AnyReader, topic: str) -> Any | None:
    wanted = [c for c in reader.connections if topic and c.topic == topic]
    for connection, log_ns, raw in raw_messages(reader, wanted):
        with suppress(ConversionError):
            return decoded(reader, connection, log_ns, raw)
    return None


def choose_odom_topic(reader: AnyReader, options: BagOptions) -> str:
    """The odometry topic to use; empty when it is not to come from a topic.

    Raises:
        BagError: it is not in the bag, or several could be meant; the message lists them.
    """
    found = sorted({c.topic for c in reader.connections if c.msgtype == ODOM_TYPE})
    if options.odometry not in ("auto", "topic"):
        return ""
    if options.odom_topic:
        if options.odom_topic not in found:
            raise BagError(
                f"the bag has no odometry {options.odom_topic}; it has {_listed(found)}"
            )
        return options.odom_topic
    if len(found) > 1:
        raise BagError(f"several odometry topics, choose one: {_listed(found)}")
    if not found and options.odometry == "topic":
        raise BagError(f"the bag has no odometry; its topics: {_listed(_all_topics(reader))}")
    return found[0] if found else ""


def _all_topics(reader: AnyReader) -> list[str]:
    return sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
