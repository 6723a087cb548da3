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

"""The forms in which people keep intrinsics, each to a `CameraModel`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, MvDust3rError

Size = tuple[int, int]
Values = Mapping[str, Any]

MODELS = {
    "plumb_bob": (4, 5, 8),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
"""Models of distortion and how many coefficients they take; plumb_bob with 8 is rational."""
MODEL_NAMES = {
    "plumb_bob": (
        "plumb_bob",
        "plumbbob",
        "radtan",
        "radial_tangential",
        "brown_conrady",
        "opencv",
        "pinhole_radial_tangential",
        "brown",
        "modified_brown_conrady",
    ),
    "rational_polynomial": ("rational_polynomial", "rational", "full_opencv"),
    "equidistant": (
        "equidistant",
        "fisheye",
        "equi",
        "kannala_brandt",
        "kannala_brandt4",
        "kannalabrandt8",
        "opencv_fisheye",
        "kb4",
    ),
    "": ("", "pinhole", "perspective"),
    "none": ("none", "no_distortion", "undistorted", "simple_pinhole"),
}
WIDTHS = ("image_width", "width", "w", "Camera_width", "Camera1_width")
HEIGHTS = ("image_height", "height", "h", "Camera_height", "Camera1_height")
MATRICES = (
    "camera_matrix",
    "cameraMatrix",
    "CameraMatrix",
    "Camera_Matrix",
    "intrinsic_matrix",
    "K",
    "k",
    "M1",
    "camera_intrinsic",
    "intrinsics_matrix",
    "intrinsic",
)
COEFFICIENTS = (
    "distortion_coefficients",
    "distortion_coeffs",
    "distCoeffs",
    "distortionCoefficients",
    "Distortion_Coefficients",
    "dist_coeffs",
    "coeffs",
    "D",
    "d",
    "D1",
    "distortion",
)
NUMBERED = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
PINHOLE = (
    ("fx", "fl_x", "focal_x"),
    ("fy", "fl_y", "focal_y"),
    ("cx", "ppx", "c_x", "principal_x"),
    ("cy", "ppy", "c_y", "principal_y"),
)
MIN_FOCAL_SHARE = 0.05
COLMAP_CENTRE_PX = 0.5
"""COLMAP's pixel centres are at one half, ours and OpenCV's at whole numbers."""


class CameraFormError(MvDust3rError):
    """Intrinsics are incomplete or of a kind that is not read."""


def pinhole_matrix(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    """(3, 3) pinhole matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def camera_of(
    K: FloatArray, size_wh: Size, coefficients: Sequence[float], model: str
) -> CameraModel:
    """A camera whose model is one that is known, with as many coefficients as it takes.

    Raises:
        CameraFormError: it is not, or has others.
        FrameError: the matrix is none of a pinhole.
    """
    if 0 < K[0, 0] < MIN_FOCAL_SHARE * size_wh[0]:
        raise CameraFormError(
            f"a focal length of {K[0, 0]:g} pixels in images of {size_wh[0]} columns: is the "
            "matrix normalised? Multiply it with the size"
        )
    name = re.sub(r"[^a-z0-9]+", "_", model.strip().lower()).strip("_")
    known = next((own for own, names in MODEL_NAMES.items() if name in names), None)
    values = tuple(float(c) for c in coefficients)
    if not any(values) and (known is not None or "brown" in name):
        return CameraModel(K, *size_wh)
    if known is None:
        raise CameraFormError(
            f"distortion model {model!r} is not known; use {', '.join(MODELS)}, or undistort the "
            "images and leave the coefficients out"
        )
    if known == "none":
        raise CameraFormError(f"distortion model {model!r}, but coefficients that are not zero")
    known = known or "plumb_bob"
    while known == "equidistant" and len(values) > 4 and values[-1] == 0:
        values = values[:-1]
    if len(values) not in MODELS[known]:
        wanted = " or ".join(str(n) for n in MODELS[known])
        raise CameraFormError(f"{known} takes {wanted} coefficients, there are {len(values)}")
    if known == "plumb_bob" and len(values) == 8:
        known = "rational_polynomial"
    return CameraModel(K, *size_wh, values, known)


def from_values(values: Values, size_wh: Size | None, hint: str = "") -> CameraModel:
    """A camera from the keys of YAML or JSON: ROS, OpenCV, Kalibr, ORB-SLAM, RealSense, NeRF.

    Args:
        values: as they stand in the file.
        size_wh: of the images, where the file does not say.
        hint: path of the images, which tells apart the cameras of Kalibr.

    Raises:
        CameraFormError: something is missing, or there are several cameras.
        FrameError: the matrix is none of a pinhole.
    """
    cameras = {k: v for k, v in values.items() if re.fullmatch(r"cam\d+", str(k))}
    if cameras:
        return from_values(_chosen(cameras, hint), size_wh, hint)
    values = {str(k).replace(".", "_"): v for k, v in values.items()}
    _check_whole(values)
    size = _size(values) or size_wh
    if size is None:
        raise CameraFormError("no size of the image: add image_width and image_height")
    coefficients = _coefficients(values)
    model = str(values.get("distortion_model") or values.get("model") or "")
    camera_model = str(
        values.get("camera_model") or values.get("Camera_type") or "pinhole"
    ).lower()
    if "fisheye" in camera_model or "kannala" in camera_model:
        model = model or "equidistant"
    elif camera_model not in ("pinhole", "opencv", "perspective", "simple_pinhole"):
        raise CameraFormError(f"camera model {camera_model!r} is not known; use a pinhole model")
    if model.lower() == "opencv_fisheye":
        model = "equidistant"
    return camera_of(_matrix(values), size, coefficients, model)


def _chosen(cameras: Values, hint: str) -> Values:
    """The camera of a rig that the images are of."""
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
    """Raise CameraFormError for intrinsics of other pixels than those of the image."""
    roi = values.get("roi") or {}
    binned = any(_number(values.get(name)) > 1 for name in ("binning_x", "binning_y"))
    if binned or (isinstance(roi, Mapping) and _number(roi.get("width")) > 0):
        raise CameraFormError(
            "with binning or a region of interest; write K of the images themselves"
        )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _first(values: Values, names: Sequence[str]) -> Any:
    return next((values[name] for name in names if name in values), None)


def _size(values: Values) -> Size | None:
    both = _first(values, ("resolution", "image_size", "imageSize", "img_size"))
    numbers = _flat(both) if both is not None else []
    if len(numbers) != 2:
        numbers = [_number(_first(values, names)) for names in (WIDTHS, HEIGHTS)]
    width, height = (int(n) for n in numbers)
    return (width, height) if width > 0 and height > 0 else None


def _flat(value: Any) -> list[float]:
    """The numbers of a list, a list of lists, or a matrix with `data`."""
    if isinstance(value, Mapping):
        value = value.get("data")
    try:
        return [float(v) for v in np.ravel(np.array(value, float)).tolist()]
    except (TypeError, ValueError):
        raise CameraFormError(f"expected numbers, got {str(value)[:60]!r}") from None


def _matrix(values: Values) -> FloatArray:
    """(3, 3) pinhole matrix of the matrix, the list, or the names of its numbers."""
    given = _first(values, MATRICES)
    if given is None and isinstance(values.get("intrinsics"), (list, tuple)):
        given = values["intrinsics"]
    if given is not None:
        return matrix_of(_flat(given))
    found = []
    for names in PINHOLE:
        every = [f"{prefix}{name}" for prefix in ("", "Camera_", "Camera1_") for name in names]
        value = _first(values, every)
        if value is None:
            raise CameraFormError(
                "expected image_width, image_height and camera_matrix as ROS's camera calibration "
                f"writes them, or {names[0]} and its like"
            )
        found.append(_flat(value)[0])
    return pinhole_matrix(*found)


def matrix_of(numbers: Sequence[float]) -> FloatArray:
    """(3, 3) pinhole matrix of 4 (fx fy cx cy), 9, 12 or 16 numbers, row by row or by columns.

    Raises:
        CameraFormError: they are none.
    """
    if len(numbers) == 4:
        return pinhole_matrix(*numbers)
    if len(numbers) not in (9, 12, 16):
        raise CameraFormError(f"a camera matrix has 9 numbers, there are {len(numbers)}")
    width = {9: 3, 12: 4, 16: 4}[len(numbers)]
    K = np.array(numbers, float).reshape(-1, width)[:3, :3]
    if K[2, 0] > 0 and K[0, 2] == 0:
        K = K.T.copy()
    if not np.allclose(K[2], (0, 0, 1)) or K[1, 0] != 0:
        raise CameraFormError(f"{numbers} is no camera matrix (fx 0 cx, 0 fy cy, 0 0 1)")
    return K


def _coefficients(values: Values) -> list[float]:
    given = _first(values, COEFFICIENTS)
    if given is not None and (not isinstance(given, str)):
        data = given.get("data") if isinstance(given, Mapping) else given
        if data is None:
            raise CameraFormError("the distortion coefficients have no data; write [] for none")
        return _flat(data)
    for prefix in ("", "Camera_", "Camera1_"):
        found = [_number(values.get(f"{prefix}{name}")) for name in NUMBERED]
        if any(found):
            used = max(k for k, value in enumerate(found) if value) + 1
            return found[: 4 if used <= 4 else 5 if used <= 5 else 8]
    return []


def from_numbers(numbers: Sequence[float], size_wh: Size | None) -> CameraModel:
    """A camera of a matrix alone, or of `fx fy cx cy` with 0, 4 or 5 coefficients behind.

    Raises:
        CameraFormError: the size of the images is not known, or it is none of these.
        FrameError: the matrix is none of a pinhole.
    """
    if size_wh is None:
        raise CameraFormError("no size of the image, and no image to take it from")
    is_line = len(numbers) == 8 or (len(numbers) == 9 and numbers[3] != 0)
    if is_line:
        return camera_of(pinhole_matrix(*numbers[:4]), size_wh, numbers[4:], "plumb_bob")
    return camera_of(matrix_of(numbers), size_wh, (), "")


COLMAP: dict[str, tuple[int, Callable[[list[float]], tuple[list[float], list[float], str]]]] = {
    "SIMPLE_PINHOLE": (3, lambda p: ([p[0], *p], [], "")),
    "PINHOLE": (4, lambda p: (p, [], "")),
    "SIMPLE_RADIAL": (4, lambda p: ([p[0], *p[:3]], [p[3], 0, 0, 0], "plumb_bob")),
    "RADIAL": (5, lambda p: ([p[0], *p[:3]], [*p[3:], 0, 0], "plumb_bob")),
    "OPENCV": (8, lambda p: (p[:4], p[4:], "plumb_bob")),
    "FULL_OPENCV": (12, lambda p: (p[:4], p[4:], "rational_polynomial")),
    "OPENCV_FISHEYE": (8, lambda p: (p[:4], p[4:], "equidistant")),
}
"""COLMAP's model -> how many parameters, and fx fy cx cy, coefficients and model of them."""


def from_colmap(lines: Sequence[Sequence[str]]) -> CameraModel:
    """The camera of COLMAP's cameras.txt: `ID MODEL WIDTH HEIGHT PARAMETERS`.

    Raises:
        CameraFormError: several cameras, or a model that is not known.
        FrameError: the matrix is none of a pinhole.
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
