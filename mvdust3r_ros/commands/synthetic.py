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

"""Commands that evaluate an engine on synthetic scenes: `evaluate rooms` and `apartments`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mvdust3r_ros.commands.command_line import (
    EVALUATIONS,
    Commands,
    add_command,
    number_list,
    progress,
    seeds,
)

if TYPE_CHECKING:
    from mvdust3r_ros.engines.base import Engine

HELD_OUT_SEEDS = range(7_500_000, 7_500_200)
BASELINE_SEEDS = range(8_500_000, 8_500_060)


def add_evaluate_rooms(commands: Commands) -> None:
    """Add `evaluate rooms`: synthetic rooms by seed."""
    rooms = add_command(
        commands, EVALUATIONS["rooms"],
        "`evaluate rooms`: score an engine on synthetic rooms by seed",
        "mvdust3r_ros evaluate rooms --seeds 7500000:7500020 --views 8 --out rooms",
    )  # fmt: skip
    rooms.add_argument("--seeds", type=seeds, default=HELD_OUT_SEEDS, metavar="A:B")
    rooms.add_argument("--views", type=number_list, default=[4, 8, 12, 24], metavar="N,N,...")
    rooms.add_argument("--engine", default="", metavar="DIR", help="default: the package's model")
    rooms.add_argument("--out", type=Path, required=True, metavar="DIR")
    rooms.add_argument("--baseline-seeds", type=seeds, default=BASELINE_SEEDS, metavar="A:B")
    rooms.add_argument(
        "--paths", type=int, default=10, metavar="N",
        help="map whole paths as well, by the first N seeds; 0 for none (default %(default)s)",
    )  # fmt: skip
    rooms.add_argument(
        "--path", type=float, default=20.0, metavar="M", help="their length (default %(default)s)"
    )
    rooms.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    rooms.set_defaults(run=_evaluate_rooms)


def add_evaluate_apartments(commands: Commands) -> None:
    """Add `evaluate apartments`: drives through synthetic apartments."""
    apartments = add_command(
        commands, EVALUATIONS["apartments"],
        "`evaluate apartments`: drives through synthetic apartments with drifting odometry",
        "mvdust3r_ros evaluate apartments --seeds 9000:9003 --out apartments",
    )  # fmt: skip
    apartments.add_argument("--seeds", type=seeds, default=range(9000, 9003), metavar="A:B")
    apartments.add_argument(
        "--engine", default="oracle", metavar="DIR|oracle", help="default: truth with noise"
    )
    apartments.add_argument("--params", type=Path, metavar="YAML", help="settings of the mapper")
    apartments.add_argument(
        "--path", type=float, default=60.0, metavar="M", help="length of a drive"
    )
    apartments.add_argument(
        "--corrupt", type=float, default=0.0, metavar="SHARE", help="share of corrupted windows"
    )
    apartments.add_argument(
        "--drift", type=float, default=0.02,
        help="of odometry, a random walk: one-sigma of a metre (default %(default)s)",
    )  # fmt: skip
    apartments.add_argument(
        "--odom-bias", type=float, default=0.0, metavar="SHARE",
        help="one-sigma of a length error of odometry that stays the same over a drive",
    )  # fmt: skip
    apartments.add_argument(
        "--loops", action=argparse.BooleanOptionalAction, default=True,
        help="close loops, and drive again without to compare",
    )  # fmt: skip
    apartments.add_argument(
        "--threads", type=int, default=2, help="CPU threads (default %(default)s)"
    )
    apartments.add_argument("--out", type=Path, required=True, metavar="DIR")
    apartments.set_defaults(run=_evaluate_apartments)


def _evaluate_rooms(args: argparse.Namespace) -> int:
    from mvdust3r_ros.engines.create import EngineOptions, create_engine
    from mvdust3r_ros.evaluation.trials.rooms import evaluate_rooms, format_results
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
    if args.paths > 0:
        print(_map_paths(args, engine))
    print(f"{args.out}: results.json, table.md and pictures")
    return 0


def _map_paths(args: argparse.Namespace, engine: Engine) -> str:
    """Also map whole paths through held-out apartments; return their table."""
    from mvdust3r_ros.config import MapperConfig, with_values
    from mvdust3r_ros.evaluation.trials.apartment_drives import ApartmentOptions
    from mvdust3r_ros.evaluation.trials.apartments import evaluate_apartments, format_apartments

    config = with_values(MapperConfig(), {"loop.enabled": False})
    options = ApartmentOptions(args.path, min_rooms=1, hw=engine.describe().image_hw)
    with progress("paths") as report:
        results = evaluate_apartments(
            args.seeds[: args.paths], config, options, args.out / "paths", engine, report
        )
    return f"### Whole paths\n\n{format_apartments(results)}"


def _evaluate_apartments(args: argparse.Namespace) -> int:
    from mvdust3r_ros.config import MapperConfig, load_config, with_values
    from mvdust3r_ros.engines.create import EngineOptions, create_engine, needs_truth
    from mvdust3r_ros.evaluation.trials.apartment_drives import ApartmentOptions
    from mvdust3r_ros.evaluation.trials.apartments import evaluate_apartments, format_apartments

    config = MapperConfig() if args.params is None else load_config(args.params)
    if not args.loops:
        config = with_values(config, {"loop.enabled": False})
    options = ApartmentOptions(
        path_m=args.path, drift=args.drift, bias=args.odom_bias, corrupt=args.corrupt
    )
    engine = None
    if not needs_truth(args.engine):
        engine = create_engine(args.engine, EngineOptions(threads=args.threads))
        options = replace(options, hw=engine.describe().image_hw)
    with progress("apartments") as report:
        results = evaluate_apartments(args.seeds, config, options, args.out, engine, report)
    print(format_apartments(results))
    print(f"{args.out}: results.json and table.md")
    return 0
