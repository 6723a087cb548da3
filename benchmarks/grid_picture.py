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

"""Draws an apartment's grid: from the oracle with noise, the true one, and the differences.

    python benchmarks/grid_picture.py [--seed 9003] [--out grid.png]

White is free, black an obstacle, grey unknown. On the right, over a faint true grid, red cells are
wrongly free (obstacles or outside the apartment), blue ones wrongly obstacles, and green ones free
cells unknown to the map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mvdust3r_ros.config import MapperConfig, with_values
from mvdust3r_ros.datatypes import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    ImageArray,
    OccupancyGrid,
)
from mvdust3r_ros.engines.oracle_engine import OracleEngine, OracleNoise
from mvdust3r_ros.evaluation.metrics.map_metrics import (
    on_common_lattice,
)
from mvdust3r_ros.evaluation.trials.apartment_drives import (
    ApartmentOptions,
    apartment_drive,
    drifting_frames,
)
from mvdust3r_ros.evaluation.trials.apartment_grid import score_apartment_grid
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.synthetic.paths import Rig
from mvdust3r_ros.synthetic.scenes import scene_occupancy
from mvdust3r_ros.synthetic.sequence import odometry

CAMERA_HEIGHT_M = 0.6
PIXELS_A_CELL = 2
WHITE, BLACK, GREY = 255, 0, 160
RED, BLUE, GREEN = (0, 0, 230), (230, 90, 0), (60, 180, 60)


def picture(grid: OccupancyGrid, truth: OccupancyGrid) -> ImageArray:
    """Return the three parts side by side, (H, W, 3) BGR."""
    cells, true = on_common_lattice(grid, truth)
    known = np.argwhere((cells != UNKNOWN) | (true != UNKNOWN))
    low, high = known.min(0), known.max(0) + 1
    cells, true = (c[low[0] : high[0], low[1] : high[1]] for c in (cells, true))
    shown = [np.select([c == FREE, c == OCCUPIED], [WHITE, BLACK], GREY) for c in (cells, true)]
    parts = [np.repeat(s[..., None], 3, 2).astype(np.uint8) for s in shown]
    errors = parts[1] // 3 + 170
    errors[(cells == FREE) & (true != FREE)] = RED
    errors[(cells == OCCUPIED) & (true == FREE)] = BLUE
    errors[(cells == UNKNOWN) & (true == FREE)] = GREEN
    border = ((6, 6), (6, 6), (0, 0))
    whole = np.concatenate([np.pad(p, border, constant_values=GREY) for p in (*parts, errors)], 1)[
        ::-1
    ]
    large: ImageArray = np.kron(whole, np.ones((PIXELS_A_CELL, PIXELS_A_CELL, 1), np.uint8))
    return large


def main() -> None:
    """Parse arguments, drive, print the scores, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=9003)
    parser.add_argument("--out", type=Path, default=Path("grid.png"))
    args = parser.parse_args()
    config = with_values(MapperConfig(), {"map.camera_height_m": CAMERA_HEIGHT_M})
    options, rule = ApartmentOptions(), config.map
    drive = apartment_drive(args.seed, options, Rig(height_m=CAMERA_HEIGHT_M))
    noise = OracleNoise(points=options.points, scale=options.scale, seed=args.seed)
    mapper = Mapper(config, OracleEngine(options.hw, noise))
    for frame in drifting_frames(drive, odometry(drive, options.drift)):
        mapper.process(frame)
    grid = mapper.snapshot().grid
    assert grid is not None
    scores = score_apartment_grid(grid, drive.scene, mapper.mapped_keyframes(), rule)
    print(f"seed {args.seed}: {scores[0]}\nfrom exact depth and poses: {scores[1]}")
    band = (rule.obstacle_min_z_m, rule.obstacle_max_z_m)
    cv2.imwrite(str(args.out), picture(grid, scene_occupancy(drive.scene, 0.05, band)))


if __name__ == "__main__":
    main()
