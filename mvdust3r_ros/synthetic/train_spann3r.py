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

"""Train Spann3R's memory on synthetic rooms, on top of a network of pointmaps.

The network stays as it is; what is learnt is the memory (keys, values, their encoder), the heads,
and factors of low rank (Hu et al., ICLR 2022) that let the decoders read what the memory gives in
place of image features. One file holds what was learnt, a fraction of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mvdust3r_ros.engines.graph_weights import weights_of_graphs
from mvdust3r_ros.model.layers import Linear
from mvdust3r_ros.model.spann3r import SpannConfig, SpannNetwork, Step
from mvdust3r_ros.model.spann3r_weights import (
    DOWN,
    PAIR,
    UP,
    SpannCheckpoint,
    on_top_of,
    pair_of_network,
    save_spann_checkpoint,
    spann_network_from_state,
)
from mvdust3r_ros.model.weights import Checkpoint, read_checkpoint
from mvdust3r_ros.synthetic.dataset import Batch, RoomShards, collate, make_window, mirror
from mvdust3r_ros.synthetic.losses import confidence_loss, pose_loss
from mvdust3r_ros.synthetic.release import LICENCE
from mvdust3r_ros.synthetic.resumable_run import ResumableRun
from mvdust3r_ros.synthetic.train_config import TrainError

WEIGHTS = "spann3r.safetensors"
VALUE_DEPTH, VALUE_HEADS = 2, 3
"""Of the encoder of pointmaps: a third of the published depth, and heads as wide as those of the
room network."""
RANK = 16
"""Of the factors; with it they are a tenth of the decoders."""
ALPHA, POSE_WEIGHT = 0.2, 0.3
"""Weights of the losses, as in the training of the room network."""
FIRST_VALUES, FIRST_GEOMETRY = 0.2, 0.5
"""What is found in the memory, and the decoder's tokens in a key, disturb the features little at
first: a network that has learnt nothing gives each view in the frame of the view itself."""
FACTORED = ("dec_blocks.", "dec_blocks2.")
HEADS = ("downstream_head1.", "downstream_head2.")


@dataclass(frozen=True)
class SpannTraining:
    """Settings of a run.

    Attributes:
        weights: network to start from: .safetensors, .pth, or an engine folder of ONNX graphs.
        rooms: folder made by `synth rooms`, views of the network's size.
        run: folder of the checkpoint, the learning curve and the weights.
        steps: length of the run.
        views: most views of a sequence; each step draws a number from 3 to it.
        views_a_step: views of all sequences of a step.
        lr: largest learning rate.
        device: "cpu" or "cuda".
        seed: of every draw.
        measure_minutes: between measurements on held-out rooms; there is one at the end as well.
        measured_rooms: held-out rooms.
        measured_views: numbers of views that are measured.
        measured_seed: first seed of the held-out rooms.
    """

    weights: str
    rooms: str
    run: str
    steps: int = 1000
    views: int = 12
    views_a_step: int = 24
    lr: float = 1e-3
    device: str = "cpu"
    seed: int = 0
    measure_minutes: float = 10.0
    measured_rooms: int = 8
    measured_views: tuple[int, ...] = (4, 12)
    measured_seed: int = 9_000_000

    def __post_init__(self) -> None:
        if self.steps < 1 or self.views < 3 or self.views_a_step < self.views:
            raise TrainError(
                f"steps {self.steps}, views {self.views} and views_a_step {self.views_a_step} "
                "must be at least 1, 3 and the views of a sequence"
            )

    def learning_rate(self, step: int) -> float:
        """A short rise, then half a cosine down to a fiftieth."""
        rise = min(1.0, (step + 1) / 50)
        share = min(1.0, step / self.steps)
        return self.lr * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


class LowRank(nn.Module):
    """Adds a product of two factors to a matrix; nothing at first."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(rows, RANK))
        self.down = nn.Parameter(torch.randn(RANK, columns) / columns**0.5)

    def forward(self, matrix: Tensor) -> Tensor:
        """Matrix (rows, columns) with the product."""
        return matrix + self.up @ self.down


def begin(stored: Checkpoint, name: str, seed: int = 0) -> SpannNetwork:
    """A network with a memory that has learnt nothing, on top of a stored one.

    Args:
        stored: weights of MV-DUSt3R.
        name: of their file, for error messages.
        seed: of the memory's weights.

    Raises:
        WeightsError: it is no pairwise network.
    """
    pair, base = pair_of_network(stored)
    torch.manual_seed(seed)
    config = SpannConfig(pair, VALUE_DEPTH, VALUE_HEADS)
    fresh = SpannNetwork(config)
    for module in fresh.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for head in (fresh.attn_head_1, fresh.attn_head_2):
        _begin_key(head, pair.enc_dim)
    nn.init.constant_(fresh.norm_v.weight, FIRST_VALUES)
    memory = {k: v for k, v in fresh.state_dict().items() if not k.startswith(PAIR)}
    return spann_network_from_state(config, on_top_of(base, memory), name)


@torch.no_grad()
def _begin_key(head: nn.Sequential, dim: int) -> None:
    """A linear map: image features as they are, and a little of what the decoder made of them.

    Hidden units come in pairs of opposite sign: gelu(x) - gelu(-x) = x.
    """
    first, last = head[0], head[2]
    assert isinstance(first, Linear) and isinstance(last, Linear)
    pairs = min(dim, first.weight.shape[0] // 2)
    mapped = FIRST_GEOMETRY * first.weight[:pairs]
    mapped[:, :dim] = torch.eye(pairs, dim)
    first.weight[: 2 * pairs] = torch.cat((mapped, -mapped))
    last.weight.zero_()
    last.weight[:pairs, : 2 * pairs] = torch.cat((torch.eye(pairs), -torch.eye(pairs)), 1)


def make_trainable(network: SpannNetwork) -> dict[str, Tensor]:
    """Add factors to the decoders, in place, and freeze all but these, heads and memory.

    Returns:
        What is trained, by the names that `on_top_of` takes.
    """
    network.requires_grad_(False)
    trained: dict[str, Tensor] = {}
    for name, module in list(network.dust3r.named_modules()):
        if isinstance(module, Linear) and name.startswith(FACTORED):
            factors = LowRank(*module.weight.shape)
            parametrize.register_parametrization(module, "weight", factors)
            trained[f"{PAIR}{name}.weight{UP}"] = factors.up
            trained[f"{PAIR}{name}.weight{DOWN}"] = factors.down
    for name, parameter in network.named_parameters():
        if not name.startswith(PAIR) or name.removeprefix(PAIR).startswith(HEADS):
            trained[name] = parameter.requires_grad_()
    return trained


class SpannTrainer(ResumableRun):
    """A run."""

    def __init__(self, config: SpannTraining) -> None:
        """Start, or take up where the last checkpoint left.

        Raises:
            WeightsError: the network cannot be read.
            DatasetError: there are no rooms.
            TrainError: the rooms do not fit.
        """
        self.config = config
        super().__init__(Path(config.run), config.steps, config.measure_minutes)
        self.shards = RoomShards(Path(config.rooms))
        path = Path(config.weights)
        stored = weights_of_graphs(path) if path.is_dir() else read_checkpoint(path)
        self.network = begin(stored, config.weights, config.seed)
        hw = self.shards.window(0, [0]).rgb.shape[1:3]
        needed = self.network.config.pair.image_hw
        if hw != needed or self.shards.views < config.views:
            raise TrainError(
                f"{config.rooms} has {self.shards.views} views of {hw[1]}x{hw[0]} a room, needed "
                f"are {config.views} of {needed[1]}x{needed[0]}"
            )
        self.device = torch.device(config.device)
        self.trained = make_trainable(self.network)
        self.network.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01
        )
        if self.checkpoint.exists():
            self._resume()

    @property
    def weights(self) -> Path:
        """The file of what was learnt, half precision."""
        return self.folder / WEIGHTS

    def train_step(self) -> dict[str, float]:
        """One step down; returns its losses."""
        batch = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step)
        self.network.train()
        target, centres = batch.points(0), batch.relative(0)[..., :3, 3]
        regression, pose, errors = [], [], []
        torch.manual_seed(self.step)  # of what is dropped of the attention
        with torch.autocast(self.device.type, torch.bfloat16), parametrize.cached():
            steps = self._steps(batch)
        for maps, views in (
            ([s.current for s in steps], slice(None, -1)),
            ([s.following for s in steps], slice(1, None)),
        ):
            points = torch.stack([m.points for m in maps], 1)
            conf = torch.stack([m.conf for m in maps], 1)
            loss, error = confidence_loss(points, conf, target[:, views], ALPHA)
            regression.append(loss)
            errors.append(error.mean((0, 2, 3)))
            pose.append(pose_loss(points, target[:, views], centres[:, views]))
        total = torch.stack(regression).mean() + POSE_WEIGHT * torch.stack(pose).mean()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {
            "loss": float(total.detach()),
            "first": float(errors[0][0]),
            "second": float(errors[1][0]),
            "looked_up": float(errors[0][1:].mean()),
            "following": float(errors[1][1:].mean()),
        }

    def _steps(self, batch: Batch) -> list[Step]:
        """Both pointmaps of each step; the encoder learns nothing."""
        pair, (count, views) = self.network.dust3r, batch.images.shape[:2]
        known = batch.K[:, (0, 1, 0, 1), (0, 1, 2, 2)][:, None].expand(-1, views, -1)
        images = batch.images.flatten(0, 1)
        with torch.no_grad():
            features = pair.encode(images, known.flatten(0, 1)).view(
                count, views, -1, pair.config.enc_dim
            )
        return list(self.network.steps(features, pair.grid_hw(images)))

    def _batch(self) -> Batch:
        """Views that follow each other, forwards or backwards, sometimes every second one."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step, 23])
        views = int(rng.integers(3, config.views + 1))
        windows = []
        for _ in range(config.views_a_step // views):
            most = (self.shards.views - 1) // (views - 1)
            stride = 2 if most > 1 and rng.random() < 0.3 else 1
            start = int(rng.integers(self.shards.views - stride * (views - 1)))
            order = list(range(start, start + stride * (views - 1) + 1, stride))
            if rng.random() < 0.5:
                order.reverse()
            windows.append(self.shards.window(int(rng.integers(len(self.shards))), order))
        batch = collate(windows)
        if rng.random() < 0.5:
            mirror(batch)
        return batch.to(self.device)

    def save(self) -> None:
        """Write the checkpoint, all or nothing, and what was learnt."""
        trained = {k: v.detach() for k, v in self.trained.items()}
        state = {
            "trained": trained,
            "optimizer": self.optimizer.state_dict(),
        }
        self.write_checkpoint(state)
        info = {"data": "synthetic rooms of this package, no other data",
                "steps": self.step, "hours": round(self.seconds / 3600, 2)}  # fmt: skip
        stored = SpannCheckpoint(self.network.config, trained, LICENCE, info)
        save_spann_checkpoint(self.weights, stored, "fp16")

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Mean distance to the truth over its mean distance, on held-out rooms."""
        config, values = self.config, dict[str, float]()
        self.network.eval()
        seeds = range(config.measured_seed, config.measured_seed + config.measured_rooms)
        hw = self.network.config.pair.image_hw
        for views in config.measured_views:
            errors = []
            for seed in seeds:
                batch = collate([make_window(seed, views, hw)]).to(self.device)
                known = batch.K[:, (0, 1, 0, 1), (0, 1, 2, 2)].expand(views, -1)
                points, target = self.network(batch.images[0], known).points, batch.points(0)[0]
                size = target.norm(dim=-1).mean()
                errors.append(float((points - target).norm(dim=-1).mean() / size))
            values[f"error_{views}"] = float(np.mean(errors))
        return values
