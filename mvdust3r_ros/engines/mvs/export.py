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

"""Export a trained network to the folder of the engine `mvs`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mvdust3r_ros.engines.manifest import OPSET
from mvdust3r_ros.model.sweep import Features, SweepNetwork, place_to_q

EXAMPLE_HW = (192, 256)
"""Size of the traced images; any multiples of `SIDE_MULTIPLE`, because sizes stay dynamic."""
FEATURES = ("match", "fine", "guide", "fine_guide")


class _Encode(nn.Module):
    """Takes raw images, (B, H, W, 3) uint8."""

    def __init__(self, network: SweepNetwork) -> None:
        super().__init__()
        self.encoder = network.encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(images.permute(0, 3, 1, 2).float() / 255))


class _Read(nn.Module):
    """Returns inverse depth and the logarithm of the expected error, at half the image size."""

    def __init__(self, network: SweepNetwork) -> None:
        super().__init__()
        self.reader = network.reader
        self.planes = network.config.planes

    def forward(
        self,
        match: Tensor,
        fine: Tensor,
        guide: Tensor,
        fine_guide: Tensor,
        source_match: Tensor,
        source_fine: Tensor,
        projection: Tensor,
        weight: Tensor,
        range_q: Tensor,
    ) -> tuple[Tensor, Tensor]:
        view = Features(match, fine, guide, fine_guide)
        depth = self.reader(view, (source_match, source_fine), projection, weight, range_q)
        q = place_to_q(depth.place, range_q[:, :, None, None], self.planes)
        # limit extrapolation beyond the last planes of the sweep; never at infinity
        return torch.maximum(q, 0.7 * range_q[:, 0, None, None]), depth.log_error


def export_graphs(network: SweepNetwork, folder: Path) -> None:
    """Write `encoder.onnx` and `reader.onnx`; the image size stays dynamic.

    Args:
        network: trained; in evaluation mode.
        folder: target folder; created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    height, width = EXAMPLE_HW
    images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    _export(
        _Encode(network),
        (images,),
        folder / "encoder.onnx",
        {"images": {0: "views", 1: "height", 2: "width"}},
        FEATURES,
    )
    with torch.no_grad():
        features = _Encode(network)(images)
    own = tuple(f[:1] for f in features)
    sources = network.config.sources
    match, fine = (f[:1].expand(sources, -1, -1, -1)[None].clone() for f in features[:2])
    projection = torch.eye(3, 4).expand(1, sources, 3, 4).clone()
    weight, range_q = torch.ones(1, sources), torch.tensor([[0.1, 2.0]])
    size = {2: "rows", 3: "cols"}
    wide = {2: "half_rows", 3: "half_cols"}
    axes = {"match": size, "fine": wide, "guide": size, "fine_guide": wide}
    axes |= {
        "source_match": {3: "rows", 4: "cols"},
        "source_fine": {3: "half_rows", 4: "half_cols"},
    }
    _export(
        _Read(network),
        (*own, match, fine, projection, weight, range_q),
        folder / "reader.onnx",
        {**axes, "projection": {}, "weight": {}, "range_q": {}},
        ("q", "log_error"),
    )


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: dict[str, dict[int, str]],
    outputs: Sequence[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the tracer: sizes that are the same for all images
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: axes for name, axes in inputs.items() if axes},
            opset_version=OPSET,
            dynamo=False,
        )
