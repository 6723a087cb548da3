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

"""Convert views to the network's input arrays, with the checks all engines share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import Descriptor, FloatArray, View, ViewTokens
from mvdust3r_ros.engines.base import EngineError, EngineInfo

Float32Array = npt.NDArray[np.float32]


def stack_images(views: Sequence[View], image_hw: tuple[int, int]) -> Float32Array:
    """Stack images into the network's input.

    Args:
        views: at least one.
        image_hw: required height and width of every view.

    Returns:
        (V, 3, H, W) float32 in [-1, 1].

    Raises:
        EngineError: there is no view, or one has another size.
    """
    if not views:
        raise EngineError("no views to encode")
    for view in views:
        if view.image_rgb.shape != (*image_hw, 3):
            raise EngineError(
                f"view of shape {view.image_rgb.shape}, the engine takes {(*image_hw, 3)}"
            )
    pixels = np.stack([view.image_rgb for view in views]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)


def stack_intrinsics(views: Sequence[View]) -> Float32Array:
    """Return (V, 4) float32 fx, fy, cx, cy in pixels; 0 where a view has no intrinsics."""
    rows = np.zeros((len(views), 4), np.float32)
    for row, view in zip(rows, views, strict=True):
        if view.K is not None:
            row[:] = view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]
    return rows


def path_count(tokens: Sequence[ViewTokens], n_ref: int, info: EngineInfo) -> int:
    """Return the number of reference paths to run, after checking the window.

    Args:
        tokens: encoded views of the window.
        n_ref: requested number; 0 for the engine's default, or V if that is smaller.
        info: description of the engine.

    Raises:
        EngineError: fewer than two views, more than the engine accepts, or more references than
            views.
    """
    count = len(tokens)
    if count < 2:
        raise EngineError(f"a window of {count} views, at least 2 are needed")
    if info.max_views and count > info.max_views:
        raise EngineError(f"a window of {count} views, {info.name} takes {info.max_views} at most")
    if not 0 <= n_ref <= count:
        raise EngineError(f"{n_ref} reference paths in a window of {count} views")
    return n_ref or min(info.n_ref, count)


def slot_order(n_ref: int, n_views: int) -> npt.NDArray[np.int64]:
    """Return the (P, V) view in each slot of each path: views 0 and p are swapped in path p."""
    order = np.tile(np.arange(n_views, dtype=np.int64), (n_ref, 1))
    paths = np.arange(n_ref)
    order[:, 0] = paths
    order[paths, paths] = 0
    return order


def path_order(reference: int, n_views: int) -> npt.NDArray[np.int64]:
    """Return the (V,) view in each slot of one path: the reference and view 0 are swapped."""
    order: npt.NDArray[np.int64] = slot_order(reference + 1, n_views)[reference]
    return order


def token_descriptor(tokens: FloatArray, engine: str) -> Descriptor:
    """Return the mean of the (..., D) tokens of a view, for networks whose encoder yields tokens.

    Args:
        tokens: of the view.
        engine: name of the engine that made the tokens; only descriptors of one engine are
            compared.
    """
    mean = tokens.reshape(-1, tokens.shape[-1]).mean(0, dtype=np.float64)
    return Descriptor(engine, np.asarray(mean, np.float32))
