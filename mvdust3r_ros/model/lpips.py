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

"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet, the one of the paper's tables.

The weights are not ours to ship. Who has them saves them as one file:
`torch.save(lpips.LPIPS(net="alex").state_dict(), "lpips_alex.pth")`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError

LAYERS = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2), ("net.slice2.3", (192, 64, 5, 5), 1, 2),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1), ("net.slice4.8", (256, 384, 3, 3), 1, 1),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1),
)  # fmt: skip
"""Name in the file, weights, stride and padding of AlexNet's convolutions (Krizhevsky 2014)."""
POOLED = (1, 2)
"""Layers that maximum pooling of 3 by 3 pixels, stride 2, comes before."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of ImageNet's pixels in [-1, 1], subtracted and divided by, as in the published code."""
LEAST_NORM = 1e-10
"""Added to the norm of a pixel's features, as in the published code."""
LEAST_SIDE = 31
"""Pixels: with fewer, nothing is left after the second pooling."""


class LpipsError(MvDust3rError):
    """LPIPS cannot be measured."""


class Lpips(nn.Module):
    """Perceptual distance of two images."""

    def __init__(self) -> None:
        """Without weights yet: see `load_lpips`."""
        super().__init__()
        for index, (_, shape, _, _) in enumerate(LAYERS):
            self.register_buffer(f"weight{index}", torch.zeros(shape))
            self.register_buffer(f"bias{index}", torch.zeros(shape[0]))
            self.register_buffer(f"linear{index}", torch.zeros(1, shape[0], 1, 1))

    def forward(self, images: Tensor, truths: Tensor) -> Tensor:
        """(B,) distances of images (B, 3, H, W) in [-1, 1]."""
        total = images.new_zeros(len(images))
        x = torch.cat((images, truths))
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
        for index, (_, _, stride, padding) in enumerate(LAYERS):
            if index in POOLED:
                x = max_pool2d(x, 3, 2)
            weight, bias = self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}")
            x = conv2d(x, weight, bias, stride, padding).relu()
            first, second = (x / (x.norm(dim=1, keepdim=True) + LEAST_NORM)).chunk(2)
            linear = self.get_buffer(f"linear{index}")
            total = total + conv2d((first - second).square(), linear).mean((1, 2, 3))
        return total

    @torch.no_grad()
    def distance(self, image: FloatArray, truth: FloatArray) -> float:
        """Distance of two images (H, W, 3) in [0, 1]; 0 for equal ones.

        Raises:
            LpipsError: the shapes differ, or are no images of at least `LEAST_SIDE` pixels.
        """
        shape = np.shape(image)
        if shape != np.shape(truth) or len(shape) != 3 or min(shape[:2]) < LEAST_SIDE:
            raise LpipsError(
                f"LPIPS takes two images (H, W, 3) of {LEAST_SIDE} by {LEAST_SIDE} pixels or "
                f"more, not {shape} and {np.shape(truth)}"
            )
        pair = np.stack((image, truth)).transpose(0, 3, 1, 2) * 2.0 - 1.0
        first, second = torch.from_numpy(pair).to(self.get_buffer("weight0")).split(1)
        return float(self(first, second)[0])


def load_lpips(path: Path) -> Lpips:
    """LPIPS with the weights of a file, see above.

    Raises:
        LpipsError: it cannot be read, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises all kinds on foreign files
        reason = str(error).partition("\n")[0]
        raise LpipsError(f"cannot read the LPIPS weights {path}: {reason}") from None
    lpips = Lpips()
    for index, (name, _, _, _) in enumerate(LAYERS):
        entries = (("weight", f"{name}.weight"), ("bias", f"{name}.bias"),
                   ("linear", f"lin{index}.model.1.weight"))  # fmt: skip
        for kind, key in entries:
            own = lpips.get_buffer(f"{kind}{index}")
            found = state.get(key) if isinstance(state, dict) else None
            if not isinstance(found, Tensor) or found.shape != own.shape:
                raise LpipsError(
                    f"{path} is not LPIPS on AlexNet: no {key} of {tuple(own.shape)}; save "
                    'lpips.LPIPS(net="alex").state_dict() with torch.save'
                )
            own.copy_(found)
    return lpips.eval()
