"""Drives through synthetic flats: a noisy oracle or a network, drifting odometry, exact truth."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from mvdust3r_ros.config import MapperConfig
from mvdust3r_ros.datatypes import (
    FloatArray,
    Frame,
    MapUpdate,
    MvDust3rError,
    OccupancyGrid,
    Trajectory,
    Verdict,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineInfo
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.map_metrics import (
    UNKNOWN,
    absolute_errors,
    compare_grids,
    on_common_lattice,
)
from mvdust3r_ros.geometry import backproject
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.occupancy import OccupancyMap
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.scenes import scene_occupancy
from mvdust3r_ros.synthetic.sequence import (
    Sequence as Drive,
)
from mvdust3r_ros.synthetic.sequence import (
    SequenceConfig,
    make_sequence,
    odometry,
    sequence_frames,
)

CORRUPTIONS = ("scale", "pose", "confidence")
FRAMES_PER_SECOND = 10
Progress = Callable[[int, int], None]


class FlatsError(MvDust3rError):
    """An evaluation on flats cannot be done."""


@dataclass(frozen=True)
class FlatOptions:
    """How to drive and how to spoil it.

    Attributes:
        path_m: length of the drive.
        step_m: way between frames; a turn of 5 degrees counts as much.
        hw: height and width of the images.
        drift: of the odometry, see `synthetic.sequence.odometry`.
        points: noise of the oracle's points, share of the depth.
        scale: standard deviation of the logarithm of the oracle's scale of a window.
        corrupt: share of the windows that are spoiled.
    """

    path_m: float = 60.0
    step_m: float = 0.2
    hw: tuple[int, int] = (112, 112)
    drift: float = 0.02
    points: float = 0.02
    scale: float = 0.5
    corrupt: float = 0.0


@dataclass(frozen=True)
class FlatResult:
    """What became of one drive; lengths in metres, nothing is aligned with the truth.

    Attributes:
        seed: of flat, path and noise.
        path_m: way of the camera.
        ate_m: root mean square error of the camera centres in the map frame.
        odometry_ate_m: the same of the odometry alone.
        ate_share: `ate_m` over `path_m`.
        scale_error: relative error of the map's size, positive when it is too large.
        scale_sigma: what the map says about that error.
        closures: loops closed.
        grid_right: share of the cells that are right, of those that exact depth from the
            keyframes' true poses would make known (the inside of a wall is none of them).
        free_precision: share of the free cells that are free, wherever they are.
        ceiling: `grid_right` and `free_precision` of the grid from exact depth and poses.
        windows: verdict -> number of windows.
        spoiled: windows that were spoiled.
        spoiled_committed: those of them that are in the map all the same.
        opened_after: windows until the gate was open; 0 when it stayed shut.
        refused_loops: why joint windows were no closure, the last ones.
        outside_engine_ms: median time of a committed window outside the engine.
    """

    seed: int
    path_m: float
    ate_m: float
    odometry_ate_m: float
    ate_share: float
    scale_error: float
    scale_sigma: float
    closures: int
    grid_right: float
    free_precision: float
    ceiling: tuple[float, float]
    windows: dict[str, int]
    spoiled: int
    spoiled_committed: int
    opened_after: int
    refused_loops: list[str] = field(default_factory=list)
    outside_engine_ms: float = math.nan


class SpoiledEngine(Engine):
    """Another engine, some of whose windows are wrong in one of three ways."""

    def __init__(self, inner: Engine, share: float, seed: int) -> None:
        """Spoil a share of the windows, the first one never: it defines the map."""
        self._inner, self._share = inner, share
        self._rng = np.random.default_rng([seed, 21])
        self.spoiled: list[bool] = []

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """As the inner engine."""
        return self._inner.encode(views)

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """As the inner engine, or spoiled; `spoiled` keeps which."""
        prediction = self._inner.decode(tokens, n_ref)
        draw, kind = self._rng.random(), str(self._rng.choice(CORRUPTIONS))
        self.spoiled.append(len(self.spoiled) > 0 and draw < self._share)
        return spoil(prediction, kind, self._rng) if self.spoiled[-1] else prediction

    def describe(self) -> EngineInfo:
        """As the inner engine."""
        return self._inner.describe()

    def close(self) -> None:
        """Close the inner engine."""
        self._inner.close()


def spoil(prediction: WindowPrediction, kind: str, rng: np.random.Generator) -> WindowPrediction:
    """A window gone wrong.

    Args:
        prediction: a good one.
        kind: "scale": half of the views are three times too large; "pose": half of the views are
            turned about by 180 degrees; "confidence": points at random, all of them trusted.
        rng: source of randomness.
    """
    points, conf = prediction.points.copy(), prediction.conf.copy()
    half = points.shape[1] // 2
    if kind == "scale":
        points[:, half:] *= 3.0
    elif kind == "pose":
        points[:, half:] *= np.array([-1.0, 1.0, -1.0], np.float32)
    else:
        size = np.abs(points).mean()
        points = rng.normal(0, size, points.shape).astype(np.float32)
        conf = np.full_like(conf, 10.0)
    return replace(prediction, points=points, conf=conf)


def flat_drive(seed: int, options: FlatOptions, rig: Rig) -> Drive:
    """A drive of about `options.path_m` through a flat."""
    frames = math.ceil(options.path_m / options.step_m)
    for _ in range(4):  # turns count as way: ask for more until it is long enough
        drive = make_sequence(
            SequenceConfig(
                seed=seed, frames=frames, hw=options.hw, step_m=options.step_m, flat=True,
                noise=0.0, supersample=1, rig=rig, rate_hz=FRAMES_PER_SECOND,
            )
        )  # fmt: skip
        along = np.concatenate([[0.0], np.cumsum(_steps(drive.truth.T_world_cam))])
        if along[-1] >= options.path_m:
            break
        frames = math.ceil(1.1 * frames * options.path_m / max(along[-1], 1.0))
    count = int(np.searchsorted(along, options.path_m)) + 1
    truth = Trajectory(drive.truth.stamps_ns[:count], drive.truth.T_world_cam[:count])
    return replace(drive, truth=truth)


def _steps(T: FloatArray) -> FloatArray:
    steps: FloatArray = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    return steps


def drifting_frames(drive: Drive, T_odom_cam: FloatArray) -> Iterator[Frame]:
    """Frames of a drive with the given odometry; the truth goes along for the oracle."""
    for frame, T in zip(sequence_frames(drive), T_odom_cam, strict=False):
        yield replace(frame, T_world_cam=frame.T_odom_cam, T_odom_cam=T)


def evaluate_flat(
    seed: int,
    config: MapperConfig,
    options: FlatOptions,
    engine: Engine | None = None,
    frames: Sequence[Frame] | None = None,
) -> FlatResult:
    """One drive through one flat.

    Args:
        seed: of everything.
        config: settings of the mapper; with `map.camera_height_m` set, the camera is that high.
        options: drive and noise.
        engine: a network; None for the noisy oracle.
        frames: the drive's frames when they have been rendered before.
    """
    rig = Rig(height_m=config.map.camera_height_m or Rig().height_m)
    drive = flat_drive(seed, options, rig)
    T_odom_cam = odometry(drive, options.drift)
    noise = OracleNoise(points=options.points, scale=options.scale, seed=seed)
    spoiled = SpoiledEngine(engine or OracleEngine(options.hw, noise), options.corrupt, seed)
    mapper = Mapper(config, spoiled)
    log = _Log()
    for frame in frames or drifting_frames(drive, T_odom_cam):
        window = mapper.select(frame)
        if window is not None:
            log.add(mapper.map_window(window), spoiled)
    return _judge(drive, T_odom_cam, mapper, log)


@dataclass
class _Log:
    """Outcomes of the windows."""

    verdicts: Counter[str] = field(default_factory=Counter)
    spoiled: int = 0
    spoiled_committed: int = 0
    opened_after: int = 0
    outside_ms: list[float] = field(default_factory=list)
    decoded: int = 0

    def add(self, update: MapUpdate, engine: SpoiledEngine) -> None:
        self.verdicts[update.verdict.name] += 1
        committed = update.verdict == Verdict.COMMITTED
        # the first one since is the window, one that joins the ends of a loop may follow
        spoiled = any(engine.spoiled[self.decoded : self.decoded + 1])
        self.decoded = len(engine.spoiled)
        self.spoiled += spoiled
        self.spoiled_committed += spoiled and committed
        if update.gate_open and not self.opened_after:
            self.opened_after = self.verdicts.total()
        if committed:
            stages = update.latency_ms
            self.outside_ms.append(
                sum(v for k, v in stages.items() if k not in ("encode", "decode", "loop"))
            )


def _judge(drive: Drive, T_odom_cam: FloatArray, mapper: Mapper, log: _Log) -> FlatResult:
    snapshot = mapper.snapshot()
    path_m = float(_steps(drive.truth.T_world_cam).sum())
    odom = Trajectory(drive.truth.stamps_ns, T_odom_cam[: len(drive.truth)])
    ate_m = scale_error = math.nan
    grids = (math.nan, math.nan), (math.nan, math.nan)
    if snapshot.grid is not None:
        ate_m = absolute_errors(snapshot.trajectory, drive.truth, "none").rmse_m
        sim3 = absolute_errors(snapshot.trajectory, drive.truth, "sim3")
        scale_error = 1 / sim3.scale - 1
        grids = judge_grid(snapshot.grid, drive, mapper)
    return FlatResult(
        seed=drive.config.seed,
        path_m=path_m,
        odometry_ate_m=absolute_errors(odom, drive.truth, "none").rmse_m,
        ate_m=ate_m,
        ate_share=ate_m / path_m,
        scale_error=scale_error,
        grid_right=grids[0][0],
        free_precision=grids[0][1],
        ceiling=grids[1],
        scale_sigma=snapshot.scale.rel_sigma,
        closures=snapshot.loop_closures,
        windows=dict(log.verdicts),
        spoiled=log.spoiled,
        spoiled_committed=log.spoiled_committed,
        opened_after=log.opened_after,
        refused_loops=mapper.refused_loops,
        outside_engine_ms=float(np.median(log.outside_ms)) if log.outside_ms else math.nan,
    )


def judge_grid(
    grid: OccupancyGrid, drive: Drive, mapper: Mapper
) -> tuple[tuple[float, float], tuple[float, float]]:
    """IoU and free precision of the map's grid, and of the grid from exact depth and poses.

    Args:
        grid: the map's grid.
        drive: the drive with its true scene.
        mapper: the mapper; its keyframes carry depth and true poses.
    """
    rule = mapper.config.map
    exact = OccupancyMap(rule, 0.0)
    for keyframe in mapper.mapped_keyframes():
        view = keyframe.view
        if view.depth_m is None or view.K is None or view.T_world_cam is None:
            continue
        T, depth = view.T_world_cam, np.where(np.isfinite(view.depth_m), view.depth_m, 0)
        near = (depth > 0) & (depth < rule.max_depth_m)
        exact.add_view(T[:3, 3], backproject(depth, view.K)[near] @ T[:3, :3].T + T[:3, 3])
    band = (rule.obstacle_min_z_m, rule.obstacle_max_z_m)
    truth = scene_occupancy(drive.scene, grid.resolution_m, band)
    reference = exact.grid()
    return _share_right(grid, truth, reference), _share_right(reference, truth, reference)


def _share_right(
    grid: OccupancyGrid, truth: OccupancyGrid, reference: OccupancyGrid
) -> tuple[float, float]:
    """Share of right cells where the reference knows, and free precision everywhere."""
    seen, true = on_common_lattice(reference, truth)
    judged = replace(truth, cells=np.where(seen != UNKNOWN, true, UNKNOWN).astype(np.int8))
    corner = _corner(reference, truth)
    est, true = on_common_lattice(grid, replace(judged, origin_xy_m=corner))
    known = true != UNKNOWN
    right = float((est == true)[known].mean()) if known.any() else math.nan
    return right, compare_grids(grid, truth).free_precision


def _corner(a: OccupancyGrid, b: OccupancyGrid) -> tuple[float, float]:
    """Lower left corner of the extent of both, on the lattice of b."""
    res = b.resolution_m
    low = np.minimum(0.0, np.array(a.origin_xy_m) - b.origin_xy_m)
    x, y = np.array(b.origin_xy_m) + np.floor(low / res + 1e-6) * res
    return float(x), float(y)


def evaluate_flats(
    seeds: Sequence[int],
    config: MapperConfig,
    options: FlatOptions,
    out: Path,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> list[FlatResult]:
    """All seeds, one after the other; table.md and results.json in `out`.

    Raises:
        FlatsError: no seeds, or `out` cannot be written.
    """
    if not seeds:
        raise FlatsError("no seeds to drive; give FIRST:LAST with LAST above FIRST")
    results = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            results.append(evaluate_flat(seed, config, options, engine))
            (out / "table.md").write_text(format_flats(results), encoding="utf-8")
            text = json.dumps(
                {"options": asdict(options), "flats": [asdict(r) for r in results]}, indent=1
            )
            (out / "results.json").write_text(text, encoding="utf-8")
            if progress is not None:
                progress(len(results), len(seeds))
    except OSError as error:
        raise FlatsError(f"cannot write to {out}: {error}") from None
    return results


def format_flats(results: Sequence[FlatResult]) -> str:
    """Markdown table, one row a seed and the medians."""
    head = (
        "| seed | path m | ATE m | ATE % | odometry m | scale error % | sigma % | loops "
        "| grid right | free precision | exact depth | committed | rejected | spoiled in map "
        "| gate after |"
    )
    lines = [head, "|" + " --- |" * head.count(" | ") + " --- |"]
    lines += [_row(str(r.seed), [r]) for r in results]
    if len(results) > 1:
        lines.append(_row("median", results))
    return "\n".join(lines) + "\n"


def _row(name: str, results: Sequence[FlatResult]) -> str:
    def middle(values: Sequence[float]) -> float:
        return float(np.median(values))

    committed = [r.windows.get(Verdict.COMMITTED.name, 0) for r in results]
    rejected = [sum(r.windows.values()) - c for r, c in zip(results, committed, strict=True)]
    cells = [
        name,
        f"{middle([r.path_m for r in results]):.1f}",
        f"{middle([r.ate_m for r in results]):.3f}",
        f"{100 * middle([r.ate_share for r in results]):.2f}",
        f"{middle([r.odometry_ate_m for r in results]):.3f}",
        f"{100 * middle([abs(r.scale_error) for r in results]):.2f}",
        f"{100 * middle([r.scale_sigma for r in results]):.2f}",
        f"{middle([r.closures for r in results]):g}",
        f"{middle([r.grid_right for r in results]):.3f}",
        f"{middle([r.free_precision for r in results]):.3f}",
        " / ".join(f"{middle([r.ceiling[k] for r in results]):.3f}" for k in (0, 1)),
        f"{middle(committed):g}",
        f"{middle(rejected):g}",
        f"{sum(r.spoiled_committed for r in results)} of {sum(r.spoiled for r in results)}",
        f"{middle([r.opened_after for r in results]):g}",
    ]
    return "| " + " | ".join(cells) + " |"
