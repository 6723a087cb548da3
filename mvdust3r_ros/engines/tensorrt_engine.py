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

"""The network in TensorRT 10.3 to 11, on an NVIDIA GPU, without torch.

Device memory and the stream come from `cuda.bindings.runtime`, which uses the device's primary
context. pycuda would create its own context, bound to the importing thread. It would fail in the
worker threads of a ROS node and next to libraries that use the primary context.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.manifest import EngineManifest, load_manifest
from mvdust3r_ros.engines.tensorrt_profiles import (
    SELF_TEST_NAME,
    buffer_bytes,
    check_build,
    check_self_test,
    load_tensorrt,
    relative_error,
)
from mvdust3r_ros.engines.views import (
    path_count,
    slot_order,
    stack_images,
    stack_intrinsics,
    token_descriptor,
)

if TYPE_CHECKING:
    import tensorrt

Arrays = dict[str, npt.NDArray[Any]]
FILES = ("encoder.plan", "decoder.plan", SELF_TEST_NAME)


class TensorRtEngine(Engine):
    """`encoder.plan` and `decoder.plan` of an engine folder, run on a dedicated stream."""

    def __init__(self, folder: Path, self_test: bool = True) -> None:
        """Load both plans and run the stored self-test window once.

        Args:
            folder: written by `mvdust3r_ros engine build`.
            self_test: False to skip the self-test window.

        Raises:
            EngineError: TensorRT is missing, the plans were built for another machine, or the
                result differs from ONNX Runtime's.
        """
        self._manifest = load_manifest(
            folder, reads=("encoder.plan", "decoder.plan", SELF_TEST_NAME)
        )
        trt, self._cuda = load_tensorrt()
        check_build(self._manifest.build, machine(trt, self._cuda))
        self._stream = cuda_call(self._cuda, "cudaStreamCreate")
        logger = trt.Logger(trt.Logger.WARNING)
        self._runtime: tensorrt.Runtime = trt.Runtime(logger)
        self._encoder = _Plan(self._runtime, folder / "encoder.plan", self._cuda, self._stream)
        self._decoder = _Plan(self._runtime, folder / "decoder.plan", self._cuda, self._stream)
        self._info = self._manifest.engine_info(f"TensorRT, {self._manifest.precision}")
        if self_test:
            error = self.self_test_error(folder / SELF_TEST_NAME)
            check_self_test(error, self._manifest.precision, self._manifest.build)

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Encode views; tokens are kept in host memory, less than 1 MB per view."""
        inputs: Arrays = {"images": stack_images(views, self._info.image_hw)}
        if self._manifest.intrinsics:
            inputs["intrinsics"] = stack_intrinsics(views)
        features = self._encoder.run(inputs)["tokens"]
        return [
            ViewTokens(f, view, token_descriptor(f, self._info.name))
            for f, view in zip(features, views, strict=True)
        ]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Estimate pointmaps of as many paths as the engine was built for."""
        n_ref = path_count(tokens, n_ref, self._info)
        check_window(len(tokens), n_ref, self._manifest)
        inputs: Arrays = {
            "tokens": np.stack([t.features for t in tokens]),
            "order": slot_order(n_ref, len(tokens)),
        }
        if self._manifest.skip:
            inputs["images"] = stack_images([t.view for t in tokens], self._info.image_hw)
        outputs = self._decoder.run(inputs)
        points = outputs["points"].astype(np.float32)
        conf = outputs["conf"].astype(np.float32)
        return WindowPrediction(points, conf, tuple(range(len(points))))

    def self_test_error(self, stored: Path) -> float:
        """Return the relative error of the stored window's pointmaps against ONNX Runtime's."""
        with np.load(stored, allow_pickle=False) as window:
            views = [View(image) for image in window["images"]]
            prediction = self.infer(views, self._manifest.n_ref)
            return relative_error(prediction.points[0], window["points"])

    def describe(self) -> EngineInfo:
        """Describe the engine, naming its precision."""
        return self._info

    def close(self) -> None:
        """Free device memory and the stream."""
        for plan in (self._encoder, self._decoder):
            plan.close()
        cuda_call(self._cuda, "cudaStreamDestroy", self._stream)
        del self._encoder, self._decoder, self._runtime


class _Plan:
    """One compiled graph with its device buffers, which grow but never shrink."""

    def __init__(self, runtime: tensorrt.Runtime, path: Path, cuda: Any, stream: Any) -> None:
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(f"TensorRT cannot load {path}; its log says why")
        self._engine: tensorrt.ICudaEngine = engine
        self._context: tensorrt.IExecutionContext = engine.create_execution_context()
        self._cuda = cuda
        self._stream = stream
        self._buffers: dict[str, tuple[int, int]] = {}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._inputs = [n for n in names if engine.get_tensor_mode(n).name == "INPUT"]
        self._outputs = [n for n in names if n not in self._inputs]

    def run(self, inputs: Arrays) -> Arrays:
        """Run the graph and return its outputs by name. TensorRT releases the GIL meanwhile."""
        for name in self._inputs:
            if not self._context.set_input_shape(name, tuple(inputs[name].shape)):
                raise EngineError(
                    f"input {name} of shape {inputs[name].shape} is outside the engine's profile"
                )
            array = np.ascontiguousarray(inputs[name])
            address = self._buffer(name, array.nbytes)
            self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")
        if missing := self._context.infer_shapes():
            raise EngineError(f"TensorRT cannot infer shapes, it lacks {', '.join(missing)}")
        outputs = {name: self._output(name) for name in self._outputs}
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError("TensorRT failed; its log says why")
        for name, array in outputs.items():
            source = self._buffers[name][0]
            self._copy(array.ctypes.data, source, array.nbytes, "cudaMemcpyDeviceToHost")
        cuda_call(self._cuda, "cudaStreamSynchronize", self._stream)
        return outputs

    def _output(self, name: str) -> npt.NDArray[Any]:
        dims = self._context.get_tensor_shape(name)
        shape = tuple(int(dims[i]) for i in range(len(dims)))
        self._buffer(name, buffer_bytes(shape, 4))
        return np.empty(shape, np.float32)

    def _buffer(self, name: str, size: int) -> int:
        address, held = self._buffers.get(name, (0, 0))
        if size > held:
            if held:
                cuda_call(self._cuda, "cudaFree", address)
            address = int(cuda_call(self._cuda, "cudaMalloc", size))
            self._buffers[name] = (address, size)
        self._context.set_tensor_address(name, address)
        return address

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        cuda_call(self._cuda, "cudaMemcpyAsync", target, source, size, direction, self._stream)

    def close(self) -> None:
        for address, _ in self._buffers.values():
            cuda_call(self._cuda, "cudaFree", address)
        self._buffers.clear()
        del self._context, self._engine


def check_window(n_views: int, n_ref: int, manifest: EngineManifest) -> None:
    """Raise EngineError for a window that the engine was not built for."""
    if n_views < manifest.min_views:
        raise EngineError(f"a window of {n_views} views, the engine takes {manifest.min_views}")
    if n_ref != manifest.n_ref:
        raise EngineError(f"{n_ref} reference paths, the engine was built for {manifest.n_ref}")


def machine(trt: Any, cuda: Any) -> dict[str, str]:
    """Return TensorRT's version, the GPU's name and its compute capability."""
    properties = cuda_call(cuda, "cudaGetDeviceProperties", 0)
    name = properties.name
    return {
        "tensorrt": str(trt.__version__),
        "gpu": name.decode().rstrip("\0") if isinstance(name, bytes) else str(name),
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def cuda_call(cuda: Any, name: str, *args: Any) -> Any:
    """Call a function of the CUDA runtime and return its one result, or None.

    Raises:
        EngineError: the function returned an error.
    """
    status, *result = getattr(cuda, name)(*args)
    if int(status) != 0:
        raise EngineError(f"{name} failed: {status}")
    return result[0] if result else None
