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

"""Train the network of the engine `mvs` on synthetic rooms.

A step depends only on (seed, step) and on the rooms that are ready. A run that is stopped and
restarted resumes from its last checkpoint. The number and size of views and the strength of the
augmentation are chosen settings.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.engines.mvs.sources import choose_sources
from mvdust3r_ros.engines.mvs.sweep_inputs import unit_projection
from mvdust3r_ros.model.sweep import Depth, SweepConfig, SweepNetwork, place_to_q, q_to_place
from mvdust3r_ros.synthetic.dataset import (
    LOOK_FOR_ROOMS_EVERY,
    SHARD_ROOMS,
    Batch,
    RoomShards,
    collate,
    mirror,
    write_rooms,
)
from mvdust3r_ros.synthetic.mvs_rooms import make_mvs_window
from mvdust3r_ros.synthetic.textures import Rng
from mvdust3r_ros.synthetic.train_config import LOG_EVERY, TrainError

SAVE_EVERY = 50
"""Steps between checkpoints: the most that is lost if a run is killed."""
Report = Callable[[dict[str, float]], None]
FIRST_SEED, ROOM_VIEWS, ROOM_HW = 700_000, 12, (192, 256)
"""Training rooms: none of the held-out ones, with twice the views that are encoded together, at
two thirds of the engine's view size."""
WEIGHTS = "weights.safetensors"
"""The averaged weights next to the graphs of an engine folder, for further training."""
AVERAGE = 0.998
"""Fraction of the averaged weights that a step keeps: a mean over about 500 steps."""
VIEWS = 6
"""Number of neighbouring views of a room that are encoded together."""
AS_ENGINE_SHARE = 0.6
"""Fraction of the rooms with the sources that the engine would choose, instead of just
neighbours."""
READ_VIEWS = 2
"""Number of encoded views whose depth is estimated in a step, with sources among the others."""


@dataclass(frozen=True)
class MvsTraining:
    """Settings of a run.

    Attributes:
        run: folder of the rooms, the checkpoint and the learning curve.
        steps: length of the run.
        rooms: number of training rooms, rendered while the run begins; whole shards of
            SHARD_ROOMS.
        batch: rooms per step.
        lr: maximum learning rate.
        device: "cpu" or "cuda".
        seed: seed of the weights and of every draw.
        init: engine folder with the initial weights of a new run; empty for random ones.
    """

    run: str
    steps: int = 6000
    rooms: int = 1200
    batch: int = 2
    lr: float = 1.5e-3
    device: str = "cpu"
    seed: int = 0
    init: str = ""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate: a short rise, then half a cosine down to a fiftieth."""
        rise = min(1.0, (step + 1) / 100)
        share = min(1.0, step / self.steps)
        return self.lr * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


class Sweeps(NamedTuple):
    """One step's views with their sources.

    Attributes:
        images: (B, V, 3, H, W) in [0, 1], augmented.
        views: (B, N) indices of the views to estimate.
        sources: (B, N, S) indices of their sources.
        projection: (B, N, S, 3, 4), from noisy poses.
        weight: (B, N, S) 0 for missing sources.
        range_q: (B, 2).
        depth_m: (B, V, H, W).
    """

    images: Tensor
    views: Tensor
    sources: Tensor
    projection: Tensor
    weight: Tensor
    range_q: Tensor
    depth_m: Tensor


class MvsTrainer:
    """A training run."""

    def __init__(self, config: MvsTraining) -> None:
        """Start, or resume from the last checkpoint."""
        self.config = config
        self.device = torch.device(config.device)
        self.folder = Path(config.run)
        self.shards = RoomShards(self.folder / "rooms")
        torch.manual_seed(config.seed)
        self.network = SweepNetwork()
        if config.init:
            self.network.load_state_dict(read_weights(Path(config.init)))
        self.network.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=1e-3
        )
        self.step, self.seconds = 0, 0.0
        self.average = {k: v.clone() for k, v in self.network.state_dict().items()}
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Path of the file that a run resumes from."""
        return self.folder / "checkpoint.pt"

    def run(
        self,
        minutes: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        report: Report = lambda _: None,
    ) -> None:
        """Train to the end, for a given time, or until stopped; progress is saved.

        Args:
            minutes: 0 for no limit.
            stop: polled after each step.
            report: called with each point of the learning curve.
        """
        last, until = self.config.steps, time.monotonic() + 60 * minutes
        losses: list[dict[str, float]] = []
        while self.step < last and not stop() and not (minutes and time.monotonic() > until):
            begin = time.perf_counter()
            if self.step % LOOK_FOR_ROOMS_EVERY == 0:
                self.shards.refresh()
            losses.append(self.train_step())
            self.seconds += time.perf_counter() - begin
            if self.step % LOG_EVERY == 0:
                report(self._log(losses))
                losses = []
            if self.step % SAVE_EVERY == 0:
                self.save()
        self.save()

    def train_step(self) -> dict[str, float]:
        """Take one training step; return its losses."""
        rng = np.random.default_rng([self.config.seed, self.step, 5])
        batch = draw_sweeps(rng, self.shards, self.config.batch)
        batch = Sweeps(*(t.to(self.device) for t in batch))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step)
        self.network.train()
        losses = sweep_losses(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        share = min(AVERAGE, self.step / (self.step + 10))
        for key, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[key].lerp_(value, 1 - share)
            else:
                self.average[key].copy_(value)
        return {k: float(v.detach()) for k, v in losses.items()}

    def save(self) -> None:
        """Write the checkpoint atomically."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.rename(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        self.seconds = state["seconds"]
        if self._curve.exists():  # steps after the checkpoint are repeated
            points = [json.loads(line) for line in self._curve.read_text().splitlines()]
            kept = [json.dumps(p) + "\n" for p in points if p["step"] <= self.step]
            self._curve.write_text("".join(kept))

    @property
    def _curve(self) -> Path:
        return self.folder / "curve.jsonl"

    def _log(self, losses: list[dict[str, float]]) -> dict[str, float]:
        mean = {k: float(np.mean([one[k] for one in losses])) for k in losses[0]}
        point: dict[str, float] = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 1),
            "rooms": len(self.shards),
            **{k: round(v, 4) for k, v in mean.items()},
        }
        with self._curve.open("a") as file:
            file.write(json.dumps(point) + "\n")
        return point


def train_mvs(
    config: MvsTraining,
    minutes: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
    report: Report = lambda _: None,
) -> int:
    """Render rooms and train on those that are ready, as described in `MvsTrainer.run`.

    Returns:
        The step that the run has reached.

    Raises:
        DatasetError: the rooms do not make up whole shards.
    """
    folder = Path(config.run) / "rooms"
    seeds = range(FIRST_SEED, FIRST_SEED + config.rooms)
    write_rooms(folder, seeds[:SHARD_ROOMS], ROOM_VIEWS, ROOM_HW, 1, _no_progress, make_mvs_window)
    maker = get_context("spawn").Process(target=_make_rooms, args=(folder, seeds))
    maker.start()
    try:
        trainer = MvsTrainer(config)
        trainer.run(minutes, stop, report)
    finally:
        maker.terminate()
        maker.join()
    return trainer.step


def _make_rooms(folder: Path, seeds: range) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training
    write_rooms(folder, seeds, ROOM_VIEWS, ROOM_HW, 1, _no_progress, make_mvs_window)


def _no_progress(done: int, total: int) -> None:
    del done, total


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of an engine folder, by the names of `SweepNetwork`.

    Raises:
        TrainError: the folder has no weights.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise TrainError(f"no {path}: an engine folder made by `train-mvs --export` has it")
    weights: dict[str, Tensor] = load_file(path)
    return weights


def load_average(checkpoint: Path) -> SweepNetwork:
    """Load the averaged network of a run, ready for inference."""
    state: Mapping[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = SweepNetwork()
    network.load_state_dict(state["average"])
    return network.eval()


# ---------------------------------------------------------------------------- losses


def sweep_losses(network: SweepNetwork, batch: Sweeps) -> dict[str, Tensor]:
    """Compute the losses of one step; "total" is the one minimised."""
    planes = network.config.planes
    b, n = batch.views.shape
    depth = read_sweeps(network, batch)
    truth_m = batch.depth_m[torch.arange(b)[:, None], batch.views].flatten(0, 1)
    range_q = batch.range_q[:, None].expand(b, n, 2).flatten(0, 1)[:, :, None, None]
    coarse_m, fine_m = truth_m[:, 1::4, 1::4], truth_m[:, ::2, ::2]
    target = q_to_place(1 / coarse_m.clamp_min(1e-2), range_q, planes)
    fine_target = q_to_place(1 / fine_m.clamp_min(1e-2), range_q, planes)
    known = (coarse_m > 0) & (target > 0) & (target < planes - 1)
    fine_known = (fine_m > 0) & (fine_target > 0) & (fine_target < planes - 1)
    steps = network.reader.config.fine_planes // 2
    step = network.config.fine_step
    inner = (fine_target - depth.fine_centre.detach()) / step
    near = fine_known & (inner.abs() < steps)
    off = (depth.place - fine_target).abs()
    log_off = (_log_depth(depth.place, range_q, planes) + torch.log(fine_m.clamp_min(1e-2))).abs()
    clipped = log_off.detach().clamp_max(1.0)
    parts = {
        "planes": _two_hot(depth.logits, target)[known].mean(),
        "coarse": functional.smooth_l1_loss(depth.coarse[known], target[known]),
        "centre": functional.smooth_l1_loss(
            depth.fine_centre[fine_known], fine_target[fine_known]
        ),
        "fine_planes": _two_hot(depth.fine_logits, inner + steps)[near].mean(),
        "place": functional.smooth_l1_loss(
            depth.place[fine_known], fine_target[fine_known], beta=0.3
        ),
        "error": (clipped * torch.exp(-depth.log_error) + depth.log_error)[fine_known].mean(),
    }
    weights = {"planes": 0.3, "coarse": 0.1, "centre": 0.2, "fine_planes": 0.2, "place": 0.4}
    total = sum((parts[k] * w for k, w in weights.items()), 0.1 * parts["error"])
    with torch.no_grad():
        parts["within_10"] = (log_off[fine_known] < 0.1).float().mean()
        parts["log_off"] = log_off[fine_known].mean()
        parts["off"] = off[fine_known].mean()
    return parts | {"total": torch.as_tensor(total)}


def read_sweeps(network: SweepNetwork, batch: Sweeps) -> Depth:
    """Estimate the depth of all selected views, (B*N, ...)."""
    b, v = batch.images.shape[:2]
    n = batch.sources.shape[1]
    features = network.encoder(batch.images.flatten(0, 1))
    by_room = [f.unflatten(0, (b, v)) for f in features]
    rooms = torch.arange(b, device=batch.images.device)
    own = type(features)(*(f[rooms[:, None], batch.views].flatten(0, 1) for f in by_room))
    match, fine = (f[rooms[:, None, None], batch.sources].flatten(0, 1) for f in by_room[:2])
    range_q = batch.range_q[:, None].expand(b, n, 2).flatten(0, 1)
    depth: Depth = network.reader(
        own, (match, fine), batch.projection.flatten(0, 1), batch.weight.flatten(0, 1), range_q
    )
    return depth


def _log_depth(place: Tensor, range_q: Tensor, planes: int) -> Tensor:
    """Return the logarithm of the inverse depth at a place, which may be slightly out of range."""
    return torch.log(place_to_q(place, range_q, planes).clamp_min(1e-3))


def _two_hot(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the cross entropy with a place between two planes, distributed over both."""
    log_p = functional.log_softmax(logits, 1)
    last = logits.shape[1] - 1
    at = target.clamp(0, last)
    low = at.floor().clamp(0, last - 1)
    part = at - low
    low_p = log_p.gather(1, low.long()[:, None])[:, 0]
    high_p = log_p.gather(1, low.long()[:, None] + 1)[:, 0]
    return -(low_p * (1 - part) + high_p * part)


# ---------------------------------------------------------------------------- data


def draw_sweeps(rng: Rng, shards: RoomShards, batch: int) -> Sweeps:
    """Draw random views of random rooms with sources, with realistic image and pose errors."""
    windows = []
    for _ in range(batch):
        stride = 2 if rng.random() < 0.25 and shards.views >= 2 * VIEWS - 1 else 1
        start = rng.integers(shards.views - stride * (VIEWS - 1))
        order = (start + stride * np.arange(VIEWS)).tolist()
        windows.append(shards.window(int(rng.integers(len(shards))), order))
    made = collate(windows)
    images = made.images.add_(1).mul_(0.5)
    if rng.random() < 0.5:
        mirror(made)
        images = made.images
    disturb_images(rng, images)
    return with_sources(rng, made, images)


def with_sources(rng: Rng, batch: Batch, images: Tensor) -> Sweeps:
    """Choose views to estimate and their sources; give poses realistic residual errors."""
    b, v = images.shape[:2]
    sources = SweepConfig.sources
    views = np.stack([rng.permutation(v)[:READ_VIEWS] for _ in range(b)])
    chosen = np.zeros((b, READ_VIEWS, sources), np.int64)
    weight = np.ones((b, READ_VIEWS, sources), np.float32)
    range_q = np.zeros((b, 2), np.float32)
    projection = np.zeros((b, READ_VIEWS, sources, 3, 4), np.float32)
    height, width = images.shape[-2:]
    for i in range(b):
        depth = batch.depth_m[i].numpy()[:, ::4, ::4]
        far, near = np.percentile(depth[depth > 0], [98, 2])
        range_q[i] = 1 / (far * rng.uniform(1.1, 2.0)), 1 / (near * rng.uniform(0.5, 0.9))
        K = batch.K[i].numpy().astype(np.float64)
        K[[0, 1], [0, 1]] *= 1 + rng.normal(0, 0.003)
        noisy = noisy_poses(rng, batch.T_world_cam[i].numpy().astype(np.float64))
        as_engine = rng.random() < AS_ENGINE_SHARE
        for k, view in enumerate(views[i]):
            others = np.array([j for j in range(v) if j != view])
            ranked = others[np.argsort(np.abs(others - view) + rng.uniform(0, 2.5, v - 1))]
            best = _engine_sources(int(view), noisy, K, batch.depth_m[i, view].numpy(), sources)
            if as_engine and best:
                chosen[i, k] = (*best, *([best[0]] * sources))[:sources]
                weight[i, k, len(best) :] = 0
            else:
                chosen[i, k] = ranked[:sources]
            weight[i, k, int(rng.integers(2, sources + 1)) :] = 0
            for s, other in enumerate(chosen[i, k]):
                T = np.linalg.inv(noisy[other]) @ noisy[view]
                projection[i, k, s] = unit_projection(K, K, T, (height, width))
    return Sweeps(
        images,
        torch.from_numpy(views),
        torch.from_numpy(chosen),
        torch.from_numpy(projection),
        torch.from_numpy(weight),
        torch.from_numpy(range_q),
        batch.depth_m,
    )


def _engine_sources(
    view: int, T_world_cam: FloatArray, K: FloatArray, depth_m: FloatArray, count: int
) -> list[int]:
    typical = float(np.median(depth_m[depth_m > 0]))
    views = len(T_world_cam)
    Ks = np.repeat(K[None], views, 0)
    height, width = depth_m.shape
    return choose_sources(view, T_world_cam, Ks, (height, width), typical, range(views), count)


def noisy_poses(rng: Rng, poses: FloatArray) -> FloatArray:
    """Add noise with sigmas up to 0.25 degrees and 2 % of the typical step to (V, 4, 4) poses."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    size = rng.uniform(0, 1)
    noisy = poses.copy()
    turn = rng.normal(0, math.radians(0.25) * size, (len(poses), 3))
    noisy[:, :3, :3] = noisy[:, :3, :3] @ Rotation.from_rotvec(turn).as_matrix()
    noisy[:, :3, 3] += rng.normal(0, (0.02 * np.median(steps) + 0.002) * size, (len(poses), 3))
    return noisy


def disturb_images(rng: Rng, images: Tensor) -> None:
    """Augment in place: colours of the scene, exposure of each view, vignette, blur, noise."""
    b, v = images.shape[:2]
    height, width = images.shape[-2:]
    for k in range(b):
        if rng.random() < 0.3:
            images[k] = images[k][:, torch.from_numpy(rng.permutation(3))]
        saturation = rng.uniform(0.0, 1.0)
        gray = images[k].mean(1, keepdim=True)
        images[k] = gray + (images[k] - gray) * float(saturation)
        contrast = rng.uniform(0.4, 1.1)
        images[k] = 0.5 + (images[k] - 0.5) * float(contrast) + float(rng.normal(0, 0.1))
    images.clamp_(0, 1)
    spread = rng.uniform(0, 0.15)
    gain = np.exp(rng.normal(0, 0.15, (b, 1, 1, 1, 1)) + rng.normal(0, spread, (b, v, 1, 1, 1)))
    images.mul_(_f32(gain))
    gamma = np.exp(rng.normal(0, 0.05, (b, v, 1, 1, 1)))
    images.clamp_(1e-4, 1).pow_(_f32(gamma))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    images.mul_(_f32(1 - rng.uniform(0, 0.4) * (x**2 + y**2) / 2))
    if rng.random() < 0.5:
        _blur(rng, images)
    sigma = rng.uniform(0, 0.025)
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    images.add_(torch.randn(images.shape, generator=noise) * float(sigma))
    images.mul_(255).round_().clamp_(0, 255).div_(255)


def _f32(values: FloatArray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _blur(rng: Rng, images: Tensor) -> None:
    """Blur some views by defocus or by motion, along the rows or the columns."""
    b, v = images.shape[:2]
    for i in range(b):
        for j in range(v):
            if rng.random() < 0.5:
                continue
            side = float(rng.uniform(0, 0.5))
            axis = int(rng.integers(1, 3))
            moved = torch.roll(images[i, j], 1, axis) + torch.roll(images[i, j], -1, axis)
            images[i, j] = (1 - side) * images[i, j] + side / 2 * moved
