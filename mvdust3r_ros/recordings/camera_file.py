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

"""Read intrinsics from files of ROS, OpenCV, Kalibr, COLMAP and common data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from mvdust3r_ros.datatypes import CameraModel, FrameError
from mvdust3r_ros.recordings.camera_forms import (
    EXPECTED,
    CameraFormError,
    Size,
    from_colmap,
    from_numbers,
    from_values,
)
from mvdust3r_ros.recordings.recording import RecordingError
from mvdust3r_ros.recordings.tables import TableError, is_number, read_text, split_fields
from mvdust3r_ros.safe_files import MAX_YAML_BYTES, FileError, parse_yaml

CAMERA_FILES = (
    *(f"{stem}.{suffix}" for stem in ("intrinsics", "camera_info", "camera", "calibration")
      for suffix in ("yaml", "yml", "json", "txt")),
    "camchain.yaml", "sensor.yaml", "ost.yaml", "K.txt", "cameras.txt",
)  # fmt: skip
COLMAP_LINE = re.compile(r"\s*\d+\s+[A-Z_]+(\s+[-+.\deE]+){4,}\s*")
ASSIGNMENT = re.compile(r"^\s*([A-Za-z_]\w*)\s*[=:]?\s+([-+.\deE]+)\s*$|^\s*(\w+)\s*=\s*(\S+)\s*$")


def sidecar_camera_file(place: Path) -> Path | None:
    """Return an intrinsics file in a folder, or next to a folder or file; None without one."""
    folders = (place, place.resolve().parent)
    paths = (folder / name for folder in folders for name in CAMERA_FILES)
    return next((path for path in paths if path.is_file()), None)


def sidecar_camera(place: Path, size_wh: Size | None = None) -> CameraModel | None:
    """Read intrinsics in a folder, or next to a folder or file; None without any.

    Raises:
        RecordingError: the file exists, but cannot be used.
    """
    found = sidecar_camera_file(place)
    return None if found is None else read_camera(found, size_wh, str(place))


def read_camera(path: Path, size_wh: Size | None = None, images: str = "") -> CameraModel:
    """Read intrinsics from a calibration file.

    Args:
        path: YAML or JSON of ROS (calibration, or `ros2 topic echo` of camera_info), OpenCV,
            Kalibr, EuRoC, ORB-SLAM, RealSense or Open3D; COLMAP's cameras.txt; a matrix of 3x3 or
            4x4; or a line `fx fy cx cy`, optionally followed by the coefficients k1 k2 p1 p2 k3.
        size_wh: size of the images, for files without one.
        images: path of the images, which identifies a camera of a rig.

    Raises:
        RecordingError: it cannot be read, is for images of another size, or is incomplete.
    """
    try:
        camera = _parsed(path, size_wh, images)
    except TableError as error:
        raise RecordingError(f"intrinsics {error}") from None
    except (FileError, FrameError, CameraFormError, ValueError) as error:
        raise RecordingError(f"intrinsics {path}: {error}") from None
    if size_wh is not None and (camera.width, camera.height) != size_wh:
        raise RecordingError(
            f"intrinsics {path} are for {camera.width}x{camera.height} pixels, the images have "
            f"{size_wh[0]}x{size_wh[1]}: calibrate at this size, or scale the matrix with it"
        )
    return camera


def _parsed(path: Path, size_wh: Size | None, images: str) -> CameraModel:
    text = read_text(path)
    if len(text) > MAX_YAML_BYTES:
        raise FileError(f"larger than {MAX_YAML_BYTES} bytes")
    if text.lstrip().startswith("<"):
        raise CameraFormError("XML is not read; let OpenCV write YAML")
    lines = [line for line in (raw.split("#")[0] for raw in text.splitlines()) if line.strip()]
    if lines and all(COLMAP_LINE.fullmatch(line) for line in lines):
        return from_colmap([line.split() for line in lines])
    words = [word for line in lines for word in split_fields(line.strip(" [],\t"))]
    if words and all(map(is_number, words)):
        return from_numbers([float(word) for word in words], size_wh)
    return from_values(_values(text, lines, path), size_wh, images or str(path))


def _values(text: str, lines: list[str], path: Path) -> Mapping[str, object]:
    """Return keys and values of YAML, JSON, or lines such as `fx = 500`."""
    if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FileError(f"is no JSON: {error}") from None
    elif lines and all(ASSIGNMENT.match(line) for line in lines):
        found = [ASSIGNMENT.match(line) for line in lines]
        values = {m[1] or m[3]: parse_yaml(m[2] or m[4]) for m in found if m is not None}
    else:
        # OpenCV's first line is not YAML; `ros2 topic echo` separates messages by three dashes.
        plain = re.sub(r"\A\s*%YAML[:\s][^\n]*\n", "", text)
        parts = [part for part in re.split(r"(?m)^---[^\n]*$", plain) if part.strip()]
        try:
            values = parse_yaml(parts[0]) if parts else None
        except FileError as error:
            raise CameraFormError(f"{error}; {EXPECTED}") from None
    if not isinstance(values, Mapping):
        raise CameraFormError(EXPECTED)
    return values
