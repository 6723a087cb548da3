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

"""Checks whether a code change alters any number of the map.

    python benchmarks/same_numbers.py record before [--bag BAG --depth FOLDER] [--apartments]
    python benchmarks/same_numbers.py compare before [--bag BAG --depth FOLDER] [--apartments]

Maps several drives through the public methods of `Mapper`: laps of a room with odometry drift
(loop closures, scale, floor height), a map that drops old keyframes, a corrupted window that is
rolled back, relocalisation in a saved map; with `--apartments`, two synthetic apartments; with
`--bag`, a recording, once with its true depth and once with the default engine. `record` stores
every outcome and the final map of each drive. `compare` maps them again, and exits with 1 if a
number differs by more than 1e-6, absolute plus relative, a point of the cloud by more than
0.01 mm, or a timestamp, count or cell at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import Frame, MapUpdate, WindowPrediction
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.trials.apartment_drives import corrupt_prediction
from mvdust3r_ros.mapper import Mapper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "test"))

from box_room import BoxRoom, with_drift

TOLERANCE, CLOUD_TOLERANCE_M = 1e-6, 1e-5
Numbers = dict[str, Any]
BASE = with_values(
    MapperConfig(),
    {
        "keyframes.window_size": 6, "keyframes.window_overlap": 3, "keyframes.min_sharpness": 0.0,
        "keyframes.max_interval_s": 0.1, "map.min_hits": 1, "loop.min_gap": 12,
        "loop.min_windows": 1,
    },
)  # fmt: skip
LOOSE = {
    "stitch.max_residual": 1e3, "stitch.max_scale_change": 1e6, "pose.reprojection_px": 200.0,
    "stitch.max_odom_translation": 1e6, "stitch.max_odom_rotation_deg": 1e6,
}  # fmt: skip


class NoisyOracle(OracleEngine):
    """The oracle with noise, which corrupts windows on demand."""

    def __init__(self, image_hw: tuple[int, int]) -> None:
        """Start uncorrupted; set `corrupted` to a kind of `corrupt_prediction`."""
        super().__init__(image_hw, OracleNoise(points=0.02, smooth=0.03, scale=0.3, seed=2))
        self.corrupted = ""

    def decode(self, tokens: Any, n_ref: int = 0) -> WindowPrediction:
        """As the oracle does."""
        good = super().decode(tokens, n_ref)
        if not self.corrupted:
            return good
        return corrupt_prediction(good, self.corrupted, np.random.default_rng(1))


def numbers_of(mapper: Mapper, updates: Iterable[MapUpdate | None]) -> Numbers:
    """Return every outcome of a drive and its final map."""
    found: Numbers = {}
    for index, update in enumerate(u for u in updates if u is not None):
        name = f"{index:04d}"
        found[f"{name} outcome"] = f"{update.verdict.name} {update.rolled_back} {update.message}"
        found[f"{name} stages"] = " ".join(sorted(update.latency_ms))
        found[f"{name} scale"] = np.array([update.scale.scale, update.scale.rel_sigma])
        found[f"{name} loops"] = np.array([update.loop_closures, len(update.points_map)])
        found[f"{name} residual"] = np.array([update.residual_m])
        keys = sorted(update.T_map_cam)
        found[f"{name} keyframes"] = np.array(keys)
        found[f"{name} poses"] = np.array([update.T_map_cam[k] for k in keys])
        found[f"{name} points"] = update.points_map.astype(float).sum(0)
    snapshot, stored = mapper.saved()
    found["end path"] = snapshot.trajectory.T_world_cam
    found["end stamps"] = snapshot.trajectory.stamps_ns
    found["end cloud"] = snapshot.points_map
    found["end colours"] = snapshot.colors_rgb.astype(float).sum(0)
    found["end conf"] = np.sort(snapshot.conf)
    found["end scale"] = np.array([snapshot.scale.scale, snapshot.scale.rel_sigma])
    found["end floor"] = np.array([snapshot.floor_z_m])
    found["end odometry"] = np.zeros(0) if snapshot.T_map_odom is None else snapshot.T_map_odom
    if snapshot.grid is not None:
        found["end grid"] = snapshot.grid.cells
        found["end grid place"] = np.array(snapshot.grid.origin_xy_m)
    poses = {k.keyframe.id: k.T_map_cam for k in stored.keyframes}
    found["stored keyframes"] = np.array([k.keyframe.id for k in stored.keyframes])
    found["stored poses"] = np.array([poses[k] for k in sorted(poses)])
    found["stored points"] = np.array(
        [
            np.r_[k.points_cam.sum(0, float), k.dense_points_cam.sum((0, 1), float), k.conf.sum()]
            for k in stored.keyframes
        ]
    )
    found["stored edges"] = np.array(
        [np.r_[e.a, e.b, e.T_a_b.ravel(), e.sigma_m, e.sigma_rad, e.robust] for e in stored.edges]
    )
    found["counts"] = np.array([mapper.keyframe_count, mapper.blurred_count, mapper.rolled_back])
    return found


def laps(values: dict[str, Any]) -> Numbers:
    """Map three laps: loop closures, rescaled windows, a floor estimated again."""
    room = BoxRoom()
    mapper = Mapper(with_values(BASE, values), NoisyOracle(room.image_wh[::-1]))
    updates = [mapper.process(frame) for frame in with_drift(room.frames(room.walk(54, 3.0)), 0.4)]
    return numbers_of(mapper, [*updates, mapper.finish()])


def undone() -> Numbers:
    """Corrupt a window while odometry is missing; a later window rolls it back."""
    room = BoxRoom()
    frames, engine = room.frames(room.walk(30)), NoisyOracle(room.image_wh[::-1])
    mapper = Mapper(BASE, engine)
    updates = [mapper.process(frame) for frame in frames[:12]]
    engine.corrupted = "pose"
    mapper.reconfigure(with_values(BASE, LOOSE))
    blind = [replace(f, T_odom_cam=None, T_world_cam=f.T_odom_cam) for f in frames[12:15]]
    updates += [mapper.process(frame) for frame in blind]
    engine.corrupted = ""
    mapper.reconfigure(BASE)
    updates += [mapper.process(frame) for frame in frames[15:]]
    return numbers_of(mapper, [*updates, mapper.finish()])


def found_again() -> Numbers:
    """Save a map, and relocalise in it a camera that starts elsewhere."""
    room = BoxRoom()
    frames = room.frames(room.walk(30))
    first = Mapper(BASE, NoisyOracle(room.image_wh[::-1]))
    for frame in frames[:20]:
        first.process(frame)
    mapper = Mapper(BASE, NoisyOracle(room.image_wh[::-1]))
    mapper.restore(first.saved()[1])
    updates = [mapper.process(frame) for frame in frames[6:]]
    return numbers_of(mapper, [*updates, mapper.finish()])


def apartments() -> Iterator[tuple[str, Numbers]]:
    """Map two apartments with loops: true depth with noise, a tenth of the windows corrupted."""
    from mvdust3r_ros.evaluation.trials import apartment_drives
    from mvdust3r_ros.synthetic.sequence import odometry

    options = apartment_drives.ApartmentOptions(path_m=40.0, corrupt=0.1)
    for seed in (7_500_000, 7_600_001):
        drive = apartment_drives.apartment_drive(seed, options, apartment_drives.Rig())
        frames = apartment_drives.drifting_frames(drive, odometry(drive, options.drift))
        noise = OracleNoise(points=options.points, scale=options.scale, seed=seed)
        engine = apartment_drives.CorruptedEngine(
            OracleEngine(options.hw, noise), options.corrupt, seed
        )
        mapper = Mapper(MapperConfig(), engine)
        updates = [mapper.process(frame) for frame in frames]
        yield f"apartment {seed}", numbers_of(mapper, [*updates, mapper.finish()])


def recording(bag: Path, depth: Path | None) -> Iterator[tuple[str, Numbers]]:
    """Map a bag with its true depth in place of a network, and with the default engine."""
    from mvdust3r_ros.recordings.bag import BagOptions, read_frames

    def driven(engine: Any, frames: Iterable[Frame]) -> Numbers:
        mapper = Mapper(MapperConfig(), engine)
        updates = [mapper.process(frame) for frame in frames]
        return numbers_of(mapper, [*updates, mapper.finish()])

    if depth is not None:
        with_depth = read_frames(bag, BagOptions(depth_folder=depth))
        yield "true depth", driven(create_engine("oracle", EngineOptions()), with_depth)
    yield "default engine", driven(create_engine("", EngineOptions()), read_frames(bag))


def drives(args: argparse.Namespace) -> Iterator[tuple[str, Numbers]]:
    """Yield all requested drives."""
    yield "laps", laps({})
    yield "forgetting", laps({"map.radius_m": 2.5, "map.keyframes_per_place": 2})
    yield "no odometry in the scale", laps({"stitch.odom_bias_sigma": 0.3})
    yield "undone", undone()
    yield "found again", found_again()
    if args.apartments:
        yield from apartments()
    if args.bag is not None:
        yield from recording(args.bag, args.depth)


def differences(before: Numbers, now: Numbers) -> list[str]:
    """Return all quantities that differ, and by how much."""
    found = [f"{name}: only {'before' if name in before else 'now'}"
             for name in sorted(set(before) ^ set(now))]  # fmt: skip
    for name in sorted(set(before) & set(now)):
        a, b = before[name], now[name]
        if isinstance(b, str) or isinstance(a, str) or a.dtype.kind in "US":
            if str(a) != str(b):
                found.append(f"{name}: {a} != {b}")
        elif a.shape != b.shape:
            found.append(f"{name}: {a.shape} != {b.shape}")
        elif a.dtype.kind in "iub":
            if not np.array_equal(a, b):
                found.append(f"{name}: {int((a != b).sum())} of {a.size} differ")
        elif name == "end cloud":
            off = max(cKDTree(x).query(y)[0].max(initial=0.0) for x, y in ((a, b), (b, a)))
            if off > CLOUD_TOLERANCE_M:
                found.append(f"{name}: off by {off:.2e} m")
        elif not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            found.append(f"{name}: off by {np.nanmax(np.abs(a.astype(float) - b)):.2e}")
    return found


def record(name: str, numbers: Numbers, folder: Path) -> int:
    """Store the numbers of a drive."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(_file(name, folder), **{k: np.asarray(v) for k, v in numbers.items()})
    print(f"{name}: {len(numbers)} quantities, {numbers.get('counts', '')}", flush=True)
    return 0


def compare(name: str, numbers: Numbers, folder: Path) -> int:
    """Print what differs; return the number of quantities that do."""
    with np.load(_file(name, folder), allow_pickle=False) as kept:
        found = differences({k: kept[k] for k in kept.files}, numbers)
    print(f"{name}: {len(numbers)} quantities, {len(found)} differ", flush=True)
    for line in found[:12]:
        print(f"  {line}")
    return len(found)


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name.replace(' ', '_')}.npz"


def main(words: Sequence[str] | None = None) -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bag", type=Path)
    parser.add_argument("--depth", type=Path, help="depth images of the bag")
    parser.add_argument("--apartments", action="store_true", help="with two apartments")
    args = parser.parse_args(words)
    act: Callable[[str, Numbers, Path], int] = record if args.what == "record" else compare
    changed = sum(act(name, numbers, args.folder) for name, numbers in drives(args))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
