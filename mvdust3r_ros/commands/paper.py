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

"""`evaluate paper`: the tables of MV-DUSt3R+, measured here, beside the published numbers."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mvdust3r_ros.commands.command_line import (
    EVALUATIONS,
    Commands,
    add_command,
    number_list,
    progress,
)
from mvdust3r_ros.commands.synthetic import HELD_OUT_SEEDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvdust3r_ros.evaluation.paper.measured import NewViews, OpenWindows, Windows
    from mvdust3r_ros.evaluation.paper.tables import Results

TABLES = (1, 2, 3, 4, 5, 6)  # as the paper numbers them
EXAMPLES = """\
examples:
  mvdust3r_ros evaluate paper --table 2 --table 3
  mvdust3r_ros evaluate paper --table all --weights weights --data scannet
  mvdust3r_ros evaluate paper --table 2 --engines mvs,MV-DUSt3R+,runs/my_engine --views 4,8
  mvdust3r_ros evaluate paper --show paper/paper.json      the tables as Markdown
"""


def add_evaluate_paper(commands: Commands) -> None:
    """Add `evaluate paper`: the paper's tables."""
    parser = add_command(
        commands, EVALUATIONS["paper"],
        "`evaluate paper`: the tables of MV-DUSt3R+ beside the published numbers",
        EXAMPLES,
        "Measures the tables of the paper on synthetic rooms, or on its data sets, with the "
        "bundled weights or yours, and puts the published numbers beside. Writes paper.json and "
        "paper.html.",
    )  # fmt: skip
    parser.add_argument(
        "--table", type=_tables, action="extend", default=[], metavar="1..6|all", dest="tables",
        help="which: 1 time and memory, 2 reconstruction, 3 poses, 4 new views, 5 input views in "
        "training, 6 Gaussian heads; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="a data set, or a folder of hm3d, scannet, mp3d (default: synthetic rooms)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, metavar="DIR",
        help="folder of MVD*, MVDp*, dust3r*, spann3r*, table5/* (default: the bundled weights)",
    )  # fmt: skip
    parser.add_argument(
        "--lpips", type=Path, metavar="FILE", help="weights of LPIPS on AlexNet, for table 4"
    )
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), default=[], metavar="NAME,...",
        help="rows of the paper, mvs, COLMAP, or engine folders (default: all rows)",
    )  # fmt: skip
    parser.add_argument(
        "--windows", type=int, default=5, metavar="N",
        help="windows for each number of views (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--views", type=number_list, default=[], metavar="N,N,...", help="default: the paper's"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: paper")
    parser.add_argument(
        "--show", type=Path, nargs="+", metavar="JSON",
        help="measure nothing: print the tables of one or more paper.json as Markdown, and with "
        "--out write their page",
    )  # fmt: skip
    parser.set_defaults(run=_paper)


def _tables(text: str) -> list[int]:
    """Parse "2" to [2], and "all"."""
    if text == "all":
        return list(TABLES)
    if text not in map(str, TABLES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a table: 1 to 6, or all")
    return [int(text)]


def _paper(args: argparse.Namespace) -> int:
    from mvdust3r_ros.evaluation.paper.page import write_page
    from mvdust3r_ros.evaluation.paper.tables import (
        joined,
        read_results,
        results_markdown,
        table_text,
        write_results,
    )

    if args.show:
        shown = joined([read_results(path) for path in args.show])
        print(results_markdown(shown), end="")
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            write_results(shown, args.out)
            write_page(args.out / "paper.html", shown)
        return 0
    args.out = args.out or Path("paper")
    if not args.tables:
        args.parser.error("name a table by --table, or results by --show")
    if args.windows < 1 or any(views < 2 for views in args.views):
        args.parser.error("--windows takes 1 or more, --views 2 or more")
    results = _measure(args)
    print("\n\n".join(table_text(results, table) for table in results.tables))
    write_page(args.out / "paper.html", results)
    print(f"\n{args.out}: paper.json and paper.html")
    return 0


def _measure(args: argparse.Namespace) -> Results:
    """Measure, and write what there is after each engine."""
    from mvdust3r_ros.evaluation.paper.layout import LAYOUTS
    from mvdust3r_ros.evaluation.paper.measured import Job, measure
    from mvdust3r_ros.evaluation.paper.systems import find_recipes, find_systems
    from mvdust3r_ros.evaluation.paper.tables import results_of, write_results
    from mvdust3r_ros.evaluation.paper.times import measure_times

    tables = sorted(set(args.tables))
    job = Job(
        tables=tables,
        systems=find_systems(args.engines, args.weights),
        recipes=find_recipes(args.weights),
        open_windows=_open_windows(args),
        windows=args.windows,
        views=args.views,
        threads=args.threads,
        new_views=_new_views(args),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with progress("") as bar:

        def report(label: str, done: int, total: int) -> None:
            bar(done, total, label)

        parts = measure(job, report)
        if 1 in tables:
            counts = args.views or LAYOUTS[1].views
            parts = chain(parts, measure_times(job.systems, counts, report))
        for found in parts:
            rows += found
            write_results(results_of(rows, args.windows), args.out)
    return results_of(rows, args.windows)


def _new_views(args: argparse.Namespace) -> NewViews | None:
    """What renders new views, where a table asks for them: it loads PyTorch."""
    if not {4, 5} & set(args.tables):
        return None
    from mvdust3r_ros.evaluation.paper.images import new_views_with

    return new_views_with(args.lpips)


def _open_windows(args: argparse.Namespace) -> OpenWindows:
    from mvdust3r_ros.evaluation.paper.data_sets import TITLES, find_tuples, open_tuples
    from mvdust3r_ros.evaluation.paper.measured import Rooms

    def rooms(image_hw: tuple[int, int]) -> Sequence[Windows]:
        return [Rooms(image_hw, HELD_OUT_SEEDS[0], args.windows)]

    def tuples(image_hw: tuple[int, int]) -> Sequence[Windows]:
        if any((args.data / name).is_dir() for name in TITLES):
            return find_tuples(args.data, image_hw)
        return [open_tuples(args.data, image_hw)]

    if args.data is None:
        return rooms
    tuples((64, 64))  # a wrong folder is refused before anything is measured
    return tuples
