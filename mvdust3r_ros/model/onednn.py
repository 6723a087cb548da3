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

"""Matrix products on CPUs through oneDNN, where torch would otherwise use MKL.

MKL reaches only half the speed of an AMD processor. The operator called here is the one that
torch's own compiler emits; if this torch lacks it, plain torch is used.
"""

from __future__ import annotations

import torch
from torch import Tensor


def onednn_serves(x: Tensor) -> bool:
    """Whether a product with this input runs in oneDNN: inference on a CPU, no autocast."""
    return (
        x.device.type == "cpu"
        and _AVAILABLE
        and not torch.is_grad_enabled()
        and not torch.onnx.is_in_onnx_export()
        and not torch.is_autocast_enabled("cpu")
        and (x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and _HAS_BF16))
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Map (..., in) to (..., out), optionally followed by a GELU (erf); all of one dtype."""
    attribute, algorithm = ("gelu", "none") if gelu else ("none", "")
    y: Tensor = torch.ops.mkldnn._linear_pointwise(
        x.contiguous(), weight, bias, attribute, [], algorithm
    )
    return y


def _available() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x = torch.ones(2, 3)
        return onednn_linear(x, torch.ones(4, 3), torch.zeros(4), gelu=True).shape == (2, 4)
    except (AttributeError, RuntimeError, TypeError):
        return False


_AVAILABLE = _available()
_HAS_BF16 = _AVAILABLE and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
