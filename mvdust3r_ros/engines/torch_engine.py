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

"""The network in PyTorch, on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mvdust3r_ros.datatypes import (
    Descriptor,
    PixelGaussians,
    View,
    ViewTokens,
    WindowPrediction,
)
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.manifest import EngineManifest, load_manifest
from mvdust3r_ros.engines.views import path_count, stack_images, stack_intrinsics
from mvdust3r_ros.model.config import config_to_dict
from mvdust3r_ros.model.network import Network, slot_order
from mvdust3r_ros.model.weights import DTYPES, load_network, read_checkpoint

WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True)
class TorchOptions:
    """How to run the network.

    Attributes:
        device: "cpu", "cuda", "cuda:1", or empty for CUDA where there is one.
        precision: of the matrix products, "fp32", "fp16", "bf16", or empty for bf16 on CUDA and
            fp32 on a CPU. Normalisations, residual sums and point heads stay in fp32.
        threads: CPU threads; 0 leaves torch's own setting.
        paths: paths whose pointmaps are computed; 0 for all.
        skip: False leaves the point heads' convolutional skip branch out. Much faster and inexact.
        gaussians: True to predict Gaussians as well, where the network has heads for them.
    """

    device: str = ""
    precision: str = ""
    threads: int = 0
    paths: int = 1
    skip: bool = True
    gaussians: bool = False


class TorchEngine(Engine):
    """One network in PyTorch."""

    def __init__(
        self, network: Network, manifest: EngineManifest, options: TorchOptions | None = None
    ) -> None:
        """Take over the network: it is moved and lowered in place.

        Args:
            network: with its weights.
            manifest: what the model is.
            options: how to run it.

        Raises:
            EngineError: no such device or precision.
        """
        options = options or TorchOptions()
        name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = options.precision or ("bf16" if name.startswith("cuda") else "fp32")
        if precision not in DTYPES:
            raise EngineError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
        if options.threads:
            torch.set_num_threads(options.threads)
        try:
            self._network = network.to(torch.device(name)).eval()
        except RuntimeError as error:
            raise EngineError(f"cannot use the device {name!r}: {error}") from None
        self._network.lower_precision(DTYPES[precision])
        self._device = torch.device(name)
        self._options = options
        self._manifest = manifest
        gaussians = options.gaussians and network.downstream_GS_head is not None
        info = manifest.engine_info(f"PyTorch, {name}, {precision}")
        self._info = replace(info, gaussians=gaussians)

    @torch.inference_mode()
    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Encode views; the tokens stay on the device."""
        images = self._images(views)
        intrinsics = torch.from_numpy(stack_intrinsics(views)).to(self._device)
        tokens = self._network.encode(images, intrinsics)
        means = _numpy(tokens.double().mean(1))  # as `token_descriptor`, on the device
        return [
            ViewTokens(t, view, Descriptor(self._info.name, mean))
            for t, view, mean in zip(tokens, views, means, strict=True)
        ]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Pointmaps in the frame of the first view, and of more if `paths` says so."""
        n_ref = path_count(tokens, n_ref, self._info)
        paths = min(self._options.paths or n_ref, n_ref)
        fed = (
            torch.stack([t.features for t in tokens])[None],
            self._images([t.view for t in tokens])[None] if self._options.skip else None,
            slot_order(n_ref, len(tokens)).to(self._device),
            paths,
        )
        gaussians = None
        if self._info.gaussians:
            (points, conf), found = self._network.predict_gaussians(*fed)
            gaussians = PixelGaussians(*(_numpy(part[0]) for part in found))
        else:
            points, conf = self._network.predict(*fed)
        return WindowPrediction(
            _numpy(points[0]), _numpy(conf[0]), tuple(range(paths)), gaussians=gaussians
        )

    def describe(self) -> EngineInfo:
        """Name with device and precision."""
        return self._info

    def close(self) -> None:
        """Drop the weights."""
        del self._network

    def _images(self, views: Sequence[View]) -> torch.Tensor:
        return torch.from_numpy(stack_images(views, self._info.image_hw)).to(self._device)


def torch_engine_from(path: Path, options: TorchOptions | None = None) -> TorchEngine:
    """An engine from a file of weights, or from an engine folder of the torch backend.

    Raises:
        EngineError: the folder is incomplete.
        WeightsError: the weights cannot be read.
    """
    if path.is_dir():
        manifest = load_manifest(path, reads=(WEIGHTS_NAME,))
        return TorchEngine(load_network(path / WEIGHTS_NAME), manifest, options)
    network = load_network(path)
    checkpoint = read_checkpoint(path)
    return TorchEngine(network, manifest_of(network, path.stem, checkpoint.licence), options)


def manifest_of(network: Network, name: str, licence: str = "") -> EngineManifest:
    """The manifest of a network: what follows from its configuration."""
    config = network.config
    return EngineManifest(
        name=name,
        backend="torch",
        image_hw=config.image_hw,
        n_ref=config.n_ref,
        intrinsics=config.ray_embed,
        skip=config.skip_dim > 0,
        licence=licence,
        network=config_to_dict(config),
    )


def _numpy(tensor: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(tensor.float().cpu().numpy(), np.float32)
