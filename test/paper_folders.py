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


"""Small data sets in the layouts that the windows of the paper's tables are read from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvdust3r_ros.datatypes import FloatArray, ImageArray, View
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.synthetic.render import Renderer
from mvdust3r_ros.synthetic.scenes import sample_room
from mvdust3r_ros.window.preprocess import scale_intrinsics

HW = (64, 80)
"""Stored depth is wider than the views, so that these are cropped."""
K = np.array([[60.0, 0, 42.5], [0, 60, 29.0], [0, 0, 1]])
"""With the principal point off the middle, as in ScanNet."""
COLOR_HW = (96, 125)
K_COLOR = np.array([[97.0, 0, 63.0], [0, 96, 45.5], [0, 0, 1]])
"""Another camera at the same place."""
DOUBLE_HW = (128, 160)
K_DOUBLE = scale_intrinsics(K, HW, DOUBLE_HW[::-1])
"""The same camera with smaller pixels."""
CAMERAS = {HW: K, COLOR_HW: K_COLOR, DOUBLE_HW: K_DOUBLE}
STEPS = 30
"""Views in a full turn: 24 to read and 6 to hold out."""


@cache
def renderer() -> Renderer:
    return Renderer(sample_room(3))


@cache
def pose(k: int) -> FloatArray:
    """(4, 4) camera to world, z up: step k of a turn on a small circle, looking out and down."""
    yaw, room = 2 * math.pi * k / STEPS, sample_room(3).rooms[0]
    out = np.array([math.cos(yaw), math.sin(yaw), 0])
    z = out - [0, 0, 0.15]
    z /= np.linalg.norm(z)
    x = np.array([math.sin(yaw), -math.cos(yaw), 0])
    place = np.array([*room.center, 1.4]) + 0.4 * out
    return make_se3(np.stack([x, np.cross(z, x), z], 1), place)


@cache
def shot(k: int, hw: tuple[int, int] = HW) -> tuple[ImageArray, FloatArray]:
    """Image and depth of a step, by the camera of a size."""
    seen = renderer().render(CAMERAS[hw], hw, pose(k), 1)
    return seen.rgb, seen.depth_m


def rendered(view: View) -> tuple[ImageArray, FloatArray]:
    """What a view's intrinsics and pose say that it shows."""
    assert view.K is not None and view.T_odom_cam is not None
    hw = (view.image_rgb.shape[0], view.image_rgb.shape[1])
    seen = renderer().render(view.K, hw, view.T_odom_cam, 1)
    return seen.rgb, seen.depth_m


def write_image(path: Path, rgb: ImageArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rgb[..., ::-1])


def write_depth(path: Path, depth_m: FloatArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.rint(depth_m * 1000).astype(np.uint16))


def write_scan(
    folder: Path, steps: Sequence[int], lost: int = -1, color_hw: tuple[int, int] = COLOR_HW
) -> Path:
    """A scene as ScanNet's SensReader extracts it; `lost` is without a finite pose."""
    for number, k in enumerate(steps):
        write_image(folder / "color" / f"{number}.png", shot(k, color_hw)[0])
        write_depth(folder / "depth" / f"{number}.png", shot(k)[1])
        (folder / "pose").mkdir(exist_ok=True)
        T = np.full((4, 4), -np.inf) if number == lost else pose(k)
        np.savetxt(folder / "pose" / f"{number}.txt", T)
    (folder / "intrinsic").mkdir()
    for name, matrix in (("color", CAMERAS[color_hw]), ("depth", K)):
        padded = np.eye(4)
        padded[:3, :3] = matrix
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", padded)
    return folder


def scan_tuple(root: Path, steps: Sequence[int], scene: str = "scene0707_00") -> dict[str, Any]:
    """Write a scan below a folder; its tuple, with file names as the public code has them."""
    write_scan(root / scene / "frames", steps, color_hw=DOUBLE_HW)
    stored = f"./data/scannet/{scene}/frames"
    raw = np.eye(4)
    raw[:3, :3] = K
    return {
        "scene_name": scene,
        "rgb_list": [f"{stored}/color/{n}.png" for n in range(len(steps))],
        "depth_list": [f"{stored}/depth/{n}.png" for n in range(len(steps))],
        "pose_list": [f"{stored}/pose/{n}.txt" for n in range(len(steps))],
        "intrinsic_raw": raw.tolist(),
        "C": np.eye(len(steps)).tolist(),
    }


def strip_tuple(root: Path, steps: Sequence[int], number: int = 0) -> dict[str, Any]:
    """Write all views side by side, as for renderings of Habitat; their tuple."""
    name = f"hm3d/val/00800-TEEsavR23oF/TEEsavR23oF.basis/{number:08d}"
    write_image(root / f"{name}.png", np.concatenate([shot(k)[0] for k in steps], 1))
    write_depth(root / f"{name}_depth.png", np.concatenate([shot(k)[1] for k in steps], 1))
    return {
        "nv": len(steps),
        "rgb_list": [f"data/habitatSim_hm3d_test/{name}.png"],
        "depth_list": [f"data/habitatSim_hm3d_test/{name}_depth.png"],
        "pose_raw_list": [pose(k).tolist() for k in steps],
        "intrinsic_raw": K.tolist(),
        "C": np.eye(len(steps)).tolist(),
    }


def write_list(folder: Path, tuples: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dps_test_sample.json"
    path.write_text(json.dumps(list(tuples)))
    return path
