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

"""TensorRT logic that does not need TensorRT: profiles, checks, messages."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.engines.base import EngineError
from mvdust3r_ros.engines.manifest import EngineManifest

BOUND_TO = ("tensorrt", "gpu", "compute_capability")
"""A compiled engine only works where these are the same as at build time."""
SELF_TEST_LIMIT = {"fp32": 1e-2, "fp16": 5e-2, "bf16": 1e-1}
"""Maximum relative error of a built engine against ONNX Runtime in fp32."""
SELF_TEST_NAME = "self_test.npz"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ViewRange:
    """Range of the number of views that an engine is built for.

    Attributes:
        smallest: minimum number of views in a window.
        usual: number that the kernels are optimised for.
        largest: maximum number of views; the engine's memory grows with it.
    """

    smallest: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        if not 2 <= self.smallest <= self.usual <= self.largest:
            raise EngineError(
                f"views {self.smallest}:{self.usual}:{self.largest}: expected 2 <= smallest <= "
                "usual <= largest"
            )


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest shape of one input."""

    smallest: Shape
    usual: Shape
    largest: Shape


def parse_views(text: str) -> ViewRange:
    """Parse `4:8:12`, or `8` for exactly eight.

    Raises:
        EngineError: the text has another form, or its numbers are out of order.
    """
    parts = text.split(":")
    if len(parts) not in {1, 3} or not all(p.isdigit() for p in parts):
        raise EngineError(f"views {text!r}: expected SMALLEST:USUAL:LARGEST, such as 4:8:12")
    numbers = [int(p) for p in parts]
    return ViewRange(*(numbers if len(numbers) == 3 else numbers * 3))


def encoder_profiles(manifest: EngineManifest, views: ViewRange) -> dict[str, Profile]:
    """Return input name -> encoder shapes: from one new view up to a whole window."""
    counts = (1, max(1, views.usual // 2), views.largest)
    shapes: dict[str, Shape] = {"images": (3, *manifest.image_hw)}
    if manifest.intrinsics:
        shapes["intrinsics"] = (4,)
    return {name: Profile(*((n, *shape) for n in counts)) for name, shape in shapes.items()}


def decoder_profiles(manifest: EngineManifest, views: ViewRange, n_ref: int) -> dict[str, Profile]:
    """Return input name -> decoder shapes; the number of paths is fixed.

    Raises:
        EngineError: there are more paths than views in the smallest window.
    """
    if not 1 <= n_ref <= views.smallest:
        raise EngineError(f"{n_ref} reference paths in windows of {views.smallest} views or more")
    counts = (views.smallest, views.usual, views.largest)
    network = manifest.network
    patch = int(network["patch_size"])
    tokens = (manifest.image_hw[0] // patch) * (manifest.image_hw[1] // patch)
    shapes: dict[str, Shape] = {"tokens": (tokens, int(network["dec_dim"]))}
    if manifest.skip:
        shapes["images"] = (3, *manifest.image_hw)
    profiles = {name: Profile(*((n, *shape) for n in counts)) for name, shape in shapes.items()}
    return profiles | {"order": Profile(*((n_ref, n) for n in counts))}


def rebuild_command(build: Mapping[str, Any]) -> str:
    """Return the command that rebuilds an engine, from the build data in its manifest."""
    views = ":".join(str(v) for v in build.get("views", ()))
    values = {
        "--weights": build.get("weights", "FILE"),
        "--views": views,
        "--n-ref": build.get("n_ref", 1),
        "--precision": build.get("precision", "fp16"),
        "--out": build.get("folder", "DIR"),
    }
    words = [word for name, value in values.items() for word in (name, str(value))]
    return "mvdust3r_ros engine build " + shlex.join(words)


def check_build(build: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Reject an engine that was built for another machine.

    Args:
        build: from the manifest.
        here: the same keys for this machine.

    Raises:
        EngineError: the machine differs; the message names the difference and the rebuild command.
    """
    differing = [key for key in BOUND_TO if build.get(key) != here.get(key)]
    if differing:
        changes = ", ".join(f"{k} {build.get(k)!r}, here {here.get(k)!r}" for k in differing)
        raise EngineError(
            f"this TensorRT engine was built for {changes}; run: {rebuild_command(build)}"
        )


def check_self_test(error: float, precision: str, build: Mapping[str, Any]) -> None:
    """Raise EngineError if an engine's result for the stored window is wrong or not finite."""
    limit = SELF_TEST_LIMIT[precision]
    if not error <= limit:
        raise EngineError(
            f"self-test failed: relative error {error:.3g} against ONNX Runtime, limit {limit:g} "
            f"for {precision}; run: {rebuild_command(build)}, with --precision bf16 or fp32 if it "
            "fails again"
        )


def relative_error(value: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the root-mean-square difference over the root mean square of the expected value."""
    if value.shape != expected.shape:
        raise EngineError(f"output of shape {value.shape}, expected {expected.shape}")
    a, b = value.astype(np.float64), expected.astype(np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def buffer_bytes(shape: Shape, item_bytes: int) -> int:
    """Return the device memory for a tensor, in whole blocks of 256 bytes.

    Raises:
        EngineError: a size is still dynamic.
    """
    if any(n < 0 for n in shape):
        raise EngineError(f"shape {shape} is still open; set all input shapes first")
    return -(-int(np.prod(shape, dtype=np.int64)) * item_bytes // 256) * 256


def load_tensorrt() -> tuple[ModuleType, ModuleType]:
    """Import the modules `tensorrt` and `cuda.bindings.runtime`.

    Raises:
        EngineError: a module is missing; one line names it and how to install it.
    """
    return _import("tensorrt", "Builder"), _import("cuda.bindings.runtime", "cudaMalloc")


def _import(name: str, needed: str) -> ModuleType:
    """Import a module; reject bare type stubs, which can be imported but are empty."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        module = ModuleType(name)
    if not hasattr(module, needed):
        package = "tensorrt" if name == "tensorrt" else "cuda-python"
        raise EngineError(
            f"the Python package {package} is missing: on a machine with an NVIDIA GPU run "
            "`pip install 'mvdust3r_ros[tensorrt]'` (on a Jetson: `sudo apt install tensorrt`), "
            "or use --backend onnx, which works everywhere"
        )
    return module
