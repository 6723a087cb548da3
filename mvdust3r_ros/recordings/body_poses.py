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

"""Convert body poses, as in EuRoC and TUM-VI, to camera poses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, Trajectory
from mvdust3r_ros.recordings.recording import RecordingError
from mvdust3r_ros.recordings.tables import TableError, read_text
from mvdust3r_ros.safe_files import FileError, parse_yaml

SENSOR_FILE = "sensor.yaml"
LIST_FILE = "data.csv"
CALIBRATION_TOLERANCE = 1e-3
"""On elements of R R^T: calibrations have six digits or more; a matrix further off is not a
rotation."""


def at_camera(
    truth: Trajectory, source: Path, images: Path, notify: Callable[[str], None]
) -> Trajectory:
    """Transform the truth from its sensor to the camera.

    Both are known if the truth is `NAME/data.csv` and the images are in `CAMERA/data` of one
    folder, each with its extrinsics on the body as T_BS in `sensor.yaml`.

    Args:
        truth: as read from `source`.
        source: file of the truth.
        images: folder of the images, or the one above it.
        notify: called with a description of the change.

    Raises:
        RecordingError: a T_BS is not a rigid transform.
    """
    places = (place.resolve() for place in (images, images.parent))
    camera = next((place for place in places if (place / SENSOR_FILE).is_file()), None)
    folder = source.resolve().parent
    if camera is None or source.name != LIST_FILE or folder.parent != camera.parent:
        return truth
    T_body_cam = _on_body(camera / SENSOR_FILE)
    T_body_sensor = _on_body(folder / SENSOR_FILE)
    if T_body_cam is None or folder == camera:
        return truth
    T_sensor_cam = T_body_cam
    if T_body_sensor is not None:
        T_sensor_cam = np.linalg.inv(T_body_sensor) @ T_body_cam
    notify(f"truth {source} is of the body: moved to the camera by T_BS of {camera / SENSOR_FILE}")
    return Trajectory(truth.stamps_ns, truth.T_world_cam @ T_sensor_cam)


def _on_body(path: Path) -> FloatArray | None:
    """Return (4, 4) T_body_sensor of a sensor.yaml; None without one."""
    if not path.is_file():
        return None
    try:
        values = parse_yaml(read_text(path))
    except (FileError, TableError) as error:
        raise RecordingError(f"{path}: {error}") from None
    given = values.get("T_BS") if isinstance(values, Mapping) else None
    if given is None:
        return None
    try:
        data = given["data"] if isinstance(given, Mapping) else given
        T = np.array(data, float).reshape(4, 4)
        R = T[:3, :3]
        rigid = np.abs(R @ R.T - np.eye(3)).max() < CALIBRATION_TOLERANCE and np.linalg.det(R) > 0
    except (KeyError, TypeError, ValueError):
        rigid = False
    if not rigid:
        raise RecordingError(f"{path}: T_BS is no rigid transform of 4x4 numbers")
    return T
