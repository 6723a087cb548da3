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

"""Weights out of exported graphs, so that what is bundled as ONNX can be run or built on in torch.

The exporter names biases and normalisations after their parameter, and matrices after nothing; but
the node that multiplies by a matrix is named after the layer that it came from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.manifest import load_manifest
from mvdust3r_ros.model.config import NetworkConfigError, config_from_dict
from mvdust3r_ros.model.weights import Checkpoint, network_from_state

GRAPHS = ("encoder.onnx", "decoder.onnx")
ROOT = "network."
"""What the exporter puts before the names of parameters."""
HALF = ".fp16"
"""End of the names of values that are stored in half precision."""
RENAMED = {
    ".projk": ".cross_attn.projk", ".projv": ".cross_attn.projv", ".mlp": ".mlp.fc1",
}  # fmt: skip
"""Layers that are not called as modules, and so are named after the one that called them."""


def weights_of_graphs(folder: Path) -> Checkpoint:
    """The weights of an engine folder of the backend `onnx`; float32, as exact as they are stored.

    Raises:
        EngineError: the folder holds no such engine.
        WeightsError: its graphs do not hold all the weights: the exporter folds a skip branch, and
            stores values that are equal, as those of a network that has learnt nothing, once.
    """
    manifest = load_manifest(folder, reads=GRAPHS)
    if manifest.backend != "onnx":
        raise EngineError(f"{folder} is an engine of {manifest.backend}, not of onnx")
    try:
        config = config_from_dict(manifest.network)
    except NetworkConfigError as error:
        raise EngineError(f"network of {folder}: {error}") from None
    state: dict[str, torch.Tensor] = {}
    for name in GRAPHS:
        state |= _weights(onnx.load(folder / name))
    network_from_state(config, state, str(folder))
    return Checkpoint(config, state, manifest.licence, {"source": manifest.name})


def _weights(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    stored = {
        tensor.name.removesuffix(HALF): torch.from_numpy(
            numpy_helper.to_array(tensor).astype(np.float32)
        )
        for tensor in model.graph.initializer
    }
    weights = {k.removeprefix(ROOT): v for k, v in stored.items() if k.startswith(ROOT)}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in stored:
            continue
        layer = node.name.removeprefix("/").rsplit("/", 1)[0].replace("/", ".")
        for short, full in RENAMED.items():
            if layer.endswith(short) and not layer.endswith(full):
                layer = layer.removesuffix(short) + full
        weights[f"{layer}.weight"] = stored[node.input[1]].T.contiguous()
    return weights
