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

"""Play a bag to the real node over DDS, and evaluate what the node publishes."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    MapSnapshot,
    ScaleEstimate,
    ScaleSource,
    Trajectory,
    Verdict,
)
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.evaluation.run import RunResult, WindowRecord, empty_snapshot
from mvdust3r_ros.evaluation.scoring import Evidence
from mvdust3r_ros.evaluation.true_map import TrueMapBuilder
from mvdust3r_ros.messages.conversions import stamp_to_ns
from mvdust3r_ros.placing.scale import scale_gate
from mvdust3r_ros.recordings.recording import Recording
from mvdust3r_ros.ros.play.demo import (
    DemoOptions,
    DemoResult,
    Progress,
    run_demo,
    snapshot_of_files,
)

STEM = "map"
STATUS, SUMMARY = "/mapper/window_status", "/mapper/occupancy_summary"
TAKEN_OUT = re.compile(r"(\d+) windows? left the map")
"""Start of the message of a window that removed others from the map."""


def run_live(
    recording: Recording,
    config: MapperConfig,
    options: DemoOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Evidence:
    """Play a bag through the player, mapper node and recorder as processes.

    Args:
        recording: the bag as frames with ground truth, which the node does not have.
        config: the node's settings, for the report.
        options: bag, playback rate and output folder.
        progress: called with images received and the total.

    Returns:
        What the node published and saved, without predictions of windows.

    Raises:
        MvDust3rError: ROS is missing, or a process failed; its log is named.
    """

    def report(now: Progress) -> None:
        if progress is not None:
            progress(now.images, now.images_total)

    played = run_demo(options, report)
    result, true_map = _what_was_played(recording, config)
    result.frames, result.keyframes = played.images, played.keyframes
    result.seconds = played.seconds
    published = options.out / "bag"
    statuses = list(_messages(published, STATUS))
    result.windows = list(_windows(statuses))
    if result.committed:
        saved = snapshot_of_files(options.out, STEM)
        summaries = list(_messages(published, SUMMARY))
        committed = [s for s in statuses if s.verdict == Verdict.COMMITTED]
        result.snapshot = _as_published(saved, committed[-1], summaries, config)
    return Evidence(
        result,
        recording.truth,
        true_map=true_map,
        drops=_drops(recording.total, played),
        superseded=played.superseded,
        left_out=played.left_out,
        # of the largest ended child process, which is the node
        peak_memory_mb=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    )


def _drops(total: int, played: DemoResult) -> dict[str, int]:
    """Count images dropped by the node, by reason, and images that never reached it."""
    lost = total - played.images
    return {**played.dropped, **({"lost on the way to the node": lost} if lost > 0 else {})}


def _what_was_played(
    recording: Recording, config: MapperConfig
) -> tuple[RunResult, TrueMapBuilder]:
    """Return a run without windows: engine, odometry and true points of the recording."""
    rules = config.engine
    engine = create_engine(rules.engine, EngineOptions(rules.threads, rules.provider))
    try:
        info = engine.describe()
    finally:
        engine.close()
    result = RunResult(info.filled_in(config), info, snapshot=empty_snapshot())
    true_map = TrueMapBuilder(config.map, info)
    odometry = {}
    for frame in recording.frames(lambda error: result.faults.update([str(error)])):
        if result.first_stamp_ns is None:
            result.first_stamp_ns = frame.stamp_ns
        result.last_stamp_ns = frame.stamp_ns
        if frame.T_odom_cam is not None:
            odometry[frame.stamp_ns] = frame.T_odom_cam
        true_map.add(frame)
    if odometry:
        stamps = sorted(odometry)
        poses = np.array([odometry[s] for s in stamps])
        result.odometry = Trajectory(np.array(stamps, np.int64), poses)
    return result, true_map


def _messages(bag: Path, topic: str) -> Iterator[Any]:
    """Yield messages of one recorded topic; the recorder's bags contain their types."""
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        for connection, _, raw in reader.messages(wanted) if wanted else ():
            yield reader.deserialize(raw, connection.msgtype)


def _windows(statuses: Iterable[Any]) -> Iterator[WindowRecord]:
    for status in statuses:
        found = TAKEN_OUT.match(str(status.message))
        committed = int(status.verdict) == Verdict.COMMITTED
        names = (str(name) for name in status.stage_names)
        yield WindowRecord(
            index=int(status.window_index),
            stamp_ns=stamp_to_ns(status.header.stamp),
            first_ns=stamp_to_ns(status.keyframe_stamps[0]),
            keyframes=len(status.keyframe_stamps),
            verdict=Verdict(int(status.verdict)),
            message=str(status.message),
            points=int(status.points_added),
            residual_m=float(status.residual_m),
            latency_ms=dict(zip(names, map(float, status.stage_latencies_ms), strict=True)),
            rolled_back=int(found[1]) if committed and found else 0,
        )


def _as_published(
    saved: MapSnapshot, status: Any, summaries: Sequence[Any], config: MapperConfig
) -> MapSnapshot:
    """Complete a saved map with scale and floor height, which its files lack."""
    source = ScaleSource(int(summaries[-1].scale_source)) if summaries else ScaleSource.NONE
    scale = ScaleEstimate(float(status.scale), float(status.scale_rel_sigma), source)
    gate_open, hint = scale_gate(scale, config.stitch.scale_max_rel_sigma)
    heights = [0.0, *(m.bounds_min.z - m.height_min for m in summaries)]
    return replace(
        saved, scale=scale, gate_open=gate_open, gate_hint=hint, floor_z_m=float(heights[-1])
    )
