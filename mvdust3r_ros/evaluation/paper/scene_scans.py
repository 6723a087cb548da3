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


"""Windows chosen from posed depth images of scenes, by the rule of the published tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, Frame
from mvdust3r_ros.encoded_image import EncodedImageError
from mvdust3r_ros.evaluation.paper.sampling import (
    Candidates,
    SamplingError,
    choose_held_out,
    choose_inputs,
)
from mvdust3r_ros.evaluation.paper.tuple_list import TEST_WINDOWS, DataSetError
from mvdust3r_ros.geometry import rigid
from mvdust3r_ros.recordings.image_sequence import SequenceImage, read_depth
from mvdust3r_ros.recordings.layouts import scannet
from mvdust3r_ros.recordings.recording import Notes, RecordingError

SCENE_VIEWS = 1000
"""Longer scans are thinned evenly to at least so many views, as the generator for ScanNet does."""


class SceneScans:
    """1000 windows of scenes in ScanNet's layout, as many of each."""

    def __init__(self, scenes: Sequence[Path]) -> None:
        """Take the folders with color, depth, pose and intrinsic."""
        self._scenes = scenes

    def __len__(self) -> int:
        """Number of windows, as in the published evaluation."""
        return TEST_WINDOWS

    def inputs(self, index: int, views: int) -> list[Frame]:
        """Choose and read the input views of a window.

        Raises:
            DataSetError: no scene has such a window, or a file is damaged.
        """
        scene, chosen = self._chosen(index, views)
        return [scene.frame(view) for view in chosen]

    def held_out(self, index: int, views: int) -> list[Frame]:
        """Choose and read the views held out of a window.

        Raises:
            DataSetError: as for `inputs`, or the scene has no such views.
        """
        scene, chosen = self._chosen(index, views)
        try:
            others = choose_held_out(scene.candidates, chosen, index)
        except SamplingError as error:
            raise DataSetError(f"{scene.folder}: {error}; take more images of it") from None
        return [scene.frame(view) for view in others]

    def _chosen(self, index: int, views: int) -> tuple[_Scene, list[int]]:
        """Choose a window in its scene or, where that has none, in the next that has."""
        first = index * len(self._scenes) // len(self)
        reason = ""
        for step in range(len(self._scenes)):
            scene = _scene(self._scenes[(first + step) % len(self._scenes)])
            try:
                return scene, choose_inputs(scene.candidates, views, index)
            except SamplingError as error:
                reason = reason or f"{scene.folder}: {error}"
        raise DataSetError(f"{reason}, nor in any other scene: take fewer views, or more images")


class _Scene:
    """Images of a scene that have depth and a pose."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._sequence = scannet(folder)
        except RecordingError as error:
            raise DataSetError(str(error)) from None
        truth, K_depth = self._sequence.truth, self._sequence.K_depth
        if K_depth is None:
            raise DataSetError(
                f"{folder} has no depth, or no intrinsic/intrinsic_color.txt: extract the scan "
                "again with depth, poses and intrinsics"
            )
        poses = {} if truth is None else dict(zip(truth.stamps_ns, truth.T_world_cam, strict=True))
        usable = [i for i in self._sequence.images if i.depth is not None and i.stamp_ns in poses]
        if not usable:
            raise DataSetError(
                f"{folder} has no image with a depth image and a finite pose of its number: "
                "extract the scan again with depth and poses"
            )
        self._images = usable[:: max(len(usable) // SCENE_VIEWS, 1)]
        self._T_world_cam = rigid(np.stack([poses[i.stamp_ns] for i in self._images]))
        depths, Ks = map(self._depth, self._images), [K_depth] * len(self._images)
        try:
            self.candidates = Candidates(depths, Ks, self._T_world_cam)
        except SamplingError as error:
            raise DataSetError(f"{folder}: {error}: extract the scan again") from None

    def frame(self, view: int) -> Frame:
        """Read a view, with depth moved to the pixels of the image."""
        item, notes = self._images[view], Notes()
        one = replace(self._sequence, images=(item,), notes=notes)
        frame = next(one.frames(_refuse))
        if frame.depth_m is None:
            raise DataSetError(f"{self.folder}: {'; '.join(notes.lines())}; extract it again")
        return replace(frame, T_odom_cam=self._T_world_cam[view])

    def _depth(self, item: SequenceImage) -> FloatArray:
        assert item.depth is not None
        try:
            return read_depth(item.depth, self._sequence.unit_m)
        except EncodedImageError as error:
            raise DataSetError(f"{item.depth} {error}: extract it again") from None


def _refuse(error: Exception) -> None:
    raise DataSetError(f"{error}: extract it again")


@lru_cache(maxsize=1)
def _scene(folder: Path) -> _Scene:
    """The last scene is kept, as neighbouring windows are of one."""
    return _Scene(folder)
