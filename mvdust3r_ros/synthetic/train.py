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

"""Train a small pointmap network on synthetic rooms.

Data, augmentation and learning rate of a step depend only on (seed, step, rank). A run that is
stopped and restarted resumes from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from mvdust3r_ros.model.config import NAMED_CONFIGS, config_from_dict, config_to_dict
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.synthetic.dataset import LOOK_FOR_ROOMS_EVERY, Batch, RoomShards, draw_batch
from mvdust3r_ros.synthetic.losses import (
    MatchHead,
    attention_loss,
    confidence_loss,
    find_matches,
    pose_loss,
)
from mvdust3r_ros.synthetic.preview import HeldOut
from mvdust3r_ros.synthetic.train_config import LOG_EVERY, TrainConfig

MOST_SHAPES = 64
"""Number of batch shapes cached for a compiled step: more than the view counts of a run."""


class Trainer:
    """One process of a run."""

    def __init__(self, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        """Build the network, or resume the run from its last checkpoint."""
        self.config, self.rank, self.world = config, rank, world
        self.device = (
            torch.device(config.device, rank) if config.device == "cuda" else torch.device("cpu")
        )
        self.folder = Path(config.run)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards = RoomShards(Path(config.rooms))
        room = config_to_dict(NAMED_CONFIGS["room"])
        self.network = Network(config_from_dict({**room, **config.network})).to(self.device)
        self.network.initialise(config.seed)
        self.match_head = MatchHead(self.network.config.dec_dim).to(self.device)
        torch.nn.init.orthogonal_(
            self.match_head.proj.weight, generator=torch.Generator().manual_seed(config.seed)
        )
        torch.nn.init.zeros_(self.match_head.proj.bias)
        self.params = [*self.network.parameters(), *self.match_head.parameters()]
        if config.freeze:
            for parameter in self.params:
                parameter.requires_grad_(False)
            assert self.network.dec_same_view_blocks is not None
            self.params = list(self.network.dec_same_view_blocks.requires_grad_().parameters())
        groups = [
            {
                "params": [p for p in self.params if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
        self.step = self.views_seen = 0
        self.seconds = 0.0
        self._compute_losses = self._losses
        if config.compile:
            torch._dynamo.config.recompile_limit = MOST_SHAPES
            self._compute_losses = torch.compile(self._losses, dynamic=False)
        self._pool: list[list[int]] = []  # [from step, rooms] pairs
        if config.init:
            self._start_from(Path(config.init))
        self.ema = {k: v.clone() for k, v in self.network.state_dict().items()}
        self._resume()

    # ------------------------------------------------------------------ one step

    def train_step(self) -> dict[str, float]:
        """Draw the step's batch, apply a gradient step, and return the losses."""
        config = self.config
        batch, intrinsics, n_ref = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(self.step)
        losses = self._compute_losses(batch, intrinsics, n_ref)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = self._reduce_gradients()
        if math.isfinite(norm):
            self.optimizer.step()
        self._average()
        self.step += 1
        self.views_seen += batch.images.shape[0] * batch.images.shape[1] * self.world
        return {k: float(v.detach()) for k, v in losses.items()} | {"grad_norm": norm}

    def _batch(self) -> tuple[Batch, Tensor, int]:
        config = self.config
        shared = np.random.default_rng([config.seed, self.step, 10])  # the same on all ranks
        most = config.most_views(self.step)
        low = max(2, min(most, config.min_views), most // 3)
        sizes = [n for n in range(low, most + 1) if config.views_per_step % n == 0]
        views = int(shared.choice(sizes or [most]))
        most_ref = min(config.n_ref, views)
        n_ref = int(shared.integers(min(config.min_ref, most_ref), most_ref + 1))
        n_ref = n_ref if config.n_ref > 1 else 1
        rng = np.random.default_rng([config.seed, self.step, 11, self.rank])
        count = max(1, config.views_per_step // (views * n_ref if n_ref > 1 else views))
        batch = draw_batch(
            rng, self.shards, self.room_count(), count, views, config.middle_reference
        )
        known = torch.from_numpy(rng.random((count, 1)) >= config.ray_drop).float()
        values = batch.K[:, (0, 1, 0, 1), (0, 1, 2, 2)] * known
        intrinsics = values[:, None].expand(-1, views, -1)
        if self.device.type != "cpu":
            batch = batch.to(self.device)
        return batch, intrinsics.to(self.device), n_ref

    def _losses(self, batch: Batch, intrinsics: Tensor, n_ref: int) -> dict[str, Tensor]:
        config = self.config
        auxiliary = (config.match_weight > 0 or config.attention_weight > 0) and not config.freeze
        with torch.autocast(self.device.type, torch.bfloat16):
            out = self.network(batch.images, intrinsics, n_ref=n_ref, details=auxiliary)
        losses: dict[str, Tensor] = {}
        regression, pose = [], []
        for path in range(n_ref):
            target = batch.points(path)
            if config.pose_weight > 0:
                centres = batch.relative(path)[..., :3, 3]
                pose.append(pose_loss(out.points[:, path], target, centres))
            loss, error = confidence_loss(
                out.points[:, path],
                out.conf[:, path],
                target,
                config.alpha,
                config.targets == "normalized",
            )
            regression.append(loss)
            if path == 0:
                others = torch.arange(error.shape[1]) > 0
                losses["err_ref"], losses["err_other"] = (
                    error[:, 0].mean(),
                    error[:, others].mean(),
                )
        losses["regression"] = torch.stack(regression).mean()
        total = losses["regression"]
        if pose:
            losses["pose"] = torch.stack(pose).mean()
            total = total + config.pose_weight * losses["pose"]
        if auxiliary:
            matches = find_matches(batch, batch.points(0), self.network.config.patch_size)
            with torch.autocast(self.device.type, torch.bfloat16):
                losses["match"] = self.match_head(out.features, matches)
            losses["attention"] = attention_loss(out.attention, matches)
            total = total + config.match_weight * losses["match"]
            total = total + config.attention_weight * losses["attention"]
        return losses | {"total": total}

    def _reduce_gradients(self) -> float:
        """Average gradients over processes and clip their norm to 1; return the unclipped norm."""
        grads = [p.grad for p in self.params if p.grad is not None]
        if self.world > 1:
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            flat /= self.world
            pieces = flat.split([g.numel() for g in grads])
            torch._foreach_copy_(grads, [f.view_as(g) for f, g in zip(pieces, grads, strict=True)])
        norm = float(torch.stack(torch._foreach_norm(grads)).norm())
        torch._foreach_mul_(grads, min(1.0, 1.0 / (norm + 1e-6)))
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (20 + self.step))
        state = self.network.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), list(state.values()), 1 - decay)

    # ------------------------------------------------------------------ growing set of rooms

    def room_count(self) -> int:
        """Return the number of rooms available at this step, recorded so that replays agree."""
        asked = [n for start, n in self._pool if start <= self.step]
        if self.step % LOOK_FOR_ROOMS_EVERY and asked:
            return asked[-1]
        if not any(start >= self.step for start, _ in self._pool):
            self.shards.refresh()
            count = torch.tensor(len(self.shards))
            if self.world > 1:
                dist.broadcast(count.to(self.device), 0)
            if not asked or asked[-1] != int(count):
                self._pool.append([self.step, int(count)])
                self._write_pool()
        rooms = [n for start, n in self._pool if start <= self.step][-1]
        while len(self.shards) < rooms:  # another process saw a shard first
            time.sleep(0.1)
            self.shards.refresh()
        return rooms

    def _write_pool(self) -> None:
        if self.rank == 0:
            _write_atomic(self.folder / "pool.json", json.dumps(self._pool).encode())

    # ------------------------------------------------------------------ checkpoints

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            constant = self.folder / "constant.pt"
            changed = state["decaying"] and state["max_steps"] != self.config.max_steps
            if changed and self.config.branch == "constant" and constant.exists():
                state = torch.load(constant, map_location=self.device, weights_only=True)
            self.load_state(state)
        pool = self.folder / "pool.json"
        if pool.exists():
            self._pool = json.loads(pool.read_text())

    def _start_from(self, path: Path) -> None:
        """Load the averaged weights of another run; blocks it lacks keep their initial values."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["ema"])
        if "match_head" in state:  # absent in weights from an engine
            self.match_head.load_state_dict(state["match_head"])

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume the run."""
        return {
            "network": self.network.state_dict(),
            "ema": self.ema,
            "match_head": self.match_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "views_seen": self.views_seen,
            "seconds": self.seconds,
            "max_steps": self.config.max_steps,
            "decaying": self.config.decaying(self.step),
            "config": config_to_dict(self.network.config),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self.network.load_state_dict(state["network"])
        self.match_head.load_state_dict(state["match_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = {k: v.clone() for k, v in state["ema"].items()}
        self.step, self.views_seen = state["step"], state["views_seen"]
        self.seconds = state["seconds"]

    def save(self) -> None:
        """Write checkpoint.pt, and constant.pt until the learning rate begins to fall."""
        if self.rank:
            return
        state = self.state()
        names = ["checkpoint.pt"] if state["decaying"] else ["constant.pt", "checkpoint.pt"]
        for name in names:
            partial = self.folder / (name + ".partial")
            torch.save(state, partial)
            partial.rename(self.folder / name)

    # ------------------------------------------------------------------ the loop

    def run(self, minutes: float = 0.0) -> None:
        """Train to the last step, or for a number of minutes; 0 for no limit."""
        held_out = HeldOut(self.config.held_out_seed, self.config.held_out_rooms, self.folder)
        started = saved = shown = time.monotonic()
        begin, sums, count = self.seconds, dict[str, float](), 0
        while self.step < self.config.max_steps:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            now = time.monotonic()
            self.seconds = begin + now - started
            if self.step % LOG_EVERY == 0 or self.step == self.config.max_steps:
                self._log({k: v / count for k, v in sums.items()})
                sums, count = {}, 0
            if now - shown > 60 * self.config.preview_minutes and self.rank == 0:
                self._log(held_out.measure(self.network, self.ema, self.step))
                shown = time.monotonic()
            if now - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
            if self._all_agree(minutes > 0 and now - started > 60 * minutes):
                break
        self.save()
        if self.rank == 0:
            self._log(held_out.measure(self.network, self.ema, self.step))

    def _all_agree(self, stop: bool) -> bool:
        """Follow rank 0, so that all processes stop at the same step; checked every 20 steps."""
        if self.world == 1 or self.step % 20:
            return stop and self.world == 1
        flag = torch.tensor(float(stop), device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag)

    def _log(self, values: Mapping[str, float]) -> None:
        if self.rank:
            return
        record = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 2),
            "views": self.views_seen,
            "lr": self.config.learning_rate(self.step),
        } | {k: round(v, 5) for k, v in values.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.report(record)

    def report(self, record: Mapping[str, float]) -> None:
        """Handle a log record; does nothing, but a caller may replace it to show progress."""


def _write_atomic(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.rename(path)


def train(config: TrainConfig, minutes: float = 0.0, progress: bool = True) -> None:
    """Start or resume a training run, in as many processes as the settings or torchrun specify.

    Args:
        config: the run.
        minutes: stop after this time, ready to resume; 0 for no limit.
        progress: show a progress bar.
    """
    if "LOCAL_RANK" in os.environ:
        _worker(int(os.environ["LOCAL_RANK"]), config, minutes, progress)
    elif config.processes == 1:
        _worker(0, dataclasses.replace(config, processes=1), minutes, progress)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(20000 + os.getpid() % 20000))
        spawn(_worker, (config, minutes, progress), nprocs=config.processes)


def _worker(rank: int, config: TrainConfig, minutes: float, progress: bool) -> None:
    """One process of `train`."""
    launched = "LOCAL_RANK" in os.environ
    world = int(os.environ["WORLD_SIZE"]) if launched else config.processes
    if config.device == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        backend = "nccl" if config.device == "cuda" else "gloo"
        if launched:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, rank=rank, world_size=world)
    trainer = Trainer(config, rank, world)
    if rank == 0 and progress:
        _show(trainer, minutes)
    else:
        trainer.run(minutes)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def _show(trainer: Trainer, minutes: float) -> None:
    """Run with a progress bar that shows the latest record."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}")) as bar:
        task = bar.add_task("", total=trainer.config.max_steps, completed=trainer.step)

        def report(record: Mapping[str, float]) -> None:
            text = " ".join(f"{k} {v:.3g}" for k, v in record.items() if k != "step")
            bar.update(task, completed=trainer.step, description=text)

        trainer.report = report  # type: ignore[method-assign]
        trainer.run(minutes)
