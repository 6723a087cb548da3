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

"""Measures processor time to integrate a window of 8 views at 224x224 into voxels of 5 cm.

    python benchmarks/voxels.py [--repeat 20]

The points are from a synthetic drive through an apartment, subsampled as in the mapper; the map
already holds the previous window. If `open3d` is installed, its VoxelBlockGrid integrates the
depth images of the same views on the CPU, since it takes no points.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import cv2
import numpy as np

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray, Frame, ImageArray
from mvdust3r_ros.drawing.voxel_map import VoxelMap
from mvdust3r_ros.geometry import backproject, invert_se3
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence, sequence_frames

VIEWS = 8
CONFIDENCE = 5.0
Cloud = tuple[FloatArray, ImageArray, FloatArray]


def drive(count: int, seed: int = 9002) -> list[Frame]:
    """Return frames 0.4 m apart."""
    config = SequenceConfig(
        seed=seed, frames=count, hw=(224, 224), step_m=0.4, apartment=True, supersample=1
    )
    return list(sequence_frames(make_sequence(config)))


def cloud(frame: Frame, stride: int) -> Cloud:
    """Return points, colours and confidence of a frame in the map frame."""
    assert frame.depth_m is not None and frame.camera is not None and frame.T_odom_cam is not None
    depth = np.nan_to_num(frame.depth_m)
    near = (depth > 0) & (depth < MapSettings().max_depth_m)
    thin = np.s_[stride // 2 :: stride, stride // 2 :: stride]
    T = frame.T_odom_cam
    points = backproject(depth.astype(np.float64), frame.camera.K)[thin][near[thin]]
    points = (points @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    colors = frame.image_rgb[thin][near[thin]]
    return points, colors, np.full(len(points), CONFIDENCE, np.float32)


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Return milliseconds of processor time and of wall time."""
    begin, clock = time.process_time(), time.perf_counter()
    action()
    return 1e3 * (time.process_time() - begin), 1e3 * (time.perf_counter() - clock)


def ours(before: list[Cloud], new: list[Cloud], voxel_size_m: float) -> tuple[float, float]:
    """Return the times of our map."""
    voxels = VoxelMap(voxel_size_m)
    for view in before:
        voxels.integrate(*view)

    def integrate() -> None:
        for view in new:
            voxels.integrate(*view)

    return timed(integrate)


def open3d_grid(before: list[Frame], new: list[Frame], voxel_size_m: float) -> tuple[float, float]:
    """Return the times of Open3D's grid with colour."""
    import open3d.core as o3c  # type: ignore[import-not-found]
    from open3d.t.geometry import Image, VoxelBlockGrid  # type: ignore

    grid = VoxelBlockGrid(
        ("tsdf", "weight", "color"), (o3c.float32, o3c.float32, o3c.float32),
        ((1), (1), (3)), voxel_size_m, 8, 20000, o3c.Device("CPU:0"),
    )  # fmt: skip

    def integrate(frames: list[Frame]) -> None:
        for frame in frames:
            assert frame.camera is not None and frame.T_odom_cam is not None
            depth = Image(o3c.Tensor(np.nan_to_num(frame.depth_m).astype(np.float32)))
            color = Image(o3c.Tensor(np.ascontiguousarray(frame.image_rgb, np.float32) / 255))
            K, T = o3c.Tensor(frame.camera.K), o3c.Tensor(invert_se3(frame.T_odom_cam))
            limit = MapSettings().max_depth_m
            blocks = grid.compute_unique_block_coordinates(depth, K, T, 1.0, limit)
            grid.integrate(blocks, depth, color, K, K, T, 1.0, limit)

    integrate(before)
    return timed(lambda: integrate(new))


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    frames = drive(2 * VIEWS)
    size = MapSettings().voxel_size_m
    for stride in (MapSettings().pixel_stride, 1):
        clouds = [cloud(f, stride) for f in frames]
        runs = [ours(clouds[:VIEWS], clouds[VIEWS:], size) for _ in range(args.repeat)]
        report(f"VoxelMap, {sum(len(c[0]) for c in clouds[VIEWS:])} points", runs)
    if importlib.util.find_spec("open3d") is None:
        print("open3d is not installed; nothing to compare with")
        return
    runs = [open3d_grid(frames[:VIEWS], frames[VIEWS:], size) for _ in range(args.repeat)]
    report("Open3D VoxelBlockGrid, 401408 pixels", runs)


def report(name: str, runs: list[tuple[float, float]]) -> None:
    """Print median and shortest times."""
    cpu, clock = np.array(runs).T
    print(
        f"{name}: {np.median(cpu):.1f} ms of processor time a window (shortest {cpu.min():.1f}), "
        f"{np.median(clock):.1f} ms by the clock (shortest {clock.min():.1f})"
    )


if __name__ == "__main__":
    main()
