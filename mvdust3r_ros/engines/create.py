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

"""Create the requested engine from the manifest in its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mvdust3r_ros.engines.base import Engine, EngineError
from mvdust3r_ros.engines.manifest import MANIFEST_NAME, load_manifest
from mvdust3r_ros.installed import installed
from mvdust3r_ros.robot_python import REMEDY

DEFAULT_MODEL = Path("models") / "mvs"
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class EngineOptions:
    """How to run an engine, whatever its backend.

    Attributes:
        threads: CPU threads; 0 for all.
        provider: ONNX Runtime's execution provider; empty for the best.
        device: torch's device; empty for CUDA if available.
        precision: torch's precision; empty for the device's best.
        gaussians: whether torch is to predict Gaussians as well, where the network has heads for
            them; an ONNX engine has them or not, as it was exported.
        paths: reference paths whose pointmaps torch computes; 0 for all.
    """

    threads: int = 0
    provider: str = ""
    device: str = ""
    precision: str = ""
    gaussians: bool = False
    paths: int = 1


TRUTH = "oracle"
"""Given in place of an engine folder: use recorded depth and poses."""
COLMAP = "colmap"
"""Given in place of an engine folder: use COLMAP."""
PAIRS = "dust3r:"
"""Before another engine: show it two views at a time, and align the pairs."""


def needs_truth(source: str | Path) -> bool:
    """Whether an engine needs recorded depth and poses, known before loading it."""
    return str(source).removeprefix(PAIRS) == TRUTH


def create_engine(source: str | Path = "", options: EngineOptions | None = None) -> Engine:
    """Load an engine.

    Args:
        source: an engine folder; a weights file, run by PyTorch; "oracle" for recorded depth and
            poses; "colmap" for COLMAP; "dust3r:" before one of these for its pairs, globally
            aligned; empty for the default model.
        options: how to run it.

    Raises:
        EngineError: there is no such engine, or its backend is not installed.
    """
    options = options or EngineOptions()
    if str(source).startswith(PAIRS):
        return _pairwise(str(source), options)
    if needs_truth(source):
        from mvdust3r_ros.engines.oracle_engine import OracleEngine

        return OracleEngine()
    if str(source) == COLMAP:
        return _colmap(options)
    path = Path(source) if str(source) else default_engine_folder()
    if path.suffix in WEIGHT_SUFFIXES:
        return _weights(path, options)
    if not path.is_dir():
        raise EngineError(f"no engine at {path}: expected a folder with {MANIFEST_NAME}")
    backend = load_manifest(path, check_files=False).backend
    if backend == "tensorrt" and not str(source):
        raise EngineError(
            f"{path} holds TensorRT plans, which can carry code: they are loaded only from a "
            "folder that is named in engine.engine"
        )
    return MAKERS[backend](path, options)


def default_engine_folder() -> Path:
    """Return the folder of the model installed with the package.

    Raises:
        EngineError: the model is not installed.
    """
    manifest = installed(DEFAULT_MODEL / MANIFEST_NAME)
    if manifest is None:
        raise EngineError(
            f"the default model {DEFAULT_MODEL} is not installed; name an engine folder, for "
            "example one made by `mvdust3r_ros engine export`"
        )
    return manifest.parent


def _onnx(path: Path, options: EngineOptions) -> Engine:
    with _needing_onnxruntime(path):
        from mvdust3r_ros.engines.onnx_engine import OnnxEngine, OnnxOptions
    return OnnxEngine(path, OnnxOptions(options.threads, options.provider))


def _mvs(path: Path, options: EngineOptions) -> Engine:
    with _needing_onnxruntime(path):
        from mvdust3r_ros.engines.mvs.engine import MvsEngine
        from mvdust3r_ros.engines.onnx_engine import OnnxOptions
    return MvsEngine(path, OnnxOptions(options.threads, options.provider))


@contextmanager
def _needing_onnxruntime(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise EngineError(
            f"{path} needs onnxruntime: {REMEDY.format('onnxruntime')} ({error})"
        ) from None


def _weights(path: Path, options: EngineOptions) -> Engine:
    """The engine of a file of weights, by the network that they belong to."""
    with _needing_torch(path):
        from mvdust3r_ros.model.dust3r_weights import is_pair_checkpoint
        from mvdust3r_ros.model.spann3r_weights import is_spann_checkpoint
    if is_spann_checkpoint(path):
        return _spann3r(path, options)
    return (_dust3r if is_pair_checkpoint(path) else _torch)(path, options)


def _torch(path: Path, options: EngineOptions) -> Engine:
    with _needing_torch(path):
        from mvdust3r_ros.engines.torch_engine import TorchOptions, torch_engine_from
    chosen = TorchOptions(
        options.device, options.precision, options.threads, options.paths,
        gaussians=options.gaussians,
    )  # fmt: skip
    return torch_engine_from(path, chosen)


def _dust3r(path: Path, options: EngineOptions) -> Engine:
    with _needing_torch(path):
        from mvdust3r_ros.engines.dust3r.engine import dust3r_engine_from
        from mvdust3r_ros.engines.torch_engine import TorchOptions
    return dust3r_engine_from(
        path, TorchOptions(options.device, options.precision, options.threads)
    )


def _spann3r(path: Path, options: EngineOptions) -> Engine:
    with _needing_torch(path):
        from mvdust3r_ros.engines.spann3r.engine import spann3r_engine_from
        from mvdust3r_ros.engines.torch_engine import TorchOptions
    return spann3r_engine_from(
        path, TorchOptions(options.device, options.precision, options.threads)
    )


def _colmap(options: EngineOptions) -> Engine:
    try:
        from mvdust3r_ros.engines.colmap_engine import ColmapEngine
    except ImportError as error:
        raise EngineError(
            "the engine colmap needs pycolmap: pip install 'mvdust3r_ros[colmap]', on Linux for "
            f"x86-64 alone ({error})"
        ) from None
    return ColmapEngine(options.threads)


def _pairwise(source: str, options: EngineOptions) -> Engine:
    with _needing_torch(source):
        from mvdust3r_ros.engines.dust3r.pairwise import PairwiseEngine
    engine = create_engine(source.removeprefix(PAIRS), options)
    return PairwiseEngine(engine, device=options.device, threads=options.threads)


@contextmanager
def _needing_torch(path: str | Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise EngineError(
            f"{path} needs PyTorch: pip install 'mvdust3r_ros[torch]' ({error})"
        ) from None


def _tensorrt(path: Path, options: EngineOptions) -> Engine:
    from mvdust3r_ros.engines.tensorrt_engine import TensorRtEngine

    del options
    return TensorRtEngine(path)


MAKERS: dict[str, Callable[[Path, EngineOptions], Engine]] = {
    "onnx": _onnx, "torch": _torch, "tensorrt": _tensorrt, "mvs": _mvs,
    "dust3r": _dust3r, "spann3r": _spann3r,
}  # fmt: skip
"""Manifest backend -> function that loads such an engine folder."""
