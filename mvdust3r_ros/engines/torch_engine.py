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
from mvdust3r_ros.model.dust3r import PairNetwork
from mvdust3r_ros.model.network import Network, slot_order
from mvdust3r_ros.model.spann3r import SpannNetwork
from mvdust3r_ros.model.weights import DTYPES, load_network, read_checkpoint

WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True)
class TorchOptions:
    """How to run the network.

    Attributes:
        device: "cpu", "cuda", "cuda:1", or empty for CUDA if available.
        precision: precision of matrix products: "fp32", "fp16", "bf16", or empty for bf16 on CUDA
            and fp32 on a CPU. Normalisations, residual sums and point heads stay in fp32.
        threads: CPU threads; 0 keeps torch's setting.
        paths: number of paths whose pointmaps are computed; 0 for all.
        skip: False leaves out the point heads' convolutional skip branch, which is much faster but
            inexact.
        gaussians: True to predict Gaussians as well, if the network has heads for them.
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
        """Take ownership of the network: move it to the device and cast it, both in place.

        Args:
            network: with its weights.
            manifest: description of the model.
            options: how to run it.

        Raises:
            EngineError: no such device or precision.
        """
        options = options or TorchOptions()
        name, precision = prepared(network, options)
        self._network = network
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
        means = to_numpy(tokens.double().mean(1))  # like `token_descriptor`, on the device
        return [
            ViewTokens(t, view, Descriptor(self._info.name, mean))
            for t, view, mean in zip(tokens, views, means, strict=True)
        ]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Estimate pointmaps in the frame of the first view, or of several as `paths` sets."""
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
            gaussians = PixelGaussians(*(to_numpy(part[0]) for part in found))
        else:
            points, conf = self._network.predict(*fed)
        return WindowPrediction(
            to_numpy(points[0]), to_numpy(conf[0]), tuple(range(paths)), gaussians=gaussians
        )

    def describe(self) -> EngineInfo:
        """Describe the engine, naming device and precision."""
        return self._info

    def close(self) -> None:
        """Drop the weights."""
        del self._network

    def _images(self, views: Sequence[View]) -> torch.Tensor:
        return torch.from_numpy(stack_images(views, self._info.image_hw)).to(self._device)


def prepared(
    network: Network | PairNetwork | SpannNetwork, options: TorchOptions
) -> tuple[str, str]:
    """Move a network to its device and lower its precision, in place; the names of both.

    Raises:
        EngineError: no such device or precision.
    """
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = options.precision or ("bf16" if name.startswith("cuda") else "fp32")
    if precision not in DTYPES:
        raise EngineError(f"precision {precision!r} is not one of {', '.join(DTYPES)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        network.to(torch.device(name)).eval()
    except RuntimeError as error:
        raise EngineError(f"cannot use the device {name!r}: {error}") from None
    network.lower_precision(DTYPES[precision])
    return name, precision


def torch_engine_from(path: Path, options: TorchOptions | None = None) -> TorchEngine:
    """Load an engine from a weights file, or from an engine folder of the torch backend.

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
    """Return the manifest that follows from a network's configuration."""
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


def to_numpy(tensor: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Float32 values of a tensor on any device."""
    return np.asarray(tensor.float().cpu().numpy(), np.float32)
