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


"""Test windows of HM3D, ScanNet and MP3D, from published tuples or from scans of scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from mvdust3r_ros.datatypes import CameraModel, Frame, View
from mvdust3r_ros.evaluation.paper.scene_scans import SceneScans
from mvdust3r_ros.evaluation.paper.tuple_list import DataSetError, TupleList
from mvdust3r_ros.recordings.layouts import is_scannet
from mvdust3r_ros.window.preprocess import view_from_frame

TITLES = {"hm3d": "HM3D", "scannet": "ScanNet", "mp3d": "MP3D"}
TUPLE_FILES = ("dps_test_local.h5", "dps_test*.h5", "dps_test*.json")
"""What the public code calls its lists of test tuples; its test scripts read the first."""
SCENE_LEVELS = 4
"""Levels of folders that are searched, as those of hm3d/val/00800-TEEsavR23oF/frames."""
LEAST_MARGIN = 5
"""The principal point is at least a fifth of the size from each edge, as in the public code."""
HOW = "docs/paper_data.md says where to get it and how to lay it out"


class WindowSource(Protocol):
    """Numbered windows with frames as they are stored."""

    def __len__(self) -> int:
        """Number of windows."""

    def inputs(self, index: int, views: int) -> list[Frame]:
        """Frames of the input views, the reference first."""

    def held_out(self, index: int, views: int) -> list[Frame]:
        """Frames of the views to render."""


@dataclass(frozen=True)
class TestTuples:
    """Test windows of a data set.

    Attributes:
        name: "HM3D", "ScanNet" or "MP3D" if the folder is called so, otherwise the folder's name.
        image_hw: height and width of the views, pixels.
        source: the windows.
    """

    name: str
    image_hw: tuple[int, int]
    source: WindowSource

    def seeds(self, views: int) -> range:  # noqa: ARG002  (a window has any number of views)
        """Return the indices of all windows.

        Neighbouring windows tend to be of one scene: to judge fewer, take every n-th.
        """
        return range(len(self.source))

    def window(self, index: int, views: int) -> list[View]:
        """Return the input views of a window, the reference first.

        Args:
            index: one of `seeds`.
            views: number of views.

        Returns:
            Views of `image_hw`, cropped about the principal point, with exact K, `depth_m` (0
            where unknown) and `T_odom_cam` (camera to world).

        Raises:
            DataSetError: a file is missing or damaged, or there are too few views; with the file
                and the remedy.
        """
        return self._views(self.source.inputs(index, views))

    def held_out(self, index: int, views: int) -> list[View]:
        """Return the views held out of a window, one for four input views, as `window` does.

        Raises:
            DataSetError: as for `window`.
        """
        return self._views(self.source.held_out(index, views))

    def _views(self, frames: Sequence[Frame]) -> list[View]:
        return [view_from_frame(_centred(frame), self.image_hw) for frame in frames]


def _centred(frame: Frame) -> Frame:
    """Crop a frame to the largest image whose middle is the principal point.

    The published evaluation does so, as its camera poses assume the principal point there.
    """
    assert frame.camera is not None
    slices, K = [], frame.camera.K.copy()
    for axis, size in enumerate((frame.camera.width, frame.camera.height)):
        middle = round(float(K[axis, 2]))
        margin = min(middle, size - middle)
        if margin <= size / LEAST_MARGIN:
            raise DataSetError(
                f"a principal point at pixel {middle} of {size} is too far off the middle: the "
                "intrinsics are of another size of images"
            )
        slices.append(slice(middle - margin, middle + margin))
        K[axis, 2] -= middle - margin
    rgb = frame.image_rgb[slices[1], slices[0]]
    depth_m = None if frame.depth_m is None else frame.depth_m[slices[1], slices[0]]
    camera = CameraModel(K, rgb.shape[1], rgb.shape[0])
    return replace(frame, image_rgb=rgb, depth_m=depth_m, camera=camera)


def find_tuples(data: Path, image_hw: tuple[int, int]) -> list[TestTuples]:
    """Open the data sets in the folders hm3d, scannet and mp3d of a folder.

    Raises:
        DataSetError: none of these folders is there, or one cannot be used.
    """
    folders = [data / key for key in TITLES if (data / key).is_dir()]
    if not folders:
        raise DataSetError(f"{data} has none of the folders {', '.join(TITLES)}: {HOW}")
    return [open_tuples(folder, image_hw) for folder in folders]


def open_tuples(folder: Path, image_hw: tuple[int, int]) -> TestTuples:
    """Open the test windows of a data set.

    Args:
        folder: of one data set: a list of tuples (`dps_test*.h5` or `.json`) and the images it
            names, or else scenes in ScanNet's layout (color, depth, pose, intrinsic).
        image_hw: height and width of the views, pixels.

    Raises:
        DataSetError: the folder has neither, or several lists.
    """
    title = next((t for key, t in TITLES.items() if key in folder.name.lower()), folder.name)
    if (path := _tuple_list(folder)) is not None:
        return TestTuples(title, image_hw, TupleList(folder, path))
    scenes = list(_below(folder, lambda inner: [inner] if is_scannet(inner) else []))
    if not scenes:
        raise DataSetError(f"{folder} holds neither dps_test*.h5 nor a scene: {HOW}")
    return TestTuples(title, image_hw, SceneScans(scenes))


def _tuple_list(folder: Path) -> Path | None:
    """Return the list of tuples below a folder: the first kind of `TUPLE_FILES` that is there."""
    for pattern in TUPLE_FILES:
        found = list(_below(folder, partial(_matching, pattern)))
        if len(found) > 1:
            named = ", ".join(str(path.relative_to(folder)) for path in found)
            raise DataSetError(f"{folder} holds several lists of tuples, keep one: {named}")
        if found:
            return found[0]
    return None


def _matching(pattern: str, folder: Path) -> list[Path]:
    return sorted(folder.glob(pattern))


def _below(
    folder: Path, find: Callable[[Path], list[Path]], levels: int = SCENE_LEVELS
) -> Iterator[Path]:
    """Yield what is in a folder or, where nothing is, in those inside it; not inside scenes."""
    if found := find(folder):
        yield from found
    elif levels and folder.is_dir() and not is_scannet(folder):
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _below(inner, find, levels - 1)
