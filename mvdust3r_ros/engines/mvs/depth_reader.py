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

"""Depth of a window's views with known poses: the network on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mvdust3r_ros.datatypes import FloatArray, View
from mvdust3r_ros.engines.mvs.sources import choose_sources
from mvdust3r_ros.engines.mvs.sweep_inputs import DepthRange, depth_range, unit_projection
from mvdust3r_ros.engines.onnx_engine import (
    OnnxOptions,
    choose_providers,
    onnx_session,
    run_session,
)
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.sfm.window_poses import WindowPoses

GRAPHS = ("encoder.onnx", "reader.onnx")
Arrays = Mapping[str, Any]
"""Features of a view by name, each (1, C, h, w) float32."""


class DepthReader:
    """`encoder.onnx` and `reader.onnx` of an engine folder."""

    def __init__(self, folder: Path, options: OnnxOptions | None = None) -> None:
        """Load both graphs.

        Raises:
            EngineError: ONNX Runtime lacks the provider or cannot load a graph.
        """
        options = options or OnnxOptions()
        providers = choose_providers(options.provider, onnxruntime.get_available_providers())
        self.provider = providers[0]
        # views in parallel: single operators are too small to split
        self.threads = options.threads or os.cpu_count() or 1
        self._encoder, self._reader = (
            onnx_session(folder / name, providers, 1) for name in GRAPHS
        )
        shapes = {i.name: i.shape for i in self._reader.get_inputs()}
        self._sources = int(shapes["weight"][1])

    def encode(self, view: View) -> Arrays:
        """Compute the features of a view."""
        return run_session(self._encoder, {"images": view.image_rgb[None]})

    def depth(
        self,
        features: Sequence[Arrays],
        poses: WindowPoses,
        image_hw: tuple[int, int],
        known: Mapping[int, tuple[FloatArray, FloatArray]] | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Estimate the depth of every placed view that has sources.

        Args:
            features: of the V views.
            poses: of the V views.
            image_hw: height and width of the views, in pixels.
            known: depth and its log error of views that can be skipped.

        Returns:
            (V, H/2, W/2) float32 depth in the unit of the poses, 0 for no depth; and the logarithm
            of the network's expected error of the log depth.
        """
        half_hw = (image_hw[0] // 2, image_hw[1] // 2)
        depth = np.zeros((len(features), *half_hw), np.float32)
        log_error = np.zeros_like(depth)
        for view, (known_depth, known_error) in (known or {}).items():
            depth[view], log_error[view] = known_depth, known_error
        placed = np.flatnonzero(poses.placed).tolist()

        def read(view: int) -> None:
            reach = depth_range(poses, view)
            sources = choose_sources(
                view, poses.T_ref_cam, poses.K, image_hw, reach.typical, placed, self._sources
            )
            if sources:
                inputs = self._inputs(view, sources, features, poses, image_hw, reach)
                outputs = run_session(self._reader, inputs)
                depth[view], log_error[view] = 1 / outputs["q"][0], outputs["log_error"][0]

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(read, [view for view in placed if view not in (known or {})]))
        return depth, log_error

    def _inputs(
        self,
        view: int,
        sources: Sequence[int],
        features: Sequence[Arrays],
        poses: WindowPoses,
        image_hw: tuple[int, int],
        reach: DepthRange,
    ) -> dict[str, Any]:
        filled = (*sources, *([sources[0]] * self._sources))[: self._sources]
        T, K = poses.T_ref_cam, poses.K
        projections = [
            unit_projection(K[view], K[s], invert_se3(T[s]) @ T[view], image_hw) for s in filled
        ]
        return {
            **features[view],
            "source_match": np.stack([features[s]["match"] for s in filled], 1),
            "source_fine": np.stack([features[s]["fine"] for s in filled], 1),
            "projection": np.stack(projections)[None],
            "weight": (np.arange(self._sources) < len(sources)).astype(np.float32)[None],
            "range_q": reach.range_q[None],
        }
