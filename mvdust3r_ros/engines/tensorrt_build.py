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

"""Build a TensorRT engine folder from weights, on the machine that will run it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvdust3r_ros.datatypes import View
from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.manifest import (
    EngineManifest,
    file_sha256,
    load_manifest,
    save_manifest,
)
from mvdust3r_ros.engines.tensorrt_profiles import (
    SELF_TEST_NAME,
    Profile,
    ViewRange,
    check_self_test,
    decoder_profiles,
    encoder_profiles,
    load_tensorrt,
)

if TYPE_CHECKING:
    import tensorrt

TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class BuildOptions:
    """Build options.

    Attributes:
        views: range of the number of views in a window.
        n_ref: reference paths; 0 for the network's default.
        precision: precision of matrix products: "fp16", "bf16" or "fp32".
        paths: number of paths whose pointmaps are returned; 0 for all.
    """

    views: ViewRange
    n_ref: int = 0
    precision: str = "fp16"
    paths: int = 1


def build_engine(
    weights: Path, folder: Path, options: BuildOptions, report: Callable[[str], None]
) -> Path:
    """Build both plans, write the manifest, and test the result against ONNX Runtime.

    Args:
        weights: `.pth` or `.safetensors`.
        folder: created if missing; its timing cache is used if there is one.
        options: build options.
        report: called with progress lines.

    Returns:
        The folder.

    Raises:
        EngineError: TensorRT is missing or cannot build the graph, or its result is wrong.
    """
    trt, cuda = load_tensorrt()
    from mvdust3r_ros.engines.tensorrt_engine import TensorRtEngine, machine

    folder.mkdir(parents=True, exist_ok=True)
    manifest = _export(weights, folder, options)
    n_ref = min(options.n_ref or manifest.n_ref, options.views.smallest)
    builder = PlanBuilder(trt, folder / TIMING_CACHE, report)
    builder.build(folder, "encoder", encoder_profiles(manifest, options.views))
    builder.build(folder, "decoder", decoder_profiles(manifest, options.views, n_ref))
    views = dataclasses.astuple(options.views)
    built = dataclasses.replace(
        manifest,
        backend="tensorrt",
        n_ref=n_ref,
        precision=options.precision,
        min_views=options.views.smallest,
        max_views=options.views.largest,
        files=dict.fromkeys(("encoder.plan", "decoder.plan", SELF_TEST_NAME), ""),
        build={
            **machine(trt, cuda), "weights": str(weights), "weights_sha256": file_sha256(weights),
            "onnx_sha256": manifest.files, "views": list(views), "n_ref": n_ref,
            "precision": options.precision, "folder": str(folder),
        },
    )  # fmt: skip
    save_manifest(folder, built)
    engine = TensorRtEngine(folder, self_test=False)
    error = engine.self_test_error(folder / SELF_TEST_NAME)
    engine.close()
    check_self_test(error, options.precision, built.build)
    save_manifest(folder, dataclasses.replace(built, build=built.build | {"self_test": error}))
    report(f"self-test: relative error {error:.2e} against ONNX Runtime")
    return folder


def _export(weights: Path, folder: Path, options: BuildOptions) -> EngineManifest:
    """Export the graphs in the engine's precision and the self-test window in float32."""
    from mvdust3r_ros.engines.export import ExportOptions, export_engine
    from mvdust3r_ros.model.weights import DTYPES, network_from_state, read_checkpoint

    checkpoint = read_checkpoint(weights)
    network = network_from_state(checkpoint.config, checkpoint.state, str(weights))
    names = ExportOptions(name=weights.stem, licence=checkpoint.licence, paths=options.paths)
    n_ref = min(options.n_ref or network.config.n_ref, options.views.smallest)
    with tempfile.TemporaryDirectory() as exact:
        export_engine(network, Path(exact), names)
        write_self_test(Path(exact), folder / SELF_TEST_NAME, options.views.smallest, n_ref)
    network.lower_precision(DTYPES[options.precision])
    export_engine(network, folder, names)
    return load_manifest(folder)


def write_self_test(engine_folder: Path, path: Path, n_views: int, n_ref: int) -> None:
    """Save a window of random images with ONNX Runtime's result for it.

    Args:
        engine_folder: folder of the onnx backend.
        path: `.npz` to write: `images` (V, H, W, 3) uint8, `points` (V, H, W, 3), of path 0.
        n_views: number of views in the window.
        n_ref: number of reference paths.
    """
    from mvdust3r_ros.engines.onnx_engine import OnnxEngine

    engine = OnnxEngine(engine_folder)
    shape = (n_views, *engine.describe().image_hw, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    prediction = engine.infer([View(image) for image in images], n_ref)
    engine.close()
    np.savez_compressed(path, images=images, points=prediction.points[0])


class PlanBuilder:
    """Compiler for ONNX graphs; measured kernel times are kept in the timing cache."""

    def __init__(self, trt: Any, cache: Path, report: Callable[[str], None]) -> None:
        """Load the kernel times in `cache`, if it holds any for this machine."""
        self._trt = trt
        self._cache = cache
        self._report = report
        self._logger: tensorrt.ILogger = trt.Logger(trt.Logger.WARNING)
        self._builder: tensorrt.Builder = trt.Builder(self._logger)

    def build(self, folder: Path, name: str, profiles: dict[str, Profile]) -> Path:
        """Compile `<name>.onnx` into `<name>.plan`.

        Raises:
            EngineError: the graph cannot be read or compiled.
        """
        network = self._parse(folder / f"{name}.onnx")
        config: tensorrt.IBuilderConfig = self._builder.create_builder_config()
        profile: tensorrt.IOptimizationProfile = self._builder.create_optimization_profile()
        for input_name, p in profiles.items():
            shapes = (self._trt.Dims(s) for s in (p.smallest, p.usual, p.largest))
            profile.set_shape(input_name, *shapes)
        config.add_optimization_profile(profile)
        known = self._cache.read_bytes() if self._cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
        config.progress_monitor = _progress_monitor(self._trt, name, self._report)
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"TensorRT cannot build {name}; its log says why")
        self._cache.write_bytes(bytes(config.get_timing_cache().serialize()))
        path = folder / f"{name}.plan"
        path.write_bytes(bytes(plan))
        return path

    def _parse(self, path: Path) -> tensorrt.INetworkDefinition:
        """Parse a graph, strongly typed in its own precision: TensorRT 11 has no other mode."""
        flag = self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        network: tensorrt.INetworkDefinition = self._builder.create_network(1 << int(flag))
        parser = self._trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise EngineError(f"TensorRT cannot read {path}: {errors}")
        return network


def _progress_monitor(trt: Any, name: str, report: Callable[[str], None]) -> Any:
    """Return a TensorRT IProgressMonitor that reports a line for each tenth of a phase."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            if not parent_phase:
                report(f"{name}: {phase_name}")
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            total = self._steps.get(phase_name, 0)
            if total >= 10 and step % (total // 10) == 0:  # ten lines per phase
                report(f"{name}: {phase_name} {step} of {total}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
