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

"""Frames from a recorded bag (MCAP, sqlite3, ROS 1), without a ROS installation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mvdust3r_ros.datatypes import JUMP_BACK_NS, FloatArray, Frame
from mvdust3r_ros.messages.camera_infos import NO_INFO
from mvdust3r_ros.messages.camera_input import CameraInput
from mvdust3r_ros.messages.conversions import pose_from_stamped, stamp_to_ns
from mvdust3r_ros.messages.frame_ids import is_rectified, is_static
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.messages.input_counts import ODOMETRY, InputCounts
from mvdust3r_ros.messages.odometry import (
    EXTRAPOLATION_NS,
    OTHER_CLOCK_NS,
    Odometry,
    Placement,
)
from mvdust3r_ros.recordings.bag_files import BagReader
from mvdust3r_ros.recordings.bag_messages import BagError, decoded, raw_messages
from mvdust3r_ros.recordings.bag_topics import (
    ODOM_TYPE,
    POSE_TYPES,
    TF_TYPE,
    all_topics,
    choose_image_topic,
    choose_info_topic,
    choose_odom_topic,
    choose_transforms,
    listed,
)
from mvdust3r_ros.recordings.depth_folder import DepthFolder, DepthFolderError
from mvdust3r_ros.tones import Tones
from mvdust3r_ros.wording import plural

DEPTH_WAIT_NS = 500_000_000
"""In recording time: drivers send depth a few frames after its image; later than this, the image
is used without depth."""
DIFFERENT_CLOCKS_S = 0.25
"""Exposure, compression and transport take less: a larger offset means different clocks."""
OnBad = Callable[[ConversionError], None]


@dataclass(frozen=True)
class BagOptions:
    """Which topics of a bag to use. Empty names are detected from the types in the bag.

    Attributes:
        image_topic: sensor_msgs Image or CompressedImage.
        camera_info_topic: sensor_msgs/CameraInfo; "none" to ignore it.
        odometry: "auto" (topic, otherwise TF), "topic", "tf" or "none".
        odom_topic: nav_msgs/Odometry; if named, also a PoseStamped, PoseWithCovarianceStamped or
            TransformStamped.
        odom_frame: root of the odometry in TF.
        tf_topic: topic with the robot's transforms, others in its namespace included; empty for
            those in the namespace of the images.
        depth_topic: depth images registered to the colour images; empty for none.
        depth_folder: folder of 16-bit PNGs in millimetres, named by frame number (000000.png) or
            listed with their stamps in `frames.csv` inside or next to it; None for none.
        camera_frame: optical frame; empty for the frame id of the images.
        max_frames: stop after this many images; 0 for all.
    """

    image_topic: str = ""
    camera_info_topic: str = ""
    odometry: str = "auto"
    odom_topic: str = ""
    odom_frame: str = "odom"
    tf_topic: str = ""
    depth_topic: str = ""
    depth_folder: Path | None = None
    camera_frame: str = ""
    max_frames: int = 0


@contextmanager
def opened_bag(bag: Path) -> Iterator[BagReader]:
    """Open a bag folder or one of its files, and close it after the block.

    Raises:
        BagError: no such bag, or it is damaged.
    """
    reader = BagReader(bag)
    try:
        yield reader
    finally:
        reader.close()


def read_frames(
    bag: Path,
    options: BagOptions | None = None,
    on_bad: OnBad | None = None,
    inputs: InputCounts | None = None,
) -> Iterator[Frame]:
    """Read all images of a bag in order, each with the bag's data about it.

    Args:
        bag: bag folder or a single .mcap, .db3 or .bag file.
        options: which topics to use; None to detect them.
        on_bad: called for an image that cannot be used, which is then skipped; None to raise
            instead.
        inputs: collects why images lack odometry, camera_info or depth, and what else could not be
            used.

    Yields:
        Frames; with odometry if the bag has it at the image's stamp.

    Raises:
        BagError: the bag cannot be read or lacks a topic; the message lists its topics.
        ConversionError: an image cannot be decoded.
    """
    with opened_bag(bag) as reader:
        yield from _BagFrames(reader, options or BagOptions(), on_bad, inputs).frames()


class BagOdometry:
    """Camera poses in the odometry frame from a topic or TF, read ahead for the whole bag.

    Attributes:
        source: the odometry.
        delays_ns: recording times of its messages minus their stamps.
    """

    def __init__(
        self,
        reader: BagReader,
        options: BagOptions,
        image_topic: str = "",
        inputs: InputCounts | None = None,
    ) -> None:
        """Read all odometry and transforms of an open bag.

        Raises:
            BagError: a requested topic is missing.
        """
        self._inputs = inputs or InputCounts()
        self._asked = options.odometry != "none"
        topic = choose_odom_topic(reader, options.odometry, options.odom_topic, image_topic)
        transforms: list[str] = []
        if self._asked:
            near = [t for t in (image_topic, topic) if t]
            transforms, note = choose_transforms(reader, near, options.tf_topic)
            self._inputs.notes += [note] if note else []
        from_tf = options.odometry == "tf" or not topic
        self.source = Odometry(
            from_tf=from_tf, odom_frame=options.odom_frame if from_tf else "", near=image_topic
        )
        self._none = "" if topic or transforms else _no_odometry(reader)
        self.delays_ns: list[int] = []
        wanted = [c for c in reader.connections if c.topic in (topic, *transforms)]
        for connection, log_ns, raw in raw_messages(reader, wanted):
            try:
                message = decoded(reader, connection, log_ns, raw)
                self._add(connection.topic, message)
                self._note_delay(connection.topic, log_ns, message)
            except ConversionError as error:
                self._inputs.faults[f"{connection.topic}: {_after_topic(connection, error)}"] += 1

    def _add(self, topic: str, message: Any) -> None:
        if hasattr(message, "transforms"):
            for fault in self.source.add_transforms(message, fixed=is_static(topic)):
                self._inputs.faults[fault] += 1
            return
        stamp_ns, child, T = pose_from_stamped(message)
        self.source.add_pose(message.header.frame_id, child, stamp_ns, T)

    def _note_delay(self, topic: str, log_ns: int, message: Any) -> None:
        is_tf = hasattr(message, "transforms")
        stamped = message.transforms if is_tf else [message]
        if is_tf == self.source.is_from_tf and not is_static(topic) and len(stamped):
            self.delays_ns.append(log_ns - stamp_to_ns(stamped[0].header.stamp))

    def place(self, camera_frame: str, stamp_ns: int) -> Placement:
        """Return the pose of the camera, or why it is unknown."""
        if not self._asked:
            return Placement()
        if self._none:
            return Placement(why=self._none)
        return self.source.place(camera_frame, stamp_ns, EXTRAPOLATION_NS)

    def camera_pose(self, camera_frame: str, stamp_ns: int) -> FloatArray | None:
        """Return (4, 4) T_odom_cam, or None if the bag lacks it."""
        return self.place(camera_frame, stamp_ns).T_odom_cam


def _after_topic(connection: Any, error: ConversionError) -> str:
    return str(error).removeprefix(f"{connection.topic}: ")


def _no_odometry(reader: BagReader) -> str:
    """Explain why a bag has no odometry, and name topics that could serve as such."""
    poses = sorted({c.topic for c in reader.connections if c.msgtype in POSE_TYPES})
    hint = f"; poses that --odom-topic may name: {listed(poses)}" if poses else ""
    return f"the bag holds no {ODOM_TYPE} and no TF{hint}"


def bag_gives_poses(bag: Path, topics: BagOptions) -> bool:
    """Whether a bag holds odometry that the options do not rule out.

    Raises:
        BagError: the bag cannot be read.
    """
    with opened_bag(bag) as reader:
        has_tf = any(c.msgtype == TF_TYPE for c in reader.connections)
        try:
            images = choose_image_topic(reader, topics.image_topic)
            topic = choose_odom_topic(reader, topics.odometry, topics.odom_topic, images)
        except BagError:
            return True  # the reader of the bag reports the error
    return bool(topic) or (has_tf and topics.odometry in ("auto", "tf"))


class _BagFrames:
    """Converts an open bag to frames."""

    def __init__(
        self,
        reader: BagReader,
        options: BagOptions,
        on_bad: OnBad | None,
        inputs: InputCounts | None,
    ) -> None:
        self._reader, self._options, self._on_bad = reader, options, on_bad
        self._inputs = inputs or InputCounts()
        self._inputs.notes += reader.notes
        self._image_topic = choose_image_topic(reader, options.image_topic)
        folder = options.depth_folder
        self._depths = None if folder is None else DepthFolder(folder)
        self._camera = CameraInput(
            self._notify,
            Tones(self._inputs.notes.append),
            rectified=is_rectified(self._image_topic),
            uses_info=options.camera_info_topic != "none",
            wants_depth=bool(options.depth_topic or folder),
        )
        self._read_camera_infos()
        self._odometry = BagOdometry(reader, options, self._image_topic, self._inputs)

    def _notify(self, kind: str, why: str) -> None:
        self._inputs.because(kind, self._no_info or why if why == NO_INFO else why)

    def _read_camera_infos(self) -> None:
        reader, inputs = self._reader, self._inputs
        topic, self._no_info = choose_info_topic(
            reader, self._image_topic, self._options.camera_info_topic
        )
        if topic and self._no_info:
            inputs.notes.append(self._no_info)
        wanted = [c for c in reader.connections if topic and c.topic == topic]
        for connection, log_ns, raw in raw_messages(reader, wanted):
            try:
                info = decoded(reader, connection, log_ns, raw)
            except ConversionError as error:
                inputs.faults[str(error)] += 1
                continue
            self._camera.add_info(info, log_ns)
        inputs.notes += self._camera.infos.notes()

    def frames(self) -> Iterator[Frame]:
        """Yield the images in order; see `read_frames`."""
        most = self._options.max_frames
        stamps_ns: list[int] = []
        delays_ns: list[int] = []
        for index, (log_ns, image, depth) in enumerate(self._images()):
            if most and index >= most:
                break
            stamps_ns.append(stamp_to_ns(image.header.stamp))
            delays_ns.append(log_ns - stamps_ns[-1])
            try:
                yield self._frame(index, log_ns, image, depth)
            except ConversionError as error:
                self._bad(error)
        self._inputs.notes += _clocks_differ(delays_ns, self._odometry.delays_ns)
        self._inputs.notes += _jumps_back(stamps_ns)

    def _bad(self, error: ConversionError) -> None:
        if self._on_bad is None:
            raise error
        self._on_bad(error)

    def _frame(self, index: int, log_ns: int, image: Any, depth: Any | None) -> Frame:
        stamp_ns = stamp_to_ns(image.header.stamp)
        why_no_depth = ""
        if self._depths is not None:
            try:
                depth = _depth_message(self._depths.load_mm(index, stamp_ns))
            except DepthFolderError as error:
                why_no_depth = str(error)
        name = self._camera.optical_frame(image, self._options.camera_frame)
        placement = self._odometry.place(name, stamp_ns)
        frame = self._camera.frame(
            image, name, log_ns, placement, depth, why_no_depth=why_no_depth
        )
        self._inputs.because(ODOMETRY, placement.why)
        return frame

    def _images(self) -> Iterator[tuple[int, Any, Any | None]]:
        """Yield log times and images in order, each with the matching depth if there is any."""
        options, reader = self._options, self._reader
        topics = [t for t in (self._image_topic, options.depth_topic) if t]
        wanted = [c for c in reader.connections if c.topic in topics]
        if options.depth_topic and not any(c.topic == options.depth_topic for c in wanted):
            raise BagError(
                f"the bag has no depth topic {options.depth_topic}; "
                f"its topics: {listed(all_topics(reader))}"
            )
        waiting: deque[tuple[int, Any]] = deque()
        for connection, log_ns, raw in raw_messages(reader, wanted):
            try:
                message = decoded(reader, connection, log_ns, raw)
            except ConversionError as error:
                self._bad(error)
                continue
            if connection.topic == options.depth_topic:
                self._camera.add_depth(message)
            else:
                waiting.append((log_ns, message))
            while waiting:
                image_ns = stamp_to_ns(waiting[0][1].header.stamp)
                depth = self._camera.depth_at(image_ns)
                late = log_ns - waiting[0][0] > DEPTH_WAIT_NS
                if depth is None and options.depth_topic and not late:
                    break
                yield (*waiting.popleft(), depth)
                self._camera.forget_depths(image_ns - DEPTH_WAIT_NS)
        for at, image in waiting:
            yield at, image, self._camera.depth_at(stamp_to_ns(image.header.stamp))


def _clocks_differ(images_ns: list[int], odometry_ns: list[int]) -> list[str]:
    """Return a note if stamps of images and odometry are offset, yet within reach."""
    if not images_ns or not odometry_ns:
        return []
    middle = [sorted(delays)[len(delays) // 2] for delays in (images_ns, odometry_ns)]
    behind_s = (middle[0] - middle[1]) * 1e-9
    if not DIFFERENT_CLOCKS_S < abs(behind_s) < OTHER_CLOCK_NS * 1e-9:
        return []
    side = "behind" if behind_s > 0 else "ahead of"
    return [
        f"the stamps of the images are {abs(behind_s):.1f} s {side} those of the odometry that "
        "was recorded with them: unless one came late, the clocks differ and the poses are wrong"
    ]


def _jumps_back(stamps_ns: list[int]) -> list[str]:
    """Return a note if time jumps back within the recording."""
    back_ns = [a - b for a, b in pairwise(s for s in stamps_ns if s > 0) if a - b >= JUMP_BACK_NS]
    if not back_ns:
        return []
    return [
        f"the stamps of the images jump back {plural(len(back_ns), 'time')}, by "
        f"{max(back_ns) * 1e-9:.1f} s at most: mapping may start again there"
    ]


def _depth_message(depth_mm: Any | None) -> Any | None:
    """Return the fields of a depth image message that the conversion reads."""
    if depth_mm is None:
        return None
    height, width = depth_mm.shape
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=""), encoding="16UC1", height=height, width=width,
        step=2 * width, is_bigendian=0, data=depth_mm.astype("<u2").tobytes(),
    )  # fmt: skip
