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

"""Images of 3-D Gaussians by gsplat, fast on CUDA; `splatting.render` is the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.model.splatting import (
    LEAST_ALPHA,
    NEAR,
    Gaussians3d,
    Rendering,
    RenderOptions,
)

PIXEL_CENTRE = 0.5
"""Of the first pixel in gsplat; here pixel centres are whole numbers."""


def render_gsplat(
    gaussians: Gaussians3d,
    K: Tensor,
    T_cam: Tensor,
    hw: tuple[int, int],
    options: RenderOptions | None = None,
) -> Rendering:
    """As `splatting.render`, by gsplat 1.x on a CUDA device.

    Raises:
        MvDust3rError: gsplat is not installed, or the Gaussians are not on a CUDA device.
    """
    options = options or RenderOptions()
    if not gaussians.means.is_cuda:
        raise MvDust3rError("gsplat needs a CUDA device; splatting.render runs on any")
    try:
        from gsplat.rendering import rasterization
    except ImportError:
        raise MvDust3rError("this renderer needs gsplat: pip install gsplat") from None
    shifted = K.clone()
    shifted[:2, 2] += PIXEL_CENTRE
    image, alpha, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.rotation,
        scales=gaussians.scale,
        opacities=gaussians.opacity,
        colors=gaussians.rgb,
        viewmats=T_cam[None],
        Ks=shifted[None],
        width=hw[1],
        height=hw[0],
        near_plane=NEAR,
        eps2d=options.blur_px2,
        backgrounds=gaussians.means.new_tensor(options.background)[None],
        render_mode="RGB+D",
    )
    alpha = alpha[0, ..., 0]
    depth = image[0, ..., 3] / alpha.clamp(min=LEAST_ALPHA)
    return Rendering(image[0, ..., :3], alpha, torch.where(alpha > 0, depth, 0.0))
