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

"""The network in ONNX Runtime; needs neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mvdust3r_ros.datatypes import PixelGaussians, View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.manifest import GAUSSIAN_OUTPUTS, load_manifest
from mvdust3r_ros.engines.views import (
    path_count,
    slot_order,
    stack_images,
    stack_intrinsics,
    token_descriptor,
)

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""Preferred order; providers missing from the installed ONNX Runtime are skipped."""
VIEWS_A_RUN = 8
"""One run covers a window of the default size; more views per run would only use more memory."""


@dataclass(frozen=True)
class OnnxOptions:
    """How to run the graphs.

    Attributes:
        threads: threads per operator; 0 for one per core.
        provider: execution provider, with the CPU as fallback for unsupported nodes; empty for the
            best.
    """

    threads: int = 0
    provider: str = ""


class OnnxEngine(Engine):
    """`encoder.onnx` and `decoder.onnx` of an engine folder."""

    def __init__(self, folder: Path, options: OnnxOptions | None = None) -> None:
        """Load both graphs.

        Raises:
            EngineError: the folder is incomplete or damaged, ONNX Runtime lacks the provider or
                cannot load a graph.
        """
        options = options or OnnxOptions()
        self._manifest = load_manifest(folder, reads=("encoder.onnx", "decoder.onnx"))
        providers = choose_providers(options.provider, onnxruntime.get_available_providers())
        self._encoder = onnx_session(folder / "encoder.onnx", providers, options.threads)
        self._decoder = onnx_session(folder / "decoder.onnx", providers, options.threads)
        self._info = self._manifest.engine_info(f"ONNX Runtime, {providers[0]}")

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Encode views, a few at a time; tokens are float32 arrays."""
        tokens: list[ViewTokens] = []
        for start in range(0, max(len(views), 1), VIEWS_A_RUN):
            part = views[start : start + VIEWS_A_RUN]
            inputs = {"images": stack_images(part, self._info.image_hw)}
            if self._manifest.intrinsics:
                inputs["intrinsics"] = stack_intrinsics(part)
            features = self.run_encoder(inputs)["tokens"]
            tokens.extend(
                ViewTokens(f, v, token_descriptor(f, self._info.name))
                for f, v in zip(features, part, strict=True)
            )
        return tokens

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Estimate as many pointmaps as the model was exported for, in the first views' frames."""
        n_ref = path_count(tokens, n_ref, self._info)
        inputs = {
            "tokens": np.stack([t.features for t in tokens]),
            "order": slot_order(n_ref, len(tokens)),
        }
        if self._manifest.skip:
            inputs["images"] = stack_images([t.view for t in tokens], self._info.image_hw)
        outputs = self.run_decoder(inputs)
        points, gaussians = outputs["points"], None
        if self._info.gaussians:
            gaussians = PixelGaussians(*(outputs[name] for name in GAUSSIAN_OUTPUTS))
        return WindowPrediction(
            points, outputs["conf"], tuple(range(len(points))), gaussians=gaussians
        )

    def run_encoder(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the encoder's outputs by name."""
        return run_session(self._encoder, inputs)

    def run_decoder(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the decoder's outputs by name."""
        return run_session(self._decoder, inputs)

    def describe(self) -> EngineInfo:
        """Describe the engine, naming its execution provider."""
        return self._info

    def close(self) -> None:
        """Free both sessions."""
        del self._encoder, self._decoder


def choose_providers(wanted: str, available: Sequence[str]) -> list[str]:
    """Return the execution providers to use, best first.

    Args:
        wanted: a name, or empty for the best of `PROVIDERS`.
        available: providers of this ONNX Runtime.

    Raises:
        EngineError: the wanted provider is not available.
    """
    if wanted and wanted not in available:
        raise EngineError(
            f"ONNX Runtime has no provider {wanted!r} here, only {', '.join(available)}"
        )
    chosen = [wanted] if wanted else [p for p in PROVIDERS if p in available]
    if "CPUExecutionProvider" not in chosen:
        chosen.append("CPUExecutionProvider")
    return chosen


def onnx_session(path: Path, providers: list[str], threads: int) -> Any:
    """Load a graph, ready to run.

    Raises:
        EngineError: ONNX Runtime cannot load it.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # noqa: BLE001 ONNX Runtime's errors have no common base
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from None


def run_session(session: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run a graph and return its outputs by name.

    Raises:
        EngineError: ONNX Runtime failed.
    """
    try:
        values = session.run(None, inputs)
    except Exception as error:  # noqa: BLE001 ONNX Runtime's errors have no common base
        raise EngineError(f"ONNX Runtime failed: {error}") from None
    return dict(zip((o.name for o in session.get_outputs()), values, strict=True))
