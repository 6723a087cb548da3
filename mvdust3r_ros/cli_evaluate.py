"""The commands that judge: `evaluate BAG...`, `evaluate rooms`, `evaluate flats`, `compare`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mvdust3r_ros.cli_words import Commands, number_list, progress, seeds

if TYPE_CHECKING:
    from mvdust3r_ros.ros.evaluate import EvaluateJob

HELD_OUT_SEEDS = range(7_500_000, 7_500_200)
BASELINE_SEEDS = range(8_500_000, 8_500_060)
SYNTHETIC = {"rooms": "evaluate-rooms", "flats": "evaluate-flats"}
"""Word after `evaluate` -> the command it stands for, which completion knows by one word."""
EVALUATE_EXAMPLES = """\
examples:
  mvdust3r_ros evaluate my_bag                      report in evaluation/my_bag/report.html
  mvdust3r_ros evaluate my_bag --truth /vicon/pose --depth /camera/depth/image
  mvdust3r_ros evaluate my_bag --truth poses.tum --require "ate_m<0.1,grid_iou>0.6"
  mvdust3r_ros evaluate bags/* --jobs 4             one report each, and a table
  mvdust3r_ros evaluate --capsule evaluation/my_bag/capsule-0003
judged on synthetic scenes with exact truth:
  mvdust3r_ros evaluate rooms --help
  mvdust3r_ros evaluate flats --help
"""


def add_evaluate(commands: Commands) -> None:
    """`evaluate BAG...`: reports on recordings."""
    parser = commands.add_parser(
        "evaluate",
        help="how good is it? a report on recordings: accuracy, speed, pictures",
        description="Maps recordings and writes report.html and report.json about each: accuracy "
        "against the truth where there is one, speed, what was dropped and why.",
        epilog=EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recordings", nargs="*", type=Path, metavar="BAG", help="ROS 2 bag")
    parser.add_argument(
        "--engine", default="", metavar="DIR|oracle", help="default: the package's model"
    )
    parser.add_argument("--params", type=Path, metavar="YAML", help="settings of the mapper")
    parser.add_argument(
        "--truth", default="", metavar="TOPIC|FILE",
        help="true camera poses: Odometry, PoseStamped or TF topic, or a TUM, KITTI or EuRoC "
        "file; default: found in or beside the bag; none for none",
    )  # fmt: skip
    parser.add_argument(
        "--depth", default="", metavar="TOPIC|DIR",
        help="true depth, and the oracle's: image topic or folder of 16-bit PNGs (mm); default: "
        "depth/ beside the bag; none for none",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: evaluation/NAME")
    parser.add_argument(
        "--require", default="", metavar="LIMITS",
        help='exit with 1 unless they hold, for example "ate_m<0.1,grid_iou>0.6"',
    )  # fmt: skip
    parser.add_argument("--capsule", type=Path, metavar="DIR", help="run a rejected window again")
    parser.add_argument("--no-capsules", action="store_true", help="do not keep rejected windows")
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
    group.add_argument("--odom-topic", default="", metavar="TOPIC")
    group.add_argument("--max-frames", type=int, default=0, metavar="N", help="0 for all")


def _evaluate(args: argparse.Namespace) -> int:
    if args.capsule is not None:
        return _replay(args)
    if not args.recordings:
        args.parser.error("name a recording, or a capsule by --capsule")
    from mvdust3r_ros.evaluation.report_files import describe_report
    from mvdust3r_ros.evaluation.requirements import failures, parse_requirements
    from mvdust3r_ros.ros.evaluate import evaluate_recording

    requirements = parse_requirements(args.require)
    status = 0
    for job in _jobs(args):
        with progress("images") as bar:
            done = evaluate_recording(job, bar)
        print(describe_report(done.report, done.out, done.capsules))
        for line in failures(requirements, done.report):
            sys.stderr.write(f"mvdust3r_ros: required {line}\n")
            status = 1
        if not done.report["complete"]:
            sys.stderr.write(f"mvdust3r_ros: partial report: {done.report['stopped']}\n")
            return 130 if done.report["stopped"] == "interrupted" else 1
    return status


def _jobs(args: argparse.Namespace) -> list[EvaluateJob]:
    from mvdust3r_ros.evaluation.recording import recording_name
    from mvdust3r_ros.ros.bag import BagOptions
    from mvdust3r_ros.ros.bag_recording import TruthOptions
    from mvdust3r_ros.ros.evaluate import EvaluateJob

    topics = BagOptions(
        image_topic=args.image_topic,
        camera_info_topic=args.camera_info_topic,
        odometry=args.odometry,
        odom_topic=args.odom_topic,
        max_frames=args.max_frames,
    )
    truth = TruthOptions(args.truth, args.depth)
    jobs = []
    for source in args.recordings:
        out = args.out or Path("evaluation") / recording_name(source)
        if args.out and len(args.recordings) > 1:
            out = args.out / recording_name(source)
        jobs.append(
            EvaluateJob(source, out, args.engine, args.params, topics, truth, not args.no_capsules)
        )
    return jobs


def _replay(args: argparse.Namespace) -> int:
    from mvdust3r_ros.config import load_config
    from mvdust3r_ros.engines.create import EngineOptions, create_engine
    from mvdust3r_ros.evaluation.capsules import describe_replay, read_capsule, replay_capsule

    capsule = read_capsule(args.capsule)
    config = None if args.params is None else load_config(args.params)
    rules = (config or capsule.config).engine
    engine = create_engine(args.engine or capsule.engine, EngineOptions(rules.threads))
    try:
        print(describe_replay(capsule, replay_capsule(capsule, engine, config)))
    finally:
        engine.close()
    return 0


def add_evaluate_rooms(commands: Commands) -> None:
    """`evaluate rooms`: synthetic rooms by seed."""
    rooms = commands.add_parser(
        SYNTHETIC["rooms"], help="`evaluate rooms`: judge an engine on synthetic rooms by seed"
    )
    rooms.add_argument("--seeds", type=seeds, default=HELD_OUT_SEEDS, metavar="A:B")
    rooms.add_argument("--views", type=number_list, default=[4, 8, 12, 24], metavar="N,N,...")
    rooms.add_argument("--engine", default="", metavar="DIR", help="default: the package's model")
    rooms.add_argument("--out", type=Path, required=True, metavar="DIR")
    rooms.add_argument("--baseline-seeds", type=seeds, default=BASELINE_SEEDS, metavar="A:B")
    rooms.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    rooms.set_defaults(run=_evaluate_rooms)


def add_evaluate_flats(commands: Commands) -> None:
    """`evaluate flats`: drives through synthetic flats."""
    flats = commands.add_parser(
        SYNTHETIC["flats"],
        help="`evaluate flats`: drives through synthetic flats with drifting odometry",
    )
    flats.add_argument("--seeds", type=seeds, default=range(9000, 9003), metavar="A:B")
    flats.add_argument(
        "--engine", default="oracle", metavar="DIR|oracle", help="default: truth with noise"
    )
    flats.add_argument("--params", type=Path, metavar="YAML", help="settings of the mapper")
    flats.add_argument("--path", type=float, default=60.0, metavar="M", help="way of a drive")
    flats.add_argument(
        "--corrupt", type=float, default=0.0, metavar="SHARE", help="share of spoiled windows"
    )
    flats.add_argument("--drift", type=float, default=0.02, help="of odometry (%(default)s)")
    flats.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    flats.add_argument("--out", type=Path, required=True, metavar="DIR")
    flats.set_defaults(run=_evaluate_flats)


def _evaluate_rooms(args: argparse.Namespace) -> int:
    from mvdust3r_ros.engines.create import EngineOptions, create_engine
    from mvdust3r_ros.evaluation.rooms import evaluate_rooms, format_results
    from mvdust3r_ros.synthetic.dataset import exact_views

    engine = create_engine(args.engine, EngineOptions(threads=args.threads))
    hw = engine.describe().image_hw
    with progress("windows") as report:
        results = evaluate_rooms(
            engine,
            lambda seed, views: exact_views(seed, views, hw),
            args.seeds,
            args.views,
            args.baseline_seeds,
            args.out,
            report,
        )
    print(format_results(results))
    print(f"{args.out}: results.json, table.md and pictures")
    return 0


def _evaluate_flats(args: argparse.Namespace) -> int:
    from mvdust3r_ros.config import MapperConfig, load_config
    from mvdust3r_ros.engines.create import EngineOptions, create_engine
    from mvdust3r_ros.evaluation.flats import FlatOptions, evaluate_flats, format_flats

    config = MapperConfig() if args.params is None else load_config(args.params)
    options = FlatOptions(path_m=args.path, drift=args.drift, corrupt=args.corrupt)
    engine = None
    if args.engine != "oracle":
        engine = create_engine(args.engine, EngineOptions(threads=args.threads))
        options = replace(options, hw=engine.describe().image_hw)
    with progress("flats") as report:
        results = evaluate_flats(args.seeds, config, options, args.out, engine, report)
    print(format_flats(results))
    print(f"{args.out}: results.json and table.md")
    return 0
