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

"""Commands that evaluate recordings: `evaluate BAG...`, `compare REPORT...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvdust3r_ros.commands.command_line import (
    Commands,
    add_command,
    add_frames,
    add_old_name,
    bag_options,
    progress,
    speed,
)

if TYPE_CHECKING:
    from mvdust3r_ros.commands.evaluate_many import Outcome
    from mvdust3r_ros.commands.evaluate_one import EvaluateJob

DEFAULT_OUT = Path("evaluation")

EVALUATE_EXAMPLES = """\
examples:
  mvdust3r_ros evaluate my_bag                      report in evaluation/my_bag/report.html
  mvdust3r_ros evaluate my_bag --truth /vicon/pose --depth /camera/depth/image
  mvdust3r_ros evaluate my_bag --truth poses.tum --require "ate_m<0.1,grid_iou>0.6"
  mvdust3r_ros evaluate rgbd_dataset_freiburg1_room scene0000_00 chess/seq-01
  mvdust3r_ros evaluate walk.mp4 --intrinsics phone.yaml
  mvdust3r_ros evaluate bags/* --jobs 4             one report each, and a table
  mvdust3r_ros evaluate my_bag --mode live --rate 2
  mvdust3r_ros evaluate --replay evaluation/my_bag/capsule-0003
on public data sets, beside published errors:
  mvdust3r_ros evaluate benchmark --help
the tables of MV-DUSt3R+, beside the published numbers:
  mvdust3r_ros evaluate paper --help
on synthetic scenes with exact truth:
  mvdust3r_ros evaluate rooms --help
  mvdust3r_ros evaluate apartments --help
"""


def add_evaluate(commands: Commands) -> None:
    """Add `evaluate BAG...`: reports on recordings."""
    parser = add_command(
        commands,
        "evaluate",
        "how good is it? a report on recordings: accuracy, speed, pictures",
        EVALUATE_EXAMPLES,
        "Maps recordings and writes report.html and report.json about each: accuracy "
        "against the truth where there is one, speed, what was dropped and why.",
    )
    parser.add_argument(
        "recordings", nargs="*", type=Path, metavar="RECORDING",
        help="ROS 2 bag, folder of TUM RGB-D, 7-Scenes, ScanNet or Replica, folder of images, or "
        "video",
    )  # fmt: skip
    parser.add_argument(
        "--engine", default="", metavar="DIR|oracle", help="default: the package's model"
    )
    parser.add_argument("--params", type=Path, metavar="YAML", help="settings of the mapper")
    parser.add_argument(
        "--truth", default="", metavar="TOPIC|FILE",
        help="true camera poses: Odometry, PoseStamped or TF topic, or a TUM, KITTI or EuRoC "
        "file, or one of matrices; default: found in or beside the recording; none for none",
    )  # fmt: skip
    parser.add_argument(
        "--depth", default="", metavar="TOPIC|DIR",
        help="true depth, and the oracle's: image topic or folder of 16-bit PNGs (mm); default: "
        "what the recording has, or depth/ beside it; none for none",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: evaluation/NAME")
    parser.add_argument(
        "--require", default="", metavar="LIMITS",
        help='exit with 1 unless they hold, for example "ate_m<0.1,grid_iou>0.6"',
    )  # fmt: skip
    replay = parser.add_argument(
        "--replay", type=Path, metavar="DIR", help="run a rejected window again"
    )
    add_old_name(parser, "--capsule", replay)
    no_dumps = parser.add_argument(
        "--no-dumps", action="store_true", help="do not keep rejected windows"
    )
    add_old_name(parser, "--no-capsules", no_dumps)
    parser.add_argument(
        "--mode", choices=("lockstep", "live"), default="lockstep",
        help="lockstep: every image, nothing dropped, the same numbers each time (default); live: "
        "the bag played to the real node over DDS",
    )  # fmt: skip
    parser.add_argument(
        "--rate", type=speed, default=1.0, metavar="X", help="speed of the bag in live mode"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="recordings at a time, in processes"
    )
    parser.add_argument(
        "--ray", default="", metavar="ADDRESS",
        help="one task a recording on a Ray cluster: HOST:PORT, auto, or local to start one",
    )  # fmt: skip
    _add_topics(parser)
    parser.set_defaults(run=_evaluate, parser=parser)


def _add_topics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to take from a bag")
    group.add_argument("--image-topic", default="", metavar="TOPIC")
    group.add_argument("--camera-info-topic", default="", metavar="TOPIC", help="or none")
    group.add_argument(
        "--odometry", choices=("auto", "topic", "tf", "none"), default="auto",
        help="camera poses the mapper may use (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--odom-topic", default="", metavar="TOPIC",
        help="Odometry; when named, also PoseStamped, PoseWithCovarianceStamped, TransformStamped",
    )  # fmt: skip
    add_frames(group)
    files = parser.add_argument_group("what images and videos do not say themselves")
    files.add_argument(
        "--intrinsics", type=Path, metavar="FILE",
        help="camera calibration of ROS, OpenCV, Kalibr or COLMAP, or a matrix of 3x3; default: "
        "intrinsics.yaml, K.txt and the like beside the images",
    )  # fmt: skip
    files.add_argument(
        "--fps", type=float, default=30.0, metavar="HZ",
        help="images a second, where neither names nor times.txt tell (default %(default)g)",
    )  # fmt: skip
    files.add_argument(
        "--depth-factor", type=float, default=0.0, metavar="STEPS",
        help="steps of a depth image in a metre (default: 5000 for TUM RGB-D, else 1000)",
    )  # fmt: skip
    parser.add_argument("--max-frames", type=int, default=0, metavar="N", help="0 for all")


def _evaluate(args: argparse.Namespace) -> int:
    if args.replay is not None:
        return _replay(args)
    if not args.recordings:
        args.parser.error("name a recording, or a rejected window by --replay")
    from mvdust3r_ros.evaluation.report.report_files import describe_report, explain_no_images
    from mvdust3r_ros.evaluation.report.requirements import failures, parse_requirements

    requirements = parse_requirements(args.require)
    jobs = _jobs(args)
    status = 0
    reports = {}
    for outcome in _outcomes(args, jobs):
        place = jobs.index(outcome.job)
        name = f"{outcome.job.out.name}: " if len(jobs) > 1 else ""
        if outcome.done is None:
            _complain(f"{name}{outcome.error}")
            status = 130 if outcome.interrupted else max(status, 1)
            continue
        report = reports[place] = outcome.done.report
        print(describe_report(report, outcome.job.out, outcome.done.dumps))
        if nothing := explain_no_images(report):
            _complain(f"{name}{nothing}")
            status = max(status, 1)
        for line in failures(requirements, report):
            _complain(f"{name}required {line}")
            status = max(status, 1)
        if not report["complete"]:
            _complain(f"{name}partial report: {report['stopped']}")
            status = 130 if outcome.interrupted else max(status, 1)
    if len(jobs) > 1 and reports:
        _print_table(reports, jobs)
    return status


def _outcomes(args: argparse.Namespace, jobs: Sequence[EvaluateJob]) -> Iterator[Outcome]:
    """Yield the outcome of each job as it finishes; Ctrl-C stops early."""
    from mvdust3r_ros.commands.evaluate_many import attempt, in_processes, on_ray

    if args.ray or (args.jobs > 1 and len(jobs) > 1):
        found = on_ray(jobs, args.ray) if args.ray else in_processes(jobs, args.jobs)
        with progress("recordings") as bar:
            bar(0, len(jobs))
            for done, outcome in enumerate(found, 1):
                bar(done, len(jobs))
                yield outcome
        return
    for job in jobs:
        with progress("images") as bar:
            outcome = attempt(job, bar)
        yield outcome
        if outcome.interrupted:
            return


def _complain(line: str) -> None:
    sys.stderr.write(f"mvdust3r_ros: {line}\n")


def _print_table(reports: dict[int, dict[str, Any]], jobs: Sequence[EvaluateJob]) -> None:
    from rich.console import Console

    from mvdust3r_ros.evaluation.report.compare import compare, comparison_table

    places = sorted(reports)
    compared = compare([reports[k] for k in places], [jobs[k].out.name for k in places])
    Console(highlight=False).print(comparison_table(compared))


def _jobs(args: argparse.Namespace) -> list[EvaluateJob]:
    from mvdust3r_ros.commands.evaluate_one import EvaluateJob
    from mvdust3r_ros.recordings.formats import FileOptions
    from mvdust3r_ros.recordings.recording import TruthOptions

    topics = bag_options(args)
    files = FileOptions(args.intrinsics, args.fps, args.max_frames, args.depth_factor)
    truth = TruthOptions(args.truth, args.depth)
    return [
        EvaluateJob(
            source=source,
            out=out,
            engine=args.engine,
            params=args.params,
            topics=topics,
            files=files,
            truth=truth,
            dumps=not args.no_dumps,
            mode=args.mode,
            rate=args.rate,
        )
        for source, out in zip(args.recordings, _folders(args), strict=True)
    ]


def _folders(args: argparse.Namespace) -> list[Path]:
    """Return a folder for each report; repeated names are numbered."""
    from mvdust3r_ros.recordings.recording import recording_name

    if args.out and len(args.recordings) == 1:
        return [args.out]
    names: list[str] = []
    for source in args.recordings:
        name = recording_name(source)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return [(args.out or DEFAULT_OUT) / name for name in names]


def _replay(args: argparse.Namespace) -> int:
    from mvdust3r_ros.config import load_config
    from mvdust3r_ros.engines.create import EngineOptions, create_engine
    from mvdust3r_ros.evaluation.window_dumps import describe_replay, read_dump, replay_dump

    dump = read_dump(args.replay)
    config = None if args.params is None else load_config(args.params)
    rules = (config or dump.config).engine
    engine = create_engine(args.engine or dump.engine, EngineOptions(rules.threads))
    try:
        print(describe_replay(dump, replay_dump(dump, engine, config)))
    finally:
        engine.close()
    return 0


def add_compare(commands: Commands) -> None:
    """Add `compare REPORT...`: reports side by side."""
    parser = add_command(
        commands,
        "compare",
        "reports of `evaluate` side by side: a table, and paths over each other",
        "mvdust3r_ros compare evaluation/monday evaluation/tuesday/report.json",
        "Prints the numbers of several reports side by side and writes one page with "
        "their paths and errors over each other. The first report gives the frame.",
    )
    parser.add_argument(
        "reports", nargs="+", type=Path, metavar="REPORT", help="report.json, or its folder"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("compare.html"), metavar="HTML",
        help="page to write (default %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from rich.console import Console

    from mvdust3r_ros.evaluation.report.compare import (
        comparison_table,
        read_comparison,
        unequal_parts,
    )
    from mvdust3r_ros.evaluation.report.compare_page import write_comparison

    compared = read_comparison(args.reports)
    Console(highlight=False).print(comparison_table(compared))
    for note in unequal_parts(compared.runs):
        print(f"note: {note}")
    for run in compared.runs:
        if run.why_not:
            print(f"note: {run.label}: path not laid over the first: {run.why_not}")
    write_comparison(args.out, compared)
    print(args.out)
    return 0
