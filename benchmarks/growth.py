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

"""Measures time per window and memory as a map grows to 500 keyframes, or the robot stays.

    python benchmarks/growth.py [--keyframes 500] [--radius 0] [--out DIR]
    python benchmarks/growth.py --stay --path 12 --size 64 --keyframes 6000

The oracle, with noise and random scales, or the network of `--engine` maps one long drive through
a synthetic apartment; with `--stay`, the same path back and forth, with continuing odometry drift.
Times are processor times of one thread per window, so that other load on the machine matters less,
without those of the network. `growth.json` holds all figures, `growth.png` plots them; runs with
other bounds are added to the same folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    Frame,
    Trajectory,
    Verdict,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.engines.create import create_engine
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.sequence import odometry, sequence_frames

CAMERA_HEIGHT_M = 0.6
FRAMES_A_KEYFRAME = 8
"""More frames than a keyframe needs."""
PERIOD_NS = 100_000_000


class TimedEngine(Engine):
    """Counts the processor time that the calling thread spends in an engine."""

    def __init__(self, engine: Engine) -> None:
        """Wrap an engine."""
        self.engine, self.spent_s = engine, 0.0

    def observe(self, view: View) -> None:
        """As the engine."""
        with self.counted():
            self.engine.observe(view)

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """As the engine."""
        with self.counted():
            return self.engine.encode(views)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """As the engine."""
        with self.counted():
            return self.engine.decode(tokens, n_ref)

    def describe(self) -> EngineInfo:
        """As the engine."""
        return self.engine.describe()

    def close(self) -> None:
        """As the engine."""
        self.engine.close()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the processor time of the context."""
        begin = time.thread_time()
        yield
        self.spent_s += time.thread_time() - begin


def drive_frames(args: argparse.Namespace) -> Iterator[Frame]:
    """Yield frames of a drive, rendered on demand, or back and forth with `--stay`."""
    options = ApartmentOptions(path_m=args.path, hw=(args.size, args.size), min_rooms=1)
    drive = apartment_drive(args.seed, options, Rig(height_m=CAMERA_HEIGHT_M))
    if not args.stay:
        yield from drifting_frames(drive, odometry(drive, options.drift))
        return
    shown = list(sequence_frames(drive))
    lap = [*range(len(shown)), *range(len(shown) - 2, 0, -1)]
    order = np.resize(lap, FRAMES_A_KEYFRAME * args.keyframes)
    stamps_ns = shown[0].stamp_ns + PERIOD_NS * np.arange(len(order))
    truth = Trajectory(stamps_ns, drive.truth.T_world_cam[order])
    T_odom_cam = odometry(replace(drive, truth=truth), options.drift)
    for stamp_ns, T, k in zip(stamps_ns.tolist(), T_odom_cam, order, strict=True):
        frame = shown[k]
        yield replace(frame, stamp_ns=stamp_ns, T_odom_cam=T, T_world_cam=frame.T_odom_cam)


def map_error_m(mapper: Mapper) -> float:
    """Return the RMS position error of the cameras in the map."""
    mapped = mapper.now.graph.keyframes.values()
    off = [m.T_map_cam - m.keyframe.view.T_world_cam for m in mapped]
    return float(np.sqrt((np.stack(off)[:, :3, 3] ** 2).sum(1).mean()))


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Yield one row per committed window."""
    config = with_values(
        MapperConfig(), {"map.camera_height_m": CAMERA_HEIGHT_M, "map.radius_m": args.radius}
    )
    noise = OracleNoise(points=0.02, scale=0.5, seed=args.seed)
    oracle = OracleEngine((args.size, args.size), noise)
    engine = TimedEngine(create_engine(args.engine) if args.engine else oracle)
    mapper = Mapper(config, engine)
    for frame in drive_frames(args):
        window = mapper.select(frame)
        if window is None:
            continue
        begin, inside = time.thread_time(), engine.spent_s
        update = mapper.map_window(window)
        spent_ms = 1e3 * (time.thread_time() - begin - engine.spent_s + inside)
        if update.verdict != Verdict.COMMITTED:
            continue
        begin = time.thread_time()
        snapshot = mapper.snapshot()
        yield {
            "keyframes": mapper.keyframe_count,
            "in_map": len(mapper.mapped_keyframes()),
            "window_ms": spent_ms,
            "loop": float("loop" in update.latency_ms or "resize" in update.latency_ms),
            "snapshot_ms": 1e3 * (time.thread_time() - begin),
            "resident_mib": resident_mib(),
            "voxels": len(snapshot.points_map),
            "closures": update.loop_closures,
            "error_m": map_error_m(mapper),
        }
        if mapper.keyframe_count >= args.keyframes:
            break


def summary(rows: list[dict[str, float]]) -> list[str]:
    """Return medians of each fifth of the run, windows with loop closures apart."""
    lines = ["| keyframes | kept | window ms | with a loop ms | snapshot ms | MiB | error m |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for part in np.array_split(np.arange(len(rows)), 5):
        some = [rows[i] for i in part]
        plain = [r["window_ms"] for r in some if not r["loop"]]
        loops = [r["window_ms"] for r in some if r["loop"]]
        cells = [
            f"{some[-1]['keyframes']:.0f}", f"{some[-1]['in_map']:.0f}",
            f"{np.median(plain):.1f}" if plain else "-",
            f"{np.median(loops):.1f}" if loops else "-",
            f"{np.median([r['snapshot_ms'] for r in some]):.1f}",
            f"{some[-1]['resident_mib']:.0f}",
            f"{some[-1]['error_m']:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(runs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Plot time and memory over the number of keyframes."""
    mpl.use("Agg")
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, rows in runs.items():
        count = [r["keyframes"] for r in rows]
        plain = [(r["keyframes"], r["window_ms"]) for r in rows if not r["loop"]]
        left.plot(*zip(*plain, strict=True), ".", markersize=3, label=name)
        right.plot(count, [r["resident_mib"] for r in rows], label=name)
    left.set(xlabel="keyframes", ylabel="ms a window outside the engine", ylim=(0, None))
    right.set(xlabel="keyframes", ylabel="memory of the process, MiB", ylim=(0, None))
    left.legend()
    right.legend()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--keyframes", type=int, default=500)
    parser.add_argument("--radius", type=float, default=0.0, help="map.radius_m; 0 for no bound")
    parser.add_argument("--seed", type=int, default=9002)
    parser.add_argument("--size", type=int, default=224, help="of the images")
    parser.add_argument("--path", type=float, default=200.0, help="longest drive (m)")
    parser.add_argument("--stay", action="store_true", help="drive the path back and forth")
    parser.add_argument("--engine", help="folder of a network instead of the oracle")
    parser.add_argument("--out", type=Path, default=Path("growth"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    with contextlib.suppress(KeyboardInterrupt):  # keep the rows measured so far
        rows.extend(measure(args))
    print("\n".join(summary(rows)))
    file = args.out / "growth.json"
    runs = json.loads(file.read_text()) if file.exists() else {}
    name = "no radius" if args.radius == 0 else f"radius {args.radius:g} m"
    runs["back and forth" if args.stay else name] = rows
    file.write_text(json.dumps(runs, indent=0))
    plot(runs, args.out / "growth.png")


if __name__ == "__main__":
    main()
