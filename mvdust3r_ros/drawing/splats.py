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

"""The map as 3-D Gaussians, and the PLY that viewers of Gaussian splats open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError
from mvdust3r_ros.drawing.map_files import MapFileError, ply_vertices, write_file
from mvdust3r_ros.geometry import rotated_wxyz
from mvdust3r_ros.graph.map_keyframe import MapKeyframe

SH_DEGREE_0 = 0.28209479177387814
"""The spherical harmonic of degree 0, 1 / (2 sqrt(pi)): a colour is 0.5 + SH_DEGREE_0 * f_dc."""
SH_REST = 45
"""Coefficients of degrees 1 to 3, all 0 here: readers of the first implementation (Kerbl et al.
2023) refuse a file without them."""
OPACITY_MARGIN = 1e-6
"""Least distance of an opacity from 0 and 1, where its logit is infinite; one of 256 levels is
4e-3."""
NAMES = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2",
    *(f"f_rest_{i}" for i in range(SH_REST)), "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
NEEDED = tuple(name for name in NAMES if not name.startswith(("n", "f_rest")))
SPLAT_VERTEX = np.dtype([(name, "<f4") for name in NAMES])


@dataclass(frozen=True, eq=False)
class Splats:
    """3-D Gaussians of one colour each.

    Attributes:
        means: (N, 3) float32 centres.
        scale: (N, 3) float32 standard deviations along their own axes, positive, unit of the
            centres.
        quat_wxyz: (N, 4) float32 unit quaternions, from own axes to the frame of the centres.
        opacity: (N,) float32 in [0, 1].
        rgb: (N, 3) float32 in [0, 1].
    """

    means: FloatArray
    scale: FloatArray
    quat_wxyz: FloatArray
    opacity: FloatArray
    rgb: FloatArray

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self.means)


def map_splats(keyframes: Sequence[MapKeyframe]) -> Splats:
    """The Gaussians of a map, in its frame, metres.

    Args:
        keyframes: of the map; those without Gaussians are left out.

    Raises:
        MvDust3rError: none of them has Gaussians.
    """
    parts = []
    for item in keyframes:
        own = item.gaussians
        if own is None:
            continue
        parts.append(
            Splats(
                item.points_map(),
                own.scale * np.float32(item.size * item.level),
                rotated_wxyz(item.T_map_cam[:3, :3], own.quat_wxyz),
                own.opacity,
                item.colors_rgb.astype(np.float32) / 255,
            )
        )
    if not parts:
        raise MvDust3rError("no Gaussians: no keyframe in the map has any")
    names = ("means", "scale", "quat_wxyz", "opacity", "rgb")
    return Splats(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def write_splats(path: Path, splats: Splats) -> None:
    """Write Gaussians as viewers expect them.

    Binary little-endian PLY with the properties of the first implementation (Kerbl et al. 2023):
    colours as harmonics, opacity as logit, scale as logarithm, rotation w first.

    Raises:
        MapFileError: the disk.
    """
    vertices = np.zeros(len(splats), SPLAT_VERTEX)
    opacity = np.clip(splats.opacity.astype(np.float64), OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    columns = {
        ("x", "y", "z"): splats.means,
        ("f_dc_0", "f_dc_1", "f_dc_2"): (splats.rgb - 0.5) / SH_DEGREE_0,
        ("opacity",): np.log(opacity / (1 - opacity))[:, None],
        ("scale_0", "scale_1", "scale_2"): np.log(splats.scale),
        ("rot_0", "rot_1", "rot_2", "rot_3"): splats.quat_wxyz,
    }
    for names, values in columns.items():
        for name, column in zip(names, values.T, strict=True):
            vertices[name] = column
    properties = "".join(f"property float {name}\n" for name in NAMES)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(splats)}\n{properties}"
        "end_header\n"
    )
    write_file(path, header.encode() + vertices.tobytes())


def read_splats(path: Path) -> Splats:
    """Read what `write_splats` or another tool wrote; colours that depend on the view are dropped.

    Raises:
        MapFileError: not such a file, shorter than its header says, or with values that are no
            Gaussians.
    """
    vertices = ply_vertices(path)
    names = set(vertices.dtype.names or ())
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise MapFileError(f"{path} holds no Gaussians: property {missing[0]} is missing")

    def columns(*wanted: str) -> FloatArray:
        return np.stack([vertices[name] for name in wanted], -1).astype(np.float32)

    quats = columns("rot_0", "rot_1", "rot_2", "rot_3")
    length = np.linalg.norm(quats, axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        scale = np.exp(columns("scale_0", "scale_1", "scale_2"))
        opacity = 1 / (1 + np.exp(-columns("opacity")[:, 0]))
        quats = quats / np.maximum(length, np.finfo(np.float32).tiny)
    means = columns("x", "y", "z")
    rgb = np.clip(0.5 + SH_DEGREE_0 * columns("f_dc_0", "f_dc_1", "f_dc_2"), 0, 1)
    finite = all(np.isfinite(part).all() for part in (means, scale, opacity, quats, rgb))
    if not finite or not (length > 0).all():
        raise MapFileError(f"{path} holds values that are no Gaussians")
    return Splats(means, scale, quats, opacity, rgb)
