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

"""Map a bag as fast as possible, with the node's mapper but without ROS messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvdust3r_ros.config import MapperConfig, load_config, with_values
from mvdust3r_ros.datatypes import Frame
from mvdust3r_ros.drawing.splats import map_splats, write_splats
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.create import EngineOptions, create_engine, needs_truth
from mvdust3r_ros.evaluation.report.report import write_outputs
from mvdust3r_ros.evaluation.run import run_mapper
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.messages.input_counts import InputCounts
from mvdust3r_ros.recordings.bag import BagOptions, bag_gives_poses, opened_bag, read_frames
from mvdust3r_ros.recordings.bag_topics import choose_image_topic
from mvdust3r_ros.recordings.recording import recording_name
from mvdust3r_ros.recordings.truth_files import read_truth
from mvdust3r_ros.ros.oracle_needs import require_depth_and_poses
from mvdust3r_ros.safe_files import require_writable


@dataclass(frozen=True)
class MapJob:
    """A bag to map, and how.

    Attributes:
        bag: the bag.
        out: folder to write into.
        topics: which topics of the bag to use.
        engine: engine folder or "oracle"; empty for the one in the settings.
        params: YAML of settings, or None for the defaults.
        truth: true camera poses in TUM format, or None.
        splat: file to write the map's Gaussians into, or None.
    """

    bag: Path
    out: Path
    topics: BagOptions = field(default_factory=BagOptions)
    engine: str = ""
    params: Path | None = None
    truth: Path | None = None
    splat: Path | None = None


def map_bag(job: MapJob, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Map a bag and write the results.

    Args:
        job: what to do.
        progress: called with frames done and the total.

    Returns:
        The summary, as in summary.json.

    Raises:
        MvDust3rError: the bag, the engine or a file cannot be used, or there is no map.
    """
    notes: list[str] = []
    truth = None if job.truth is None else read_truth(job.truth, notify=notes.append)
    config = MapperConfig() if job.params is None else load_config(job.params)
    if job.engine:
        config = with_values(config, {"engine.engine": job.engine})
    total = count_images(job.bag, job.topics)
    chosen = config.engine
    if needs_truth(chosen.engine):
        has_depth = bool(job.topics.depth_topic or job.topics.depth_folder)
        require_depth_and_poses(
            depth="" if has_depth else "name the depth by --depth or --depth-topic",
            poses="" if bag_gives_poses(job.bag, job.topics) else "record odometry or TF",
        )
    wanted = job.splat is not None
    if job.splat is not None:
        require_writable(job.splat.parent)
    options = EngineOptions(chosen.threads, chosen.provider, gaussians=wanted)
    engine = create_engine(chosen.engine, options)
    if wanted and not engine.describe().gaussians:
        name = engine.describe().name
        engine.close()
        raise EngineError(
            f"{name} predicts no Gaussians: --splat needs a network with Gaussian heads, run by "
            "PyTorch or exported by `engine export --gaussians`"
        )
    mapper = Mapper(config, engine)
    undecodable: Counter[str] = Counter()
    unmounted: set[str] = set()
    inputs = InputCounts()

    def frames() -> Iterator[Frame]:
        bad = lambda error: undecodable.update([str(error)])  # noqa: E731
        for frame in read_frames(job.bag, job.topics, bad, inputs):
            inputs.add(frame)
            if frame.T_odom_base is not None and frame.T_odom_cam is None:
                unmounted.add(frame.camera_name)
            yield frame

    try:
        result = run_mapper(
            frames(),
            mapper,
            None if progress is None else lambda done: progress(done, total),
        )
    finally:
        engine.close()
    result.frames += undecodable.total()
    result.faults += undecodable
    details: dict[str, Any] = {"bag": str(job.bag), "images_with": inputs.numbers()}
    details["notes"] = [*notes, *inputs.lines(), *mapper.shutter.notes()]
    if unmounted:
        details["mountings"] = [_describe_mounting(mapper, camera) for camera in sorted(unmounted)]
    summary = write_outputs(result, job.out, truth, recording_name(job.bag), details)
    if job.splat is not None:
        write_splats(job.splat, map_splats(list(mapper.now.graph.keyframes.values())))
    return summary


def _describe_mounting(mapper: Mapper, camera: str) -> str:
    found = mapper.mountings.get(camera)
    if found is not None:
        return found.summary(camera)
    return (
        f"{camera}: odometry is of the robot, nothing in the bag says how the camera sits on it, "
        "and the motion did not show it: no metres from odometry; record /tf_static too"
    )


def count_images(bag: Path, topics: BagOptions) -> int:
    """Return the number of images that `read_frames` will yield."""
    with opened_bag(bag) as reader:
        topic = choose_image_topic(reader, topics.image_topic)
        count = sum(c.msgcount for c in reader.connections if c.topic == topic)
    return min(count, topics.max_frames) if topics.max_frames else count
