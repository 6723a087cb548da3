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

"""The engine `spann3r`: the views of a window one after the other, with a spatial memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from mvdust3r_ros.datatypes import Descriptor, View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.manifest import EngineManifest, load_manifest, save_manifest
from mvdust3r_ros.engines.torch_engine import WEIGHTS_NAME, TorchOptions, prepared, to_numpy
from mvdust3r_ros.engines.views import path_count, stack_images, stack_intrinsics
from mvdust3r_ros.model.config import NetworkConfigError
from mvdust3r_ros.model.spann3r import (
    SpannNetwork,
    spann_config_from_dict,
    spann_config_to_dict,
)
from mvdust3r_ros.model.spann3r_weights import (
    SpannCheckpoint,
    on_top_of,
    pair_of_network,
    read_spann_checkpoint,
    save_spann_checkpoint,
    spann_network_from_state,
)

BASE = "base"
"""Entry of the manifest's `network`: an engine folder of the backend `onnx`, beside this one, that
holds the rest of the weights."""


class Spann3rEngine(Engine):
    """The sequential network in PyTorch."""

    def __init__(
        self,
        network: SpannNetwork,
        manifest: EngineManifest,
        options: TorchOptions | None = None,
    ) -> None:
        """Take over the network: it is moved and lowered in place.

        Args:
            network: with its weights.
            manifest: what the model is.
            options: how to run it; `paths` and `skip` do not matter.

        Raises:
            EngineError: no such device or precision.
        """
        name, precision = prepared(network, options or TorchOptions())
        self._network = network
        self._device = torch.device(name)
        self._info = manifest.engine_info(f"PyTorch, {name}, {precision}")

    @torch.inference_mode()
    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Tokens of each view, which stay on the device."""
        images = torch.from_numpy(stack_images(views, self._info.image_hw)).to(self._device)
        known = torch.from_numpy(stack_intrinsics(views)).to(self._device)
        tokens = self._network.dust3r.encode(images, known)
        means = to_numpy(tokens.double().mean(1))
        return [
            ViewTokens(t, view, Descriptor(self._info.name, mean))
            for t, view, mean in zip(tokens, views, means, strict=True)
        ]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Points in the frame of the first view, from a walk through the views in their order."""
        path_count(tokens, n_ref, self._info)  # one path: there is one memory
        height, width = self._info.image_hw
        patch = self._network.config.pair.patch_size
        features = torch.stack([t.features for t in tokens])[None]
        points, conf = self._network.sequence(features, (height // patch, width // patch))
        return WindowPrediction(to_numpy(points), to_numpy(conf))

    def describe(self) -> EngineInfo:
        """Name with device and precision."""
        return self._info

    def close(self) -> None:
        """Drop the weights."""
        del self._network


def spann3r_engine_from(path: Path, options: TorchOptions | None = None) -> Spann3rEngine:
    """An engine from a file of Spann3R's weights, or from an engine folder of this backend.

    Raises:
        EngineError: the folder is incomplete, or the base that its weights are on top of.
        WeightsError: the weights cannot be read.
    """
    if not path.is_dir():
        checkpoint = read_spann_checkpoint(path)
        network = spann_network_from_state(checkpoint.config, checkpoint.state, str(path))
        return Spann3rEngine(network, spann3r_manifest(checkpoint, path.stem), options)
    manifest = load_manifest(path, reads=(WEIGHTS_NAME,))
    values = {k: v for k, v in manifest.network.items() if k != BASE}
    try:
        config = spann_config_from_dict(values)
    except NetworkConfigError as error:
        raise EngineError(f"network of {path}: {error}") from None
    state = read_spann_checkpoint(path / WEIGHTS_NAME).state
    if base := manifest.network.get(BASE, ""):
        from mvdust3r_ros.engines.graph_weights import weights_of_graphs

        state = on_top_of(pair_of_network(weights_of_graphs(path.parent / str(base)))[1], state)
    network = spann_network_from_state(config, state, str(path / WEIGHTS_NAME))
    return Spann3rEngine(network, manifest, options)


def export_spann3r(weights: Path, folder: Path) -> Path:
    """Make an engine folder.

    Args:
        weights: a file of Spann3R's weights, all of them.
        folder: where to; made when missing.

    Returns:
        The folder.

    Raises:
        WeightsError: the weights cannot be read.
    """
    checkpoint = read_spann_checkpoint(weights)
    spann_network_from_state(checkpoint.config, checkpoint.state, str(weights))
    save_spann_checkpoint(folder / WEIGHTS_NAME, checkpoint)
    manifest = spann3r_manifest(checkpoint, weights.stem)
    save_manifest(folder, dataclasses.replace(manifest, files={WEIGHTS_NAME: ""}))
    return folder


def release_spann3r(weights: Path, folder: Path, base: str, rel_error: float = 0.0) -> Path:
    """Make an engine folder of what `train-spann3r` learnt, half precision.

    Args:
        weights: of the run.
        folder: where to; made when missing.
        base: name of the engine folder beside it that the run began from.
        rel_error: typical point error over distance, measured; 0 when unknown.

    Returns:
        The folder.

    Raises:
        WeightsError: the weights cannot be read.
    """
    checkpoint = read_spann_checkpoint(weights)
    save_spann_checkpoint(folder / WEIGHTS_NAME, checkpoint, "fp16")
    manifest = spann3r_manifest(checkpoint, folder.name)
    manifest = dataclasses.replace(
        manifest, metric=True, rel_error=rel_error, info=checkpoint.info,
        network=manifest.network | {BASE: base}, files={WEIGHTS_NAME: ""},
    )  # fmt: skip
    save_manifest(folder, manifest)
    return folder


def spann3r_manifest(checkpoint: SpannCheckpoint, name: str) -> EngineManifest:
    """The manifest of a network: what follows from its configuration."""
    config = checkpoint.config
    return EngineManifest(
        name=name,
        backend="spann3r",
        image_hw=config.pair.image_hw,
        intrinsics=config.pair.ray_embed,
        licence=checkpoint.licence,
        network=spann_config_to_dict(config),
        info=checkpoint.info,
    )
