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

"""Map files: Nav2's pgm and yaml, coloured point clouds as ply, trajectories in TUM format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    MapSnapshot,
    MvDust3rError,
    OccupancyGrid,
    Trajectory,
)
from mvdust3r_ros.geometry import AlignmentError, quaternion_xyzw, se3_from_quaternion
from mvdust3r_ros.image_size import ImageSizeError, image_size
from mvdust3r_ros.safe_files import (
    FileError,
    finish_writing,
    read_limited,
    read_yaml,
    write_together,
)

PIXEL_OCCUPIED, PIXEL_FREE, PIXEL_UNKNOWN = 0, 254, 205
"""As written by Nav2's map saver; 205 is just above the lower threshold, (255 - 205) / 255."""
OCCUPIED_THRESH, FREE_THRESH = 0.65, 0.196
"""As written by ROS 1's map_server; at Nav2's own 0.25, the value 205 would be free."""
CELL_OCCUPIED_FROM, CELL_FREE_UP_TO = 65, 25
"""Cells in between are saved as unknown, as by default in Nav2's map saver."""

NO_GRID = (
    "no occupancy grid: the scale is unknown; drive 1 to 2 m with odometry or set "
    "map.camera_height_m"
)
"""Message when a map is saved without its grid."""
MAX_MAP_PIXELS = 100_000_000
"""Bounds memory: 500 m by 500 m at 5 cm, as below."""
MAX_FILE_BYTES = 4 << 30
"""Larger files are not this package's: a grid of 500 m by 500 m at 5 cm, 200 million points."""

PLY_FIELDS = {"x": "<f4", "y": "<f4", "z": "<f4", "red": "u1", "green": "u1", "blue": "u1"}
PLY_VERTEX = np.dtype([*PLY_FIELDS.items(), ("confidence", "<f4")])
PLY_TYPES = {"<f4": "float", "|u1": "uchar"}
PLY_DTYPES = {"float": "<f4", "float32": "<f4", "uchar": "u1", "uint8": "u1", "double": "<f8"}


class MapFileError(MvDust3rError):
    """A map, cloud or trajectory cannot be written or read."""


class Cloud(NamedTuple):
    """A coloured point cloud.

    Attributes:
        points: (N, 3) float32, metres.
        colors_rgb: (N, 3) uint8.
        conf: (N,) float32.
    """

    points: FloatArray
    colors_rgb: ImageArray
    conf: FloatArray


def save_map(
    snapshot: MapSnapshot, directory: Path, stem: str, extra: Mapping[str, bytes] | None = None
) -> list[Path]:
    """Write all files of a map atomically, each complete or not at all.

    `stem.pgm` and `stem.yaml` are as written by nav2_map_server's saver in trinary mode.
    `stem.ply` has the cloud with confidences, `stem.tum` the camera-to-map poses of the keyframes.
    A grid of unknown scale is not written, since its readers would assume metres, and that of an
    earlier map with this name is removed.

    Args:
        snapshot: the map.
        directory: created if missing.
        stem: file name without extension, no path.
        extra: suffix -> content of further files of the map.

    Returns:
        The paths, in the order pgm, yaml, ply, tum, and `extra`; without the first two if the
        snapshot's gate is closed.

    Raises:
        MapFileError: no window has been committed yet, the stem has a path, or the disk fails.
    """
    if snapshot.grid is None and (snapshot.gate_open or not len(snapshot.trajectory)):
        raise MapFileError("there is no map to save yet: no window has been committed")
    if not stem or Path(stem).name != stem or stem.startswith("."):
        raise MapFileError(f"map name {stem!r} must be a plain file name without a path")
    cloud = Cloud(snapshot.points_map, snapshot.colors_rgb, snapshot.conf)
    grid = snapshot.grid if snapshot.gate_open else None
    of_grid = (f"{stem}.pgm", f"{stem}.yaml")
    contents: dict[str, bytes] = {}
    if grid is not None:
        image, description = of_grid
        contents[image] = _pgm_bytes(grid)
        contents[description] = _map_yaml(grid, image).encode()
    contents[f"{stem}.ply"] = _ply_bytes(cloud)
    contents[f"{stem}.tum"] = _tum_text(snapshot.trajectory).encode()
    contents.update({f"{stem}.{suffix}": data for suffix, data in (extra or {}).items()})
    paths = _write_together(directory, contents)
    if grid is None:
        _remove(directory / name for name in of_grid)
    return paths


def _remove(paths: Iterable[Path]) -> None:
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise MapFileError(
            f"{error.filename} belongs to an earlier map and cannot be removed: {error.strerror}"
        ) from None


def write_ply(path: Path, cloud: Cloud) -> None:
    """Write a cloud as binary ply: x y z float, red green blue uchar, confidence float."""
    _write_together(path.parent, {path.name: _ply_bytes(cloud)})


def write_file(path: Path, content: bytes) -> None:
    """Write one file, which appears complete or not at all.

    Raises:
        MapFileError: the disk.
    """
    _write_together(path.parent, {path.name: content})


def write_tum(path: Path, trajectory: Trajectory) -> None:
    """Write `timestamp tx ty tz qx qy qz qw` lines, seconds and metres with nine decimals."""
    _write_together(path.parent, {path.name: _tum_text(trajectory).encode()})


def _write_together(directory: Path, contents: Mapping[str, bytes]) -> list[Path]:
    try:
        return write_together(directory, contents)
    except FileError as error:
        raise MapFileError(str(error)) from None


def _pgm_bytes(grid: OccupancyGrid) -> bytes:
    pixels: ImageArray = np.full(grid.cells.shape, PIXEL_UNKNOWN, np.uint8)
    pixels[(grid.cells >= 0) & (grid.cells <= CELL_FREE_UP_TO)] = PIXEL_FREE
    pixels[(grid.cells >= CELL_OCCUPIED_FROM) & (grid.cells <= 100)] = PIXEL_OCCUPIED
    rows, cols = pixels.shape
    return f"P5\n{cols} {rows}\n255\n".encode() + pixels[::-1].tobytes()


def _map_yaml(grid: OccupancyGrid, image: str) -> str:
    x, y = grid.origin_xy_m
    return (
        f"image: {_yaml_text(image)}\nmode: trinary\nresolution: {grid.resolution_m:.6g}\n"
        f"origin: [{_plain(x)}, {_plain(y)}, 0]\nnegate: 0\n"
        f"occupied_thresh: {OCCUPIED_THRESH}\nfree_thresh: {FREE_THRESH}\n"
    )


def _plain(metres: float) -> str:
    return f"{round(float(metres), 3) + 0.0:.3f}"


def _yaml_text(value: str) -> str:
    return str(yaml.safe_dump(value, allow_unicode=True, width=10**6)).split("\n...")[0].strip()


def load_occupancy(yaml_path: Path) -> OccupancyGrid:
    """Read a map like nav2_map_server, with all of its modes, image formats and thresholds.

    Args:
        yaml_path: the map's yaml; a relative image path is relative to it.

    Returns:
        The grid, values 0 to 100 and -1.

    Raises:
        MapFileError: a missing file or key, a value of the wrong kind, a rotated origin.
    """
    meta = _read_yaml(yaml_path)
    mode = meta.get("mode", "trinary")
    if mode not in ("trinary", "scale", "raw"):
        raise MapFileError(f"{yaml_path}: mode {mode!r} is not trinary, scale or raw")
    origin = _value(meta, "origin", yaml_path)
    if not isinstance(origin, list) or len(origin) != 3:
        raise MapFileError(f"{yaml_path}: origin {origin!r} is not [x, y, yaw]")
    x, y, yaw = (_number(v, "origin", yaml_path) for v in origin)
    if abs(yaw) > 1e-6:
        raise MapFileError(f"{yaml_path}: origin yaw {yaw} rad; rotated maps are not supported")
    resolution = _number(_value(meta, "resolution", yaml_path), "resolution", yaml_path)
    if resolution <= 0:
        raise MapFileError(f"{yaml_path}: resolution {resolution} must be positive")
    low = _number(_value(meta, "free_thresh", yaml_path), "free_thresh", yaml_path)
    high = _number(_value(meta, "occupied_thresh", yaml_path), "occupied_thresh", yaml_path)
    negate = _number(_value(meta, "negate", yaml_path), "negate", yaml_path) != 0
    image = yaml_path.parent / str(_value(meta, "image", yaml_path))
    shade, opaque = _read_shades(image)
    cells = _cells_from_shades(
        shade, opaque, mode, 1.0 - shade if not negate else shade, low, high
    )
    return OccupancyGrid(np.ascontiguousarray(cells[::-1]), resolution, (x, y))


def _cells_from_shades(
    shade: FloatArray,
    opaque: FloatArray,
    mode: str,
    occupancy: FloatArray,
    low: float,
    high: float,
) -> Any:
    """Return (rows, cols) int8 cells of an image with shades from 0 (black) to 1 (white)."""
    if mode == "raw":
        raw = np.round(shade * 255)
        return np.where(raw <= 100, raw, -1).astype(np.int8)
    between: FloatArray = np.full(shade.shape, -1.0)
    if mode == "scale":
        span = max(high - low, 1e-9)
        between = np.where(opaque, np.rint((occupancy - low) / span * 100), -1)
        occupancy = np.where(opaque, occupancy, (low + high) / 2)
    cells = np.where(occupancy > high, 100, np.where(occupancy < low, 0, between))
    return cells.astype(np.int8)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        finish_writing(path.parent)
        meta = read_yaml(path)
    except OSError as error:
        raise MapFileError(f"cannot read map {path}: {error.strerror or error}") from None
    except FileError as error:
        raise MapFileError(str(error)) from None
    if not isinstance(meta, dict):
        raise MapFileError(f"{path} holds no map description")
    return meta


def _read_bytes(path: Path, what: str) -> bytes:
    try:
        finish_writing(path.parent)
        return read_limited(path, MAX_FILE_BYTES)
    except OSError as error:
        raise MapFileError(f"cannot read {what} {path}: {error.strerror or error}") from None
    except FileError as error:
        raise MapFileError(str(error)) from None


def _value(meta: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in meta:
        raise MapFileError(f"{path}: key {key!r} is missing")
    return meta[key]


def _number(value: object, key: str, path: Path) -> float:
    if not isinstance(value, (int, float)) or not np.isfinite(value):
        raise MapFileError(f"{path}: {key} {value!r} is not a number")
    return float(value)


def _read_shades(path: Path) -> tuple[FloatArray, Any]:
    """Return (rows, cols) shades from 0 (black) to 1 (white), and a mask of opaque pixels."""
    data = _read_bytes(path, "map image")
    try:
        height, width = image_size(data)
    except ImageSizeError as error:
        raise MapFileError(f"map image {path} cannot be decoded: {error}") from None
    if not 0 < height * width <= MAX_MAP_PIXELS:
        raise MapFileError(
            f"map image {path} has {width}x{height} pixels, allowed are 1 to {MAX_MAP_PIXELS}"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise MapFileError(f"map image {path} cannot be decoded: {error}") from None
    if image is None:
        raise MapFileError(f"map image {path} cannot be decoded")
    shades = image.reshape(*image.shape[:2], -1) / (65535.0 if image.itemsize == 2 else 255.0)
    has_alpha = shades.shape[2] in (2, 4)
    opaque = shades[..., -1] >= 1.0 if has_alpha else np.ones(shades.shape[:2], bool)
    return shades[..., : shades.shape[2] - has_alpha].mean(-1), opaque


def _ply_bytes(cloud: Cloud) -> bytes:
    n = len(cloud.points)
    if not (len(cloud.colors_rgb) == len(cloud.conf) == n):
        raise MapFileError(
            f"cloud has {n} points, {len(cloud.colors_rgb)} colours, {len(cloud.conf)} confidences"
        )
    vertices = np.zeros(n, PLY_VERTEX)
    for axis, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colors_rgb[:, channel]
    vertices["confidence"] = cloud.conf
    properties = "".join(
        f"property {PLY_TYPES[PLY_VERTEX[name].str]} {name}\n" for name in PLY_VERTEX.names or ()
    )
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {n}\n{properties}end_header\n"
    return header.encode() + vertices.tobytes()


def read_ply(path: Path) -> Cloud:
    """Read a binary little-endian ply of coloured points.

    Returns:
        The cloud; if the file has none, colours are 0 and confidences 1.

    Raises:
        MapFileError: another format, or shorter than stated in its header.
    """
    vertices = ply_vertices(path)
    n, names = len(vertices), vertices.dtype.names or ()
    points = np.stack([vertices[k] for k in "xyz"], -1).astype(np.float32)
    colors = np.zeros((n, 3), np.uint8)
    if {"red", "green", "blue"} <= set(names):
        colors = np.stack([vertices[k] for k in ("red", "green", "blue")], -1)
    conf = vertices["confidence"] if "confidence" in names else np.ones(n)
    return Cloud(points, colors, conf.astype(np.float32))


def ply_vertices(path: Path) -> Any:
    """Vertices of a binary little-endian ply, a structured array with x, y and z.

    Raises:
        MapFileError: not such a file, or shorter than its header says.
    """
    head, mark, body = _read_bytes(path, "cloud").partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    if not mark or ["format", "binary_little_endian", "1.0"] not in lines:
        raise MapFileError(f"{path} is not a binary little-endian ply")
    counts = [line[2] for line in lines if line[:2] == ["element", "vertex"] and len(line) > 2]
    fields = [(line[-1], line[1]) for line in lines if line[:1] == ["property"] and len(line) > 1]
    names = [name for name, _ in fields]
    if (
        len(counts) != 1
        or not re.fullmatch(r"\d{1,12}", counts[0])
        or not {"x", "y", "z"} <= set(names)
    ):
        raise MapFileError(f"{path} has no vertices with x, y and z")
    if any(kind not in PLY_DTYPES for _, kind in fields) or len(set(names)) != len(names):
        raise MapFileError(f"{path} has vertex properties that cannot be read: {fields}")
    dtype = np.dtype([(name, PLY_DTYPES[kind]) for name, kind in fields])
    n = int(counts[0])
    if len(body) < n * dtype.itemsize:
        raise MapFileError(f"{path} ends early: {len(body)} of {n * dtype.itemsize} bytes")
    return np.frombuffer(body, dtype, n)


def _tum_text(trajectory: Trajectory) -> str:
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for stamp_ns, T in zip(trajectory.stamps_ns.tolist(), trajectory.T_world_cam, strict=True):
        values = (*T[:3, 3], *quaternion_xyzw(T[:3, :3]))
        sign, magnitude = "-" if stamp_ns < 0 else "", abs(stamp_ns)
        stamp = f"{sign}{magnitude // 10**9}.{magnitude % 10**9:09d}"
        lines.append(" ".join([stamp, *(f"{v:.9f}" for v in values)]))
    return "\n".join(lines) + "\n"


def read_tum(path: Path) -> Trajectory:
    """Read a trajectory in TUM format; timestamps are exact to the nanosecond.

    Returns:
        Camera-to-world poses in file order.

    Raises:
        MapFileError: a line without eight numbers, or timestamps that do not increase.
    """
    try:
        lines = _read_bytes(path, "trajectory").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise MapFileError(f"cannot read trajectory {path}: {error}") from None
    stamps, poses = [], []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            stamp, *values = words
            stamps.append(_stamp_ns(stamp))
            numbers = np.array([float(v) for v in values])
            if len(numbers) != 7:
                raise ValueError(f"{len(words)} numbers")
            poses.append(se3_from_quaternion(numbers[3:], numbers[:3]))
        except (ValueError, OverflowError, InvalidOperation, AlignmentError) as error:
            raise MapFileError(
                f"{path}, line {number}: expected `timestamp tx ty tz qx qy qz qw`, got "
                f"{line.strip()[:80]!r} ({error})"
            ) from None
    if np.any(np.diff(np.array(stamps, np.int64)) <= 0):
        raise MapFileError(f"{path}: the stamps do not increase")
    return Trajectory(np.array(stamps, np.int64), np.array(poses).reshape(-1, 4, 4))


def _stamp_ns(seconds: str) -> int:
    value = Decimal(seconds) * 10**9
    if abs(value) >= 1 << 63:
        raise ValueError(f"{seconds} s are out of range; are these nanoseconds?")
    return int(value.to_integral_value())
