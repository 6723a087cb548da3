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

"""Time of global alignment by number of views, and how right it is.

    python benchmarks/alignment.py [--views 2 4 8 12 16 24] [--iterations 300] [--noise 0.02]

Pairs of views of one synthetic room: true pointmaps with noise on each point, every pair in a
scale of its own, as a perfect pairwise network would give them. Counts processor time of one
thread, so that other work on the machine matters less. The last line says which share of the
variance of these times a line and a parabola through 0 explain (R^2).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.engines.dust3r.alignment import Aligned, AlignmentSettings, align_pairs
from mvdust3r_ros.engines.dust3r.pairs import PairMaps, pair_graph
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.geometry import align_cameras_sim3, invert_se3
from mvdust3r_ros.synthetic.dataset import RoomWindow, exact_views, make_window

SEED = 7_500_000
SCALE_SIGMA = 0.3
"""Of the logarithm of a pair's scale: as if the network had no idea of size."""


def pair_maps(views: int, side: int, noise: float) -> tuple[PairMaps, RoomWindow]:
    """What a pairwise network with this noise says of all pairs of a window."""
    engine = OracleEngine((side, side), OracleNoise(points=noise))
    tokens = engine.encode(exact_views(SEED, views, (side, side)))
    pairs = pair_graph(views)
    scale = np.exp(np.random.default_rng(0).normal(0, SCALE_SIGMA, len(pairs)))
    seen = [engine.decode([tokens[i], tokens[j]]) for i, j in pairs]
    points = np.stack([p.points[0] * s for p, s in zip(seen, scale, strict=True)])
    maps = PairMaps(pairs, points.astype(np.float32), np.stack([p.conf[0] for p in seen]))
    return maps, make_window(SEED, views, (side, side))


def errors(aligned: Aligned, window: RoomWindow) -> tuple[float, float]:
    """Of positions over the way from end to end, and of depth in one scale; root mean squares."""
    T = invert_se3(window.T_world_cam[0]) @ window.T_world_cam
    _, rms = align_cameras_sim3(aligned.T_ref_cam, T)
    seen = np.isfinite(window.depth_m) & (window.depth_m > 0)
    ratio = aligned.depth[seen] / window.depth_m[seen]
    way = float(np.ptp(T[:, :3, 3], axis=0).max())
    return rms / way, float(np.sqrt(np.mean((ratio / np.median(ratio) - 1) ** 2)))


def explained(views: FloatArray, times: FloatArray, degree: int) -> float:
    """R^2 of the least squares fit of a polynomial without constant."""
    powers = np.stack([views**k for k in range(1, degree + 1)], 1)
    rest = times - powers @ np.linalg.lstsq(powers, times, rcond=None)[0]
    return float(1 - np.sum(rest**2) / np.sum((times - times.mean()) ** 2))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 8, 12, 16, 24])
    parser.add_argument("--side", type=int, default=128, help="of the views, pixels")
    parser.add_argument("--noise", type=float, default=0.02, help="of a point over its depth")
    parser.add_argument("--iterations", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = AlignmentSettings(args.iterations)
    times = []
    print(f"{'views':>6} {'pairs':>6} {'s':>8} {'s/pair':>8} {'position':>9} {'depth':>7}")
    for views in args.views:
        maps, window = pair_maps(views, args.side, args.noise)
        begin = time.process_time()
        aligned = align_pairs(maps, settings)
        times.append(time.process_time() - begin)
        position, depth = errors(aligned, window)
        pairs = len(maps.pairs)
        print(
            f"{views:6d} {pairs:6d} {times[-1]:8.2f} {times[-1] / pairs:8.3f} {position:9.2%} "
            f"{depth:7.2%}",
            flush=True,
        )
    if len(times) > 2:
        line, parabola = (
            explained(np.array(args.views, float), np.array(times), k) for k in (1, 2)
        )
        print(f"R^2 of a line {line:.4f}, of a parabola {parabola:.4f}")


if __name__ == "__main__":
    main()
