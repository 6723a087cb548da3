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

"""Export a network to an engine folder for ONNX Runtime and TensorRT."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.manifest import (
    GAUSSIAN_OUTPUTS,
    OPSET,
    EngineManifest,
    save_manifest,
)
from mvdust3r_ros.engines.views import slot_order
from mvdust3r_ros.model.config import config_to_dict
from mvdust3r_ros.model.network import Network, exchange

EMBED_LIMIT_BYTES = 64 << 20
"""Weights up to this size are embedded in the .onnx file; protobuf allows 2 GB at most."""
MIN_STORED_HALF = 256
"""Constants smaller than this stay in float32 when weights are stored in half precision: they save
nothing, and some are epsilons."""

TENSORRT_OPERATORS = {
    "Add", "And", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "DepthToSpace",
    "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "GatherElements", "Gemm",
    "Greater", "Identity", "LayerNormalization", "MatMul", "Max", "Min", "Mul", "Neg", "Not",
    "Pow", "Range", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Selu",
    "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tile",
    "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
"""Operators our graphs may use, a subset of the ONNX operators that TensorRT supports."""


@dataclass(frozen=True)
class ExportOptions:
    """Export options.

    Attributes:
        name: name of the model.
        licence: SPDX identifier of the weights.
        paths: number of paths whose pointmaps the decoder returns; 0 for all.
        store_fp16: True to store matrices in half precision; computation stays in float32.
        skip: False leaves out the skip branch, which is much faster but inexact.
        gaussians: True to also return Gaussians, as `Network.predict_gaussians` does.
        all_outputs: True to also return encoder tokens, decoder tokens and Gaussians, the last two
            in slot order.
        metric: whether pointmaps are in metres.
        rel_error: typical point error over distance; 0 when unknown.
        info: origin of the model, for the manifest.
    """

    name: str = "model"
    licence: str = ""
    paths: int = 0
    store_fp16: bool = False
    skip: bool = True
    gaussians: bool = False
    all_outputs: bool = False
    metric: bool = False
    rel_error: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


class _Encoder(nn.Module):
    def __init__(self, network: Network, options: ExportOptions) -> None:
        super().__init__()
        self.network = network
        self.all_outputs = options.all_outputs

    def forward(self, images: Tensor, intrinsics: Tensor | None = None) -> tuple[Tensor, ...]:
        raw = self.network.encoder_tokens(images, intrinsics)
        tokens = self.network.decoder_embed(raw).float()
        return (tokens, raw) if self.all_outputs else (tokens,)


class _Decoder(nn.Module):
    """Decoder without a batch axis; slot order is an input, so paths and views stay dynamic."""

    def __init__(self, network: Network, options: ExportOptions) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(
        self, tokens: Tensor, order: Tensor, images: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        network, paths = self.network, self.options.paths
        batch = None if images is None else images[None]
        if self.options.gaussians:
            maps, gaussians = network.predict_gaussians(tokens[None], batch, order, paths)
            return tuple(t[0] for t in (*maps, *gaussians))
        if not self.options.all_outputs:
            maps = network.predict(tokens[None], batch, order, paths)
            return maps.points[0], maps.conf[0]
        decoded = network.decode(tokens[None], order, paths)
        order = order[:paths] if paths else order
        maps = network.point_maps(decoded, batch, order)
        outputs = [*(exchange(m, order) for m in maps), decoded]
        if network.downstream_GS_head is not None:
            outputs.extend(network.gaussians(decoded))
        return tuple(t[0] for t in outputs)


def export_engine(network: Network, folder: Path, options: ExportOptions | None = None) -> Path:
    """Write `encoder.onnx`, `decoder.onnx` and `manifest.yaml`.

    The numbers of views and of reference paths stay dynamic. A large model stores its weights in
    one file next to each graph (`encoder.data`, `decoder.data`).

    Args:
        network: with its weights, on the CPU; the graph keeps its precision.
        folder: created if missing.
        options: export options.

    Returns:
        The folder.

    Raises:
        EngineError: the graph uses an operator that TensorRT lacks, or Gaussians are requested of
            a network without heads for them.
    """
    options = options or ExportOptions()
    if options.gaussians and network.downstream_GS_head is None:
        raise EngineError(f"{options.name} has no Gaussian heads: export it without Gaussians")
    folder.mkdir(parents=True, exist_ok=True)
    network.eval()
    files = _export_encoder(network, folder, options) + _export_decoder(network, folder, options)
    config = network.config
    manifest = EngineManifest(
        name=options.name,
        backend="onnx",
        image_hw=config.image_hw,
        n_ref=config.n_ref,
        paths=options.paths,
        intrinsics=config.ray_embed,
        skip=config.skip_dim > 0 and options.skip,
        gaussians=options.gaussians,
        metric=options.metric,
        rel_error=options.rel_error,
        licence=options.licence,
        precision=_precision(network),
        files=dict.fromkeys(files, ""),
        network=config_to_dict(config),
        info=options.info,
    )
    save_manifest(folder, manifest)
    return folder


def _precision(network: Network) -> str:
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    return names[network.decoder_embed.weight.dtype]


def _export_encoder(network: Network, folder: Path, options: ExportOptions) -> list[str]:
    config = network.config
    arguments = {"images": torch.zeros(2, 3, *config.image_hw)}
    if config.ray_embed:
        arguments["intrinsics"] = torch.ones(2, 4)
    outputs = ["tokens", "enc_tokens"] if options.all_outputs else ["tokens"]
    axes = {name: {0: "views"} for name in [*arguments, *outputs]}
    encoder = _Encoder(network, options)
    return _export(encoder, arguments, outputs, axes, folder / "encoder.onnx", options)


def _export_decoder(network: Network, folder: Path, options: ExportOptions) -> list[str]:
    config = network.config
    views, paths = 5, 3
    arguments = {
        "tokens": torch.zeros(views, config.tokens, config.dec_dim),
        "order": torch.from_numpy(slot_order(paths, views)),
    }
    if config.skip_dim and options.skip:
        arguments["images"] = torch.zeros(views, 3, *config.image_hw)
    outputs = ["points", "conf", *(GAUSSIAN_OUTPUTS if options.gaussians else ())]
    if options.all_outputs and not options.gaussians:
        outputs.append("dec_tokens")
        if config.gs_mlp_dim:
            outputs.extend(("rgb", "opacity", "scale", "rotation"))
    axes = {name: {0: "views"} for name in arguments} | {"order": {0: "paths", 1: "views"}}
    returned = {1: "views"} if options.paths else {0: "paths", 1: "views"}
    axes |= dict.fromkeys(outputs, returned)
    decoder = _Decoder(network, options)
    return _export(decoder, arguments, outputs, axes, folder / "decoder.onnx", options)


def _export(
    module: nn.Module,
    arguments: dict[str, Tensor],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    path: Path,
    options: ExportOptions,
) -> list[str]:
    """Trace, check the operators and save; return the names of the files written."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / path.name
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, tuple(arguments.values()), traced, input_names=list(arguments),
                output_names=outputs, dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        model = onnx.load(traced)
    check_operators(model)
    if options.store_fp16:
        store_in_half(model)
    return save_model(model, path)


def check_operators(model: onnx.ModelProto) -> None:
    """Raise EngineError if the graph contains a subgraph or an operator that TensorRT lacks."""
    used = {node.op_type for node in model.graph.node}
    unknown = sorted(used - TENSORRT_OPERATORS)
    if unknown:
        raise EngineError(f"the exported graph uses {', '.join(unknown)}, unknown to TensorRT")


def store_in_half(model: onnx.ModelProto) -> None:
    """Convert float32 matrices to float16 followed by a cast, in place."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_STORED_HALF:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def save_model(model: onnx.ModelProto, path: Path) -> list[str]:
    """Write a graph, with its weights embedded or in one file next to it.

    Returns:
        Names of the files written.
    """
    data = path.with_suffix(".data")
    data.unlink(missing_ok=True)
    if model.ByteSize() <= EMBED_LIMIT_BYTES:
        onnx.save(model, path)
        return [path.name]
    onnx.save(
        model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=data.name
    )
    data.chmod(path.stat().st_mode & 0o777)  # onnx makes it private to the user
    return [path.name, data.name]
