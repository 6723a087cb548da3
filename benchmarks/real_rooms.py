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

"""Maps real recordings with the default engine and prints the table of docs/real_rooms.md.

    python benchmarks/real_rooms.py DATA [--rows office no_info ...] [--out FILE.json]

DATA holds `hololens_office`, `office_walk` and `hallway_drone`, each with `bag` (images,
camera_info, odometry) and, but for the last, `poses.txt` and `depth` (ground truth). Every row
uses the bag reader, mapper and engine with default settings, and is scored as by
`mvdust3r_ros evaluate`. Other metrics are computed here from the predictions of the engine and
the images of the depth camera. Times are valid on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mvdust3r_ros.commands.evaluate_one import EvaluateJob, open_recording
from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    OCCUPIED,
    UNKNOWN,
    FloatArray,
    Trajectory,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.drawing.map_files import load_occupancy
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.create import EngineOptions, create_engine, default_engine_folder
from mvdust3r_ros.evaluation.lockstep import run_lockstep
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    absolute_errors,
    compare_grids,
    on_common_lattice,
)
from mvdust3r_ros.evaluation.scoring import Evidence, RunScores, score_run
from mvdust3r_ros.evaluation.window_scores import WatchedEngine
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.recordings.bag import BagOptions, read_frames
from mvdust3r_ros.recordings.recording import TruthOptions
from mvdust3r_ros.window.preprocess import view_from_frame

ROOT = Path(__file__).resolve().parent.parent
RIGHT = 0.1
SUREST = 0.6
CONFIDENCE_EDGES = (1.0, 1.5, 4.0, 10.0, 20.0, 40.0, np.inf)
ALONE = BagOptions(odometry="none")
NO_INFO = BagOptions(odometry="none", camera_info_topic="none")


class KeepingEngine(WatchedEngine):
    """Stores all predictions of an engine."""

    def __init__(self, inner: Engine) -> None:
        """Wrap an engine."""
        super().__init__(inner)
        self.windows: list[tuple[list[View], WindowPrediction]] = []

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """As the engine does."""
        prediction = super().decode(tokens, n_ref)
        self.windows.append(([t.view for t in tokens], prediction))
        return prediction


@dataclass
class Run:
    """A mapped and scored recording."""

    bag: Path
    evidence: Evidence
    scores: RunScores
    windows: list[tuple[list[View], WindowPrediction]]

    def number(self, name: str) -> float:
        """Return a number of the report; NaN if missing."""
        value = self.scores.numbers.get(name)
        return float("nan") if value is None else value

    @property
    def in_map(self) -> str:
        """Number of windows in the map, and of all windows."""
        result = self.evidence.result
        return f"{len(result.in_map)} of {len(result.windows)}"

    @property
    def path(self) -> Trajectory:
        """Camera poses in the map."""
        return self.evidence.result.snapshot.trajectory


def mapped(bag: Path, topics: BagOptions | None = None) -> Run:
    """Map a recording with the default engine and score it."""
    job = EvaluateJob(bag, Path(), topics=topics or BagOptions(), truth=TruthOptions())
    engine = KeepingEngine(create_engine("", EngineOptions()))
    try:
        evidence, stopped = run_lockstep(open_recording(job), MapperConfig(), engine)
    finally:
        engine.close()
    if stopped:
        sys.exit(f"{bag}: {stopped}")
    return Run(bag, evidence, score_run(evidence), engine.windows)


def percent(*shares: float) -> str:
    """Format shares in per cent."""
    return ", ".join(f"{100 * s:.1f}" for s in shares) + " %"


def with_odometry(run: Run) -> dict[str, str]:
    """Return the rows of a recording with odometry and ground truth."""
    number = run.number
    seen, wrong, unseen = obstacles_that_the_truth_could_see(run)
    return {
        "windows in the map": run.in_map,
        "ATE; odometry's": f"{100 * number('ate_m'):.1f}; {100 * number('odometry_ate_m'):.1f} cm",
        "scale error": percent(abs(number("scale_error"))),
        "grid: free cells that are, obstacles found, obstacles drawn that are": percent(
            *(number(f"grid_{k}") for k in
              ("free_precision", "occupied_recall", "occupied_precision"))
        ),
        "obstacles drawn that are, where the depth camera sees anything": (
            f"{percent(seen)} ({wrong} cells are wrong, {unseen} more it does not see)"
        ),
        "IoU of the grid": percent(number("grid_iou")),
        "ND, DAc": f"{number('nd'):.2f} m, {percent(number('dac'))}",
        "engine, median of windows of 8": f"{engine_ms(run):.0f} ms",
    }  # fmt: skip


def engine_ms(run: Run) -> float:
    """Return the median time of the engine for windows of 8 views after the first."""
    times = [
        w.latency_ms["encode"] + w.latency_ms["decode"]
        for w in run.evidence.result.windows[1:]
        if w.keyframes == 8 and "decode" in w.latency_ms
    ]
    return float(np.median(times)) if times else float("nan")


def obstacles_that_the_truth_could_see(run: Run) -> tuple[float, int, int]:
    """Return the precision of obstacles, except for those from pixels without true depth.

    Returns:
        The precision; the number of wrong cells that count; the number of those that do not.
    """
    snapshot, truth = run.evidence.result.snapshot, run.scores.true_grid
    assert snapshot.grid is not None and truth is not None
    drawn, true = on_common_lattice(snapshot.grid, truth)
    cells = drawn == OCCUPIED
    pad = np.pad(true == OCCUPIED, 1)
    near = np.logical_or.reduce(
        [pad[1 + r : pad.shape[0] - 1 + r, 1 + c : pad.shape[1] - 1 + c]
         for r, c in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))]
    )  # fmt: skip
    wrong = cells & ~near & (true != UNKNOWN)
    right = cells & near
    votes = np.zeros((2, *cells.shape), np.int64)
    low = np.floor(
        (np.minimum(snapshot.grid.origin_xy_m, truth.origin_xy_m) - np.array(truth.origin_xy_m))
        / truth.resolution_m + 1e-6
    )  # fmt: skip
    origin = np.array(truth.origin_xy_m) + low * truth.resolution_m
    band = MapperConfig().map
    poses = dict(zip(run.path.stamps_ns.tolist(), run.path.T_world_cam, strict=True))
    least = run.evidence.result.engine.min_conf
    for views, prediction in run.windows:
        for index, (view, pose) in enumerate(zip(views, prediction.poses or (), strict=True)):
            T_map_cam = poses.get(view.stamp_ns)
            if pose is None or view.depth_m is None or T_map_cam is None:
                continue
            T = T_map_cam @ invert_se3(pose.T_window_cam)
            points = prediction.points[0, index] @ T[:3, :3].T + T[:3, 3]
            heights = points[..., 2] - snapshot.floor_z_m
            use = (prediction.conf[0, index] > least) & (heights >= band.obstacle_min_z_m)
            use &= heights <= band.obstacle_max_z_m
            has_truth = np.nan_to_num(view.depth_m) > 0
            cell = np.floor((points[..., :2] - origin) / truth.resolution_m).astype(int)
            use &= ((cell >= 0) & (cell < cells.shape[::-1])).all(-1)
            for k in (0, 1):
                chosen = cell[use & (has_truth == bool(k))]
                np.add.at(votes[k], (chosen[:, 1], chosen[:, 0]), 1)
    unseen = wrong & (votes[0] > votes[1])
    count = int((wrong & ~unseen).sum())
    return float(right.sum() / (right.sum() + count)), count, int(unseen.sum())


def without_odometry(run: Run) -> dict[str, str]:
    """Return the rows of images without odometry."""
    return {"windows in the map, ATE at the true scale": (
        f"{run.in_map}, {100 * run.number('ate_sim3_m'):.1f} cm"
    )}  # fmt: skip


def focal_error(run: Run) -> float:
    """Return the median error of focal lengths estimated from images alone."""
    true: dict[int, float] = {}
    for frame in read_frames(run.bag):
        view = view_from_frame(
            replace(frame, depth_m=None), run.windows[0][0][0].image_rgb.shape[:2]
        )
        assert view.K is not None
        true[frame.stamp_ns] = view.K[0, 0]
    errors = [
        abs(pose.K[0, 0] / true[view.stamp_ns] - 1)
        for views, prediction in run.windows
        for view, pose in zip(views, prediction.poses or (), strict=True)
        if pose is not None and pose.K is not None
    ]
    return float(np.median(errors))


def drone(run: Run) -> dict[str, str]:
    """Return the rows of a recording without ground truth, compared with its own odometry."""
    odometry = run.evidence.result.odometry
    assert odometry is not None
    errors = absolute_errors(run.path, odometry, "se3")
    sized = absolute_errors(run.path, odometry, "sim3")
    return {
        "windows in the map": run.in_map,
        "path against its odometry: distance, length": (
            f"{100 * errors.rmse_m:.1f} cm, {percent(abs(sized.scale - 1))}"
        ),
    }


@dataclass
class DepthErrors:
    """Relative errors of depth and the confidence of each pixel with true depth."""

    errors: FloatArray
    conf: FloatArray

    def summary(self) -> str:
        """Format the share within 10 %, that of the surest 60 %, and their mean relative error."""
        ties = np.random.default_rng(0).random(len(self.conf)) * 1e-3
        surest = self.conf + ties >= np.quantile(self.conf + ties, 1 - SUREST)
        within = self.errors < RIGHT
        return f"{percent(within.mean(), within[surest].mean())}, {self.errors[surest].mean():.3f}"

    def by_confidence(self) -> dict[str, str]:
        """Return for each range of confidence the shares of pixels, promised and within 10 %."""
        rows = {}
        for low, high in pairwise(CONFIDENCE_EDGES):
            chosen = (self.conf >= low) & (self.conf < high)
            promised = (1 - 1 / self.conf[chosen]).mean()
            right = (self.errors[chosen] < RIGHT).mean()
            rows[f"confidence {low:g} to {high:g}: pixels, promised, within 10 %"] = percent(
                chosen.mean(), promised, right
            )
        return rows


def depth_as_mapped(run: Run) -> DepthErrors:
    """Return errors of depth with the engine's own poses, every second pixel."""
    errors: list[FloatArray] = []
    conf: list[FloatArray] = []
    for views, prediction in run.windows:
        for index, (view, pose) in enumerate(zip(views, prediction.poses or (), strict=True)):
            if view.depth_m is None or pose is None:
                continue
            T = invert_se3(pose.T_window_cam)
            depth = (prediction.points[0, index] @ T[2, :3] + T[2, 3])[::2, ::2]
            _add(errors, conf, depth, view.depth_m[::2, ::2], prediction.conf[0, index][::2, ::2])
    return DepthErrors(np.concatenate(errors), np.concatenate(conf))


def depth_with_true_poses(run: Run) -> DepthErrors:
    """Return errors of depth with true poses in place of the engine's."""
    from mvdust3r_ros.engines.manifest import load_manifest
    from mvdust3r_ros.engines.mvs.agreement import agreement, on_edges
    from mvdust3r_ros.engines.mvs.confidence import ConfidenceRule
    from mvdust3r_ros.engines.mvs.depth_reader import DepthReader
    from mvdust3r_ros.engines.mvs.sweep_inputs import half_intrinsics
    from mvdust3r_ros.synthetic.release_mvs import known_poses

    folder = default_engine_folder()
    reader = DepthReader(folder)
    errors: list[FloatArray] = []
    conf: list[FloatArray] = []
    rule = ConfidenceRule.from_manifest(load_manifest(folder).network)
    for views, _ in run.windows:
        if any(v.depth_m is None or v.T_world_cam is None or v.K is None for v in views):
            continue
        T_world_cam = np.stack([v.T_world_cam for v in views if v.T_world_cam is not None])
        true = np.stack([np.nan_to_num(v.depth_m) for v in views if v.depth_m is not None])
        filled = np.where(true > 0, true, np.median(true[true > 0]))
        K = views[0].K
        assert K is not None
        T_ref_cam = invert_se3(T_world_cam[0]) @ T_world_cam
        poses = known_poses(np.random.default_rng(0), T_ref_cam, K, filled)
        features = [reader.encode(v) for v in views]
        depth, log_error = reader.depth(features, poses, true.shape[1:])
        votes = agreement(depth, log_error, T_ref_cam, half_intrinsics(poses.K))
        sure = rule.confidence(log_error, votes, on_edges(depth) | (depth <= 0))
        for index in range(len(views)):
            _add(errors, conf, votes.depth[index], true[index, ::2, ::2], sure[index])
    return DepthErrors(np.concatenate(errors), np.concatenate(conf))


def _add(
    errors: list[FloatArray], conf: list[FloatArray], depth: Any, true: Any, sure: Any
) -> None:
    true = np.nan_to_num(true)
    known = true > 0
    depth = np.where(depth > 0, depth, np.inf)
    errors.append(np.minimum(np.abs(depth[known] / true[known] - 1), 10.0))
    conf.append(np.asarray(sure)[known])


def peak_mb(work: Callable[..., None], *given: Any) -> float:
    """Return the peak resident memory of a new process that does some work."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(send, work, *given))
    process.start()
    send.close()
    peak: float = receive.recv()
    process.join()
    return peak


def _measured(send: Any, work: Callable[..., None], *given: Any) -> None:
    work(*given)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    # unlike ru_maxrss, VmHWM does not include the parent's peak
    send.send(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def map_whole(bag: Path) -> None:
    """Read a bag and map it: work for `peak_mb`."""
    from mvdust3r_ros.mapper import Mapper

    mapper = Mapper(MapperConfig(), create_engine("", EngineOptions()))
    for frame in read_frames(bag):
        mapper.process(frame)
    mapper.finish()


def run_engine(windows: Sequence[Sequence[View]]) -> None:
    """Run the engine alone on windows: work for `peak_mb`."""
    engine = create_engine("", EngineOptions())
    for views in windows:
        engine.decode(engine.encode(views))


def live(reference: Path, played: Path) -> dict[str, str]:
    """Compare the maps of `make demo` and `make map` of one recording."""
    truth, drawn = (load_occupancy(folder / "map.yaml") for folder in (reference, played))
    scores = compare_grids(drawn, truth, tolerance_m=truth.resolution_m)
    return {
        "free cells, obstacles of the map that reading finds; obstacles drawn that are in it": (
            percent(scores.free_recall, scores.occupied_recall, scores.occupied_precision)
        )
    }


def rows_of(name: str, data: Path) -> dict[str, str]:
    """Return the rows of a recording or measurement by name."""
    office, walk = data / "hololens_office" / "bag", data / "office_walk" / "bag"
    if name in ("office", "office_walk"):
        run = mapped(office if name == "office" else walk)
        own = depth_as_mapped(run)
        by_confidence = own.by_confidence() if name == "office" else {}
        return {
            **with_odometry(run),
            "depth with true poses: within 10 %, of the surest 60 %, AbsRel of those": (
                depth_with_true_poses(run).summary()
            ),
            "depth with the engine's own poses: the same": own.summary(),
            **by_confidence,
        }
    if name in ("alone", "walk_alone"):
        return without_odometry(mapped(office if name == "alone" else walk, ALONE))
    if name in ("no_info", "walk_no_info"):
        run = mapped(office if name == "no_info" else walk, NO_INFO)
        focal = percent(focal_error(run))
        return {**without_odometry(run), "focal length off by": focal}
    if name == "drone":
        return drone(mapped(data / "hallway_drone" / "bag"))
    if name == "demo":
        run = mapped(ROOT / "demo" / "room" / "bag")
        found, free = (run.number(f"grid_{k}") for k in ("occupied_recall", "free_precision"))
        return {"obstacles found, free cells that are": percent(found, free)}
    views = [v for v, _ in mapped(office).windows[:3]]
    alone, whole = peak_mb(run_engine, views), peak_mb(map_whole, walk)
    return {"peak memory: engine alone, whole map": f"{alone:.0f}, {whole:.0f} MB"}


ROWS = (
    "office", "office_walk", "alone", "no_info", "walk_alone", "walk_no_info", "drone", "demo",
    "memory",
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the recordings")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument(
        "--live", nargs=2, type=Path, metavar=("MAP", "DEMO"),
        help="compare the folders that `make map` and `make demo` made of one recording",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="write the rows as JSON too")
    given = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    print("| recording | what | measured |\n| --- | --- | --- |")
    for name in ("live",) if given.live else given.rows:
        found[name] = live(*given.live) if given.live else rows_of(name, given.data)
        for what, measured in found[name].items():
            print(f"| {name} | {what} | {measured} |", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
