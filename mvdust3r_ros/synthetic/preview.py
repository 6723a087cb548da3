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

"""How a network does on held-out rooms while it is trained: a few numbers and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mvdust3r_ros.datatypes import FloatArray, ImageArray
from mvdust3r_ros.model.network import Network
from mvdust3r_ros.synthetic.dataset import RoomWindow, collate, make_window

VIEWS = 8
SHOWN = (0, 3, 7)


class HeldOut:
    """Windows of rooms no training run sees."""

    def __init__(self, first_seed: int, rooms: int, folder: Path) -> None:
        """Remember which; they are rendered at the first use."""
        self._seeds = range(first_seed, first_seed + rooms)
        self._folder = folder
        self._windows: list[RoomWindow] = []

    @torch.no_grad()
    def measure(
        self, network: Network, weights: Mapping[str, Tensor], step: int
    ) -> dict[str, float]:
        """Metrics of `weights` at 4 and 8 views; writes held_out_<step>.jpg into the folder.

        Args:
            network: gives the architecture; its own weights come back unharmed.
            weights: state dict to measure.
            step: for the name of the picture.

        Returns:
            nd_4, nd_8: mean over rooms of the median pixel's distance to the truth over the mean
            distance of the truth to the reference camera; abs_rel: of the reference's depth.
        """
        hw = network.config.image_hw
        if not self._windows:
            self._windows = [make_window(seed, VIEWS, hw) for seed in self._seeds]
        own = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(dict(weights))
        network.eval()
        result: dict[str, float] = {}
        for views in (4, VIEWS):
            scores = [self._score(network, w, views) for w in self._windows]
            result[f"nd_{views}"] = float(np.mean([s[0] for s in scores]))
            result[f"abs_rel_{views}"] = float(np.mean([s[1] for s in scores]))
        rows = [_row(*self._predict(network, w, VIEWS)) for w in self._windows[:4]]
        cv2.imwrite(
            str(self._folder / f"held_out_{step:06d}.jpg"), np.concatenate(rows)[..., ::-1]
        )
        network.load_state_dict(own)
        network.train()
        return result

    def _predict(
        self, network: Network, window: RoomWindow, views: int
    ) -> tuple[ImageArray, FloatArray, FloatArray]:
        part = RoomWindow(
            window.rgb[:views], window.depth_m[:views], window.K, window.T_world_cam[:views]
        )
        batch = collate([part])
        known = batch.K[:, None, (0, 1, 0, 1), (0, 1, 2, 2)].expand(-1, views, -1)
        device = next(network.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            out = network(batch.images.to(device), known.to(device), n_ref=1)
        points = out.points[0, 0].float().cpu().numpy()
        return part.rgb, points, batch.points(0)[0].numpy()

    def _score(self, network: Network, window: RoomWindow, views: int) -> tuple[float, float]:
        _, points, truth = self._predict(network, window, views)
        distance = np.linalg.norm(points - truth, axis=-1)
        nd = float(np.median(distance) / np.linalg.norm(truth, axis=-1).mean())
        z, z_true = points[0, ..., 2], truth[0, ..., 2]
        return nd, float(np.mean(np.abs(z - z_true) / z_true))


def _row(rgb: ImageArray, points: FloatArray, truth: FloatArray) -> ImageArray:
    """Some views, true and predicted depth of the reference, true and predicted map from above."""
    tiles = [rgb[k] for k in SHOWN]
    limit = float(np.percentile(truth[0, ..., 2], 99))
    tiles += [_depth_tile(p[0, ..., 2], limit) for p in (truth, points)]
    low, high = np.percentile(truth.reshape(-1, 3)[:, (0, 2)], [1, 99], axis=0)
    center, reach = (low + high) / 2, float((high - low).max()) * 0.6
    tiles += [_top_view(p, rgb, center, reach) for p in (truth, points)]
    return np.concatenate(tiles, 1)


def _depth_tile(depth: FloatArray, limit: float) -> ImageArray:
    scaled = np.clip(depth / limit * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1], np.uint8)


def _top_view(points: FloatArray, rgb: ImageArray, center: FloatArray, reach: float) -> ImageArray:
    """Points between 1 m below and 0.8 m above the reference camera, seen from above."""
    side = rgb.shape[1]
    image = np.full((side, side, 3), 30, np.uint8)
    p, color = points.reshape(-1, 3), rgb.reshape(-1, 3)
    col = ((p[:, 0] - center[0]) / reach * 0.5 + 0.5) * side
    row = (0.5 - (p[:, 2] - center[1]) / reach * 0.5) * side
    keep = (p[:, 1] > -0.8) & (p[:, 1] < 1.0)
    keep &= (col >= 0) & (col < side) & (row >= 0) & (row < side)
    image[row[keep].astype(int), col[keep].astype(int)] = color[keep]
    return image
