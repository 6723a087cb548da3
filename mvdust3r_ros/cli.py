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

"""Commands of `mvdust3r_ros`: each parses its arguments and calls one function below.

Errors of the package become one line on stderr and exit code 1.
"""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mvdust3r_ros.commands.benchmark import add_evaluate_benchmark
from mvdust3r_ros.commands.command_line import (
    Commands,
    HelpText,
    add_command,
    add_frames,
    add_old_name,
    bag_options,
    evaluation_in_one_word,
    parse,
    progress,
    seeds,
    speed,
)
from mvdust3r_ros.commands.evaluate import DEFAULT_OUT, add_compare, add_evaluate
from mvdust3r_ros.commands.network import add_engine, add_golden, add_weights
from mvdust3r_ros.commands.paper import add_evaluate_paper
from mvdust3r_ros.commands.setup import add_setup_python
from mvdust3r_ros.commands.synthetic import (
    add_evaluate_apartments,
    add_evaluate_rooms,
)
from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.robot_python import explain_missing

Command = Callable[[argparse.Namespace], int]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mvdust3r_ros",
        description="Dense metric maps from camera images with MV-DUSt3R+.",
        epilog="example: mvdust3r_ros map my_bag --out out",
        formatter_class=HelpText,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


def _add_synth(commands: Commands) -> None:
    synth = add_command(
        commands, "synth", "make synthetic rooms: a bag, or training data",
        "mvdust3r_ros synth bag --out room",
    )  # fmt: skip
    kinds = synth.add_subparsers(dest="kind", required=True, metavar="WHAT")
    bag = add_command(
        kinds, "bag", "a drive as a ROS 2 bag, ground truth beside it",
        "mvdust3r_ros synth bag --seed 4 --apartment --out apartment",
    )  # fmt: skip
    bag.add_argument("--seed", type=int, default=0, help="which scene (default %(default)s)")
    bag.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    bag.add_argument("--frames", type=int, default=80, help="frames (default %(default)s)")
    bag.add_argument("--size", type=_size, default=(240, 320), metavar="WxH", help="image size")
    several = bag.add_argument("--apartment", action="store_true", help="several rooms, not one")
    add_old_name(bag, "--flat", several)
    bag.add_argument("--walker", action="store_true", help="a person walks about")
    bag.add_argument("--raw", action="store_true", help="raw images instead of JPEG")
    bag.add_argument("--no-odometry", action="store_true", help="no odometry and no TF")
    bag.add_argument("--drift", type=float, default=0.02, help="relative drift of the odometry")
    bag.set_defaults(run=_synth_bag)
    rooms = add_command(
        kinds, "rooms", "views of rooms to train on",
        "mvdust3r_ros synth rooms --seeds 0:500 --out rooms",
    )  # fmt: skip
    rooms.add_argument("--seeds", type=seeds, default=range(6000), metavar="A:B")
    rooms.add_argument("--out", type=Path, required=True, metavar="DIR")
    rooms.add_argument("--views", type=int, default=12, help="views a room (default %(default)s)")
    rooms.add_argument("--size", type=_size, default=(128, 128), metavar="WxH", help="image size")
    rooms.add_argument("--jobs", type=int, default=2, help="processes (default %(default)s)")
    rooms.set_defaults(run=_synth_rooms)


def _synth_bag(args: argparse.Namespace) -> int:
    from mvdust3r_ros.recordings.synth_bag import BagConfig, write_synthetic_bag
    from mvdust3r_ros.synthetic.sequence import SequenceConfig

    drive = SequenceConfig(
        seed=args.seed,
        frames=args.frames,
        hw=args.size,
        apartment=args.apartment,
        walker=args.walker,
    )
    config = BagConfig(drive, not args.raw, not args.no_odometry, args.drift)
    with progress("frames") as report:
        bag = write_synthetic_bag(args.out, config, report)
    print(f"{bag}: ros2 bag play {bag}")
    return 0


def _synth_rooms(args: argparse.Namespace) -> int:
    from mvdust3r_ros.synthetic.dataset import write_rooms

    with progress("shards") as report:
        write_rooms(args.out, args.seeds, args.views, args.size, args.jobs, report)
    return 0


def _add_train(commands: Commands) -> None:
    train = add_command(
        commands, "train", "train the small network on synthetic rooms",
        "mvdust3r_ros train --config config/train_room.yaml --rooms rooms --run run",
    )  # fmt: skip
    train.add_argument("--config", type=Path, required=True, metavar="YAML")
    train.add_argument("--export", type=Path, metavar="DIR", help="only export the run's result")
    train.add_argument(
        "--metrics", type=Path, metavar="JSON", help="results.json for its manifest"
    )
    train.add_argument("--rooms", metavar="DIR", help="folder made by `synth rooms`")
    train.add_argument("--run", metavar="DIR", dest="folder", help="folder of the run")
    train.add_argument("--max-steps", type=int, help="where the run ends, decay included")
    train.add_argument("--device", choices=("cpu", "cuda"))
    train.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: never")
    train.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from mvdust3r_ros.synthetic.release import release_run
    from mvdust3r_ros.synthetic.train import train
    from mvdust3r_ros.synthetic.train_config import load_train_config

    given = {
        "rooms": args.rooms, "run": args.folder, "max_steps": args.max_steps, "device": args.device
    }  # fmt: skip
    config = load_train_config(args.config, {k: v for k, v in given.items() if v is not None})
    if args.export is None:
        train(config, args.minutes)
    else:
        print(release_run(config, args.export, args.metrics))
    return 0


def _add_train_mvs(commands: Commands) -> None:
    train = add_command(
        commands, "train-mvs", "train the network of the engine mvs: rooms, training, export",
        "mvdust3r_ros train-mvs --run runs/mvs --export models/mvs",
    )  # fmt: skip
    train.add_argument("--run", type=Path, required=True, metavar="DIR", dest="folder",
                       help="folder of the run; goes on from its last checkpoint")  # fmt: skip
    train.add_argument("--steps", type=int, default=6000, help="steps (default %(default)s)")
    train.add_argument("--rooms", type=int, default=1200, help="rooms (default %(default)s)")
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: never")
    train.add_argument("--init", default="", metavar="DIR",
                       help="engine folder whose weights a new run begins with")  # fmt: skip
    train.add_argument("--export", type=Path, metavar="DIR", help="engine folder to make of it")
    train.set_defaults(run=_train_mvs)


def _train_mvs(args: argparse.Namespace) -> int:
    from mvdust3r_ros.evaluation.lockstep import interruptible
    from mvdust3r_ros.synthetic.release_mvs import release_mvs
    from mvdust3r_ros.synthetic.train_mvs import MvsTraining, train_mvs

    config = MvsTraining(
        str(args.folder), steps=args.steps, rooms=args.rooms, device=args.device, init=args.init
    )

    def report(point: dict[str, float]) -> None:
        print(
            f"step {point['step']} of {args.steps}, {point['minutes']:g} min, {point['rooms']} "
            f"rooms: {point['within_10']:.0%} of the pixels within 10 %",
            flush=True,
        )

    with interruptible() as interrupted:
        step = train_mvs(config, args.minutes, interrupted.is_set, report)
    if step < args.steps:
        print(
            f"{args.folder}: at step {step} of {args.steps}; the same command goes on from there"
        )
    if interrupted.is_set():
        return 130
    if args.export is not None:
        print(release_mvs(args.folder, args.export))
    return 0


def _add_train_gaussians(commands: Commands) -> None:
    train = add_command(
        commands, "train-gaussians", "train the Gaussian heads of a network on synthetic rooms",
        "mvdust3r_ros train-gaussians --weights MVD.pth --rooms rooms --run runs/gaussians",
    )  # fmt: skip
    train.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="network to start from"
    )
    train.add_argument(
        "--rooms", type=Path, required=True, metavar="DIR", help="folder made by `synth rooms`"
    )
    train.add_argument(
        "--run", type=Path, required=True, metavar="DIR", dest="folder",
        help="folder of the run; goes on from its last checkpoint",
    )  # fmt: skip
    train.add_argument("--steps", type=int, default=4000, help="steps (default %(default)s)")
    train.add_argument("--views", type=int, default=8, help="input views (default %(default)s)")
    train.add_argument(
        "--min-views", type=int, default=0, metavar="N",
        help="draw the number of input views between this and --views; 0: always --views",
    )  # fmt: skip
    train.add_argument(
        "--held-out", type=int, default=2, metavar="N",
        help="views that are rendered but not seen (default %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--true-points", action="store_true", help="learn shapes alone, on the true points"
    )
    train.add_argument(
        "--joint", action="store_true", help="train the pointmaps as well, not the heads alone"
    )
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: never")
    train.set_defaults(run=_train_gaussians)


def _train_gaussians(args: argparse.Namespace) -> int:
    from mvdust3r_ros.evaluation.lockstep import interruptible
    from mvdust3r_ros.synthetic.train_gaussians import GaussianTrainer, GaussianTraining

    config = GaussianTraining(
        str(args.weights), str(args.rooms), str(args.folder), args.steps, args.views,
        args.min_views, args.held_out, true_points=args.true_points, joint=args.joint,
        device=args.device,
    )  # fmt: skip

    def report(point: dict[str, float]) -> None:
        print(", ".join(f"{name} {value:g}" for name, value in point.items()), flush=True)

    trainer = GaussianTrainer(config)
    with interruptible() as interrupted:
        trainer.run(args.minutes, interrupted.is_set, report)
    if interrupted.is_set():
        return 130
    print(f"{trainer.weights}: mvdust3r_ros map BAG --engine {trainer.weights} --splat room.ply")
    return 0


def _add_train_spann3r(commands: Commands) -> None:
    train = add_command(
        commands, "train-spann3r", "train Spann3R's memory on synthetic rooms",
        "mvdust3r_ros train-spann3r --weights models/room --rooms rooms --run runs/spann3r",
    )  # fmt: skip
    train.add_argument(
        "--weights", type=Path, required=True, metavar="FILE",
        help="network to start from: weights, or an engine folder of ONNX graphs",
    )  # fmt: skip
    train.add_argument(
        "--rooms", type=Path, required=True, metavar="DIR", help="folder made by `synth rooms`"
    )
    train.add_argument(
        "--run", type=Path, required=True, metavar="DIR", dest="folder",
        help="folder of the run; goes on from its last checkpoint",
    )  # fmt: skip
    train.add_argument("--steps", type=int, default=1000, help="steps (default %(default)s)")
    train.add_argument(
        "--views", type=int, default=12, help="most views of a sequence (default %(default)s)"
    )
    train.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: never")
    train.add_argument(
        "--export", type=Path, metavar="DIR",
        help="engine folder to make of it, beside that of --weights",
    )  # fmt: skip
    train.set_defaults(run=_train_spann3r)


def _train_spann3r(args: argparse.Namespace) -> int:
    from mvdust3r_ros.engines.spann3r.engine import release_spann3r
    from mvdust3r_ros.evaluation.lockstep import interruptible
    from mvdust3r_ros.synthetic.train_spann3r import SpannTrainer, SpannTraining

    weights, export = args.weights.resolve(), args.export and args.export.resolve()
    if export and (not weights.is_dir() or export.parent != weights.parent):
        raise MvDust3rError(
            f"{args.export} cannot hold what is on top of {args.weights}: both must be folders in "
            "one place"
        )
    config = SpannTraining(
        str(weights), str(args.rooms), str(args.folder), args.steps, args.views,
        device=args.device,
    )  # fmt: skip

    def report(point: dict[str, float]) -> None:
        print(", ".join(f"{name} {value:g}" for name, value in point.items()), flush=True)

    trainer = SpannTrainer(config)
    with interruptible() as interrupted:
        trainer.run(args.minutes, interrupted.is_set, report)
    if interrupted.is_set():
        return 130
    if export:
        release_spann3r(trainer.weights, export, weights.name)
        print(f"{args.export}: mvdust3r_ros evaluate rooms --engine {args.export}")
    return 0


def _size(text: str) -> tuple[int, int]:
    """Parse WxH to (height, width)."""
    try:
        width, height = (int(v) for v in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT") from None
    return height, width


def _add_demo(commands: Commands) -> None:
    demo = add_command(
        commands, "demo", "run the real nodes on a bag and leave a map",
        "mvdust3r_ros demo --bag my_bag --rate 0.5 --out out",
        "Runs bag player, mapper node and recorder as processes over DDS.",
    )  # fmt: skip
    demo.add_argument("--bag", type=Path, help="bag of camera images; default: a synthetic room")
    demo.add_argument("--engine", default="", help="engine folder, or oracle (needs --depth)")
    demo.add_argument("--depth", type=Path, metavar="DIR", help="depth maps to publish")
    demo.add_argument(
        "--rate", type=speed, default=1.0, help="speed of the bag (default %(default)g)"
    )
    demo.add_argument("--params", type=Path, metavar="YAML", help="settings of the node")
    demo.add_argument("--out", type=Path, default=Path("out"), metavar="DIR")
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from mvdust3r_ros.ros.play.demo import DemoOptions
    from mvdust3r_ros.ros.play.demo_report import show_demo

    return show_demo(
        DemoOptions(args.bag, args.engine, args.depth, args.rate, args.out, args.params)
    )


def _add_params(commands: Commands) -> None:
    params = add_command(
        commands, "params", "print every setting of the node as a ROS parameter file",
        "mvdust3r_ros params > mapper.yaml",
    )  # fmt: skip
    params.set_defaults(run=_params)


def _params(args: argparse.Namespace) -> int:
    from mvdust3r_ros.config import config_to_yaml
    from mvdust3r_ros.ros.settings import NodeConfig

    del args
    print(config_to_yaml(NodeConfig(), "/**"), end="")
    return 0


def _add_map(commands: Commands) -> None:
    parser = add_command(
        commands, "map", "map a bag as fast as it goes, without ROS messages",
        "mvdust3r_ros map my_bag --out out",
    )  # fmt: skip
    parser.add_argument("bag", type=Path, metavar="BAG", help="bag folder, .mcap or .db3")
    parser.add_argument(
        "--engine", default="", metavar="DIR|oracle", help="default: the package's model"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR")
    parser.add_argument("--params", type=Path, metavar="YAML", help="settings of the mapper")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="true camera poses")
    parser.add_argument("--depth", type=Path, metavar="DIR", help="depth maps, for the oracle")
    parser.add_argument("--image-topic", default="", metavar="TOPIC")
    parser.add_argument("--camera-info-topic", default="", metavar="TOPIC", help="or none")
    parser.add_argument(
        "--odometry", choices=("auto", "topic", "tf", "none"), default="auto",
        help="where camera poses come from (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--odom-topic", default="", metavar="TOPIC")
    add_frames(parser)
    parser.add_argument("--depth-topic", default="", metavar="TOPIC")
    parser.add_argument("--max-frames", type=int, default=0, metavar="N", help="0 for all")
    parser.add_argument(
        "--splat", type=Path, metavar="FILE", help="also write Gaussians for viewers, .ply"
    )
    parser.set_defaults(run=_map)


def _map(args: argparse.Namespace) -> int:
    from mvdust3r_ros.commands.map_bag import MapJob, map_bag
    from mvdust3r_ros.evaluation.report.report import describe_run

    topics = bag_options(args, depth_topic=args.depth_topic, depth_folder=args.depth)
    job = MapJob(args.bag, args.out, topics, args.engine, args.params, args.truth, args.splat)
    with progress("frames") as report:
        summary = map_bag(job, report)
    print(describe_run(summary))
    return 0


COMMANDS: tuple[Callable[[Commands], None], ...] = (
    _add_map,
    _add_synth,
    _add_train,
    _add_train_mvs,
    _add_train_gaussians,
    _add_train_spann3r,
    add_evaluate,
    add_compare,
    add_evaluate_rooms,
    add_evaluate_apartments,
    add_evaluate_benchmark,
    add_evaluate_paper,
    _add_demo,
    _add_params,
    add_engine,
    add_weights,
    add_golden,
    add_setup_python,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `mvdust3r_ros` console script."""
    import argcomplete

    parser = build_parser()
    argcomplete.autocomplete(parser)
    args = parse(parser, evaluation_in_one_word(sys.argv[1:] if argv is None else argv))
    run: Command = args.run
    try:
        with explain_missing():
            _check_out(args)
            return run(args)
    except MvDust3rError as error:
        sys.stderr.write(f"mvdust3r_ros: {error}\n")
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"mvdust3r_ros: {error.filename}: {error.strerror}\n")
        return 1
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        sys.stderr.write(
            "mvdust3r_ros: this command needs PyTorch: pip install 'mvdust3r_ros[torch]', in a "
            "checkout: make env-dev\n"
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _check_out(args: argparse.Namespace) -> None:
    """Raise FileError early if the results could not be written at the end."""
    from mvdust3r_ros.safe_files import require_writable

    out: Path | None = getattr(args, "out", None)
    if out is None and args.command == "evaluate":
        out = DEFAULT_OUT
    if out is not None:
        require_writable(out.parent if args.command == "compare" else out)


if __name__ == "__main__":
    sys.exit(main())
