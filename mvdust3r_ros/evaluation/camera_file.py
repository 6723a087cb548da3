"""Intrinsics from a file: the YAML that ROS's camera calibration writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FrameError
from mvdust3r_ros.evaluation.recording import RecordingError
from mvdust3r_ros.safe_files import FileError, read_yaml

CAMERA_FILES = ("intrinsics.yaml", "camera_info.yaml", "camera.yaml")


def camera_beside(place: Path) -> CameraModel | None:
    """Intrinsics in a folder, or beside it or a file; None where there are none.

    Raises:
        RecordingError: there is a file, but it cannot be used.
    """
    folders = (place, place.resolve().parent)
    paths = (folder / name for folder in folders for name in CAMERA_FILES)
    found = next((path for path in paths if path.is_file()), None)
    return None if found is None else read_camera(found)


def read_camera(path: Path) -> CameraModel:
    """Intrinsics from a calibration file.

    Args:
        path: YAML with image_width, image_height, camera_matrix (data: nine numbers) and, if the
            lens distorts, distortion_model and distortion_coefficients (data).

    Raises:
        RecordingError: it cannot be read, or lacks one of these.
    """
    try:
        values = read_yaml(path)
        K = np.array(values["camera_matrix"]["data"], float).reshape(3, 3)
        distortion = values.get("distortion_coefficients", {}).get("data", [])
        return CameraModel(
            K,
            int(values["image_width"]),
            int(values["image_height"]),
            tuple(float(d) for d in distortion),
            str(values.get("distortion_model", "plumb_bob")),
        )
    except (OSError, FileError, FrameError) as error:
        raise RecordingError(f"intrinsics {path}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            f"intrinsics {path}: expected image_width, image_height and camera_matrix as ROS's "
            f"camera calibration writes them ({error!r})"
        ) from None
