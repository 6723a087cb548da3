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

"""Windows of views of synthetic rooms: made by seed, stored in shards, read back in batches.

A room is named by its seed alone: the same seed and size give the same pixels, whether it was
stored before or is made on the spot. How often and how much images are disturbed is a choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mvdust3r_ros.datatypes import FloatArray, ImageArray, MvDust3rError, View
from mvdust3r_ros.synthetic.paths import Rig, window_poses
from mvdust3r_ros.synthetic.render import Renderer, pinhole
from mvdust3r_ros.synthetic.scenes import SEED_STEP, Scene, SceneError, sample_flat, sample_room
from mvdust3r_ros.synthetic.textures import Rng

SHARD_ROOMS = 50
"""What a process makes before it reports, and what is lost where it is killed."""
CHECK_PX = 32
"""Side of the depth images that poses are judged by, before anything is rendered."""
MIN_OVERLAP = 0.2
"""Share of its pixels that a view has in common with the next: of less, a network could only
guess."""
LOOK_FOR_ROOMS_EVERY = 100
"""Steps of training between looks for shards that were written meanwhile, which read the
folder."""
PLAIN_LEVELS = 6.0
"""Standard deviation of the 256 levels: less is a view of nothing but a plain wall."""
MIN_MEAN_DEPTH_M = 0.8
"""Nearer on average, a view shows one piece of furniture and nothing of the room."""


class DatasetError(MvDust3rError):
    """A data set is missing, incomplete or does not fit."""


@dataclass(frozen=True)
class RoomWindow:
    """Views of one room with their exact geometry.

    Attributes:
        rgb: (V, H, W, 3) uint8.
        depth_m: (V, H, W) float32.
        K: (3, 3) intrinsics of all views.
        T_world_cam: (V, 4, 4).
        scene: the scene; None when the window was read from a shard.
    """

    rgb: ImageArray
    depth_m: FloatArray
    K: FloatArray
    T_world_cam: FloatArray
    scene: Scene | None = None


def make_window(seed: int, views: int, hw: tuple[int, int], device: str = "cpu") -> RoomWindow:
    """The window of a seed: a furnished room or (one in three) a flat, seen along a robot's way.

    Neighbouring views overlap by at least 20 % in both directions.

    Args:
        seed: same seed, same window.
        views: number of views.
        hw: height and width in pixels.
        device: where to render.

    Raises:
        SceneError: 200 layouts of this seed gave no usable path.
    """
    for rng, scene, rig in drawn_scenes(seed, 4):
        try:
            poses = window_poses(rng, scene, rig, views)
        except SceneError:
            continue
        renderer = Renderer(scene, device)
        if poses is None or not _usable(renderer, rig, poses):
            continue
        K = pinhole(rig.fov_rad, hw)
        shots = [renderer.render(K, hw, T) for T in poses]
        rgb = np.stack([s.rgb for s in shots])
        if rgb.reshape(views, -1).std(1).min() < PLAIN_LEVELS:
            continue
        return RoomWindow(rgb, np.stack([s.depth_m for s in shots]), K, poses, scene)
    raise SceneError(f"no window of {views} views found for seed {seed}")


def drawn_scenes(seed: int, stream: int) -> Iterator[tuple[Rng, Scene, Rig]]:
    """Up to 200 tries of a seed: a source of randomness, a room or (one in three) a flat, a rig.

    Args:
        seed: same seed and stream, same scenes.
        stream: sets what different kinds of windows draw apart.
    """
    for attempt in range(200):
        rng = np.random.default_rng([seed, attempt, stream])
        # four ways through the first layout, then others
        layout = seed if attempt < 4 else seed + SEED_STEP * attempt
        scene = sample_flat(layout) if rng.random() < 1 / 3 else sample_room(layout)
        yield rng, scene, Rig.draw(rng)


WindowMaker = Callable[[int, int, tuple[int, int]], RoomWindow]
"""Makes the window of a seed with a number of views of a height and width."""


def exact_views(seed: int, views: int, hw: tuple[int, int]) -> list[View]:
    """The window of a seed as views with exact depth, intrinsics and pose; see `make_window`."""
    w = make_window(seed, views, hw)
    return [
        View(rgb, w.K, pose, depth)
        for rgb, pose, depth in zip(w.rgb, w.T_world_cam, w.depth_m, strict=True)
    ]


def _usable(renderer: Renderer, rig: Rig, poses: FloatArray) -> bool:
    hw = (CHECK_PX, CHECK_PX)
    K = pinhole(rig.fov_rad, hw)
    depths: list[FloatArray] = []
    for k, pose in enumerate(poses):
        depths.append(renderer.depth(K, hw, pose))
        if depths[k].mean() < MIN_MEAN_DEPTH_M or depths[k].min() <= 0:
            return False
        pairs = ((k, k - 1), (k - 1, k)) if k else ()
        if any(
            overlap(depths[i], depths[j], K, poses[i], poses[j]) < MIN_OVERLAP for i, j in pairs
        ):
            return False
    return True


def overlap(
    depth_i: FloatArray, depth_j: FloatArray, K: FloatArray, T_i: FloatArray, T_j: FloatArray
) -> float:
    """Share of the pixels of view i whose surface point view j sees too.

    Args:
        depth_i: (H, W) depth of view i, metres.
        depth_j: (H, W) depth of view j.
        K: (3, 3) intrinsics of both.
        T_i: (4, 4) T_world_cam of view i.
        T_j: (4, 4) T_world_cam of view j.
    """
    h, w = depth_i.shape
    v, u = np.mgrid[0:h, 0:w]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((h, w))], -1)
    T_j_i = np.linalg.inv(T_j) @ T_i
    p = (rays * depth_i[..., None]).reshape(-1, 3) @ T_j_i[:3, :3].T + T_j_i[:3, 3]
    z = np.maximum(p[:, 2], 1e-3)
    px = np.rint(K[0, 0] * p[:, 0] / z + K[0, 2]).astype(int)
    py = np.rint(K[1, 1] * p[:, 1] / z + K[1, 2]).astype(int)
    # In front of the other camera, and the same surface but for pixels as coarse as CHECK_PX.
    seen = (p[:, 2] > 0.05) & (px >= 0) & (px < w) & (py >= 0) & (py < h)
    there = depth_j[np.clip(py, 0, h - 1), np.clip(px, 0, w - 1)]
    return float(np.mean(seen & (np.abs(there - z) < 0.08 * np.maximum(z, 0.5) + 0.05)))


def write_shard(
    folder: Path,
    first_seed: int,
    views: int,
    hw: tuple[int, int],
    make: WindowMaker = make_window,
) -> Path:
    """Render SHARD_ROOMS rooms into one shard, unless it is there already.

    Args:
        folder: where the shards lie; made when missing.
        first_seed: seed of the first room.
        views: views a room.
        hw: height and width in pixels.
        make: makes the window of a seed.

    Returns:
        The shard's index file, written last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"{first_seed:08d}.json"
    if index.exists():
        return index
    seeds = range(first_seed, first_seed + SHARD_ROOMS)
    windows = [make(s, views, hw) for s in seeds]
    np.save(index.with_suffix(".rgb.npy"), np.stack([w.rgb for w in windows]))
    depth = np.stack([w.depth_m for w in windows]).astype(np.float16)
    np.save(index.with_suffix(".depth.npy"), depth)
    np.savez(
        index.with_suffix(".cameras.npz"),
        K=np.stack([w.K for w in windows]),
        T_world_cam=np.stack([w.T_world_cam for w in windows]),
    )
    partial = index.with_suffix(".partial")
    partial.write_text(json.dumps({"first_seed": first_seed, "views": views, "hw": list(hw)}))
    partial.rename(index)
    return index


def write_rooms(
    folder: Path,
    seeds: range,
    views: int,
    hw: tuple[int, int],
    jobs: int,
    report: Callable[[int, int], None],
    make: WindowMaker = make_window,
) -> None:
    """Render rooms into shards, several at a time; shards already there are left alone.

    Args:
        folder: where the shards go.
        seeds: rooms to render; whole shards of SHARD_ROOMS.
        views: views a room.
        hw: height and width in pixels.
        jobs: processes.
        report: called with shards done and shards in all.
        make: makes the window of a seed.

    Raises:
        DatasetError: the seeds do not make up whole shards.
    """
    if len(seeds) % SHARD_ROOMS or not len(seeds) or seeds.start < 0:
        raise DatasetError(
            f"rooms are made {SHARD_ROOMS} at a time: give a multiple of {SHARD_ROOMS}, "
            f"not {len(seeds)}"
        )
    starts = seeds[::SHARD_ROOMS]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        tasks = [pool.submit(write_shard, folder, start, views, hw, make) for start in starts]
        for done, task in enumerate(as_completed(tasks)):
            task.result()
            report(done + 1, len(starts))


class RoomShards:
    """The shards of a folder in order of their seeds, without gaps; memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Start empty; `refresh` finds the shards."""
        self.folder = folder
        self._shards: list[tuple[ImageArray, npt.NDArray[np.float16], FloatArray, FloatArray]] = []
        self.refresh()

    def refresh(self) -> None:
        """Take in shards finished since the last look, up to the first gap in their seeds.

        Raises:
            DatasetError: there is not one shard.
        """
        first = min((int(p.stem) for p in self.folder.glob("*.json")), default=-1)
        if first < 0:
            raise DatasetError(
                f"no rooms in {self.folder}; make some with `mvdust3r_ros synth rooms`"
            )
        while (name := self.folder / f"{first + len(self):08d}.json").exists():
            cameras = np.load(name.with_suffix(".cameras.npz"), allow_pickle=False)
            rgb = np.load(name.with_suffix(".rgb.npy"), mmap_mode="r", allow_pickle=False)
            depth = np.load(name.with_suffix(".depth.npy"), mmap_mode="r", allow_pickle=False)
            self._shards.append((rgb, depth, cameras["K"], cameras["T_world_cam"]))

    def __len__(self) -> int:
        """Number of rooms."""
        return SHARD_ROOMS * len(self._shards)

    @property
    def views(self) -> int:
        """Views a room."""
        return int(self._shards[0][0].shape[1])

    def window(self, room: int, views: Sequence[int]) -> RoomWindow:
        """Some views of a room, in the order asked for."""
        rgb, depth, K, poses = self._shards[room // SHARD_ROOMS]
        k, chosen = room % SHARD_ROOMS, list(views)
        return RoomWindow(
            rgb[k][chosen], depth[k][chosen].astype(np.float32), K[k], poses[k][chosen]
        )


@dataclass
class Batch:
    """Windows of equal size as tensors.

    Attributes:
        images: (B, V, 3, H, W) float32 in [-1, 1].
        depth_m: (B, V, H, W) float32.
        K: (B, 3, 3) float32.
        T_world_cam: (B, V, 4, 4) float32.
    """

    images: torch.Tensor
    depth_m: torch.Tensor
    K: torch.Tensor
    T_world_cam: torch.Tensor

    def points(self, reference: int) -> torch.Tensor:
        """(B, V, H, W, 3) pointmaps of all views in the camera frame of view `reference`."""
        h, w = self.depth_m.shape[-2:]
        v, u = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        f = self.K[:, (0, 1), (0, 1)].view(-1, 1, 1, 1, 2)
        c = self.K[:, (0, 1), (2, 2)].view(-1, 1, 1, 1, 2)
        uv = torch.stack([u, v], -1).to(self.depth_m)
        xy = (uv - c) / f * self.depth_m[..., None]
        in_camera = torch.cat([xy, self.depth_m[..., None]], -1)
        T = self.relative(reference)
        rotated = in_camera.flatten(2, 3) @ T[..., :3, :3].transpose(-1, -2)
        return (rotated + T[..., None, :3, 3]).view(in_camera.shape)

    def relative(self, reference: int) -> torch.Tensor:
        """(B, V, 4, 4) T_reference_cam of all views."""
        inverse: torch.Tensor = torch.linalg.inv(self.T_world_cam[:, reference, None])
        return inverse @ self.T_world_cam


def collate(windows: Sequence[RoomWindow]) -> Batch:
    """Windows of one size, stacked."""
    rgb = torch.from_numpy(np.stack([w.rgb for w in windows]))
    images = rgb.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)
    poses = np.stack([w.T_world_cam for w in windows])
    poses = np.linalg.inv(poses[:, :1]) @ poses  # near the origin, for float32
    return Batch(
        images.contiguous(),
        torch.from_numpy(np.stack([w.depth_m for w in windows]).astype(np.float32)),
        torch.from_numpy(np.stack([w.K for w in windows]).astype(np.float32)),
        torch.from_numpy(poses.astype(np.float32)),
    )


def draw_batch(
    rng: Rng, shards: RoomShards, rooms: int, batch: int, views: int, middle: float = 0.0
) -> Batch:
    """A random, augmented batch.

    Args:
        rng: source of all randomness.
        shards: where the rooms are.
        rooms: draw among the first `rooms` of them.
        batch: windows in the batch.
        views: views a window; a run of the stored ones, every second one at times, shuffled, so
            that any view may be the reference.
        middle: share of windows whose first view is one of the middle half of the run.
    """
    windows = []
    for _ in range(batch):
        apart = rng.random() < 0.3 and views <= 4 and 2 * views - 1 <= shards.views
        stride = 2 if apart else 1
        start = rng.integers(shards.views - stride * (views - 1))
        places = rng.permutation(views)
        if rng.random() < middle:
            first = int(rng.integers(views // 4, views - views // 4))
            at = int(np.flatnonzero(places == first)[0])
            places[[0, at]] = places[[at, 0]]
        order = start + stride * places
        windows.append(shards.window(int(rng.integers(rooms)), order.tolist()))
    made = collate(windows)
    if rng.random() < 0.5:
        mirror(made)
    _disturb_colors(rng, made.images)
    return made


def mirror(batch: Batch) -> None:
    """The mirror image of the scene along the camera's x axis."""
    batch.images, batch.depth_m = batch.images.flip(-1), batch.depth_m.flip(-1)
    sign = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    batch.T_world_cam = sign @ batch.T_world_cam @ sign
    batch.K[:, 0, 2] = batch.images.shape[-1] - 1 - batch.K[:, 0, 2]


def _disturb_colors(rng: Rng, images: torch.Tensor) -> None:
    """In place: channels exchanged, gain of the scene and of each view, noise, slight blur."""
    b, v = images.shape[:2]
    unit = images.add_(1.0).mul_(0.5)
    for k in range(b):
        if rng.random() < 0.5:
            unit[k] = unit[k][:, torch.from_numpy(rng.permutation(3))]
    log_gain = rng.normal(0, 0.15, (b, 1, 3, 1, 1)) + rng.normal(0, 0.04, (b, v, 1, 1, 1))
    unit.mul_(torch.from_numpy(np.exp(log_gain).astype(np.float32)))
    if rng.random() < 0.3:
        weight = rng.uniform(0.1, 0.5)
        unit[..., 1:-1] = (1 - weight) * unit[..., 1:-1] + weight / 2 * (
            unit[..., :-2] + unit[..., 2:]
        )
    if rng.random() < 0.7:
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        sigma = math.sqrt(3) * rng.uniform(0, 0.02)
        unit.add_((torch.rand(unit.shape, generator=noise) - 0.5) * (2 * sigma))
    unit.clamp_(0, 1).mul_(2.0).sub_(1.0)
