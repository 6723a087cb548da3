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

"""The manifest of an engine folder: what the network is, how to run it, which files it needs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mvdust3r_ros.config import ConfigError, KeyframeDefaults
from mvdust3r_ros.engines.base import SIDE_MULTIPLE, EngineError, EngineInfo
from mvdust3r_ros.safe_files import FileError, read_yaml

MANIFEST_NAME = "manifest.yaml"
MANIFEST_VERSION = 1
"""Increases with each change that makes older engine folders unreadable."""
OPSET = 17
"""ONNX operator set: the first with layer normalisation as a single node."""
GAUSSIAN_OUTPUTS = ("opacity", "scale", "rotation")
"""Outputs of a decoder with Gaussians, in addition to points and confidence."""
BACKENDS = ("onnx", "torch", "tensorrt", "mvs", "dust3r", "spann3r")

CONFIDENCE_NAMES = ("min_conf", "conf_quantile", "point_rel_sigma")


@dataclass(frozen=True)
class EngineManifest:
    """Contents of `manifest.yaml`.

    Attributes:
        name: name of the model, shown to people.
        backend: one of `BACKENDS`.
        image_hw: height and width of the views, in pixels, as in `EngineInfo`.
        n_ref: default number of reference paths.
        paths: number of paths whose pointmaps are returned; 0 for all.
        intrinsics: True when intrinsics of the views are used.
        skip: True when the point heads read the images again.
        gaussians: True when the decoder returns Gaussians too.
        metric: whether pointmaps are in metres.
        rel_error: measured typical point error over distance; 0 when unknown.
        licence: SPDX identifier of the weights; empty when unknown.
        precision: precision of matrix products: "fp32", "fp16" or "bf16".
        min_views: minimum number of views in a window.
        max_views: maximum number of views in a window; 0 for no limit.
        long_side: longer side of views in the camera's aspect, see `EngineInfo`; 0 for none.
        side_multiple: with `long_side`, both sides are multiples of this.
        keyframes: preferred values of the settings `keyframes.*`, keyed by the names in
            `KeyframeDefaults`; missing ones keep their defaults.
        confidence: preferred `min_conf` and `conf_quantile` and lower bound of `point_rel_sigma`
            (settings `map.*`), keyed by these names.
        files: file name -> SHA-256 of every file the engine reads.
        network: the network's configuration, as plain values.
        info: origin of the model: training, metrics, versions.
        build: what a compiled engine depends on (device, versions, self-test).
    """

    name: str
    backend: str
    image_hw: tuple[int, int]
    n_ref: int = 1
    paths: int = 0
    intrinsics: bool = False
    skip: bool = False
    gaussians: bool = False
    metric: bool = False
    rel_error: float = 0.0
    licence: str = ""
    precision: str = "fp32"
    min_views: int = 2
    max_views: int = 0
    long_side: int = 0
    side_multiple: int = SIDE_MULTIPLE
    keyframes: dict[str, Any] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)

    def engine_info(self, detail: str) -> EngineInfo:
        """Describe the engine for its callers; `detail` names where it runs.

        Raises:
            EngineError: a preferred value does not suit its setting, or the sizes do not fit.
        """
        try:
            preferred = KeyframeDefaults(**self.keyframes) if self.keyframes else None
        except (ConfigError, TypeError) as error:
            raise EngineError(f"keyframes of {self.name}: {error}") from None
        return EngineInfo(
            name=f"{self.name} ({detail})",
            backend=self.backend,
            image_hw=self.image_hw,
            n_ref=self.n_ref,
            max_views=self.max_views,
            metric=self.metric,
            rel_error=self.rel_error,
            licence=self.licence,
            long_side=self.long_side,
            side_multiple=self.side_multiple,
            keyframes=preferred,
            min_conf=self.confidence.get("min_conf"),
            conf_quantile=self.confidence.get("conf_quantile"),
            point_rel_sigma=self.confidence.get("point_rel_sigma", 0.0),
            gaussians=self.gaussians,
            intrinsics=self.intrinsics,
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def save_manifest(folder: Path, manifest: EngineManifest) -> Path:
    """Write the manifest, with checksums of the files listed in `manifest.files`.

    Returns:
        The file written.
    """
    files = {name: file_sha256(folder / name) for name in manifest.files}
    values = dataclasses.asdict(dataclasses.replace(manifest, files=files))
    values["image_hw"] = list(manifest.image_hw)
    path = folder / MANIFEST_NAME
    text = yaml.safe_dump({"version": MANIFEST_VERSION} | values, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def load_manifest(
    folder: Path, check_files: bool = True, reads: Sequence[str] = ()
) -> EngineManifest:
    """Read the manifest of an engine folder.

    Args:
        folder: contains `manifest.yaml` and the files it lists.
        check_files: True to verify file checksums.
        reads: files the caller will read; each must be listed, so that its checksum is verified.

    Raises:
        EngineError: the folder or manifest is missing, a version or field is unknown, or a file is
            missing or differs from the one the manifest was written for.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise EngineError(
            f"{folder} is no engine folder: it has no {MANIFEST_NAME}; "
            "`mvdust3r_ros engine export --weights FILE --out DIR` makes one"
        )
    try:
        values = read_yaml(path)
    except (OSError, FileError) as error:
        raise EngineError(f"cannot read {path}: {error}") from None
    manifest = _manifest_from(values, path)
    unlisted = [name for name in reads if name not in manifest.files]
    if unlisted:
        raise EngineError(f"{path} lists no checksum of {', '.join(unlisted)}; export it again")
    if check_files:
        check_checksums(folder, manifest)
    return manifest


def check_checksums(folder: Path, manifest: EngineManifest) -> None:
    """Raise EngineError if a file is missing or differs from the exported one."""
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise EngineError(f"{folder / MANIFEST_NAME} lists {name!r}, which is no plain name")
        file = folder / name
        if not file.is_file():
            raise EngineError(
                f"{file} is missing; copy the whole engine folder or export it again"
            )
        if file_sha256(file) != expected:
            raise EngineError(
                f"{file} is damaged or was changed: its checksum is not the manifest's"
            )


def _manifest_from(values: object, path: Path) -> EngineManifest:
    if not isinstance(values, Mapping) or values.get("version") != MANIFEST_VERSION:
        version = values.get("version") if isinstance(values, Mapping) else None
        raise EngineError(f"{path}: version {version!r}, expected {MANIFEST_VERSION}")
    fields = {spec.name: spec for spec in dataclasses.fields(EngineManifest)}
    given = {k: v for k, v in values.items() if k != "version"}
    unknown = [k for k in given if k not in fields]
    if unknown:
        raise EngineError(f"{path}: unknown field {unknown[0]!r}; known: {', '.join(fields)}")
    wrong = [k for k, v in given.items() if not _suits(v, str(fields[k].type))]
    if wrong:
        raise EngineError(f"{path}: {wrong[0]} must be of type {fields[wrong[0]].type}")
    try:
        height, width = given["image_hw"]
        manifest = EngineManifest(**{**given, "image_hw": (int(height), int(width))})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise EngineError(f"{path}: incomplete or malformed: {error}") from None
    if manifest.backend not in BACKENDS:
        raise EngineError(f"{path}: backend {manifest.backend!r} is not one of {BACKENDS}")
    if more := sorted(set(manifest.confidence) - set(CONFIDENCE_NAMES)):
        raise EngineError(f"{path}: confidence.{more[0]}; known: {', '.join(CONFIDENCE_NAMES)}")
    try:
        manifest.engine_info(manifest.backend)
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from None
    return manifest


def _suits(value: object, annotation: str) -> bool:
    """Whether a plain value has the type declared by a manifest field."""
    if annotation.startswith("tuple"):
        return isinstance(value, list)
    if annotation == "dict[str, str]":
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    if annotation == "dict[str, float]":
        return isinstance(value, dict) and all(_suits(v, "float") for v in value.values())
    if annotation == "float":
        return isinstance(value, float) and math.isfinite(value)
    kinds = {"str": str, "int": int, "bool": bool}
    return type(value) is kinds.get(annotation, dict)
