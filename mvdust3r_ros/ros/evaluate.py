"""One recording to one report: what `mvdust3r_ros evaluate` does for each of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvdust3r_ros.config import MapperConfig, load_config, with_values
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.evaluation.capsules import CapsuleWriter
from mvdust3r_ros.evaluation.files import FileOptions, files_recording
from mvdust3r_ros.evaluation.lockstep import run_lockstep
from mvdust3r_ros.evaluation.recording import Recording, TruthOptions
from mvdust3r_ros.evaluation.report_files import write_report
from mvdust3r_ros.ros.bag import BagOptions, is_bag
from mvdust3r_ros.ros.bag_recording import bag_recording

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluateJob:
    """One recording to evaluate.

    Attributes:
        source: bag, folder or video.
        out: folder to write into.
        engine: engine folder or "oracle"; empty for the one in the settings.
        params: YAML of settings, or None for the defaults.
        topics: which topics of a bag.
        files: how to read a recording that is no bag.
        truth: where the truth is.
        capsules: keep rejected windows.
    """

    source: Path
    out: Path
    engine: str = ""
    params: Path | None = None
    topics: BagOptions = field(default_factory=BagOptions)
    files: FileOptions = field(default_factory=FileOptions)
    truth: TruthOptions = field(default_factory=TruthOptions)
    capsules: bool = True


@dataclass(frozen=True)
class Evaluated:
    """What came out of a job.

    Attributes:
        report: as in report.json.
        out: its folder.
        capsules: folders of rejected windows.
    """

    report: dict[str, Any]
    out: Path
    capsules: tuple[Path, ...] = ()


def mapper_config(job: EvaluateJob) -> MapperConfig:
    """The settings of a job.

    Raises:
        ConfigError: the file cannot be used.
    """
    config = MapperConfig() if job.params is None else load_config(job.params)
    return with_values(config, {"engine.engine": job.engine}) if job.engine else config


def open_recording(job: EvaluateJob) -> Recording:
    """The recording of a job.

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
        progress: called with frames done and frames in all.

    Raises:
        MvDust3rError: the recording, the engine or a file cannot be used.
    """
    config = mapper_config(job)
    recording = open_recording(job)
    rules = config.engine
    engine = create_engine(rules.engine, EngineOptions(rules.threads, rules.provider))
    capsules = CapsuleWriter(job.out, rules.engine, config) if job.capsules else None
    try:
        evidence, stopped = run_lockstep(recording, config, engine, capsules, progress)
    finally:
        engine.close()
    report = write_report(job.out, recording, evidence, "lockstep", stopped)
    return Evaluated(report, job.out, () if capsules is None else tuple(capsules.folders))
