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

"""The engine `colmap`: COLMAP's incremental mapping of a window, for offline comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
from scipy.spatial import cKDTree

from mvdust3r_ros.datatypes import FloatArray, View, ViewPose, ViewTokens, WindowPrediction
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.engines.base import SIDE_MULTIPLE, Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.views import path_count
from mvdust3r_ros.geometry import backproject, invert_se3, pixel_grid

LONG_SIDE = 384
"""Of the views, pixels: as of the engine `mvs`, so that both can be shown the same views."""
FIRST_PIXEL = 0.5
"""COLMAP's coordinate of the first pixel's centre, which is 0 here."""
FEWEST_VIEWS = 2
"""Of a model; by default 10 are needed, more than a window has."""
RANDOM_STATE = 0
"""Of its RANSAC: the same window gives the same answer."""


class ColmapEngine(Engine):
    """SIFT, exhaustive matching and incremental mapping with COLMAP's own settings.

    Poses are in an unknown scale; views that COLMAP does not register have none. Its points are
    sparse: pixels with one have the number of views that see it as their confidence. All others
    have confidence 1, no point, but the depth of the nearest point in the image, so that dense
    metrics see a surface. Known intrinsics are kept.
    """

    def __init__(self, threads: int = 0) -> None:
        """Use this number of CPU threads; 0 for all."""
        self._threads = threads or -1
        pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL.value)  # errors are raised
        self._info = EngineInfo(
            name=f"COLMAP (pycolmap {pycolmap.__version__})",
            backend="colmap",
            image_hw=(LONG_SIDE * 3 // 4, LONG_SIDE),
            long_side=LONG_SIDE,
            intrinsics=True,
        )

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Keep the views; everything else is done for a whole window.

        Raises:
            EngineError: the size of a view is not accepted.
        """
        for view in views:
            height, width = view.image_rgb.shape[:2]
            if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
                raise EngineError(
                    f"a view of {width}x{height} pixels; {self._info.name} takes sides that are "
                    f"multiples of {SIDE_MULTIPLE}"
                )
        return [ViewTokens(None, view, image_descriptor(view)) for view in views]

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Map a window, in the frame of the first view registered.

        Raises:
            EngineError: COLMAP registers no view.
        """
        path_count(tokens, n_ref, self._info)  # all poses are adjusted jointly
        views = [token.view for token in tokens]
        model = self._model(views)
        if model is None:
            raise EngineError(f"COLMAP registers none of {len(views)} views")
        images = {int(image.name[:-4]): image for image in model.images.values()}
        registered = sorted(k for k, image in images.items() if image.has_pose)
        T_ref_world = _cam_from_world(images[registered[0]])
        points = np.zeros((len(views), *views[0].image_rgb.shape[:2], 3), np.float32)
        conf = np.ones(points.shape[:3], np.float32)
        poses: list[ViewPose | None] = [None] * len(views)
        for index in registered:
            image, K = images[index], _pinhole(model.cameras[images[index].camera_id])
            T = T_ref_world @ invert_se3(_cam_from_world(image))
            depth, conf[index] = _depth(model, image, conf.shape[1:])
            points[index] = backproject(depth, K) @ T[:3, :3].T + T[:3, 3]
            poses[index] = ViewPose(T, K, 1.0, 0.0)
        return WindowPrediction(
            points[None], conf[None], references=(registered[0],), poses=tuple(poses)
        )

    def _model(self, views: Sequence[View]) -> Any:
        """COLMAP's model with the most views; None without any."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            database, images = folder / "database.db", folder / "images"
            images.mkdir()
            for index, view in enumerate(views):
                cv2.imwrite(str(images / f"{index:04d}.png"), view.image_rgb[..., ::-1])
            extraction = pycolmap.FeatureExtractionOptions(num_threads=self._threads)
            for reader, names in _cameras(views):
                pycolmap.extract_features(
                    database, images, names, pycolmap.CameraMode.SINGLE, reader, extraction
                )
            matching = pycolmap.FeatureMatchingOptions(num_threads=self._threads)
            pycolmap.match_exhaustive(database, matching)
            known = all(view.K is not None for view in views)
            options = pycolmap.IncrementalPipelineOptions(
                min_model_size=FEWEST_VIEWS,
                num_threads=self._threads,
                random_seed=RANDOM_STATE,
                ba_refine_focal_length=not known,
                ba_refine_extra_params=not known,
            )
            options.mapper.abs_pose_refine_focal_length = not known
            options.mapper.abs_pose_refine_extra_params = not known
            models = pycolmap.incremental_mapping(database, images, folder, options)
        return max(models.values(), key=lambda m: int(m.num_reg_images()), default=None)

    def describe(self) -> EngineInfo:
        """Describe the engine, with the version of pycolmap."""
        return self._info

    def close(self) -> None:
        """Do nothing: there are no resources to free."""


def _cameras(views: Sequence[View]) -> list[tuple[Any, list[str]]]:
    """Each camera, as options for reading its images, and the names of these."""
    names: dict[tuple[str, bytes], list[str]] = {}
    readers: dict[tuple[str, bytes], Any] = {}
    for index, view in enumerate(views):
        K = view.K
        key = (view.camera_name, b"" if K is None else K.tobytes())
        names.setdefault(key, []).append(f"{index:04d}.png")
        if K is None:
            readers[key] = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
        else:
            values = (K[0, 0], K[1, 1], K[0, 2] + FIRST_PIXEL, K[1, 2] + FIRST_PIXEL)
            readers[key] = pycolmap.ImageReaderOptions(
                camera_model="PINHOLE", camera_params=",".join(f"{value:.17g}" for value in values)
            )
    return [(readers[key], names[key]) for key in names]


def _pinhole(camera: Any) -> FloatArray:
    """(3, 3) pinhole matrix of COLMAP's camera."""
    K = np.array(camera.calibration_matrix(), np.float64)
    K[:2, 2] -= FIRST_PIXEL
    return K


def _cam_from_world(image: Any) -> FloatArray:
    T = np.eye(4)
    T[:3] = image.cam_from_world().matrix()
    return T


def _depth(model: Any, image: Any, image_hw: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Depth of the nearest point, and confidence, for each pixel: (H, W) each."""
    seen = [p for p in image.points2D if p.has_point3D()]
    conf = np.ones(image_hw, np.float32)
    if not seen:
        return np.zeros(image_hw), conf
    points = [model.points3D[p.point3D_id] for p in seen]
    world = np.array([p.xyz for p in points])
    T = _cam_from_world(image)
    z = world @ T[2, :3] + T[2, 3]
    uv = np.array([p.xy for p in seen]) - FIRST_PIXEL
    _, nearest = cKDTree(uv).query(pixel_grid(*image_hw))
    column, row = np.clip(np.rint(uv).astype(int), 0, (image_hw[1] - 1, image_hw[0] - 1)).T
    conf[row, column] = [p.track.length() for p in points]
    depth: FloatArray = z[nearest]
    return depth, conf
