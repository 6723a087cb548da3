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

"""Trial of the mapper on synthetic apartments, with a noisy oracle or a network."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    Frame,
    MapUpdate,
    Trajectory,
    Verdict,
)
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.metrics.map_metrics import absolute_errors
from mvdust3r_ros.evaluation.run import ENGINE_STAGES
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    ApartmentsError,
    CorruptedEngine,
    apartment_drive,
    drifting_frames,
    rooms_visited,
    steps_m,
)
from mvdust3r_ros.evaluation.trials.apartment_grid import ApartmentGridScores, score_apartment_grid
from mvdust3r_ros.geometry import project
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.sequence import Sequence as Drive
from mvdust3r_ros.synthetic.sequence import odometry

GRID_COLUMNS = ("right", "free_iou", "free_precision")
LOOP_HARM = 0.05
"""Loop closures that change the ATE by less than this fraction, either way, count as chance."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ApartmentResult:
    """Outcome of one drive; lengths in metres, without any alignment to the truth.

    Attributes:
        seed: seed of apartment, path and noise.
        path_m: distance travelled by the camera.
        rooms: number of rooms it visited.
        ate_m: root mean square error of the camera centres in the map frame.
        ate_share: `ate_m` over `path_m`.
        ate_without_loops_m: the same for a second run without loop closures; NaN without that run.
        ate_clean_m: the same for a run without corrupted windows; NaN without that run.
        odometry_ate_m: the same for odometry alone.
        scale_error: relative error of the map's scale, positive if it is too large.
        scale_sigma: the map's own one-sigma estimate of that error.
        window_scale_errors: relative scale error of each committed window.
        window_scale_sigmas: the map's one-sigma estimate for each of them.
        closures: number of loop closures.
        grid: scores of the map's grid; None without a grid.
        exact_grid: scores of the grid from exact depth and poses of the keyframes.
        windows: verdict -> number of windows.
        rolled_back: windows that were rolled back.
        spoiled: windows that were corrupted.
        spoiled_committed: corrupted windows that are still in the map.
        opened_after: windows until the gate opened; 0 if it stayed closed.
        refused_loops: why the last joint windows were rejected as loop closures.
        outside_engine_ms: median time of a committed window outside the engine.
        outside_engine_max_ms: maximum of these times; a loop closure rebuilds the map.
    """

    seed: int
    path_m: float
    rooms: int
    ate_m: float
    ate_share: float
    odometry_ate_m: float
    scale_error: float
    scale_sigma: float
    window_scale_errors: list[float]
    window_scale_sigmas: list[float]
    closures: int
    grid: ApartmentGridScores | None
    exact_grid: ApartmentGridScores | None
    windows: dict[str, int]
    rolled_back: int
    spoiled: int
    spoiled_committed: int
    opened_after: int
    refused_loops: list[str] = field(default_factory=list)
    outside_engine_ms: float = math.nan
    outside_engine_max_ms: float = math.nan
    ate_without_loops_m: float = math.nan
    ate_clean_m: float = math.nan

    @property
    def inside_sigma(self) -> float:
        """Fraction of the windows whose scale error is below one sigma."""
        errors, sigmas = np.array(self.window_scale_errors), np.array(self.window_scale_sigmas)
        return float((np.abs(errors) < sigmas).mean()) if len(errors) else math.nan


def evaluate_apartment(
    seed: int, config: MapperConfig, options: ApartmentOptions, engine: Engine | None = None
) -> ApartmentResult:
    """Map one drive through one apartment; repeat without closures or corruption for comparison.

    Args:
        seed: seed of everything.
        config: settings of the mapper; `map.camera_height_m`, if set, is the camera height. The
            odometry sigmas are replaced by those of `options`, as a data sheet would give them.
        options: drive and noise.
        engine: a network; None for the noisy oracle.
    """
    config = with_values(
        config,
        {
            "stitch.odom_rel_sigma": max(options.drift, 0.001),
            "stitch.odom_bias_sigma": options.bias,
        },
    )
    rig = Rig(height_m=config.map.camera_height_m or Rig().height_m)
    drive = apartment_drive(seed, options, rig)
    frames = list(drifting_frames(drive, odometry(drive, options.drift, bias=options.bias)))
    result = drive_apartment(seed, drive, frames, config, options, engine)
    if config.loop.enabled:
        plain = with_values(config, {"loop.enabled": False})
        other = drive_apartment(seed, drive, frames, plain, options, engine)
        result = replace(result, ate_without_loops_m=other.ate_m)
    if options.corrupt > 0:
        clean = replace(options, corrupt=0.0)
        other = drive_apartment(seed, drive, frames, config, clean, engine)
        result = replace(result, ate_clean_m=other.ate_m)
    return result


def drive_apartment(
    seed: int,
    drive: Drive,
    frames: Sequence[Frame],
    config: MapperConfig,
    options: ApartmentOptions,
    engine: Engine | None = None,
) -> ApartmentResult:
    """Map the frames of a drive once.

    Args:
        seed: seed of the noise.
        drive: the drive that the frames come from.
        frames: with odometry and truth.
        config: settings of the mapper.
        options: noise.
        engine: a network; None for the noisy oracle.
    """
    noise = OracleNoise(points=options.points, scale=options.scale, seed=seed)
    corrupted = CorruptedEngine(engine or OracleEngine(options.hw, noise), options.corrupt, seed)
    mapper = Mapper(config, corrupted)
    log = _Log()
    for frame in frames:
        window = mapper.select(frame)
        if window is not None:
            log.add(mapper.map_window(window), corrupted)
    T_odom_cam = [f.T_odom_cam for f in frames if f.T_odom_cam is not None]
    odom = Trajectory(drive.truth.stamps_ns[: len(T_odom_cam)], np.stack(T_odom_cam))
    return replace(
        _score(seed, drive, mapper, log),
        odometry_ate_m=absolute_errors(odom, drive.truth, "none").rmse_m,
    )


def window_scale_error(update: MapUpdate) -> float:
    """Return a committed window's scale error: mapped over true depth of its points, minus 1.

    NaN if its keyframes have no true depth.
    """
    ratios = []
    for keyframe in update.window.keyframes:
        view, T = keyframe.view, update.T_map_cam.get(keyframe.id)
        if T is None or view.depth_m is None:
            continue
        points = update.points_map[update.keyframe_ids == keyframe.id]
        cam = (points - T[:3, 3]) @ T[:3, :3]
        uv = np.rint(project(cam, update.K[keyframe.id]))
        rows, cols = view.depth_m.shape
        inside = np.all((uv >= 0) & (uv < (cols, rows)), axis=1)
        u, v = uv[inside].astype(int).T
        true = view.depth_m[v, u]
        use = np.isfinite(true) & (true > 0)
        ratios.append(cam[inside, 2][use] / true[use])
    found = np.concatenate(ratios) if ratios else np.zeros(0)
    return float(np.median(found)) - 1 if len(found) else math.nan


@dataclass
class _Log:
    """Outcomes of the windows."""

    verdicts: Counter[str] = field(default_factory=Counter)
    spoiled: int = 0
    in_map: list[bool] = field(default_factory=list)
    """For each window in the map: whether it was corrupted."""
    rolled_back: int = 0
    opened_after: int = 0
    outside_ms: list[float] = field(default_factory=list)
    scale_errors: list[float] = field(default_factory=list)
    scale_sigmas: list[float] = field(default_factory=list)
    decoded: int = 0

    def add(self, update: MapUpdate, engine: CorruptedEngine) -> None:
        self.verdicts[update.verdict.name] += 1
        committed = update.verdict == Verdict.COMMITTED
        # the first one since is the window; windows that recheck the last commits may follow, and
        # one that closes a loop
        since = engine.corrupted[self.decoded :]
        self.decoded = len(engine.corrupted)
        self.spoiled += any(since[:1])
        if update.rolled_back:
            self.rolled_back += update.rolled_back
            del self.in_map[-update.rolled_back :]
        if committed:
            self.in_map.append(any(since[update.rolled_back : update.rolled_back + 1]))
        if update.gate_open and not self.opened_after:
            self.opened_after = self.verdicts.total()
        if not committed:
            return
        stages = update.latency_ms
        self.outside_ms.append(sum(v for k, v in stages.items() if k not in ENGINE_STAGES))
        error = window_scale_error(update)
        if math.isfinite(error) and math.isfinite(update.scale.rel_sigma):
            self.scale_errors.append(error)
            self.scale_sigmas.append(update.scale.rel_sigma)


def _score(seed: int, drive: Drive, mapper: Mapper, log: _Log) -> ApartmentResult:
    snapshot = mapper.snapshot()
    path_m = float(steps_m(drive.truth.T_world_cam).sum())
    ate_m = scale_error = math.nan
    grids: tuple[ApartmentGridScores | None, ApartmentGridScores | None] = None, None
    if snapshot.grid is not None:
        ate_m = absolute_errors(snapshot.trajectory, drive.truth, "none").rmse_m
        sim3 = absolute_errors(snapshot.trajectory, drive.truth, "sim3")
        scale_error = 1 / sim3.scale - 1
        keyframes, rule = mapper.mapped_keyframes(), mapper.config.map
        grids = score_apartment_grid(snapshot.grid, drive.scene, keyframes, rule)
    times = log.outside_ms or [math.nan]
    return ApartmentResult(
        seed=seed,
        path_m=path_m,
        rooms=rooms_visited(drive),
        ate_m=ate_m,
        ate_share=ate_m / path_m,
        odometry_ate_m=math.nan,
        scale_error=scale_error,
        scale_sigma=snapshot.scale.rel_sigma,
        window_scale_errors=log.scale_errors,
        window_scale_sigmas=log.scale_sigmas,
        closures=snapshot.loop_closures,
        grid=grids[0],
        exact_grid=grids[1],
        windows=dict(log.verdicts),
        spoiled=log.spoiled,
        spoiled_committed=sum(log.in_map),
        rolled_back=log.rolled_back,
        opened_after=log.opened_after,
        refused_loops=mapper.refused_loops,
        outside_engine_ms=float(np.median(times)),
        outside_engine_max_ms=max(times),
    )


def evaluate_apartments(
    seeds: Sequence[int],
    config: MapperConfig,
    options: ApartmentOptions,
    out: Path,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> list[ApartmentResult]:
    """Evaluate all seeds in turn; write table.md and results.json to `out`.

    Raises:
        ApartmentsError: there are no seeds, or `out` cannot be written.
    """
    if not seeds:
        raise ApartmentsError("no seeds to drive; give FIRST:LAST with LAST above FIRST")
    results = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            results.append(evaluate_apartment(seed, config, options, engine))
            (out / "table.md").write_text(format_apartments(results), encoding="utf-8")
            text = json.dumps(
                {"options": asdict(options), "flats": [asdict(r) for r in results]}, indent=1
            )
            (out / "results.json").write_text(text, encoding="utf-8")
            if progress is not None:
                progress(len(results), len(seeds))
    except OSError as error:
        raise ApartmentsError(f"cannot write to {out}: {error}") from None
    return results


def format_apartments(results: Sequence[ApartmentResult]) -> str:
    """Format a Markdown table, one row per seed and the medians, and the reasons for rejection."""
    head = (
        "| seed | path m | rooms | ATE m | ATE % | ATE m, no loops | ATE m, none corrupted "
        "| odometry m | scale error % | sigma % | in 1 sigma % | loops | grid right "
        "| free IoU | free precision | exact depth | committed | rejected | corrupted in map "
        "| gate after | ms outside |"
    )
    lines = [head, "|" + " --- |" * head.count(" | ") + " --- |"]
    lines += [_row(str(r.seed), [r]) for r in results]
    if len(results) > 1:
        lines.append(_row("median", results))
    lines += ["", _sentence(results)]
    return "\n".join(lines) + "\n"


def _sentence(results: Sequence[ApartmentResult]) -> str:
    """Describe what the columns omit: totals over windows, reasons, and loop closure effects."""
    reasons: Counter[str] = Counter()
    for r in results:
        reasons.update({k: n for k, n in r.windows.items() if k != Verdict.COMMITTED.name})
    said = ", ".join(f"{n} {name.lower()}" for name, n in sorted(reasons.items())) or "none"
    errors = [e for r in results for e in r.window_scale_errors]
    sigmas = [e for r in results for e in r.window_scale_sigmas]
    inside = float((np.abs(errors) < np.array(sigmas)).mean()) if errors else math.nan
    changes = [r.ate_m / r.ate_without_loops_m - 1 for r in results if r.ate_without_loops_m > 0]
    loops = ""
    if changes:
        worse = sum(c > LOOP_HARM for c in changes)
        loops = (
            f" Loops change the ATE by {min(changes):+.0%} to {max(changes):+.0%}, "
            f"by more than {LOOP_HARM:+.0%} on {worse} of {len(changes)} drives."
        )
    return (
        f"Rejected windows: {said}; rolled back: {sum(r.rolled_back for r in results)}. "
        f"Scale errors within one sigma: {inside:.0%} of "
        f"{len(errors)} windows.{loops}"
    )


def _row(name: str, results: Sequence[ApartmentResult]) -> str:
    def middle(values: Sequence[float], form: str, factor: float = 1.0) -> str:
        value = factor * float(np.median(values))
        return format(value, form) if math.isfinite(value) else "-"

    committed = [r.windows.get(Verdict.COMMITTED.name, 0) for r in results]
    rejected = [sum(r.windows.values()) - c for r, c in zip(results, committed, strict=True)]
    grids, exact = (
        [middle([getattr(g, k) if g else math.nan for g in some], ".3f") for k in GRID_COLUMNS]
        for some in ([r.grid for r in results], [r.exact_grid for r in results])
    )
    cells = [
        name,
        middle([r.path_m for r in results], ".1f"),
        middle([r.rooms for r in results], "g"),
        middle([r.ate_m for r in results], ".3f"),
        middle([r.ate_share for r in results], ".2f", 100),
        middle([r.ate_without_loops_m for r in results], ".3f"),
        middle([r.ate_clean_m for r in results], ".3f"),
        middle([r.odometry_ate_m for r in results], ".3f"),
        middle([abs(r.scale_error) for r in results], ".2f", 100),
        middle([r.scale_sigma for r in results], ".2f", 100),
        middle([r.inside_sigma for r in results], ".0f", 100),
        middle([r.closures for r in results], "g"),
        *grids,
        " / ".join(exact),
        middle(committed, "g"),
        middle(rejected, "g"),
        f"{sum(r.spoiled_committed for r in results)} of {sum(r.spoiled for r in results)}",
        middle([r.opened_after for r in results], "g"),
        middle([r.outside_engine_ms for r in results], ".0f"),
    ]
    return "| " + " | ".join(cells) + " |"
