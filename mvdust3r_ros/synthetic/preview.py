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

"""Validation during training: metrics and an image of held-out rooms."""

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
from mvdust3r_ros.synthetic.window_tiles import window_row

PREVIEW_VIEWS, VIEWS_SHOWN = 8, (0, 3, 7)
"""Number of views in a held-out window, as many as keyframes in a default window, and the views
shown in the picture."""


class HeldOut:
    """Windows of rooms that no training run uses."""

    def __init__(self, first_seed: int, rooms: int, folder: Path) -> None:
        """Store which rooms; they are rendered on first use."""
        self._seeds = range(first_seed, first_seed + rooms)
        self._folder = folder
        self._windows: list[RoomWindow] = []

    @torch.no_grad()
    def measure(
        self, network: Network, weights: Mapping[str, Tensor], step: int
    ) -> dict[str, float]:
        """Compute metrics of `weights` at 4 and 8 views; write held_out_<step>.jpg to the folder.

        Args:
            network: provides the architecture; its own weights are restored.
            weights: state dict to evaluate.
            step: for the name of the picture.

        Returns:
            nd_4, nd_8: median distance to the truth over the mean distance of the truth from the
            reference camera, averaged over rooms; abs_rel: of the reference's depth.
        """
        hw = network.config.image_hw
        if not self._windows:
            self._windows = [make_window(seed, PREVIEW_VIEWS, hw) for seed in self._seeds]
        own = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(dict(weights))
        network.eval()
        result: dict[str, float] = {}
        for views in (4, PREVIEW_VIEWS):
            scores = [self._score(network, w, views) for w in self._windows]
            result[f"nd_{views}"] = float(np.mean([s[0] for s in scores]))
            result[f"abs_rel_{views}"] = float(np.mean([s[1] for s in scores]))
        rows = []
        for window in self._windows[:4]:
            rgb, points, truth = self._predict(network, window, PREVIEW_VIEWS)
            rows.append(window_row(rgb, truth, points, VIEWS_SHOWN))
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
