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

"""Time of a window: MV-DUSt3R+ against DUSt3R with global alignment, with the same weights.

    taskset -c 1 python benchmarks/speed_against_dust3r.py [--model models/room] [--views 4,12,24]

In one process and on one thread, in turns, so that other work on the machine affects both. Prints
the least processor seconds of a system over all rounds, and the ratio. The alignment takes
`--iterations` steps; 0 leaves its start alone, without which no pointmap of a window exists.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from mvdust3r_ros.commands.command_line import number_list
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.engines.dust3r.alignment import AlignmentSettings
from mvdust3r_ros.engines.dust3r.pairwise import PairwiseEngine, WindowSettings
from mvdust3r_ros.synthetic.dataset import exact_views

SEED = 7_500_000


def main() -> None:
    """Run, and print a row for each number of views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/room", metavar="DIR")
    parser.add_argument("--views", type=number_list, default=[4, 12, 24], metavar="N,N,...")
    parser.add_argument("--n-ref", type=int, default=4, help="reference paths of MVD+")
    parser.add_argument("--iterations", type=int, default=AlignmentSettings().iterations)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    engine = create_engine(given.model, EngineOptions(threads=1, device="cpu"))
    settings = WindowSettings(alignment=AlignmentSettings(given.iterations))
    pairs = PairwiseEngine(engine, settings, "cpu", threads=1)
    print(f"{torch.get_num_threads()} thread; load of the machine {os.getloadavg()[0]:.1f}")
    print("| views | MVD | MVD+ | pairs alone | DUSt3R + GA | over MVD+ | over MVD |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in given.views:
        views = exact_views(SEED, count, engine.describe().image_hw)
        views = [replace(view, depth_m=None, T_odom_cam=None) for view in views]
        tokens = engine.encode(views)
        everyone = [(i, j) for i in range(count) for j in range(count) if i != j]
        systems: dict[str, Callable[[], object]] = {
            "MVD": lambda v=views: engine.infer(v, 1),
            "MVD+": lambda v=views: engine.infer(v, min(given.n_ref, len(v))),
            "pairs": lambda p=everyone, t=tokens: [engine.decode([t[i], t[j]], 1) for i, j in p],
            "DUSt3R": lambda v=views: pairs.infer(v),
        }
        best = dict.fromkeys(systems, float("inf"))
        for _ in range(given.rounds):
            for name, run in systems.items():
                begin = time.process_time()
                run()
                best[name] = min(best[name], time.process_time() - begin)
        dust3r = best["DUSt3R"]
        print(
            f"| {count} | {best['MVD']:.2f} s | {best['MVD+']:.2f} s | {best['pairs']:.2f} s "
            f"| {dust3r:.2f} s | {dust3r / best['MVD+']:.1f} | {dust3r / best['MVD']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
