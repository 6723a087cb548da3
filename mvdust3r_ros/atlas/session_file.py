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

"""A resumable map in one file: keyframes with images and points, poses, scale.

The file is a NumPy archive without pickled objects, so reading it executes no code.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    Keyframe,
    MvDust3rError,
    ScaleEstimate,
    ScaleSource,
    View,
)
from mvdust3r_ros.descriptors import THUMBNAIL, image_descriptor
from mvdust3r_ros.graph.driven_path import DrivenPath
from mvdust3r_ros.placing.pose_graph import PoseEdge
from mvdust3r_ros.safe_files import FileError, finish_writing, read_limited

FORMAT = "mvdust3r_ros map 1"
SUFFIX = "npz"
MAX_BYTES = 8 << 30
"""Size limit for untrusted files: 20,000 keyframes of 0.4 MiB (docs/mapping.md, Time)."""
ARRAYS = {
    "ids": ("i8", 1), "stamps_ns": ("i8", 1), "cameras": ("U", 1), "T_map_cam": ("f8", 3),
    "images": ("u1", 4), "K": ("f8", 3), "T_true_cam": ("f8", 3), "depth_m": ("f4", 3),
    "counts": ("i8", 1), "points_cam": ("f4", 2), "colors_rgb": ("u1", 2), "conf": ("f4", 1),
    "dense_points_cam": ("f4", 4), "dense_conf": ("f4", 3), "descriptors": ("f4", 2),
    "edge_ids": ("i8", 2), "edge_poses": ("f8", 3), "edge_sigmas": ("f8", 2),
    "edge_robust": ("b1", 1), "scale": ("f8", 1),
}  # fmt: skip
"""Name -> dtype and number of axes; arrays of keyframes have one row each."""
DRIVEN_PATH_ARRAYS = {
    "way_until": ("i8", 1), "way_hosts": ("i8", 2), "way_shares": ("f8", 1),
    "way_places": ("f8", 3),
}  # fmt: skip
"""The robot's driven path; absent in older files."""
PER_KEYFRAME = (
    "stamps_ns", "cameras", "T_map_cam", "images", "K", "T_true_cam", "counts",
    "dense_points_cam", "dense_conf", "descriptors",
)  # fmt: skip


class SessionFileError(MvDust3rError):
    """A saved map cannot be read; the current one is unchanged."""


@dataclass(frozen=True, eq=False)
class StoredKeyframe:
    """Everything saved of a committed keyframe.

    Attributes:
        keyframe: the keyframe; its view has no odometry, which belongs to another session.
        T_map_cam: (4, 4) pose.
        points_cam: (N, 3) float32 points of the map, camera frame, metres.
        colors_rgb: (N, 3) uint8.
        conf: (N,) float32.
        dense_points_cam: (h, w, 3) float32 thinned pointmap, camera frame, metres.
        dense_conf: (h, w) float32, its confidence.
        descriptor: (D,) float32 appearance of the place, of the map's `descriptor_kind`.
    """

    keyframe: Keyframe
    T_map_cam: FloatArray
    points_cam: FloatArray
    colors_rgb: ImageArray
    conf: FloatArray
    dense_points_cam: FloatArray
    dense_conf: FloatArray
    descriptor: FloatArray


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map as saved.

    Attributes:
        keyframes: in commit order.
        edges: measured motions between them.
        scale: scale, its uncertainty and source.
        engine: name of the engine that saved it.
        descriptor_kind: shared by all keyframes, see `Descriptor`.
        driven_path: where a robot has driven, tied to the keyframes.
    """

    keyframes: list[StoredKeyframe]
    edges: list[PoseEdge]
    scale: ScaleEstimate
    engine: str
    descriptor_kind: str = THUMBNAIL
    driven_path: DrivenPath = field(default_factory=DrivenPath)


def session_bytes(stored: StoredMap) -> bytes:
    """Return the content of the file.

    Raises:
        SessionFileError: there is nothing to save.
    """
    if not stored.keyframes:
        raise SessionFileError("there is no map to save yet: no window has been committed")
    items = stored.keyframes
    views = [item.keyframe.view for item in items]
    nothing = np.full(views[0].image_rgb.shape[:2], np.nan, np.float32)
    depth = [nothing if v.depth_m is None else v.depth_m for v in views]
    with_depth = any(v.depth_m is not None for v in views)
    scale = stored.scale
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "engine": np.array(stored.engine),
        "descriptor_kind": np.array(stored.descriptor_kind),
        "ids": np.array([i.keyframe.id for i in items], np.int64),
        "stamps_ns": np.array([i.keyframe.stamp_ns for i in items], np.int64),
        "cameras": np.array([i.keyframe.camera_name for i in items]),
        "T_map_cam": np.stack([i.T_map_cam for i in items]),
        "images": np.stack([v.image_rgb for v in views]),
        "K": np.stack([np.full((3, 3), np.nan) if v.K is None else v.K for v in views]),
        "T_true_cam": np.stack([_true_pose(v) for v in views]),
        "depth_m": np.stack(depth).astype("f4") if with_depth else np.zeros((0, 0, 0), "f4"),
        "counts": np.array([len(i.points_cam) for i in items], np.int64),
        "points_cam": np.concatenate([i.points_cam for i in items]).astype("f4"),
        "colors_rgb": np.concatenate([i.colors_rgb for i in items]),
        "conf": np.concatenate([i.conf for i in items]).astype("f4"),
        "dense_points_cam": np.stack([i.dense_points_cam for i in items]).astype("f4"),
        "dense_conf": np.stack([i.dense_conf for i in items]).astype("f4"),
        "descriptors": np.stack([i.descriptor for i in items]).astype("f4"),
        "edge_ids": np.array([(e.a, e.b) for e in stored.edges], np.int64).reshape(-1, 2),
        "edge_poses": np.array([e.T_a_b for e in stored.edges]).reshape(-1, 4, 4),
        "edge_sigmas": np.array([(e.sigma_m, e.sigma_rad) for e in stored.edges]).reshape(-1, 2),
        "edge_robust": np.array([e.robust for e in stored.edges], bool),
        "scale": np.array([scale.scale, scale.rel_sigma, float(scale.source)]),
        **_driven_path_columns(stored.driven_path),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _driven_path_columns(driven: DrivenPath) -> dict[str, Any]:
    return {
        "way_until": driven.until, "way_hosts": driven.hosts,
        "way_shares": driven.shares, "way_places": driven.from_hosts,
    }  # fmt: skip


def _true_pose(view: View) -> FloatArray:
    """Return the pose that only the oracle engine reads; NaN if unknown."""
    pose = view.T_odom_cam if view.T_world_cam is None else view.T_world_cam
    return np.full((4, 4), np.nan) if pose is None else pose


def read_session(path: Path) -> StoredMap:
    """Read a saved map.

    Raises:
        SessionFileError: missing, truncated, damaged, or another format.
    """
    try:
        finish_writing(path.parent)
        data = _arrays(read_limited(path, MAX_BYTES))
        _check(data)
        return _stored_map(data)
    except OSError as error:
        raise SessionFileError(f"cannot read map {path}: {error.strerror or error}") from None
    except FileError as error:
        raise SessionFileError(str(error)) from None
    except SessionFileError as error:
        raise SessionFileError(f"{path} is no map of this node: {error}") from None
    # A damaged archive can raise any exception.
    except Exception as error:  # noqa: BLE001
        raise SessionFileError(
            f"{path} is damaged or no map of this node ({type(error).__name__}); save it again"
        ) from None


def _arrays(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
            raise SessionFileError(f"it unpacks to more than {MAX_BYTES} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        if "format" not in archive or str(archive["format"]) != FORMAT:
            raise SessionFileError(f"it does not say {FORMAT!r}")
        missing = sorted({"engine", *ARRAYS} - set(archive.files))
        if missing:
            raise SessionFileError(f"{', '.join(missing)} missing")
        driven = _driven_path_columns(DrivenPath())
        driven.update({name: archive[name] for name in driven if name in archive})
        kind = {name: archive[name] for name in ("descriptor_kind",) if name in archive}
        return {**{name: archive[name] for name in ("engine", *ARRAYS)}, **driven, **kind}


def _check(data: Mapping[str, Any]) -> None:
    """Refuse arrays that do not fit together."""
    for name, (kind, axes) in (ARRAYS | DRIVEN_PATH_ARRAYS).items():
        value = data[name]
        right_kind = value.dtype.kind == "U" if kind == "U" else value.dtype == np.dtype(kind)
        if not right_kind or value.ndim != axes:
            raise SessionFileError(f"{name} is {value.dtype}{value.shape}")
    count, total = len(data["ids"]), len(data["points_cam"])
    counts = data["counts"]
    shapes = all(len(data[name]) == count for name in PER_KEYFRAME)
    ragged = (counts >= 0).all() and int(counts.sum()) == total == len(data["conf"])
    poses = all(data[n].shape[1:] == (4, 4) for n in ("T_map_cam", "T_true_cam"))
    edges = {len(data[n]) for n in ("edge_ids", "edge_poses", "edge_sigmas", "edge_robust")}
    fits = (
        count > 0 and len(set(data["ids"].tolist())) == count and len(edges) == 1
        and len(data["colors_rgb"]) == total and data["K"].shape[1:] == (3, 3)
        and data["dense_points_cam"].shape == (*data["dense_conf"].shape, 3)
        and data["scale"].shape == (3,)
        and len(data["depth_m"]) in (0, count)
    )  # fmt: skip
    places = len(data["way_until"])
    driven = (
        len(data["way_shares"]) == places and data["way_hosts"].shape == (places, 2)
        and data["way_places"].shape == (places, 2, 3)
        and {*data["way_hosts"].ravel().tolist()} <= {*data["ids"].tolist()}
    )  # fmt: skip
    if not (fits and shapes and ragged and poses and driven):
        raise SessionFileError("its parts do not fit together")
    if not {*data["edge_ids"].ravel().tolist()} <= {*data["ids"].tolist()}:
        raise SessionFileError("a motion leads to a keyframe that it does not hold")
    for name in (
        "T_map_cam", "points_cam", "edge_poses", "edge_sigmas", "way_shares",
        "way_places",
    ):  # fmt: skip
        if not np.isfinite(data[name]).all():
            raise SessionFileError(f"{name} is not finite")


def _stored_map(data: Mapping[str, Any]) -> StoredMap:
    ends = np.cumsum(data["counts"])[:-1]
    points, colors, conf = (
        np.split(data[name], ends) for name in ("points_cam", "colors_rgb", "conf")
    )
    views = [_view(data, i) for i in range(len(data["ids"]))]
    kind, looks = _descriptors(data, views)
    keyframes = [
        StoredKeyframe(
            Keyframe(int(key), int(data["stamps_ns"][i]), views[i], str(data["cameras"][i])),
            data["T_map_cam"][i], points[i], colors[i], conf[i],
            data["dense_points_cam"][i], data["dense_conf"][i], looks[i],
        )
        for i, key in enumerate(data["ids"])
    ]  # fmt: skip
    edges = [
        PoseEdge(int(a), int(b), T, float(sigma[0]), float(sigma[1]), bool(robust))
        for (a, b), T, sigma, robust in zip(
            data["edge_ids"], data["edge_poses"], data["edge_sigmas"], data["edge_robust"],
            strict=True,
        )
    ]  # fmt: skip
    factor, rel_sigma, source = map(float, data["scale"])
    return StoredMap(
        keyframes,
        edges,
        ScaleEstimate(factor, rel_sigma, ScaleSource(int(source))),
        str(data["engine"]),
        kind,
        DrivenPath(*(data[name] for name in DRIVEN_PATH_ARRAYS)),
    )


def _descriptors(data: Mapping[str, Any], views: Sequence[View]) -> tuple[str, FloatArray]:
    """Return the kind and the (N, D) vectors of the descriptors.

    Older files name the engine only. That engine may have had no tokens, or have continued a map
    of thumbnails. So if any vector is a thumbnail, all are recomputed as thumbnails.
    """
    stored: FloatArray = data["descriptors"]
    if "descriptor_kind" in data:
        return str(data["descriptor_kind"]), stored
    thumbnails = np.stack([image_descriptor(view).vector for view in views])
    if stored.shape == thumbnails.shape and np.isclose(stored, thumbnails).all(1).any():
        return THUMBNAIL, thumbnails
    return str(data["engine"]), stored


def _view(data: Mapping[str, Any], index: int) -> View:
    def known(value: FloatArray) -> FloatArray | None:
        return value if np.isfinite(value).all() else None

    depth = data["depth_m"][index] if len(data["depth_m"]) else None
    return View(
        data["images"][index],
        K=known(data["K"][index]),
        depth_m=depth if depth is not None and np.isfinite(depth).any() else None,
        T_world_cam=known(data["T_true_cam"][index]),
    )
