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


"""The lists of test tuples that the public code of MV-DUSt3R+ makes and reads.

An HDF5 or JSON file names the views of each tuple (github.com/facebookresearch/mvdust3r,
datasets_preprocess/gather_metadata.py): a file each of image, depth and pose for ScanNet; one long
image and one long depth image of all views side by side for renderings of Habitat.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mvdust3r_ros.datatypes import (
    CameraModel,
    FloatArray,
    Frame,
    FrameError,
    ImageArray,
    MvDust3rError,
)
from mvdust3r_ros.encoded_image import EncodedImageError
from mvdust3r_ros.evaluation.paper.sampling import held_out_count
from mvdust3r_ros.geometry import rigid
from mvdust3r_ros.recordings.image_sequence import read_depth, read_file, rgb_of
from mvdust3r_ros.recordings.tables import TableError, read_text
from mvdust3r_ros.tones import Tones
from mvdust3r_ros.window.preprocess import registered_depth, resize_image
from mvdust3r_ros.wording import plural

TEST_WINDOWS = 1000
"""Windows of a data set in the published evaluation (n_all), evenly over the list."""
FIRST_HELD_OUT = 24
"""Place of the first held-out view in a published tuple, for any number of inputs (render_start);
the inputs come before it."""
UNIT_M = 0.001
"""Depth images are in millimetres, as in ScanNet; the generator for Habitat writes the same."""


class DataSetError(MvDust3rError):
    """A data set is missing, incomplete or damaged."""


class TupleList:
    """Windows of a list of tuples; the images it names lie below a folder."""

    def __init__(self, folder: Path, path: Path) -> None:
        """Read the list.

        Args:
            folder: some tail of each stored file name is looked for in it.
            path: the list, `.h5` or `.json`.

        Raises:
            DataSetError: the list is empty or cannot be read.
        """
        self._folder, self._path = folder, path
        self._tuples = _h5_tuples(path) if path.suffix == ".h5" else _json_tuples(path)
        if not self._tuples:
            raise DataSetError(f"{path} lists no tuples: make it again with the public code")
        self._leading = 0  # folders left out of stored names

    def __len__(self) -> int:
        """Number of windows: tuples, at most 1000 of them, evenly spaced."""
        return len(self._tuples)

    def inputs(self, index: int, views: int) -> list[Frame]:
        """Read the input views of a window, in `published_order`.

        Raises:
            DataSetError: a file is missing or damaged, or there are too few views.
        """
        entry = self._entry(index)
        most = min(entry.views, FIRST_HELD_OUT)
        if views > most:
            raise DataSetError(f"{entry.where} has {plural(most, 'input view')}, not {views}")
        return [self._frame(entry, view) for view in published_order(views)]

    def held_out(self, index: int, views: int) -> list[Frame]:
        """Read the views that are held out for a number of input views.

        Raises:
            DataSetError: as for `inputs`.
        """
        entry = self._entry(index)
        end = FIRST_HELD_OUT + held_out_count(views)
        if entry.views < end:
            raise DataSetError(
                f"{entry.where} has {plural(entry.views, 'view')}, but those held out of {views} "
                f"inputs are its views {FIRST_HELD_OUT} to {end - 1}"
            )
        return [self._frame(entry, view) for view in range(FIRST_HELD_OUT, end)]

    def _entry(self, index: int) -> _Entry:
        place, content = self._tuples[index]
        where = f"{self._path}, tuple {place}"
        try:
            values = json.loads(content) if isinstance(content, bytes) else content
            return _Entry(where, values, int(values.get("nv", len(values["rgb_list"]))))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _malformed(where, error) from None

    def _frame(self, entry: _Entry, view: int) -> Frame:
        try:
            file, part = (0, (view, entry.views)) if "nv" in entry.values else (view, (0, 1))
            image = self._local(entry.values["rgb_list"][file])
            depth = self._local(entry.values["depth_list"][file])
            T = self._matrix(entry, "pose_raw_list", "pose_list", view)
            K = self._matrix(entry, "intrinsic_raw", "intrinsic_list", view)[:3, :3]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _malformed(entry.where, error) from None
        try:
            rgb, depth_m = _read(image, depth, *part)
            camera = CameraModel(K, rgb.shape[1], rgb.shape[0])
            return Frame(view, rgb, camera, T_odom_cam=rigid(T), depth_m=depth_m)
        except (EncodedImageError, FrameError) as error:
            raise DataSetError(
                f"{entry.where}: {image} with {depth.name}: {error}; get or render them again"
            ) from None

    def _matrix(self, entry: _Entry, given: str, listed: str, view: int) -> FloatArray:
        """Return the (3, 3) or (4, 4) matrix of a view, from the list or from a file it names."""
        if given in entry.values:
            source = f"{entry.where}, {given}"
            values = entry.values[given][view] if given == "pose_raw_list" else entry.values[given]
        else:
            path = self._local(entry.values[listed][view])
            source, values = str(path), [line.split() for line in _text(path).splitlines() if line]
        matrix = np.array(values, float)
        if matrix.shape not in ((4, 4), (3, 3)) or not np.isfinite(matrix).all():
            raise DataSetError(
                f"{source} is no finite matrix: ScanNet lost track there, so the tuple is of no "
                "use; leave it out of the list"
            )
        return matrix

    def _local(self, stored: str) -> Path:
        """Return the file below the folder whose path ends as a stored one, the longest such."""
        parts = [p for p in PurePosixPath(stored).parts if p not in ("/", "..")]
        for leading in dict.fromkeys((self._leading, *range(len(parts)))):
            path = self._folder.joinpath(*parts[leading:])
            if parts[leading:] and path.is_file():
                self._leading = leading
                return path
        raise DataSetError(
            f"{self._path} names {stored}, and {self._folder} has no file of that name, also "
            "without its leading folders: put the images there"
        )


class _Entry(NamedTuple):
    """A tuple: what it is called in messages, its values, its number of views."""

    where: str
    values: Any
    views: int


def published_order(views: int) -> list[int]:
    """Return the order in which the public code feeds the first views of a tuple to a network.

    It swaps a few of them: the first is the reference, and the first four, the references of
    MV-DUSt3R+, are spread over the tuple.
    """
    order = list(range(views))
    if views < 12:
        swaps = [(0, 1), (1, 3), (2, 6)]
    else:
        swaps = [(0, 1), *((k, k * views // 4 + 1) for k in (1, 2, 3))]
    for a, b in swaps:
        if b < views:
            order[a], order[b] = order[b], order[a]
    return order


def _malformed(where: str, error: Exception) -> DataSetError:
    reason = f"no {error}" if isinstance(error, KeyError) else error
    return DataSetError(f"{where} is not as the public code writes it ({reason}): make it again")


def _read(image: Path, depth: Path, part: int, parts: int) -> tuple[ImageArray, FloatArray]:
    """Return image and depth of one of several views side by side, at the size of the depth."""
    rgb, depth_m = _decoded(image, depth)
    if rgb.shape[1] % parts or depth_m.shape[1] % parts:
        raise FrameError(
            f"a width of {rgb.shape[1]} or {depth_m.shape[1]} pixels is not that of {parts} views"
        )
    rgb, depth_m = (np.split(rgb, parts, 1)[part], np.split(depth_m, parts, 1)[part])
    size_wh = depth_m.shape[1], depth_m.shape[0]
    registered_depth(depth_m, (rgb.shape[1], rgb.shape[0]))  # of the same aspect, or refused
    return resize_image(rgb, size_wh), depth_m


@lru_cache(maxsize=1)
def _decoded(image: Path, depth: Path) -> tuple[ImageArray, FloatArray]:
    """Return image and depth of files; those of the last tuple are kept for its other views."""
    return rgb_of(read_file(image), Tones()), read_depth(depth, UNIT_M)


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except TableError as error:
        raise DataSetError(str(error)) from None


def _spread(count: int) -> list[int]:
    """Return the places of the tuples to judge in a list of so many."""
    windows = min(TEST_WINDOWS, count)
    return [k * count // windows for k in range(windows)]


def _json_tuples(path: Path) -> list[tuple[int, Any]]:
    """Return places and values of the tuples of a JSON list."""
    try:
        entries = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataSetError(f"{path} is no JSON ({error}): get it again") from None
    if not isinstance(entries, list):
        raise DataSetError(f"{path} is no list of tuples: make it again with the public code")
    return [(place, entries[place]) for place in _spread(len(entries))]


def _h5_tuples(path: Path) -> list[tuple[int, Any]]:
    """Return places and JSON texts of the tuples of an HDF5 list."""
    try:
        import h5py
    except ImportError:
        raise DataSetError(f"{path} needs h5py to be read: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            texts = file["json_strs"]
            return [(place, bytes(texts[place])) for place in _spread(len(texts))]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataSetError(f"{path} is no HDF5 list of tuples ({error}): get it again") from None
