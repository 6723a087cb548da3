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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mvdust3r_ros.datatypes import Descriptor, FloatArray, View, ViewTokens
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.dust3r.pairs import PairArray
from mvdust3r_ros.engines.dust3r.pairwise import AligningEngine, WindowSettings
from mvdust3r_ros.engines.manifest import EngineManifest, load_manifest, save_manifest
from mvdust3r_ros.engines.torch_engine import WEIGHTS_NAME, TorchOptions, prepared, to_numpy
from mvdust3r_ros.engines.views import stack_images
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


class Dust3rEngine(AligningEngine):
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
        info = manifest.engine_info(f"PyTorch, {name}, {precision}")
        super().__init__(
            info, WindowSettings.from_dict(manifest.network.get("alignment", {})), name
        )
        self._network = network

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

    @torch.inference_mode()
    def decode_pairs(
        self, tokens: Sequence[ViewTokens], pairs: PairArray
    ) -> tuple[FloatArray, FloatArray]:
        """Decode a few pairs at a time."""
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
        return points, conf

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
