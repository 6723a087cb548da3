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

"""The engine `dust3r`: all pairs of a window, then poses and depth that agree with all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvdust3r_ros.datatypes import (
    Descriptor,
    FloatArray,
    View,
    ViewPose,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.dust3r.alignment import Aligned, AlignmentSettings, align_pairs
from mvdust3r_ros.engines.dust3r.pairs import PairError, PairMaps, pair_graph
from mvdust3r_ros.engines.manifest import EngineManifest, load_manifest, save_manifest
from mvdust3r_ros.engines.torch_engine import WEIGHTS_NAME, TorchOptions, prepared, to_numpy
from mvdust3r_ros.engines.views import path_count, stack_images
from mvdust3r_ros.geometry import AlignmentError, backproject
from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.dust3r import PairNetwork, pair_config_from_dict, pair_config_to_dict
from mvdust3r_ros.model.dust3r_weights import (
    PairCheckpoint,
    pair_network_from_state,
    read_pair_checkpoint,
    save_pair_checkpoint,
)

PAIRS_AT_ONCE = 4
"""Pairs decoded together: the DPT head needs some 200 MB for a pair of 512x384 pixels."""
ASPECT_SIDE = 512
"""The published models of this side were trained with views in the camera's aspect, with 512
pixels on the longer side; that of 224 with square ones."""


@dataclass(frozen=True)
class WindowSettings:
    """How the views of a window are put together; `alignment` of the manifest's `network`.

    Attributes:
        graph: "complete" for all pairs, or "window".
        window: largest distance of the views of a pair in their order, for "window".
        alignment: how the pairs are aligned.
    """

    graph: str = "complete"
    window: int = 3
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        alignment = dataclasses.asdict(self.alignment)
        return {"graph": self.graph, "window": self.window, **alignment}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowSettings:
        """Settings out of plain values; missing ones take their defaults.

        Raises:
            EngineError: an unknown name or a value that is none.
        """
        own = {k: v for k, v in values.items() if k in {"graph", "window"}}
        try:
            alignment = AlignmentSettings(**{k: v for k, v in values.items() if k not in own})
            settings = cls(**own, alignment=alignment)
            pair_graph(2, settings.graph, settings.window)
        except (TypeError, PairError) as error:
            raise EngineError(f"alignment {dict(values)}: {error}") from None
        return settings


class Dust3rEngine(Engine):
    """The pairwise network in PyTorch, with global alignment."""

    def __init__(
        self,
        network: PairNetwork,
        manifest: EngineManifest,
        options: TorchOptions | None = None,
    ) -> None:
        """Take over the network: it is moved and lowered in place.

        Args:
            network: with its weights.
            manifest: what the model is, and with `intrinsics` whether focal lengths are taken from
                views that have them, rather than found.
            options: how to run it; `paths` and `skip` do not matter.

        Raises:
            EngineError: no such device or precision, or settings of the alignment that are none.
        """
        name, precision = prepared(network, options or TorchOptions())
        self._network = network
        self._device = torch.device(name)
        self._settings = WindowSettings.from_dict(manifest.network.get("alignment", {}))
        self._intrinsics = manifest.intrinsics
        self._info = manifest.engine_info(f"PyTorch, {name}, {precision}")

    @torch.inference_mode()
    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Tokens of each view, which stay on the device."""
        image_hw = views[0].image_rgb.shape[:2] if views else self._info.image_hw
        if not self._info.takes(image_hw):
            raise EngineError(
                f"a view of {image_hw[1]}x{image_hw[0]} pixels, the engine takes "
                f"{self._info.describe_size()}"
            )
        images = torch.from_numpy(stack_images(views, image_hw)).to(self._device)
        tokens = [self._network.encode(image)[0] for image in images.split(1)]
        return [
            ViewTokens(t, view, Descriptor(self._info.name, to_numpy(t.double().mean(0))))
            for t, view in zip(tokens, views, strict=True)
        ]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Points, poses and focal lengths in the frame of the first view.

        Raises:
            EngineError: fewer than two views, or the pointmaps do not fit together.
        """
        path_count(tokens, n_ref, self._info)  # poses are adjusted together: one path, the first
        views = [t.view for t in tokens]
        known = self._intrinsics and all(view.K is not None for view in views)
        K = np.stack([view.K for view in views if view.K is not None]) if known else None
        try:
            maps = self._pair_maps(tokens)
            aligned = align_pairs(maps, self._settings.alignment, K, str(self._device))
        except (AlignmentError, PairError) as error:
            raise EngineError(f"the pairs cannot be aligned: {error}") from None
        return WindowPrediction(
            _points(aligned)[None],
            aligned.conf[None],
            poses=tuple(
                ViewPose(T, K, 1.0, 0.0) for T, K in zip(aligned.T_ref_cam, aligned.K, strict=True)
            ),
        )

    @torch.inference_mode()
    def _pair_maps(self, tokens: Sequence[ViewTokens]) -> PairMaps:
        pairs = pair_graph(len(tokens), self._settings.graph, self._settings.window)
        height, width = tokens[0].view.image_rgb.shape[:2]
        patch = self._network.config.patch_size
        features = torch.stack([t.features for t in tokens])
        points = np.empty((len(pairs), 2, height, width, 3), np.float32)
        conf = np.empty(points.shape[:4], np.float32)
        for begin in range(0, len(pairs), PAIRS_AT_ONCE):
            part = slice(begin, begin + PAIRS_AT_ONCE)
            first, second = (features[list(side)] for side in pairs[part].T)
            maps = self._network.pair_maps(first, second, (height // patch, width // patch))
            for slot, view in enumerate(maps):
                points[part, slot], conf[part, slot] = to_numpy(view.points), to_numpy(view.conf)
        return PairMaps(pairs, points, conf)

    def describe(self) -> EngineInfo:
        """Name with device and precision."""
        return self._info

    def close(self) -> None:
        """Drop the weights."""
        del self._network


def dust3r_engine_from(path: Path, options: TorchOptions | None = None) -> Dust3rEngine:
    """An engine from a file of DUSt3R's weights, or from an engine folder of this backend.

    Raises:
        EngineError: the folder is incomplete.
        WeightsError: the weights cannot be read.
    """
    if not path.is_dir():
        checkpoint = read_pair_checkpoint(path)
        network = pair_network_from_state(checkpoint.config, checkpoint.state, str(path))
        return Dust3rEngine(network, dust3r_manifest(checkpoint, path.stem), options)
    manifest = load_manifest(path, reads=(WEIGHTS_NAME,))
    values = {k: v for k, v in manifest.network.items() if k != "alignment"}
    try:
        config = pair_config_from_dict(values)
    except NetworkConfigError as error:
        raise EngineError(f"network of {path}: {error}") from None
    checkpoint = read_pair_checkpoint(path / WEIGHTS_NAME)
    network = pair_network_from_state(config, checkpoint.state, str(path / WEIGHTS_NAME))
    return Dust3rEngine(network, manifest, options)


def export_dust3r(weights: Path, folder: Path, settings: WindowSettings | None = None) -> Path:
    """Make an engine folder.

    Args:
        weights: a file of DUSt3R's weights.
        folder: where to; made when missing.
        settings: how windows are put together.

    Returns:
        The folder.

    Raises:
        WeightsError: the weights cannot be read.
    """
    checkpoint = read_pair_checkpoint(weights)
    pair_network_from_state(checkpoint.config, checkpoint.state, str(weights))
    save_pair_checkpoint(folder / WEIGHTS_NAME, checkpoint)
    manifest = dust3r_manifest(checkpoint, weights.stem, settings)
    save_manifest(folder, dataclasses.replace(manifest, files={WEIGHTS_NAME: ""}))
    return folder


def dust3r_manifest(
    checkpoint: PairCheckpoint, name: str, settings: WindowSettings | None = None
) -> EngineManifest:
    """The manifest of a network: what follows from its configuration."""
    config = checkpoint.config
    in_aspect = config.image_hw == (ASPECT_SIDE, ASPECT_SIDE)
    return EngineManifest(
        name=name,
        backend="dust3r",
        image_hw=config.image_hw,
        licence=checkpoint.licence,
        long_side=ASPECT_SIDE if in_aspect else 0,
        side_multiple=config.patch_size,
        network=pair_config_to_dict(config)
        | {"alignment": (settings or WindowSettings()).to_dict()},
        info={"model": checkpoint.model} if checkpoint.model else {},
    )


def _points(aligned: Aligned) -> FloatArray:
    """(V, H, W, 3) float32 points of all pixels in the frame of the first view."""
    out = np.empty((*aligned.depth.shape, 3), np.float32)
    for points, z, K, T in zip(out, aligned.depth, aligned.K, aligned.T_ref_cam, strict=True):
        points[:] = backproject(z, K) @ T[:3, :3].T + T[:3, 3]
    return out
