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

"""Use a bag as a recording to evaluate, with truth and depth from topics or files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.messages.conversions import pose_from_stamped
from mvdust3r_ros.messages.frame_ids import is_static
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.messages.input_counts import InputCounts, by_kind, counted
from mvdust3r_ros.messages.odometry import EXTRAPOLATION_NS
from mvdust3r_ros.messages.transforms import PoseBuffer
from mvdust3r_ros.recordings.bag import (
    BagOdometry,
    BagOptions,
    opened_bag,
    read_frames,
)
from mvdust3r_ros.recordings.bag_files import BagReader, bag_at
from mvdust3r_ros.recordings.bag_messages import BagError, decoded, header_stamp_ns, raw_messages
from mvdust3r_ros.recordings.bag_topics import (
    DEPTH_TYPE,
    ODOM_TYPE,
    POSE_TYPES,
    TF_TYPE,
    TRUTH_NAMES,
    choose_image_topic,
    choose_info_topic,
    choose_odom_topic,
    choose_transforms,
    first_message,
    full_name,
)
from mvdust3r_ros.recordings.recording import (
    Notes,
    Recording,
    TruthOptions,
    recording_name,
)
from mvdust3r_ros.recordings.truth_files import (
    TruthError,
    check_overlap,
    read_truth,
    sidecar_truth,
)

DEPTH_FOLDER = "depth"


def bag_recording(bag: Path, topics: BagOptions, truth: TruthOptions) -> Recording:
    """Inspect a bag and return its recording.

    Raises:
        MvDust3rError: the bag cannot be read, lacks a topic, or the truth does not fit it; the
            message names the remedy.
    """
    bag = bag_at(bag)
    with opened_bag(bag) as reader:
        image_topic = choose_image_topic(reader, topics.image_topic)
        topics = _with_depth(reader, bag, replace(topics, image_topic=image_topic), truth.depth)
        choose_odom_topic(reader, topics.odometry, topics.odom_topic, image_topic)
        choose_transforms(reader, [image_topic], topics.tf_topic)
        info_topic, _ = choose_info_topic(reader, image_topic, topics.camera_info_topic)
        connections = [c for c in reader.connections if c.topic == image_topic]
        total = sum(c.msgcount for c in connections)
        if not total:
            raise BagError(f"bag {bag}: image topic {image_topic} holds no messages")
        stamps = np.array(
            [header_stamp_ns(raw) for _, _, raw in raw_messages(reader, connections)], np.int64
        )
        stamps = stamps[stamps > 0]
        if not len(stamps):
            raise BagError(
                f"bag {bag}: the {total} images of {image_topic} have the stamp 0; their driver "
                "has to say in header.stamp when they were taken"
            )
        kind, notes = reader.kind, Notes()
        source = _truth_source(reader, bag, truth.truth)
        path = _read_truth(reader, source, image_topic, stamps, topics, notes)
    depth = topics.depth_topic or str(topics.depth_folder or "")
    inputs = InputCounts()
    return Recording(
        name=recording_name(bag),
        kind=kind,
        total=min(total, topics.max_frames) if topics.max_frames else total,
        read=lambda on_bad: read_frames(bag, topics, on_bad, inputs),
        truth=path,
        truth_source=source,
        depth_source=depth,
        details={"image_topic": image_topic, "camera_info_topic": info_topic},
        inputs=inputs,
        notes=notes,
    )


def _with_depth(reader: BagReader, bag: Path, topics: BagOptions, depth: str) -> BagOptions:
    """Return the options with the chosen depth topic or folder."""
    beside = bag.resolve().parent / DEPTH_FOLDER
    if depth == "none":
        return topics
    if not depth:
        if topics.depth_topic or topics.depth_folder or not any(beside.glob("*.png")):
            return topics
        return replace(topics, depth_folder=beside)
    images = sorted({c.topic for c in reader.connections if c.msgtype == DEPTH_TYPE})
    if full_name(depth) in images:
        return replace(topics, depth_topic=full_name(depth))
    if Path(depth).is_dir():
        return replace(topics, depth_folder=Path(depth))
    raise BagError(
        f"depth {depth} is neither a folder nor an image topic of the bag; "
        f"its image topics: {', '.join(images) or 'none'}"
    )


def pose_topics(reader: BagReader) -> list[str]:
    """Return topics of an open bag that hold poses."""
    kinds = (*POSE_TYPES, ODOM_TYPE, TF_TYPE)
    found = {c.topic for c in reader.connections if c.msgtype in kinds}
    return sorted(t for t in found if not is_static(t))


def _truth_source(reader: BagReader, bag: Path, wanted: str) -> str:
    """Return a topic or a file; empty without one.

    Raises:
        TruthError: the requested one does not exist.
    """
    topics = pose_topics(reader)
    if wanted == "none":
        return ""
    if wanted:
        if Path(wanted).is_file():
            return wanted
        if full_name(wanted) in topics:
            return full_name(wanted)
        raise TruthError(
            f"truth {wanted} is neither a file nor a topic of poses in the bag; "
            f"its topics of poses: {', '.join(topics) or 'none'}"
        )
    named = [t for t in topics if any(word in t.lower() for word in TRUTH_NAMES)]
    if named:
        return named[0]
    return str(sidecar_truth(bag) or "")


def _read_truth(
    reader: BagReader,
    source: str,
    image_topic: str,
    stamps_ns: Any,
    topics: BagOptions,
    notes: Notes,
) -> Trajectory | None:
    if not source:
        return None
    if source in pose_topics(reader):
        truth = _truth_of_topic(reader, source, image_topic, stamps_ns, topics, notes)
    else:
        truth = read_truth(Path(source), stamps_ns, notes.add)
    check_overlap(truth, source, int(stamps_ns.min()), int(stamps_ns.max()))
    return truth


def _truth_of_topic(
    reader: BagReader,
    topic: str,
    image_topic: str,
    stamps_ns: Any,
    topics: BagOptions,
    notes: Notes,
) -> Trajectory:
    """Return poses of the camera at the stamps of the images, interpolated.

    Odometry and TF are converted to the camera by the transforms in the bag; a PoseStamped is
    assumed to be of the camera.
    """
    kind = next(c.msgtype for c in reader.connections if c.topic == topic)
    if kind in POSE_TYPES:
        poses = _stamped_poses(reader, topic, notes)
        found = [(int(s), poses.at(int(s), EXTRAPOLATION_NS)) for s in stamps_ns]
        covered = poses.span_ns
    else:
        camera = topics.camera_frame or _camera_frame(reader, image_topic)
        if kind == ODOM_TYPE:
            options = BagOptions(odometry="topic", odom_topic=topic, tf_topic=topics.tf_topic)
        else:
            options = BagOptions(odometry="tf", tf_topic=topic)
        odometry = BagOdometry(reader, options, image_topic)
        if kind == TF_TYPE:
            source = odometry.source
            source.odom_frame = source.tree.root_of(source.camera_frame(camera))
        found = [(int(s), odometry.camera_pose(camera, int(s))) for s in stamps_ns]
        covered = None
    known = {s: T for s, T in found if T is not None}
    if not known:
        images = f"{stamps_ns.min() / 1e9:.3f} to {stamps_ns.max() / 1e9:.3f} s"
        is_of = (
            f"is of {covered[0] / 1e9:.3f} to {covered[1] / 1e9:.3f} s, the images are of {images}"
            if covered
            else f"has no pose at the time of any image ({images})"
        )
        raise TruthError(
            f"truth {topic} {is_of}: both need one clock; `--truth none` goes without it"
        )
    ordered = sorted(known)
    return Trajectory(np.array(ordered, np.int64), np.array([known[s] for s in ordered]))


def _stamped_poses(reader: BagReader, topic: str, notes: Notes) -> PoseBuffer:
    poses, faults = PoseBuffer(), Counter[str]()
    wanted = [c for c in reader.connections if c.topic == topic]
    for connection, log_ns, raw in raw_messages(reader, wanted):
        try:
            stamp_ns, _, T = pose_from_stamped(decoded(reader, connection, log_ns, raw))
        except ConversionError as error:
            faults[str(error)] += 1
            continue
        poses.add(stamp_ns, T)
    for words, count in by_kind(faults).items():
        notes.add(f"truth {topic}: {counted(count, 'message')} not used: {words}")
    return poses


def _camera_frame(reader: BagReader, image_topic: str) -> str:
    message = first_message(reader, image_topic)
    return "" if message is None else str(message.header.frame_id)
