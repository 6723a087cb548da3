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

"""Evaluate one recording and write its report, as `mvdust3r_ros evaluate` does for each input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mvdust3r_ros.config import MapperConfig, load_config, with_values
from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.engines.create import EngineOptions, create_engine, needs_truth
from mvdust3r_ros.evaluation.lockstep import run_lockstep
from mvdust3r_ros.evaluation.report.report_files import write_report
from mvdust3r_ros.evaluation.window_dumps import WindowDumpWriter
from mvdust3r_ros.recordings.bag import BagOptions, bag_gives_poses
from mvdust3r_ros.recordings.bag_files import is_bag
from mvdust3r_ros.recordings.bag_recording import bag_recording
from mvdust3r_ros.recordings.formats import FileOptions, files_recording
from mvdust3r_ros.recordings.recording import Recording, TruthOptions
from mvdust3r_ros.ros.oracle_needs import require_depth_and_poses
from mvdust3r_ros.safe_files import read_yaml

Progress = Callable[[int, int], None]
LOCKSTEP, LIVE = MODES = ("lockstep", "live")


class EvaluateError(MvDust3rError):
    """A job cannot run as requested."""


@dataclass(frozen=True)
class EvaluateJob:
    """One recording to evaluate.

    Attributes:
        source: bag, folder or video.
        out: folder to write into.
        engine: engine folder or "oracle"; empty for the one in the settings.
        params: YAML of settings, or None for the defaults.
        topics: which topics of a bag.
        files: how to read a recording that is not a bag.
        truth: where to find the ground truth.
        dumps: keep rejected windows; not available from the node.
        mode: "lockstep" to run every frame through the mapper, or "live" to play the bag to the
            real node.
        rate: playback rate of the bag in live mode.
    """

    source: Path
    out: Path
    engine: str = ""
    params: Path | None = None
    topics: BagOptions = field(default_factory=BagOptions)
    files: FileOptions = field(default_factory=FileOptions)
    truth: TruthOptions = field(default_factory=TruthOptions)
    dumps: bool = True
    mode: str = LOCKSTEP
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise EvaluateError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")


@dataclass(frozen=True)
class Evaluated:
    """Results of a job.

    Attributes:
        report: the content of report.json.
        out: its folder.
        dumps: folders of rejected windows.
    """

    report: dict[str, Any]
    out: Path
    dumps: tuple[Path, ...] = ()


def mapper_config(job: EvaluateJob) -> MapperConfig:
    """Return the settings of a job.

    Raises:
        ConfigError: the file cannot be used.
    """
    config = MapperConfig() if job.params is None else load_config(job.params)
    return with_values(config, {"engine.engine": job.engine}) if job.engine else config


def open_recording(job: EvaluateJob) -> Recording:
    """Open the recording of a job.

    Raises:
        MvDust3rError: it cannot be read; the message names the remedy.
    """
    if is_bag(job.source):
        return bag_recording(job.source, job.topics, job.truth)
    return files_recording(job.source, job.truth, job.files)


def evaluate_recording(job: EvaluateJob, progress: Progress | None = None) -> Evaluated:
    """Run the mapper over a recording and write the report.

    Args:
        job: what to do.
        progress: called with frames done and the total.

    Raises:
        MvDust3rError: the recording, the engine or a file cannot be used.
    """
    if job.mode == LIVE:
        return _evaluate_live(job, progress)
    config = mapper_config(job)
    recording = open_recording(job)
    _check_oracle(job, config, recording)
    rules = config.engine
    engine = create_engine(rules.engine, EngineOptions(rules.threads, rules.provider))
    dumps = WindowDumpWriter(job.out, rules.engine, config) if job.dumps else None
    try:
        evidence, stopped = run_lockstep(recording, config, engine, dumps, progress)
    finally:
        engine.close()
    report = write_report(job.out, recording, evidence, LOCKSTEP, stopped)
    return Evaluated(report, job.out, () if dumps is None else tuple(dumps.folders))


def _check_oracle(job: EvaluateJob, config: MapperConfig, recording: Recording) -> None:
    """Check the inputs of the oracle engine; in live mode the node does not get the truth.

    Raises:
        EngineError: depth or poses are missing; the message names the remedy.
    """
    if not needs_truth(config.engine.engine):
        return
    depth = "" if recording.depth_source else "name the depth by --depth"
    truth = recording.truth is not None and job.mode == LOCKSTEP
    known = truth or (is_bag(job.source) and bag_gives_poses(job.source, job.topics))
    remedy = "name the true poses by --truth" if job.mode == LOCKSTEP else "record odometry or TF"
    require_depth_and_poses(depth=depth, poses="" if known else remedy)


def _for_the_node(params: Path, folder: Path) -> Path:
    """Return checked settings as a ROS parameter file: a plain one is wrapped."""
    data = read_yaml(params) or {}
    if any(isinstance(value, dict) and "ros__parameters" in value for value in data.values()):
        return params
    wrapped = folder / "params.yaml"
    text = yaml.safe_dump({"/**": {"ros__parameters": data}})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wrapped.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluateError(f"cannot write {wrapped}: {error.strerror or error}") from None
    return wrapped


def _evaluate_live(job: EvaluateJob, progress: Progress | None) -> Evaluated:
    from mvdust3r_ros.ros.play.demo import DemoOptions
    from mvdust3r_ros.ros.play.live import run_live

    if not job.source.exists():
        raise EvaluateError(f"{job.source} does not exist")
    if not is_bag(job.source):
        raise EvaluateError(f"{job.source}: live mode plays bags alone")
    if job.topics.max_frames:
        raise EvaluateError("live mode plays a bag to its end: leave out --max-frames")
    config = mapper_config(job)
    recording = open_recording(job)
    _check_oracle(job, config, recording)
    depth = Path(recording.depth_source) if Path(recording.depth_source).is_dir() else None
    needs_depth = needs_truth(config.engine.engine)
    options = DemoOptions(
        bag=job.source,
        engine=config.engine.engine,
        depth=depth if needs_depth else None,
        rate=job.rate,
        out=job.out / LIVE,
        params=None if job.params is None else _for_the_node(job.params, job.out / LIVE),
        topics=replace(
            job.topics, depth_topic="" if depth or not needs_depth else recording.depth_source
        ),
        patient=False,
    )
    evidence = run_live(recording, config, options, progress)
    return Evaluated(write_report(job.out, recording, evidence, LIVE), job.out)
