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

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from mvdust3r_ros.datatypes import FloatArray, ImageArray, View
from mvdust3r_ros.image_quality import psnr_db, ssim
from mvdust3r_ros.model.heads import (
    GAUSSIAN_SCALE,
    GaussianHead,
    Gaussians,
    finished,
    size_limits,
)
from mvdust3r_ros.model.network import Network, exchange, slot_order
from mvdust3r_ros.model.splatting import Gaussians3d, RenderOptions, render
from mvdust3r_ros.model.weights import Checkpoint, network_from_state, read_checkpoint
from mvdust3r_ros.model.weights import save_checkpoint as write_weights
from mvdust3r_ros.synthetic.dataset import Batch, RoomShards, collate, draw_batch, make_window
from mvdust3r_ros.synthetic.train_config import LOG_EVERY, TrainError
from mvdust3r_ros.window.reference_views import order_views

SAVE_EVERY = 50
"""Steps: what is lost at most where a run is killed."""
WEIGHTS = "weights.safetensors"
HEADS = "downstream_GS_head."
FIRST_SIZE_PX = 0.5
"""Gaussians begin round, half opaque and so large: neighbours overlap, and all reach the image."""
BLUR_PX2 = 0.1
"""As in the published training."""
POINT_SIZE, POINT_OPACITY = 0.5, 0.99
"""Coloured points to compare with: round Gaussians of half a pixel, as opaque as is rendered."""
HELD_OUT_SHARE = 4
"""One held-out view for so many input views: 1, 3 and 6 for 4, 12 and 24, as in the paper's tests
with 30 views of which 24 are inputs."""
REFERENCES = 4
"""Views that `order_views` puts first; networks that take fewer references take the first ones."""
Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class GaussianTraining:
    """Settings of a run.

    Attributes:
        weights: network to start from, .safetensors or .pth; heads that it lacks begin anew.
        rooms: folder made by `synth rooms`, views of the network's size.
        run: folder of the checkpoint, the learning curve, pictures and the weights.
        steps: length of the run.
        views: input views of a step's window.
        held_out: views of a window that are rendered but not seen.
        rendered: input views that are rendered as well.
        hidden: hidden width of heads that begin anew; 0 for the decoder's width.
        lr: largest learning rate.
        true_points: whether the Gaussians lie on the true pointmaps, so that only their shapes
            are learnt.
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
    held_out: int = 2
    rendered: int = 2
    hidden: int = 0
    lr: float = 1e-3
    true_points: bool = False
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

    def learning_rate(self, step: int) -> float:
        """A short rise, then half a cosine down to a fiftieth."""
        rise = min(1.0, (step + 1) / 20)
        share = min(1.0, step / self.steps)
        return self.lr * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


class Seen(NamedTuple):
    """What a network makes of the input views of a window.

    Attributes:
        gaussians: one a pixel, in the frame of the first view, coloured by the pixels.
        excess: mean squared excess of the sizes over the range that is rendered, in units of the
            window's mean distance.
    """

    gaussians: Gaussians3d
    excess: Tensor


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
    stored = read_checkpoint(network_file)
    if stored.config.gs_mlp_dim:
        return network_from_state(stored.config, stored.state, str(network_file)), stored, False
    config = replace(stored.config, gs_mlp_dim=hidden or stored.config.dec_dim)
    heads = {k: v for k, v in Network(config).state_dict().items() if k.startswith(HEADS)}
    network = network_from_state(config, {**stored.state, **heads}, str(network_file))
    return network, stored, True


@torch.no_grad()
def begin_heads(network: Network, distance: float) -> None:
    """Round, half opaque Gaussians of `FIRST_SIZE_PX`.

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
        first, relu, last = layers["scale"]
        last.weight.fill_(size / float(relu(first(head.norm(tokens))).sum(-1).mean()))
        layers["rotation"][2].weight[:area] = 1.0  # w of the quaternion


def see(
    network: Network, batch: Batch, views: int, true_points: bool = False, n_ref: int = 1
) -> Seen:
    """What a network makes of the first views of a batch of one window, in true units.

    Args:
        network: with Gaussian heads.
        batch: one window.
        views: input views, which come first.
        true_points: whether true pointmaps take the place of the network's.
        n_ref: reference paths to run, at most `views`; the first one's points are taken.
    """
    decoded, points = predicted(network, batch, views, n_ref)
    order = slot_order(1, views).to(points.device)
    raw = Gaussians(*(exchange(g, order)[0, 0] for g in network.gaussians(decoded)))
    truth = batch.points(0)[0, :views]
    # as in the published training: a window has no size of its own
    distance, true_distance = (p.norm(dim=-1).mean() for p in (points, truth))
    factor = true_distance / distance
    placed = truth if true_points else points * factor
    scaled = raw._replace(scale=raw.scale * factor)
    made = finished(scaled, placed)
    low, high = size_limits(placed)
    outside = (scaled.scale - high).clamp(min=0) + (low - scaled.scale).clamp(min=0)
    rgb = torch.stack([true_image(batch, view) for view in range(views)])
    gaussians = Gaussians3d(
        placed.reshape(-1, 3), made.scale.reshape(-1, 3), made.rotation.reshape(-1, 4),
        made.opacity.reshape(-1), rgb.reshape(-1, 3),
    )  # fmt: skip
    return Seen(gaussians, (outside / true_distance).square().mean())


@torch.no_grad()
def predicted(network: Network, batch: Batch, views: int, n_ref: int = 1) -> tuple[Tensor, Tensor]:
    """Decoder tokens (1, 1, V, S, D) and points (V, H, W, 3) of input views; they do not learn."""
    images = batch.images[:, :views]
    known = batch.K[:, None, (0, 1, 0, 1), (0, 1, 2, 2)].expand(-1, views, -1)
    order = slot_order(min(n_ref, views), views).to(images.device)
    tokens = network.encode(images.flatten(0, 1), known.flatten(0, 1))
    decoded = network.decode(tokens.unflatten(0, (1, views)), order, paths=1)
    maps = network.point_maps(decoded, images, order[:1])
    return decoded, exchange(maps.points, order[:1])[0, 0]


def as_points(gaussians: Gaussians3d, batch: Batch, views: int) -> Gaussians3d:
    """Coloured points in place of Gaussians: all alike, about a pixel of their own view large."""
    centres = batch.relative(0)[0, :views, None, :3, 3]
    distance = (gaussians.means.view(views, -1, 3) - centres).norm(dim=-1)
    size = (distance * (POINT_SIZE / batch.K[0, 0, 0])).view(-1, 1)
    rotation = gaussians.rotation.new_tensor((1.0, 0, 0, 0)).expand(len(size), 4)
    return gaussians._replace(
        scale=size.expand(-1, 3), rotation=rotation,
        opacity=torch.full_like(gaussians.opacity, POINT_OPACITY),
    )  # fmt: skip


def image_of(gaussians: Gaussians3d, batch: Batch, view: int) -> Tensor:
    """(H, W, 3) what a view of a window's batch sees of Gaussians in the frame of the first."""
    T_cam = torch.linalg.inv(batch.relative(0)[0, view])
    hw = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    options = RenderOptions(blur_px2=BLUR_PX2)
    return render(gaussians, batch.K[0], T_cam, hw, options).rgb


def true_image(batch: Batch, view: int) -> Tensor:
    """(H, W, 3) in [0, 1] a view of a window's batch."""
    return batch.images[0, view].permute(1, 2, 0) * 0.5 + 0.5


def held_out_window(seed: int, views: int, hw: tuple[int, int]) -> Batch:
    """A window whose first views are the input, references first, and the last held out.

    Args:
        seed: of the room.
        views: input views; there is a held-out one for every `HELD_OUT_SHARE` of them.
        hw: height and width in pixels.
    """
    held_out = max(1, views // HELD_OUT_SHARE)
    window = make_window(seed, views + held_out, hw)
    step = (views + held_out) / held_out
    apart = [int((k + 0.5) * step) for k in range(held_out)]
    inputs = [k for k in range(views + held_out) if k not in apart]
    order = order_views([View(window.rgb[k]) for k in inputs], min(REFERENCES, views))
    chosen = [*(inputs[k] for k in order), *apart]
    return collate(
        [replace(window, rgb=window.rgb[chosen], depth_m=window.depth_m[chosen],
                 T_world_cam=window.T_world_cam[chosen])]
    )  # fmt: skip


@dataclass(frozen=True)
class NewViews:
    """How well held-out views are predicted, means over views and rooms.

    Attributes:
        psnr_db: of the Gaussians.
        ssim: of the Gaussians.
        points_psnr_db: of coloured points at the same places.
        points_ssim: the same.
        picture: (rows, cols, 3) uint8: truth, Gaussians and points of a view of each room.
    """

    psnr_db: float
    ssim: float
    points_psnr_db: float
    points_ssim: float
    picture: ImageArray


@torch.no_grad()
def measure_new_views(
    network: Network, seeds: Sequence[int], views: int, true_points: bool = False
) -> NewViews:
    """Render held-out views of held-out rooms.

    Args:
        network: with Gaussian heads.
        seeds: of the rooms.
        views: input views.
        true_points: as in `see`.
    """
    scores, rows = [], []
    device = next(network.parameters()).device
    for seed in seeds:
        batch = held_out_window(seed, views, network.config.image_hw).to(device)
        gaussians = see(network, batch, views, true_points, network.config.n_ref).gaussians
        points = as_points(gaussians, batch, views)
        for view in range(views, batch.images.shape[1]):
            truth = _numpy(true_image(batch, view))
            images = [_numpy(image_of(g, batch, view)) for g in (gaussians, points)]
            scores.append([f(image, truth) for image in images for f in (psnr_db, ssim)])
        rows.append(np.concatenate([truth, *images], 1))
    psnr, similarity, points_psnr, points_similarity = np.mean(scores, 0).tolist()
    picture = np.round(np.concatenate(rows) * 255).clip(0, 255).astype(np.uint8)
    return NewViews(psnr, similarity, points_psnr, points_similarity, picture)


def _numpy(image: Tensor) -> FloatArray:
    return np.asarray(image.double().cpu().numpy())


class GaussianTrainer:
    """A run."""

    def __init__(self, config: GaussianTraining) -> None:
        """Start, or take up where the last checkpoint left.

        Raises:
            WeightsError: the network cannot be read.
            DatasetError: there are no rooms.
            TrainError: the rooms do not fit.
        """
        self.config = config
        self.folder = Path(config.run)
        self.folder.mkdir(parents=True, exist_ok=True)
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
        self.network.to(self.device).requires_grad_(False)
        assert self.network.downstream_GS_head is not None
        self.heads = self.network.downstream_GS_head.requires_grad_()
        self.optimizer = torch.optim.AdamW(self.heads.parameters(), lr=config.lr, weight_decay=0.0)
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            self._resume()
        elif new:
            points = predicted(self.network, self._batch(), config.views)[1]
            begin_heads(self.network, float(points.norm(dim=-1).mean()))

    @property
    def checkpoint(self) -> Path:
        """The file that a run goes on from."""
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """The file of the network with its heads."""
        return self.folder / WEIGHTS

    def train_step(self) -> dict[str, float]:
        """One step down; returns its losses."""
        config = self.config
        batch, count = self._batch(), config.views + config.held_out
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(self.step)
        seen = see(self.network, batch, config.views, config.true_points)
        rendered = min(config.rendered, config.views)
        # views come in random order: the last ones are any
        shown = [*range(config.views, count), *range(config.views - rendered, config.views)]
        errors = [
            (image_of(seen.gaussians, batch, view) - true_image(batch, view)).square().mean()
            for view in shown
        ]
        new = torch.stack(errors[: config.held_out]).mean()
        total = torch.stack(errors).mean() + seen.excess
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.heads.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {
            "loss": float(total.detach()),
            "excess": float(seen.excess.detach()),
            "new_view_psnr": -10 * math.log10(float(new.detach())),
        }

    def _batch(self) -> Batch:
        config = self.config
        rng = np.random.default_rng([config.seed, self.step, 17])
        count = config.views + config.held_out
        batch = draw_batch(rng, self.shards, len(self.shards), 1, count, disturb=False)
        return batch.to(self.device)

    def run(
        self,
        minutes: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        report: Report = lambda _: None,
    ) -> None:
        """Train to the end, for so long, or until told to stop; what is done is saved.

        Args:
            minutes: 0 for no limit.
            stop: asked after each step.
            report: called with each point of the learning curve.
        """
        begin = measured = time.monotonic()
        if self.step == 0:
            report(self._measure())
        losses: list[dict[str, float]] = []
        while self.step < self.config.steps and not stop():
            now = time.monotonic()
            if minutes and now - begin > 60 * minutes:
                break
            losses.append(self.train_step())
            self.seconds += time.monotonic() - now
            if self.step % LOG_EVERY == 0:
                mean = {k: float(np.mean([one[k] for one in losses])) for k in losses[0]}
                report(self._log(mean))
                losses = []
            if self.step % SAVE_EVERY == 0:
                self.save()
            if now - measured > 60 * self.config.measure_minutes:
                report(self._measure())
                measured = now
        self.save()
        if not stop():
            report(self._measure())

    def save(self) -> None:
        """Write the checkpoint, all or nothing, and the network's weights."""
        state = {
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.checkpoint)
        info = {**self.stored.info, "gaussian_steps": self.step}
        weights = Checkpoint(
            self.network.config, self.network.state_dict(), self.stored.licence, info
        )
        write_weights(self.weights, weights)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _measure(self) -> dict[str, float]:
        """Figures on held-out rooms, and a picture of the first of them."""
        config, values = self.config, dict[str, float]()
        seeds = range(config.measured_seed, config.measured_seed + config.measured_rooms)
        for views in config.measured_views:
            made = measure_new_views(self.network, seeds, views, config.true_points)
            figures = {
                "psnr": made.psnr_db, "ssim": made.ssim,
                "points_psnr": made.points_psnr_db, "points_ssim": made.points_ssim,
            }  # fmt: skip
            values |= {f"{name}_{views}": value for name, value in figures.items()}
            name = self.folder / f"new_views_{views}_{self.step:06d}.png"
            cv2.imwrite(str(name), made.picture[..., ::-1])
        return self._log(values)

    def _log(self, values: dict[str, float]) -> dict[str, float]:
        point = {"step": self.step, "minutes": round(self.seconds / 60, 1)}
        point |= {k: round(v, 4) for k, v in values.items()}
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(point) + "\n")
        return point
