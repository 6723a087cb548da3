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

"""Parse the common forms of intrinsics into a `CameraModel`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import (
    DISTORTION_COUNTS,
    DISTORTION_NAMES,
    MIN_FOCAL_WIDTHS,
    CameraModel,
    FloatArray,
    MvDust3rError,
    pinhole_fault,
)
from mvdust3r_ros.recordings.tables import DECIMAL_COMMA, split_fields

Size = tuple[int, int]
Values = Mapping[str, Any]

MODEL_NAMES = {
    **{name: name for name in DISTORTION_COUNTS},
    **DISTORTION_NAMES,
    "modified_brown_conrady": "plumb_bob",
    **dict.fromkeys(("", "pinhole", "perspective"), ""),
    **dict.fromkeys(("none", "no_distortion", "undistorted", "simple_pinhole"), "none"),
}
"""Model name in a file -> ours; empty if it does not define the distortion, "none" for no
distortion."""
WIDTHS = ("image_width", "width", "w", "cols")
HEIGHTS = ("image_height", "height", "h", "rows")
MATRICES = (
    "camera_matrix",
    "cameramatrix",
    "intrinsic_matrix",
    "k",
    "m1",
    "camera_intrinsic",
    "intrinsics_matrix",
    "intrinsic",
    "intrinsics",
)
COEFFICIENTS = (
    "distortion_coefficients",
    "distortion_coeffs",
    "distcoeffs",
    "distortioncoefficients",
    "dist_coeffs",
    "coeffs",
    "d",
    "d1",
    "distortion",
)
NUMBERED = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
NUMBERED_FISHEYE = ("k1", "k2", "k3", "k4")
CAMERA_MODELS = ("pinhole", "opencv", "full_opencv", "perspective", "simple_pinhole", "rectified")
PARTS = ("camera", "cam", "intrinsics", "projection_parameters", "distortion_parameters")
"""Keys under which some formats nest the numbers of one camera."""
PINHOLE = (
    ("fx", "fl_x", "focal_x"),
    ("fy", "fl_y", "focal_y"),
    ("cx", "ppx", "c_x", "principal_x"),
    ("cy", "ppy", "c_y", "principal_y"),
)
MAX_SKEW = 1e-3
"""Share of the focal length; OpenCV's models have no skew. In an image of 1000 pixels it moves no
point by more than about one pixel."""
OTHER_SIZE = 0.2
"""If the centre is off the middle by more than this share, alike in both directions, the matrix is
of another image size: for half the size it is off by 0.5."""
COLMAP_CENTRE_PX = 0.5
"""COLMAP's pixel centres are at one half, ours and OpenCV's at integers."""


EXPECTED = (
    "expected image_width, image_height and camera_matrix as ROS's camera calibration writes them"
)
MAX_SIDE = 1 << 16
"""Bounds hostile files: one more than the longest side of a JPEG (16 bits)."""


class CameraFormError(MvDust3rError):
    """Intrinsics are incomplete or of an unsupported kind."""


def pinhole_matrix(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    """Return the (3, 3) pinhole matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def camera_of(
    K: FloatArray, size_wh: Size, coefficients: Sequence[float], model: str
) -> CameraModel:
    """Make a camera with a supported model and its number of coefficients.

    Raises:
        CameraFormError: the model is unknown, or the coefficients do not fit it.
        FrameError: the matrix is not that of a pinhole camera.
    """
    _check_matrix(K, size_wh)
    name = re.sub(r"[^a-z0-9]+", "_", model.strip().lower()).strip("_")
    known = MODEL_NAMES.get(name)
    values = tuple(float(c) for c in coefficients)
    if not any(values) and (known is not None or "brown" in name):
        return CameraModel(K, *size_wh)
    if known is None:
        raise CameraFormError(
            f"distortion model {model!r} is not known; use {', '.join(DISTORTION_COUNTS)}, or "
            "undistort the images and leave the coefficients out"
        )
    if known == "none":
        raise CameraFormError(f"distortion model {model!r}, but coefficients that are not zero")
    known = known or "plumb_bob"
    counts = DISTORTION_COUNTS[known]
    while len(values) not in counts and values[-1] == 0:  # zeros that pad an array
        values = values[:-1]
    if len(values) not in counts:
        wanted = " or ".join(str(n) for n in counts)
        raise CameraFormError(
            f"{known} takes {wanted} coefficients, there are {len(coefficients)}"
        )
    if known == "plumb_bob" and len(values) >= 8:  # OpenCV: k1 k2 p1 p2 k3 and k4 to k6
        known = "rational_polynomial"
    return CameraModel(K, *size_wh, values, known)


def _check_matrix(K: FloatArray, size_wh: Size) -> None:
    """Raise CameraFormError for a matrix impossible for images of this size."""
    if 0 < K[0, 0] < MIN_FOCAL_WIDTHS * size_wh[0]:
        raise CameraFormError(
            f"a focal length of {K[0, 0]:g} pixels in images of {size_wh[0]} columns: is the "
            "matrix normalised, or in millimetres? It has to be in pixels"
        )
    if 0 < K[0, 2] <= 1 < size_wh[0] / 2 and 0 < K[1, 2] <= 1 < size_wh[1] / 2:
        raise CameraFormError(
            f"a centre of {K[0, 2]:g}, {K[1, 2]:g} pixels: is it normalised? Multiply it with the "
            "size of the image"
        )
    if abs(K[0, 1]) > MAX_SKEW * abs(K[0, 0]):
        raise CameraFormError(
            f"the matrix has a skew of {K[0, 1]:g} pixels: calibrate without skew, as OpenCV does"
        )
    if fault := pinhole_fault(K, *size_wh):
        numbers = ", ".join(f"{v:g}" for v in K[[0, 1, 0, 1], [0, 1, 2, 2]])
        raise CameraFormError(f"the matrix {fault} (fx, fy, cx, cy = {numbers})")


def _check_images(K: FloatArray, size_wh: Size) -> None:
    """Raise CameraFormError if a matrix without a size seems to be of another size."""
    x, y = (2 * K[k, 2] / (size_wh[k] - 1) for k in (0, 1))
    if min(abs(x - 1), abs(y - 1)) > OTHER_SIZE and abs(x / y - 1) < OTHER_SIZE:
        raise CameraFormError(
            f"its centre {K[0, 2]:g}, {K[1, 2]:g} is that of images of about "
            f"{2 * K[0, 2] + 1:.0f}x{2 * K[1, 2] + 1:.0f} pixels, these have "
            f"{size_wh[0]}x{size_wh[1]}: scale the matrix, or add image_width and image_height"
        )


def from_values(values: Values, size_wh: Size | None, hint: str = "") -> CameraModel:
    """Make a camera from YAML or JSON: ROS, OpenCV, Kalibr, ORB-SLAM, RealSense, NeRF.

    Args:
        values: keys and values of the file.
        size_wh: size of the images, if the file does not give it.
        hint: path of the images, which identifies a camera of Kalibr.

    Raises:
        CameraFormError: something is missing, or there are several cameras.
        FrameError: the matrix is not that of a pinhole camera.
    """
    cameras = {k: v for k, v in values.items() if re.fullmatch(r"cam\d+", str(k))}
    if cameras:
        return from_values(_chosen(cameras, hint), size_wh, hint)
    values = _flattened(values)
    _check_whole(values)
    own_size = _size(values)
    size = own_size or size_wh
    if size is None:
        raise CameraFormError("no size of the image: add image_width and image_height")
    model = _model(values)
    K = _matrix(values, size)
    coefficients = _coefficients(values, is_fisheye=model == "equidistant")
    camera = camera_of(K, size, coefficients, model)
    if own_size is None:
        _check_images(K, size)
    return camera


def _flattened(values: Values) -> dict[str, Any]:
    """Flatten the numbers of one camera, with lower-case keys and without its name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace(".", "_").lower()
        if name not in ("camera_matrix", "camera_model", "camera_type"):
            name = re.sub(r"^camera1?_", "", name)
        if isinstance(value, Mapping) and name in PARTS and "data" not in value:
            flat = {**_flattened(value), **flat}
        else:
            flat.setdefault(name, value)
    return flat


def _model(values: Values) -> str:
    """Return the name of the distortion model; empty for none.

    Raises:
        CameraFormError: it is not a pinhole camera.
    """
    named = values.get("distortion_model") or values.get("model")
    camera = str(
        _first(values, ("camera_model", "camera_type", "model_type")) or "pinhole"
    ).lower()
    flag = str(values.get("is_fisheye") or values.get("fisheye_model") or 0).lower()
    if "fisheye" in camera or "kannala" in camera or flag not in ("0", "false"):
        return str(named or "equidistant")
    if camera not in CAMERA_MODELS:
        raise CameraFormError(f"camera model {camera!r} is not known; use a pinhole model")
    return str(named or "")


def _chosen(cameras: Values, hint: str) -> Values:
    """Return the camera of a rig that took the images."""
    named = [name for name in cameras if name in re.split(r"[/\\_.-]", hint)]
    if len(cameras) > 1 and len(named) != 1:
        raise CameraFormError(
            f"several cameras ({', '.join(cameras)}): keep that of the images in the file, or "
            "name the folder after it"
        )
    found: Values = cameras[named[0] if named else next(iter(cameras))]
    if not isinstance(found, Mapping):
        raise CameraFormError("a camera without values")
    return found


def _check_whole(values: Values) -> None:
    """Raise CameraFormError for intrinsics with binning or a region of interest."""
    roi = values.get("roi") or {}
    binned = any(_number(values.get(name)) > 1 for name in ("binning_x", "binning_y"))
    if isinstance(roi, Mapping) and _number(roi.get("width")) > 0:
        place = [_number(roi.get(name)) for name in ("x_offset", "y_offset", "width", "height")]
        binned |= place != [0, 0, *(_size(values) or ())]
    if binned:
        raise CameraFormError(
            "with binning or a region of interest; write K of the images themselves"
        )


def _number(value: Any) -> float:
    """Return one number; 0 for None.

    Raises:
        CameraFormError: it is not a number, or several.
    """
    numbers = [0.0] if value is None else _flat(value)
    if len(numbers) != 1:
        raise CameraFormError(f"expected one number, got {str(value)[:60]!r}")
    return numbers[0]


def _first(values: Values, names: Sequence[str]) -> Any:
    return next((values[name] for name in names if name in values), None)


def _size(values: Values) -> Size | None:
    """Return width and height in pixels; None if not given.

    Raises:
        CameraFormError: they are not an image size.
    """
    both = _first(values, ("resolution", "image_size", "imagesize", "img_size"))
    numbers = _flat(both) if isinstance(both, (list, tuple, str)) else []
    if len(numbers) != 2:
        numbers = [_number(_first(values, names)) for names in (WIDTHS, HEIGHTS)]
    if not all(0 <= n <= MAX_SIDE and n == int(n) for n in numbers):
        raise CameraFormError(f"an image of {numbers[0]:g}x{numbers[1]:g} pixels")
    return (int(numbers[0]), int(numbers[1])) if min(numbers) > 0 else None


def _flat(value: Any) -> list[float]:
    """Return the numbers of a number, a text, a list, nested lists, or a matrix with `data`."""
    if isinstance(value, Mapping):
        value = value.get("data")
    if isinstance(value, (list, tuple)):
        return [number for one in value for number in _flat(one)]
    try:
        if isinstance(value, str):
            text = value.strip(" []")
            text = text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else text
            return [float(word) for word in split_fields(text)]
        if isinstance(value, bool):
            raise TypeError
        return [float(value)]
    except (TypeError, ValueError, OverflowError):
        raise CameraFormError(f"expected numbers, got {str(value)[:60]!r}") from None


def _matrix(values: Values, size_wh: Size) -> FloatArray:
    """Return a (3, 3) pinhole matrix from a matrix, named numbers, or the angle of view."""
    given = _first(values, MATRICES)
    if given is not None:
        return matrix_of(_flat(given))
    if "angle_x" in values and not any(name in values for name in PINHOLE[0]):
        f = size_wh[0] / 2 / float(np.tan(_number(values["angle_x"]) / 2))
        return pinhole_matrix(f, f, (size_wh[0] - 1) / 2, (size_wh[1] - 1) / 2)
    found = []
    for names in PINHOLE:
        value = _first(values, names)
        if value is None:
            raise CameraFormError(f"{EXPECTED}, or {names[0]} and its like")
        found.append(_number(value))
    K = pinhole_matrix(*found)
    if "frames" in values:  # NeRF uses COLMAP's pixel centres
        K[:2, 2] -= COLMAP_CENTRE_PX
    return K


def matrix_of(numbers: Sequence[float]) -> FloatArray:
    """Make a (3, 3) pinhole matrix of 4 (fx fy cx cy), 9, 12 or 16 numbers, by rows or columns.

    Raises:
        CameraFormError: they are not such a matrix.
    """
    if len(numbers) == 4:
        return pinhole_matrix(*numbers)
    if len(numbers) not in (9, 12, 16):
        raise CameraFormError(
            f"a camera matrix has 9 numbers, or 4 (fx fy cx cy), there are {len(numbers)}"
        )
    width = {9: 3, 12: 4, 16: 4}[len(numbers)]
    K = np.array(numbers, float).reshape(-1, width)[:3, :3]
    if K[2, 0] > 0 and K[0, 2] == 0:
        K = K.T.copy()
    if not np.allclose(K[2], (0, 0, 1)) or K[1, 0] != 0:
        raise CameraFormError(f"{numbers} is no camera matrix (fx 0 cx, 0 fy cy, 0 0 1)")
    return K


def _coefficients(values: Values, *, is_fisheye: bool) -> list[float]:
    given = _first(values, COEFFICIENTS)
    is_name = isinstance(given, str) and re.fullmatch(r"[A-Za-z_ -]*", given)
    if given is not None and not is_name:
        data = given.get("data") if isinstance(given, Mapping) else given
        if data is None:
            raise CameraFormError("the distortion coefficients have no data; write [] for none")
        return _flat(data)
    names = NUMBERED_FISHEYE if is_fisheye else NUMBERED
    found = [_number(values.get(name)) for name in names]
    used = max((k for k, value in enumerate(found, 1) if value), default=0)
    return found[: 4 if used <= 4 else 5 if used == 5 else 8]  # the counts that OpenCV accepts


def from_numbers(numbers: Sequence[float], size_wh: Size | None) -> CameraModel:
    """Make a camera from a matrix alone, or from `fx fy cx cy` and 0, 4 or 5 coefficients.

    Raises:
        CameraFormError: the image size is unknown, or the numbers have none of these forms.
        FrameError: the matrix is not that of a pinhole camera.
    """
    if size_wh is None:
        raise CameraFormError("no size of the image, and no image to take it from")
    # Four numbers and 4 or 5 coefficients; the fourth number of a matrix is 0.
    is_line = len(numbers) == 8 or (len(numbers) == 9 and numbers[3] != 0)
    if is_line:
        K, coefficients = pinhole_matrix(*numbers[:4]), numbers[4:]
    else:
        K, coefficients = matrix_of(numbers), ()
    camera = camera_of(K, size_wh, coefficients, "plumb_bob")
    _check_images(K, size_wh)
    return camera


COLMAP: dict[str, tuple[int, Callable[[list[float]], tuple[list[float], list[float], str]]]] = {
    "SIMPLE_PINHOLE": (3, lambda p: ([p[0], *p], [], "")),
    "PINHOLE": (4, lambda p: (p, [], "")),
    "SIMPLE_RADIAL": (4, lambda p: ([p[0], *p[:3]], [p[3], 0, 0, 0], "plumb_bob")),
    "RADIAL": (5, lambda p: ([p[0], *p[:3]], [*p[3:], 0, 0], "plumb_bob")),
    "OPENCV": (8, lambda p: (p[:4], p[4:], "plumb_bob")),
    "FULL_OPENCV": (12, lambda p: (p[:4], p[4:], "rational_polynomial")),
    "SIMPLE_RADIAL_FISHEYE": (4, lambda p: ([p[0], *p[:3]], [p[3], 0, 0, 0], "equidistant")),
    "RADIAL_FISHEYE": (5, lambda p: ([p[0], *p[:3]], [*p[3:], 0, 0], "equidistant")),
    "OPENCV_FISHEYE": (8, lambda p: (p[:4], p[4:], "equidistant")),
}
"""COLMAP's model -> number of parameters, and their split into fx fy cx cy, coefficients and
model."""


def from_colmap(lines: Sequence[Sequence[str]]) -> CameraModel:
    """Make the camera of COLMAP's cameras.txt: `ID MODEL WIDTH HEIGHT PARAMETERS`.

    Raises:
        CameraFormError: several cameras, or an unknown model.
        FrameError: the matrix is not that of a pinhole camera.
    """
    if len(lines) != 1:
        raise CameraFormError(f"{len(lines)} cameras: keep the line of that of the images")
    _, model, width, height, *parameters = lines[0]
    if model not in COLMAP:
        raise CameraFormError(f"COLMAP's model {model} is not known; use {', '.join(COLMAP)}")
    count, split = COLMAP[model]
    numbers = [float(p) for p in parameters]
    if len(numbers) != count:
        raise CameraFormError(f"{model} takes {count} parameters, there are {len(numbers)}")
    (fx, fy, cx, cy), coefficients, own = split(numbers)
    K = pinhole_matrix(fx, fy, cx - COLMAP_CENTRE_PX, cy - COLMAP_CENTRE_PX)
    return camera_of(K, (int(width), int(height)), coefficients, own)
