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

"""How many views COLMAP registers, and how well: against other engines, on the same windows.

    python benchmarks/colmap.py [--engines colmap,models/mvs] [--views 4,12,24] [--seeds A:B]

Windows of synthetic rooms with intrinsics, without odometry. Errors are of the registered views
alone: rotations against the reference, positions after the best similarity of three views or more.
Times are processor seconds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np

from mvdust3r_ros.commands.command_line import number_list, seeds
from mvdust3r_ros.datatypes import View
from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.geometry import (
    AlignmentError,
    align_cameras_sim3,
    invert_se3,
    rotation_angle_deg,
)
from mvdust3r_ros.synthetic.dataset import exact_views


@dataclass(frozen=True)
class Poses:
    """Of one window: share of views with a pose, errors of these, time.

    Attributes:
        placed: number of views with a pose.
        views: number of views.
        angle_deg: of each view with a pose but the reference.
        ate_m: root mean square of positions; NaN with fewer than three, or without motion.
        seconds: of the processor.
    """

    placed: int
    views: int
    angle_deg: tuple[float, ...]
    ate_m: float
    seconds: float


def main() -> None:
    """Run, and print a row for each engine and number of views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="colmap,models/mvs", metavar="NAME,DIR,...")
    parser.add_argument("--seeds", type=seeds, default=range(7_500_000, 7_500_020), metavar="A:B")
    parser.add_argument("--views", type=number_list, default=[4, 12, 24], metavar="N,N,...")
    given = parser.parse_args()
    names = given.engines.split(",")
    engines = {name: create_engine(name, EngineOptions(threads=1)) for name in names}
    print("| views | engine | windows without poses | views with one | rotation | ATE | time |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for count in given.views:
        found: dict[str, list[Poses]] = {name: [] for name in names}
        for seed in given.seeds:
            windows = {}
            for name, engine in engines.items():
                hw = engine.describe().image_hw
                if hw not in windows:
                    windows[hw] = exact_views(seed, count, hw)
                found[name].append(poses_of(engine, windows[hw]))
        for name, windows_of in found.items():
            print(row(name, count, windows_of), flush=True)


def poses_of(engine: Engine, views: list[View]) -> Poses:
    """Poses of a window and their errors."""
    begin = time.process_time()
    try:
        window = engine.infer([replace(v, depth_m=None, T_odom_cam=None) for v in views])
        reference, poses = window.references[0], window.poses or ()
    except EngineError:
        reference, poses = 0, ()
    seconds = time.process_time() - begin
    placed = [k for k, pose in enumerate(poses) if pose is not None]
    if not placed:
        return Poses(0, len(views), (), np.nan, seconds)
    found = np.stack([pose.T_window_cam for pose in poses if pose is not None])
    world = np.stack([view.T_odom_cam for view in views if view.T_odom_cam is not None])
    true = (invert_se3(world[reference]) @ world)[placed]
    turns = rotation_angle_deg(np.swapaxes(found[:, :3, :3], 1, 2) @ true[:, :3, :3])
    others = tuple(float(turn) for k, turn in zip(placed, turns, strict=True) if k != reference)
    try:
        ate_m = align_cameras_sim3(found, true)[1] if len(placed) > 2 else np.nan
    except AlignmentError:  # they stay in one place
        ate_m = np.nan
    return Poses(len(placed), len(views), others, ate_m, seconds)


def row(name: str, count: int, found: list[Poses]) -> str:
    """Format a row: medians of errors and time."""
    placed = sum(p.placed for p in found) / sum(p.views for p in found)
    angles = [angle for p in found for angle in p.angle_deg]
    ate_m = [p.ate_m for p in found if np.isfinite(p.ate_m)]
    rotation = f"{np.median(angles):.2f} deg" if angles else ""
    position = f"{100 * np.median(ate_m):.1f} cm" if ate_m else ""
    return (
        f"| {count} | {name} | {sum(p.placed == 0 for p in found)} of {len(found)} "
        f"| {placed:.0%} | {rotation} | {position} "
        f"| {np.median([p.seconds for p in found]):.1f} s |"
    )


if __name__ == "__main__":
    main()
