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

"""Train Gaussian heads on synthetic rooms: what input views predict, held-out views must see.

The loss is the mean squared error of rendered images of input and held-out views, as in MV-DUSt3R
(Tang et al. 2025), and a pull of the sizes into the range that is rendered. LPIPS, which the
published training adds, needs weights that the package does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.engines.torch_engine import TorchEngine, TorchOptions, manifest_of
from mvdust3r_ros.model.config import config_from_dict
from mvdust3r_ros.model.heads import GAUSSIAN_SCALE, GaussianHead
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.model.weights import Checkpoint, network_from_state, read_checkpoint
from mvdust3r_ros.model.weights import save_checkpoint as write_weights
from mvdust3r_ros.synthetic.dataset import Batch, RoomShards, draw_batch, exact_views
from mvdust3r_ros.synthetic.new_views import (
    NewViewRow,
    held_out_between,
    mean_scores,
    measure_new_views,
)
from mvdust3r_ros.synthetic.release import LICENCE
from mvdust3r_ros.synthetic.resumable_run import Report, ResumableRun
from mvdust3r_ros.synthetic.seen_windows import image_of, predicted, see, true_image
from mvdust3r_ros.synthetic.train_config import TrainError

WEIGHTS = "weights.safetensors"
HEADS = "downstream_GS_head."
FIRST_SIZE_PX, FIRST_LOGIT = 0.5, 2.0
"""Gaussians begin round, so large that neighbours overlap, and with an opacity of 0.88: near to
opaque points, and yet what lies behind learns."""
JOINT_LR_SHARE = 0.05
"""Learning rate of what is trained already over that of the heads, which begin anew."""


@dataclass(frozen=True)
class GaussianTraining:
    """Settings of a run.

    Attributes:
        weights: network to start from, .safetensors, .pth or the checkpoint.pt of `train`; heads
            that it lacks begin anew.
        rooms: folder made by `synth rooms`, views of the network's size.
        run: folder of the checkpoint, the learning curve, pictures and the weights.
        steps: length of the run.
        views: most input views of a step's window.
        min_views: fewest input views, drawn anew in each step; 0 for always `views`.
        held_out: views of a window that are rendered but not seen.
        rendered: input views that are rendered as well.
        hidden: hidden width of heads that begin anew; 0 for the decoder's width.
        lr: largest learning rate.
        true_points: whether the Gaussians lie on the true pointmaps, so that only their shapes
            are learnt.
        joint: whether the pointmaps learn as well, from the rendered images and the true points.
        device: "cpu" or "cuda".
        seed: of every draw.
        measure_minutes: between measurements on held-out rooms; there is one at the end as well.
        measured_rooms: held-out rooms.
        measured_views: numbers of input views that are measured.
        measured_seed: first seed of the held-out rooms.
    """

    weights: str
    rooms: str
    run: str
    steps: int = 4000
    views: int = 8
    min_views: int = 0
    held_out: int = 2
    rendered: int = 2
    hidden: int = 0
    lr: float = 2e-3
    true_points: bool = False
    joint: bool = False
    device: str = "cpu"
    seed: int = 0
    measure_minutes: float = 10.0
    measured_rooms: int = 8
    measured_views: tuple[int, ...] = (4, 12, 24)
    measured_seed: int = 9_000_000

    def __post_init__(self) -> None:
        if self.steps < 1 or self.views < 2 or self.held_out < 1:
            raise TrainError(
                f"steps {self.steps}, views {self.views} and held_out {self.held_out} must be at "
                "least 1, 2 and 1"
            )
        if self.min_views and not 2 <= self.min_views <= self.views:
            raise TrainError(f"min_views {self.min_views} must be 0 or in [2, {self.views}]")
        if self.joint and self.true_points:
            raise TrainError("pointmaps do not learn where the true ones are taken: leave out one")

    def learning_rate(self, step: int) -> float:
        """A short rise, then half a cosine down to a fiftieth."""
        rise = min(1.0, (step + 1) / 20)
        share = min(1.0, step / self.steps)
        return self.lr * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def with_heads(network_file: Path, hidden: int) -> tuple[Network, Checkpoint, bool]:
    """A network with Gaussian heads.

    Args:
        network_file: weights.
        hidden: hidden width of new heads; 0 for the decoder's width.

    Returns:
        The network, what the file says of it, and whether the heads are new.

    Raises:
        WeightsError: the file cannot be read.
    """
    stored = _stored(network_file)
    if stored.config.gs_mlp_dim:
        return network_from_state(stored.config, stored.state, str(network_file)), stored, False
    config = replace(stored.config, gs_mlp_dim=hidden or stored.config.dec_dim)
    heads = {k: v for k, v in Network(config).state_dict().items() if k.startswith(HEADS)}
    network = network_from_state(config, {**stored.state, **heads}, str(network_file))
    return network, stored, True


def _stored(path: Path) -> Checkpoint:
    """A file of weights, or the averaged weights of a run of `train`."""
    if path.name != "checkpoint.pt" or not path.is_file():
        return read_checkpoint(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(config_from_dict(state["config"]), state["ema"], LICENCE)


@torch.no_grad()
def begin_heads(network: Network, distance: float) -> None:
    """Round Gaussians of `FIRST_SIZE_PX`, opaque by `FIRST_LOGIT`.

    A head has no biases, but its hidden units are not negative: equal weights make a constant.

    Args:
        network: with Gaussian heads.
        distance: mean distance of its pointmaps, in their unit.
    """
    assert network.downstream_GS_head is not None
    config = network.config
    size = FIRST_SIZE_PX * distance / config.image_hw[1] / GAUSSIAN_SCALE
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(64, config.dec_dim, generator=generator)
    area = config.patch_size**2
    for head in network.downstream_GS_head:
        assert isinstance(head, GaussianHead)
        layers: dict[str, Any] = {}
        for name in ("rgb", "opacity", "scale", "rotation"):
            layers[name] = getattr(head, "mlp_scale2" if name == "scale" else f"mlp_{name}")
            torch.nn.init.xavier_uniform_(layers[name][0].weight, generator=generator)
            layers[name][2].weight.zero_()
        for name, value in (("scale", size), ("opacity", FIRST_LOGIT)):
            first, relu, last = layers[name]
            last.weight.fill_(value / float(relu(first(head.norm(tokens))).sum(-1).mean()))
        layers["rotation"][2].weight[:area] = 1.0  # w of the quaternion


class GaussianTrainer(ResumableRun):
    """A run."""

    def __init__(self, config: GaussianTraining) -> None:
        """Start, or take up where the last checkpoint left.

        Raises:
            WeightsError: the network cannot be read.
            DatasetError: there are no rooms.
            TrainError: the rooms do not fit.
        """
        self.config = config
        super().__init__(Path(config.run), config.steps, config.measure_minutes)
        self.shards = RoomShards(Path(config.rooms))
        self.network, self.stored, new = with_heads(Path(config.weights), config.hidden)
        hw = self.shards.window(0, [0]).rgb.shape[1:3]
        if (
            hw != self.network.config.image_hw
            or self.shards.views < config.views + config.held_out
        ):
            raise TrainError(
                f"{config.rooms} has {self.shards.views} views of {hw[1]}x{hw[0]} a room, needed "
                f"are {config.views + config.held_out} of "
                f"{self.network.config.image_hw[1]}x{self.network.config.image_hw[0]}"
            )
        self.device = torch.device(config.device)
        self.network.to(self.device).requires_grad_(config.joint)
        assert self.network.downstream_GS_head is not None
        heads = list(self.network.downstream_GS_head.requires_grad_().parameters())
        groups = [{"params": heads, "share": 1.0}]
        if config.joint:
            own = {id(p) for p in heads}
            rest = [p for p in self.network.parameters() if id(p) not in own]
            groups.append({"params": rest, "share": JOINT_LR_SHARE})
        self.learnt = self.network if config.joint else self.network.downstream_GS_head
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=0.0)
        if self.checkpoint.exists():
            self._resume()
        elif new:
            batch, n_ref = self._batch()
            views = batch.images.shape[1] - config.held_out
            with torch.no_grad():
                points = predicted(self.network, batch, views, n_ref)[1]
            begin_heads(self.network, float(points.norm(dim=-1).mean()))

    @property
    def weights(self) -> Path:
        """The file of the network with its heads."""
        return self.folder / WEIGHTS

    def train_step(self) -> dict[str, float]:
        """One step down; returns its losses."""
        config = self.config
        batch, n_ref = self._batch()
        count = batch.images.shape[1]
        views = count - config.held_out
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(self.step) * group["share"]
        seen = see(self.network, batch, views, config.true_points, n_ref, config.joint)
        rendered = min(config.rendered, views)
        # views come in random order: the last ones are any
        shown = [*range(views, count), *range(views - rendered, views)]
        errors = [
            (image_of(seen.gaussians, batch, view) - true_image(batch, view)).square().mean()
            for view in shown
        ]
        new = torch.stack(errors[: config.held_out]).mean()
        total = torch.stack(errors).mean() + seen.excess + seen.points
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.learnt.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {
            "loss": float(total.detach()),
            "excess": float(seen.excess.detach()),
            "points": float(seen.points.detach()),
            "new_view_psnr": -10 * math.log10(float(new.detach())),
        }

    def _batch(self) -> tuple[Batch, int]:
        """A step's window, and the reference paths to run: one, or all that the network takes."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step, 17])
        views = int(rng.integers(config.min_views or config.views, config.views + 1))
        n_ref = int(rng.choice((1, self.network.config.n_ref)))
        count = views + config.held_out
        batch = draw_batch(rng, self.shards, len(self.shards), 1, count, disturb=False)
        return batch.to(self.device), n_ref

    def run(
        self,
        minutes: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        report: Report = lambda _: None,
    ) -> None:
        """Measure before the first step too."""
        if self.step == 0:
            report(self.log(self.measure()))
        super().run(minutes, stop, report)

    def save(self) -> None:
        """Write the checkpoint, all or nothing, and the network's weights."""
        state = {
            "joint": self.config.joint,
            "learnt": self.learnt.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.write_checkpoint(state)
        info = {**self.stored.info, "gaussian_steps": self.step}
        weights = Checkpoint(
            self.network.config, self.network.state_dict(), self.stored.licence, info
        )
        write_weights(self.weights, weights)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["joint"] != self.config.joint:
            raise TrainError(f"{self.checkpoint} is of a run that learns other weights (joint)")
        self.learnt.load_state_dict(state["learnt"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def measure(self) -> dict[str, float]:
        """Figures on held-out rooms, and a picture of each: truth, Gaussians, coloured points."""
        config, values = self.config, dict[str, float]()
        seeds = range(config.measured_seed, config.measured_seed + config.measured_rooms)
        hw = self.network.config.image_hw
        options = TorchOptions(config.device, "fp32", gaussians=True)
        engine = TorchEngine(self.network, manifest_of(self.network, "gaussians"), options)
        row = NewViewRow(joined=self.network.config.n_ref > 1)
        points = row._replace(as_points=True)
        rooms = held_out_between(lambda seed, views: exact_views(seed, views, hw))
        for views in config.measured_views:
            shown: dict[tuple[int, NewViewRow | None], FloatArray] = {}

            def show(seed: int, name: NewViewRow, image: FloatArray, truth: FloatArray) -> None:
                shown[seed, name], shown[seed, None] = image, truth  # noqa: B023 - called at once

            made = measure_new_views(
                engine, rooms, seeds, [views], oracle=False, points_too=True,
                device=config.device, show=show,
            )[views]  # fmt: skip
            for prefix, name in (("", row), ("points_", points)):
                mean = mean_scores(made[name])
                values[f"{prefix}psnr_{views}"] = mean.psnr_db
                values[f"{prefix}ssim_{views}"] = mean.ssim
            columns = (None, row, points)
            picture = np.vstack([np.hstack([shown[seed, c] for c in columns]) for seed in seeds])
            path = self.folder / f"new_views_{views}_{self.step:06d}.png"
            cv2.imwrite(
                str(path), np.round(picture[..., ::-1] * 255).clip(0, 255).astype(np.uint8)
            )
        return values
