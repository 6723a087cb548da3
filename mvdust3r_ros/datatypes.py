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

"""The data passed along the pipeline, its timing, and the base of all errors.

Classes with arrays compare by identity, since elementwise equality has no truth value.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = "npt.NDArray[np.floating[Any]]"  # text: NumPy 1.21 of Ubuntu 22.04
"""Floating point array; float64 unless the docstring says otherwise."""
BoolArray = npt.NDArray[np.bool_]
"""Array of truth values."""
IntArray = npt.NDArray[np.intp]
"""Array of indices."""
ImageArray = npt.NDArray[np.uint8]
"""Array of bytes, for images and colours; red comes first."""
JUMP_BACK_NS = 1_000_000_000
"""A timestamp at least this much older than the newest is a jump back in time, such as a restarted
bag; less is a message out of order."""
MAX_STAMP_GAP_NS = 10_000_000
"""Poses and images with timestamps this close are simultaneous: at 1 m/s a robot moves 1 cm."""


class MvDust3rError(Exception):
    """Base of all errors raised deliberately by this package; messages name value and remedy."""


class FrameError(MvDust3rError):
    """A frame, camera or prediction has the wrong shape or values."""


DISTORTION_COUNTS = {
    "plumb_bob": (4, 5, 8, 12, 14),
    "rational_polynomial": (4, 5, 8, 12, 14),
    "equidistant": (4,),
}
"""Distortion models with their allowed numbers of coefficients; the first two share a formula."""
DISTORTION_NAMES = {
    "plumbbob": "plumb_bob",
    "radtan": "plumb_bob",
    "radial_tangential": "plumb_bob",
    "pinhole_radial_tangential": "plumb_bob",
    "brown": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "opencv": "plumb_bob",
    "rational": "rational_polynomial",
    "full_opencv": "rational_polynomial",
    "fisheye": "equidistant",
    "equi": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
    "kannalabrandt": "equidistant",
    "kannalabrandt4": "equidistant",
    "kannalabrandt8": "equidistant",
    "kb4": "equidistant",
    "opencv_fisheye": "equidistant",
}
"""Lower-case synonyms used by Kalibr, ORB-SLAM, COLMAP and drivers."""
MAX_FOCAL_RATIO = 8.0
"""Limit of the ratio of fx and fy, chosen: pixels are square, or 1:2 for a camera that skips every
other row or column; misplaced entries differ by more."""
MIN_FOCAL_WIDTHS, MAX_FOCAL_WIDTHS = 0.05, 100.0
"""Limits of the focal length in image widths: fields of view of 169 and 0.6 degrees. No lens for
mapping rooms is wider or longer."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Intrinsics of one camera, in pixels of its images.

    Attributes:
        K: (3, 3) pinhole matrix of the distorted image.
        width: image width in pixels.
        height: image height in pixels.
        distortion: coefficients in OpenCV's order; empty or all zero for none.
        distortion_model: "plumb_bob", "rational_polynomial" or "equidistant".
    """

    K: FloatArray
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    distortion_model: str = "plumb_bob"

    def __post_init__(self) -> None:
        if np.shape(self.K) != (3, 3):
            raise FrameError(f"camera matrix K has shape {np.shape(self.K)}, expected (3, 3)")
        if not np.all(np.isfinite(self.K)) or self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            raise FrameError(f"camera matrix K is not a pinhole matrix: {np.ravel(self.K)}")
        if not np.all(np.isfinite(self.distortion)):
            raise FrameError(f"distortion coefficients are not finite: {self.distortion}")
        if any(self.distortion):
            self._check_distortion()

    def _check_distortion(self) -> None:
        counts = DISTORTION_COUNTS.get(self.distortion_model)
        if counts is None:
            raise FrameError(
                f"distortion model {self.distortion_model!r} is not one of "
                f"{', '.join(DISTORTION_COUNTS)}; rectified images (image_proc) need none"
            )
        if len(self.distortion) not in counts:
            raise FrameError(
                f"distortion model {self.distortion_model} has {_listed(counts)} coefficients, "
                f"not {len(self.distortion)}"
            )


def pinhole_fault(K: FloatArray, width: int, height: int) -> str:
    """Return why a (3, 3) matrix cannot belong to a camera with this image size; otherwise empty.

    The text continues after the name of the matrix. A size of 0 is unknown.
    """
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if not np.all(np.isfinite(K)) or fx <= 0 or fy <= 0 or not np.allclose(K[2], (0, 0, 1)):
        return "is not a pinhole matrix"
    if not 1 / MAX_FOCAL_RATIO < fx / fy < MAX_FOCAL_RATIO:
        return "is not a pinhole matrix: its focal lengths differ too much"
    if width <= 0 or height <= 0:
        return ""
    if not (0 < cx < width and 0 < cy < height):
        return f"is not of {width}x{height} pixels: its centre lies outside"
    if not MIN_FOCAL_WIDTHS < fx / width < MAX_FOCAL_WIDTHS:
        return f"is not of {width}x{height} pixels: its focal length is out of all bounds"
    return ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image at the input of the mapper.

    Attributes:
        stamp_ns: acquisition time.
        image_rgb: (H, W, 3) uint8.
        camera: intrinsics, or None if the camera is not calibrated.
        T_odom_cam: (4, 4) camera-to-odometry pose at the timestamp, metres, optical axes; or None.
        depth_m: (H, W) float32 depth along the optical axis, 0 or NaN where unknown; or None.
        camera_name: camera of a rig, also the optical frame id.
        T_world_cam: (4, 4) true pose if known. Only the oracle engine reads it; without it, that
            uses `T_odom_cam` as the truth.
        T_rig_cam: (4, 4) fixed extrinsics of this camera in a frame shared by all cameras of the
            rig, metres, optical axes; or None.
        T_odom_base: (4, 4) pose of the robot by odometry, metres; or None. Together with
            `T_odom_cam` it gives the camera's mounting.
    """

    stamp_ns: int
    image_rgb: ImageArray
    camera: CameraModel | None = None
    T_odom_cam: FloatArray | None = None
    depth_m: FloatArray | None = None
    camera_name: str = "camera_optical"
    T_world_cam: FloatArray | None = None
    T_rig_cam: FloatArray | None = None
    T_odom_base: FloatArray | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.image_rgb)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or self.image_rgb.dtype != np.uint8:
            raise FrameError(
                f"image must be (H, W, 3) uint8 and not empty, got {shape} {self.image_rgb.dtype}"
            )
        if self.camera is not None and (self.camera.height, self.camera.width) != shape[:2]:
            raise FrameError(
                f"camera_info is for {self.camera.width}x{self.camera.height} pixels, "
                f"the image has {shape[1]}x{shape[0]}"
            )
        for name in ("T_odom_cam", "T_world_cam", "T_rig_cam", "T_odom_base"):
            if (T := getattr(self, name)) is not None:
                _check_pose(name, T)
        if self.depth_m is not None and np.shape(self.depth_m) != shape[:2]:
            raise FrameError(f"depth {np.shape(self.depth_m)} does not match image {shape[:2]}")


def _listed(counts: tuple[int, ...]) -> str:
    *first, last = map(str, counts)
    return f"{', '.join(first)} or {last}" if first else last


def _check_pose(name: str, T: FloatArray) -> None:
    """Raise FrameError unless it is a finite rigid transform."""
    if np.shape(T) != (4, 4):
        raise FrameError(f"{name} has shape {np.shape(T)}, expected (4, 4)")
    R = T[:3, :3]
    if not np.all(np.isfinite(T)) or not np.allclose(R @ R.T, np.eye(3), atol=1e-3):
        raise FrameError(f"{name} is not a rigid transform: {np.ravel(T).tolist()}")


@dataclass(frozen=True, eq=False)
class View:
    """A frame resized, cropped and undistorted to the network's input size.

    Attributes:
        image_rgb: (S_h, S_w, 3) uint8.
        K: (3, 3) pinhole matrix in pixels of `image_rgb`, or None when unknown.
        T_odom_cam: as in `Frame`.
        depth_m: (S_h, S_w) float32 or None, as in `Frame`.
        T_world_cam: as in `Frame`.
        T_rig_cam: as in `Frame`.
        T_odom_base: as in `Frame`.
        stamp_ns: as in `Frame`; 0 if irrelevant.
        camera_name: as in `Frame`; empty if irrelevant.
        turn_rad_s: (3,) angular velocity of the camera in its own axes, or None when unknown.
        readout_s: time from the first to the last row, if given by a setting.
        straightened_s: readout time whose rotation effect has been removed from `image_rgb`; see
            `rolling_shutter`.
    """

    image_rgb: ImageArray
    K: FloatArray | None = None
    T_odom_cam: FloatArray | None = None
    depth_m: FloatArray | None = None
    T_world_cam: FloatArray | None = None
    T_rig_cam: FloatArray | None = None
    T_odom_base: FloatArray | None = None
    stamp_ns: int = 0
    camera_name: str = ""
    turn_rad_s: FloatArray | None = None
    readout_s: float | None = None
    straightened_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Descriptor:
    """Appearance of a place, comparable with others of the same kind; see `descriptors`.

    Attributes:
        kind: its origin: `descriptors.THUMBNAIL`, or the name of the engine that made the tokens.
        vector: (D,) float32; views of one place have similar directions.
    """

    kind: str
    vector: FloatArray


@dataclass(frozen=True, eq=False)
class ViewTokens:
    """An engine's encoding of one view.

    Attributes:
        features: the engine's own array (numpy, torch or device memory); opaque to all others.
        view: the encoded view (the point head's skip branch reads the image again).
        descriptor: appearance of its place.
    """

    features: Any
    view: View
    descriptor: Descriptor


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame selected for mapping.

    Attributes:
        id: counts up from 0 in the session, never reused.
        stamp_ns: acquisition time.
        view: the frame at network size.
        camera_name: its camera.
    """

    id: int
    stamp_ns: int
    view: View
    camera_name: str


@dataclass(frozen=True, eq=False)
class Window:
    """Keyframes reconstructed together by the network, oldest first.

    Attributes:
        index: counts up from 0 in the session.
        keyframes: oldest first; the leading ones may be shared with earlier windows.
        epoch: number of jumps back in time so far; a window of an old epoch is stale.
    """

    index: int
    keyframes: tuple[Keyframe, ...]
    epoch: int = 0


@dataclass(frozen=True, eq=False)
class ViewPose:
    """Pose and intrinsics of one view.

    Attributes:
        T_window_cam: (4, 4) pose in the reference view's frame, in the window's scale.
        K: (3, 3) intrinsics in pixels of the view.
        inlier_ratio: share of the sampled points that agree with the pose; 1 for the reference.
        reprojection_px: median reprojection error of those.
    """

    T_window_cam: FloatArray
    K: FloatArray
    inlier_ratio: float
    reprojection_px: float


def is_point(conf: FloatArray) -> BoolArray:
    """Mask of the pixels that have a point: confidence 1 means that the network has no idea."""
    return np.asarray(conf > 1.0)


@dataclass(frozen=True, eq=False)
class PixelGaussians:
    """A 3-D Gaussian for each of some points: its centre is the point, its colour the pixel's.

    Attributes:
        opacity: (...) float32 in [0, 1].
        scale: (..., 3) float32 standard deviations along its own axes, positive, in the unit of
            the points.
        quat_wxyz: (..., 4) float32 unit quaternion, from its own axes to the frame of the points.

    Raises:
        FrameError: on construction, shapes that do not fit together.
    """

    opacity: FloatArray
    scale: FloatArray
    quat_wxyz: FloatArray

    def __post_init__(self) -> None:
        shape = np.shape(self.opacity)
        if np.shape(self.scale) != (*shape, 3) or np.shape(self.quat_wxyz) != (*shape, 4):
            raise FrameError(
                f"Gaussians have opacity {shape}, scale {np.shape(self.scale)} and rotation "
                f"{np.shape(self.quat_wxyz)}"
            )

    def __getitem__(self, index: Any) -> PixelGaussians:
        """Some of them: an index of the leading axes."""
        return PixelGaussians(self.opacity[index], self.scale[index], self.quat_wxyz[index])

    def finite(self) -> bool:
        """Whether all of its values are."""
        parts = (self.opacity, self.scale, self.quat_wxyz)
        return all(bool(np.isfinite(part).all()) for part in parts)


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """Pointmaps of one window; view axis in the caller's order.

    Attributes:
        points: (R, V, H, W, 3) float32; path r is in the camera frame of view references[r],
            in the engine's scale (metres if the window is metric).
        conf: (R, V, H, W) float32, see `is_point`.
        references: R view indices; path 0 is the default.
        poses: V poses of the views in the camera frame of path 0's reference, which is the
            identity, in the engine's scale; None for a view without one. None as a whole if the
            engine estimates no poses: they are then recovered from the points.
        pose_covariance: (V, 6, 6) covariance of `poses` relative to the reference: rotation (rad),
            then translation (engine's unit), of small camera motions in the reference's frame.
            Rows of views without a pose are ignored. None when unknown.
        metric: whether this window is in metres; None for the engine's default.
        rel_error: typical relative error of a point's distance in this window, 0 when unknown;
            None for the engine's default.
        used_odometry: whether `poses` include odometry, which is then not fused again.
        note: remark for log and diagnostics, for example why odometry was ignored; or empty.
        readouts_s: camera name -> time from the first to the last row, if estimated by the engine.
        gaussians: one per point, (R, V, H, W), in the frame and unit of its path; None if the
            engine has none or was not asked.

    Raises:
        FrameError: on construction, inconsistent shapes or values.
    """

    points: FloatArray
    conf: FloatArray
    references: tuple[int, ...] = (0,)
    poses: tuple[ViewPose | None, ...] | None = None
    pose_covariance: FloatArray | None = None
    metric: bool | None = None
    rel_error: float | None = None
    used_odometry: bool = False
    note: str = ""
    readouts_s: Mapping[str, float] = field(default_factory=dict)
    gaussians: PixelGaussians | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.points)
        if len(shape) != 5 or shape[4] != 3 or shape[0] != len(self.references):
            raise FrameError(
                f"points have shape {shape}, expected ({len(self.references)}, V, H, W, 3)"
            )
        if np.shape(self.conf) != shape[:4]:
            raise FrameError(f"confidence {np.shape(self.conf)} does not match points {shape}")
        if self.gaussians is not None and np.shape(self.gaussians.opacity) != shape[:4]:
            raise FrameError(
                f"Gaussians {np.shape(self.gaussians.opacity)} do not match points {shape}"
            )
        if not self.references or not all(0 <= r < shape[1] for r in self.references):
            raise FrameError(f"references {self.references} in a window of {shape[1]} views")
        if self.rel_error is not None and not 0 <= self.rel_error < np.inf:
            raise FrameError(f"rel_error {self.rel_error} of a window is no error")
        self._check_poses(shape[1])

    def _check_poses(self, count: int) -> None:
        if self.poses is None:
            if self.pose_covariance is not None or self.used_odometry:
                raise FrameError("pose_covariance and used_odometry belong to poses: give those")
            return
        if len(self.poses) != count:
            raise FrameError(f"{len(self.poses)} poses in a window of {count} views")
        for pose in self.poses:
            if pose is not None:
                _check_pose("T_window_cam", pose.T_window_cam)
                if np.shape(pose.K) != (3, 3) or pinhole_fault(pose.K, 0, 0):
                    raise FrameError(f"K of a pose is no pinhole matrix: {np.ravel(pose.K)}")
        first = self.poses[self.references[0]]
        if first is not None and not np.allclose(first.T_window_cam, np.eye(4), atol=1e-4):
            raise FrameError(
                f"the pose of reference {self.references[0]} is not the identity: poses are in "
                "the frame of path 0's reference"
            )
        if self.pose_covariance is None:
            return
        if np.shape(self.pose_covariance) != (count, 6, 6):
            raise FrameError(
                f"pose_covariance has shape {np.shape(self.pose_covariance)}, "
                f"expected ({count}, 6, 6)"
            )
        known = self.pose_covariance[[pose is not None for pose in self.poses]]
        if not np.isfinite(known).all() or (np.diagonal(known, axis1=1, axis2=2) < 0).any():
            raise FrameError("pose_covariance of a view with a pose is no covariance")

    def in_caller_order(self, order: tuple[int, ...]) -> WindowPrediction:
        """Reorder a prediction of an engine that was given `order` (position k got view order[k]).

        Raises:
            FrameError: `order` is not a permutation of the views.
        """
        if sorted(order) != list(range(self.points.shape[1])):
            raise FrameError(f"{self.points.shape[1]} pointmaps do not match the order {order}")
        inverse = np.argsort(order)
        poses, covariance = self.poses, self.pose_covariance
        return replace(
            self,
            points=self.points[:, inverse],
            conf=self.conf[:, inverse],
            references=tuple(order[r] for r in self.references),
            poses=None if poses is None else tuple(poses[i] for i in inverse),
            pose_covariance=None if covariance is None else covariance[inverse],
            gaussians=None if self.gaussians is None else self.gaussians[:, inverse],
        )


class Verdict(IntEnum):
    """Outcome of a window; the values are those of msg/WindowStatus.msg."""

    COMMITTED = 0
    REJECTED_ENGINE_ERROR = 1
    REJECTED_NOT_FINITE = 2
    REJECTED_POSE = 3
    REJECTED_NO_OVERLAP = 4
    REJECTED_RESIDUAL = 5
    REJECTED_DEGENERATE = 6
    REJECTED_LOW_CONFIDENCE = 7
    REJECTED_ODOMETRY = 8
    REJECTED_STALE = 9


ENGINE_FAULTS = frozenset({Verdict.REJECTED_ENGINE_ERROR, Verdict.REJECTED_NOT_FINITE})
"""Verdicts due to a failure of the network, regardless of the views."""


class ScaleSource(IntEnum):
    """Source of metric scale; the values are those of msg/OccupancySummary.msg."""

    NONE = 0
    ODOMETRY = 1
    MODEL = 2
    DEPTH = 3
    CAMERA_HEIGHT = 4
    RIG = 5


@dataclass(frozen=True)
class ScaleEstimate:
    """Factor from the network's units to metres, with its evidence.

    Attributes:
        scale: factor from the last window's units to the map's, already applied.
        rel_sigma: one-sigma relative uncertainty; inf without evidence.
        source: the strongest evidence.
    """

    scale: float = 1.0
    rel_sigma: float = float("inf")
    source: ScaleSource = ScaleSource.NONE


@dataclass(frozen=True, eq=False)
class MapUpdate:
    """Outcome of one window.

    Attributes:
        window: the window.
        verdict: committed, or why not.
        message: the reason; if committed, empty unless earlier windows were removed.
        T_map_cam: keyframe id -> (4, 4) pose of each keyframe of the window; empty if rejected.
        K: keyframe id -> (3, 3) intrinsics used for it, in pixels of the view.
        points_map: (N, 3) float32 points of this window, map frame, metres.
        colors_rgb: (N, 3) uint8.
        conf: (N,) float32.
        keyframe_ids: (N,) int64, the source keyframe of each point.
        residual_m: median distance on the pixels of shared keyframes; NaN for the first window.
        latency_ms: stage name -> milliseconds.
        scale: scale and its evidence after this window.
        gate_open: whether the scale is certain enough to pass the map to navigation.
        gate_hint: why not; empty if open.
        loop_closures: loops closed so far; if it grows, earlier keyframes have moved.
        rolled_back: number of earlier windows that this one removed from the map.
        note: the engine's remark on this window, or empty.
    """

    window: Window
    verdict: Verdict
    message: str = ""
    T_map_cam: dict[int, FloatArray] = field(default_factory=dict)
    K: dict[int, FloatArray] = field(default_factory=dict)
    points_map: FloatArray = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    colors_rgb: ImageArray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    conf: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    keyframe_ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    residual_m: float = float("nan")
    latency_ms: dict[str, float] = field(default_factory=dict)
    scale: ScaleEstimate = field(default_factory=ScaleEstimate)
    gate_open: bool = False
    gate_hint: str = ""
    loop_closures: int = 0
    rolled_back: int = 0
    note: str = ""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Timestamped poses.

    Attributes:
        stamps_ns: (N,) int64, increasing.
        T_world_cam: (N, 4, 4) camera-to-world poses.
    """

    stamps_ns: npt.NDArray[np.int64]
    T_world_cam: FloatArray

    def __post_init__(self) -> None:
        n = len(self.stamps_ns)
        if np.shape(self.T_world_cam) != (n, 4, 4):
            raise FrameError(
                f"trajectory has {n} stamps and poses {np.shape(self.T_world_cam)}, "
                f"expected ({n}, 4, 4)"
            )

    def __len__(self) -> int:
        """Number of poses."""
        return len(self.stamps_ns)


FREE, OCCUPIED, UNKNOWN = 0, 100, -1
"""Cell values of an occupancy grid, as in nav_msgs/OccupancyGrid."""


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """A 2-D grid in Nav2's convention.

    Attributes:
        cells: (rows, cols) int8: 0 free, 100 occupied, -1 unknown; row 0 is the smallest y.
        resolution_m: side of a cell.
        origin_xy_m: map coordinates of the lower left corner of cell (0, 0).
    """

    cells: npt.NDArray[np.int8]
    resolution_m: float
    origin_xy_m: tuple[float, float]


@dataclass(frozen=True, eq=False)
class MapSnapshot:
    """A consistent copy of the map, safe to use from any thread.

    Attributes:
        points_map: (N, 3) float32 voxel centres of mass, map frame, z up, metres.
        colors_rgb: (N, 3) uint8.
        conf: (N,) float32 mean confidence.
        grid: occupancy grid, or None before the first committed window.
        trajectory: committed keyframes in the map frame (optical axes), by time.
        T_map_odom: (4, 4) odometry-to-map transform, or None without odometry.
        scale: scale and its evidence.
        floor_z_m: height of the floor in the map frame.
        gate_open: whether the scale is certain enough to pass the map to navigation.
        gate_hint: why not; empty if open.
        loop_closures: loops closed so far.
    """

    points_map: FloatArray
    colors_rgb: ImageArray
    conf: FloatArray
    grid: OccupancyGrid | None
    trajectory: Trajectory
    T_map_odom: FloatArray | None
    scale: ScaleEstimate
    floor_z_m: float = 0.0
    gate_open: bool = False
    gate_hint: str = ""
    loop_closures: int = 0


class StageClock:
    """Measures milliseconds per stage."""

    def __init__(self) -> None:
        """Start empty."""
        self.stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the enclosed code, even if it raises."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent_ms = (time.perf_counter() - begin) * 1e3
            self.stages_ms[name] = self.stages_ms.get(name, 0.0) + spent_ms

    def add(self, other: StageClock) -> None:
        """Add another clock's times."""
        for name, spent_ms in other.stages_ms.items():
            self.stages_ms[name] = self.stages_ms.get(name, 0.0) + spent_ms
