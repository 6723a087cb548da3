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

"""Measures time outside the network per window of 8 views at 224x224, stage by stage.

    python benchmarks/mapping.py [--bag DIR --depth DIR] [--repeat 3] [--profile 20]

Recorded depth replaces the network, whose stages are not part of the sum. Without a bag, a
synthetic drive is used. Run it on an idle machine: each stage takes only a few milliseconds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import Frame, Verdict
from mvdust3r_ros.engines.oracle_engine import OracleEngine
from mvdust3r_ros.evaluation.run import ENGINE_STAGES
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from mvdust3r_ros.synthetic.sequence import synthetic_frames

TARGET_MS = 60.0

Stages = dict[str, float]


def load_frames(bag: Path | None, depth: Path | None) -> list[Frame]:
    """Return the frames of the bag, or of a synthetic drive."""
    if bag is None:
        return list(synthetic_frames(0, 160))
    return list(read_frames(bag, BagOptions(depth_folder=depth)))


def time_windows(frames: Sequence[Frame]) -> tuple[list[Stages], list[float]]:
    """Return milliseconds per stage of each committed window, and per selection of a frame."""
    mapper = Mapper(MapperConfig(), OracleEngine())
    windows, select_ms = [], []
    for frame in frames:
        begin = time.perf_counter()
        window = mapper.select(frame)
        select_ms.append((time.perf_counter() - begin) * 1e3)
        if window is None:
            continue
        begin = time.perf_counter()
        update = mapper.map_window(window)
        wall_ms = (time.perf_counter() - begin) * 1e3
        if update.verdict == Verdict.COMMITTED:
            rest_ms = wall_ms - sum(update.latency_ms.values())
            windows.append({**update.latency_ms, "between the stages": rest_ms})
    return windows, select_ms


def table(windows: Sequence[Stages], select_ms: Sequence[float]) -> str:
    """Return a table of median, 90th percentile and maximum of each stage."""
    stages = [s for s in windows[0] if s not in ENGINE_STAGES]
    rows = {s: [w.get(s, 0.0) for w in windows] for s in stages}
    rows["outside the engine"] = [sum(v) for v in zip(*rows.values(), strict=True)]
    rows["(selection, per frame)"] = list(select_ms)
    lines = ["| stage                  | median ms |  p90 ms |  max ms |",
             "| ---------------------- | --------: | ------: | ------: |"]  # fmt: skip
    for name, values in rows.items():
        numbers = np.median(values), np.percentile(values, 90), np.max(values)
        cells = " | ".join(f"{v:7.1f}" for v in numbers)
        lines.append(f"| {name:<22} |   {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bag", type=Path)
    parser.add_argument("--depth", type=Path)
    parser.add_argument("--repeat", type=int, default=3, help="passes (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="OpenCV's (default %(default)s)")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="the N slowest calls")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    frames = load_frames(args.bag, args.depth)
    time_windows(frames)
    windows: list[Stages] = []
    select_ms: list[float] = []
    for _ in range(args.repeat):
        new, selection = time_windows(frames)
        windows += new
        select_ms += selection
    size = Mapper(MapperConfig(), OracleEngine()).config.keyframes.window_size
    print(f"{len(windows)} windows of {size} views at 224x224")
    print(table(windows, select_ms))
    outside = [sum(v for s, v in w.items() if s not in ENGINE_STAGES) for w in windows]
    print(f"median {np.median(outside):.1f} ms, target {TARGET_MS:.0f} ms")
    if args.profile:
        with cProfile.Profile() as profile:
            time_windows(frames)
        pstats.Stats(profile).sort_stats("tottime").print_stats(args.profile)


if __name__ == "__main__":
    main()
