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

"""Rigid and similarity transforms, the pinhole camera, and point alignment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import BoolArray, FloatArray, MvDust3rError


class AlignmentError(MvDust3rError):
    """Points do not determine a transform."""


R_BODY_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation of an optical frame (x right, y down, z forward) in REP-103 axes (x forward, z up)."""


@dataclass(frozen=True)
class Sim3:
    """Similarity p_a = scale * R @ p_b + t, named S_a_b.

    Attributes:
        scale: positive factor.
        R: (3, 3) rotation.
        t: (3,) translation in frame a.
    """

    scale: float
    R: FloatArray
    t: FloatArray

    def apply(self, points: FloatArray) -> FloatArray:
        """Transform points of any shape (..., 3); keeps float32."""
        kind = np.result_type(points.dtype, np.float32)
        linear = (self.scale * self.R).astype(kind)
        moved: FloatArray = points @ linear.T + self.t.astype(kind)
        return moved

    def inverse(self) -> Sim3:
        """Return S_b_a."""
        return Sim3(1.0 / self.scale, self.R.T, -self.R.T @ self.t / self.scale)

    def __matmul__(self, other: Sim3) -> Sim3:
        """Return S_a_c = S_a_b @ S_b_c."""
        t = self.scale * self.R @ other.t + self.t
        return Sim3(self.scale * other.scale, self.R @ other.R, t)

    def apply_pose(self, T_b_cam: FloatArray) -> FloatArray:
        """Return the (4, 4) rigid pose of a camera in frame a, at the scale of a."""
        return make_se3(self.R @ T_b_cam[:3, :3], self.apply(T_b_cam[:3, 3]))


def make_se3(R: FloatArray, t: FloatArray) -> FloatArray:
    """Return the (4, 4) rigid transform of a (3, 3) rotation and a (3,) translation."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def lifted(T: FloatArray, rise_m: float) -> FloatArray:
    """Return a (4, 4) pose raised by `rise_m`."""
    higher = T.copy()
    higher[2, 3] += rise_m
    return higher


def invert_se3(T: FloatArray) -> FloatArray:
    """Return the inverse of rigid transforms (..., 4, 4)."""
    R_t = np.swapaxes(T[..., :3, :3], -1, -2)
    inverse = np.zeros_like(T)
    inverse[..., :3, :3] = R_t
    inverse[..., :3, 3] = -(R_t @ T[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def rigid(T: FloatArray) -> FloatArray:
    """Return poses (..., 4, 4) with the nearest rotations.

    Inverting a pose assumes that its rotation is orthogonal: in a chain of inverses and products,
    rounding errors double with each link.
    """
    U, _, Vt = np.linalg.svd(T[..., :3, :3])
    nearest = np.array(T, float)
    nearest[..., :3, :3] = U @ Vt
    return nearest


def se3_from_quaternion(quat_xyzw: FloatArray, t: FloatArray) -> FloatArray:
    """Return the (4, 4) rigid transform of a quaternion (x, y, z, w) and a translation.

    Raises:
        AlignmentError: the quaternion is zero or not finite.
    """
    quat = np.asarray(quat_xyzw, float)
    # Not np.linalg.norm, which releases the GIL: a callback would then wait for all busy threads.
    norm = math.hypot(*quat.tolist())
    # A shorter quaternion is rounding error and has no direction.
    if not math.isfinite(norm) or norm < 1e-6 or not np.all(np.isfinite(t)):
        raise AlignmentError(f"not a pose: quaternion {quat.tolist()}, translation {list(t)}")
    return make_se3(Rotation.from_quat(quat / norm).as_matrix(), np.asarray(t, float))


def quaternion_xyzw(R: FloatArray) -> FloatArray:
    """Return unit quaternions (..., 4), as x, y, z, w, of rotations (..., 3, 3); w >= 0."""
    quat: FloatArray = Rotation.from_matrix(R).as_quat()
    return np.where(quat[..., 3:] < 0, -quat, quat)


def rotated_wxyz(R: FloatArray, quats_wxyz: FloatArray) -> FloatArray:
    """Quaternions (..., 4), w first, of (3, 3) R times the rotations that they stand for."""
    x, y, z, w = quaternion_xyzw(R).astype(quats_wxyz.dtype)
    product = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    turned: FloatArray = quats_wxyz @ product.T.astype(quats_wxyz.dtype)
    return turned


def interpolate_se3(T_0: FloatArray, T_1: FloatArray, alpha: float) -> FloatArray:
    """Interpolate two poses: linear in translation, slerp in rotation; alpha may leave [0, 1]."""
    delta = Rotation.from_matrix(T_0[:3, :3].T @ T_1[:3, :3]).as_rotvec()
    R = T_0[:3, :3] @ Rotation.from_rotvec(alpha * delta).as_matrix()
    return make_se3(R, (1 - alpha) * T_0[:3, 3] + alpha * T_1[:3, 3])


def rotation_angle_deg(R: FloatArray) -> FloatArray:
    """Return the angles of rotations (..., 3, 3) in degrees, shape (...)."""
    skew = np.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1
    )
    trace = np.trace(R, axis1=-2, axis2=-1)
    angles: FloatArray = np.degrees(np.arctan2(np.linalg.norm(skew, axis=-1), trace - 1.0))
    return angles


def mean_rotation(rotations: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return the chordal mean of rotations (N, 3, 3), shape (3, 3)."""
    mean: FloatArray = Rotation.from_matrix(rotations).mean(weights).as_matrix()
    return mean


def align_sim3(
    points_src: FloatArray,
    points_dst: FloatArray,
    weights: FloatArray | None = None,
    *,
    with_scale: bool = True,
    symmetric: bool = False,
) -> Sim3:
    """Fit the similarity that best maps points of one frame to the same points in another.

    Weighted least squares over all pairs, in the closed form of Umeyama (1991), eq. 40 to 42. Its
    scale is biased low by the share of noise in `points_src`. If both sets are equally noisy, the
    ratio of their spreads (Horn 1987, `symmetric`) is unbiased.

    Args:
        points_src: (N, 3) points in frame src.
        points_dst: (N, 3) the same points in frame dst.
        weights: (N,) not negative; None for equal weights.
        with_scale: False to keep scale 1.
        symmetric: True for the scale that treats both sets alike.

    Returns:
        S_dst_src, with p_dst = scale * R @ p_src + t.

    Raises:
        AlignmentError: fewer than three pairs, collinear points, or values that are not finite.
    """
    if points_src.shape != points_dst.shape or points_src.ndim != 2 or points_src.shape[1] != 3:
        raise AlignmentError(f"cannot pair points {points_src.shape} with {points_dst.shape}")
    if len(points_src) < 3:
        raise AlignmentError(f"{len(points_src)} pairs of points, at least 3 are needed")
    if not (np.isfinite(points_src).all() and np.isfinite(points_dst).all()):
        raise AlignmentError("some points are not finite")
    w = np.ones(len(points_src)) if weights is None else np.asarray(weights, float)
    total = float(w.sum())
    if not np.isfinite(total) or total <= 0 or w.min() < 0:
        raise AlignmentError(f"weights sum to {total}, none may be negative nor all zero")
    w = (w / total)[:, None]
    mean_src, mean_dst = (w * points_src).sum(0), (w * points_dst).sum(0)
    src, dst = points_src - mean_src, points_dst - mean_dst
    U, D, Vt = np.linalg.svd((w * dst).T @ src)
    variance = float((w * src**2).sum())
    if variance <= 0 or D[1] <= 1e-9 * D[0]:
        raise AlignmentError("points lie on a line or in one place: no rotation follows")
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * sign) @ Vt
    scale = 1.0
    if symmetric:
        scale = float(np.sqrt((w * dst**2).sum() / variance))
    elif with_scale:
        scale = float((D * sign).sum() / variance)
    return Sim3(scale, R, mean_dst - scale * R @ mean_src)


def align_sim3_robust(
    points_src: FloatArray,
    points_dst: FloatArray,
    weights: FloatArray,
    *,
    iterations: int = 10,
    symmetric: bool = False,
) -> tuple[Sim3, FloatArray]:
    """Fit a similarity robustly by iteratively reweighted least squares, Geman-McClure.

    The kernel's width follows the median residual of each iteration, so up to half of the pairs
    may be wrong, provided that their errors are inconsistent.

    Args:
        points_src: (N, 3) points in frame src.
        points_dst: (N, 3) the same points in frame dst.
        weights: (N,) prior weights, for example confidence over squared depth.
        iterations: most iterations.
        symmetric: see `align_sim3`.

    Returns:
        S_dst_src and the (N,) residuals |S p_src - p_dst| in units of dst.

    Raises:
        AlignmentError: as `align_sim3`.
    """
    S = align_sim3(points_src, points_dst, weights, symmetric=symmetric)
    root = np.sqrt(weights / max(float(weights.max()), 1e-12))
    for _ in range(iterations):
        residual = root * np.linalg.norm(S.apply(points_src) - points_dst, axis=1)
        width = max(2.0 * float(np.median(residual)), 1e-9)
        kernel = (1.0 / (1.0 + (residual / width) ** 2)) ** 2
        updated = align_sim3(points_src, points_dst, weights * kernel, symmetric=symmetric)
        # A ten-millionth of the map, a thousandth of a millimetre: invisible in a map.
        converged = abs(updated.scale - S.scale) < 1e-7 and np.allclose(updated.t, S.t, atol=1e-6)
        S = updated
        if converged:
            break
    return S, np.linalg.norm(S.apply(points_src) - points_dst, axis=1)


def align_cameras_sim3(
    T_src_cam: FloatArray,
    T_dst_cam: FloatArray,
    weights: FloatArray | None = None,
    *,
    with_scale: bool = True,
) -> tuple[Sim3, float]:
    """Fit the similarity between two sets of poses of the same cameras.

    The rotation comes from the orientations, so collinear cameras suffice. Scale and translation
    come from the centres.

    Args:
        T_src_cam: (N, 4, 4) poses in frame src.
        T_dst_cam: (N, 4, 4) the same cameras in frame dst.
        weights: (N,) positive; None for equal weights.
        with_scale: False to keep scale 1.

    Returns:
        S_dst_src and the (weighted) root mean square distance of the centres in dst.

    Raises:
        AlignmentError: no poses, or too little motion to determine the scale.
    """
    if len(T_src_cam) == 0 or T_src_cam.shape != T_dst_cam.shape:
        raise AlignmentError(f"cannot pair poses {T_src_cam.shape} with {T_dst_cam.shape}")
    R = mean_rotation(T_dst_cam[:, :3, :3] @ np.swapaxes(T_src_cam[:, :3, :3], 1, 2), weights)
    w = np.ones(len(T_src_cam)) if weights is None else np.asarray(weights, float)
    w = (w / w.sum())[:, None]
    centres_src, centres_dst = T_src_cam[:, :3, 3] @ R.T, T_dst_cam[:, :3, 3]
    mean_src, mean_dst = (w * centres_src).sum(0), (w * centres_dst).sum(0)
    src, dst = centres_src - mean_src, centres_dst - mean_dst
    scale = 1.0
    if with_scale:
        power = float((w * src**2).sum())
        # cameras within a micrometre of each other are static
        scale = float((w * src * dst).sum() / power) if power > 1e-12 else 0.0
        if scale <= 0:
            raise AlignmentError("the cameras do not move enough to take a scale from them")
    S = Sim3(scale, R, mean_dst - scale * mean_src)
    rms = float(np.sqrt((w * (scale * src - dst) ** 2).sum()))
    return S, rms


def pixel_grid(height: int, width: int) -> FloatArray:
    """Return (H, W, 2) float64 pixel coordinates (u, v), integers at pixel centres."""
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([u, v], -1).astype(np.float64)


def backproject(
    depth_m: FloatArray, K: FloatArray, pixels_uv: FloatArray | None = None
) -> FloatArray:
    """Return points (..., 3) in the camera frame from depth (...) along the optical axis.

    Args:
        depth_m: (H, W) depth map, or (N,) depths with `pixels_uv`.
        K: (3, 3) pinhole matrix.
        pixels_uv: (N, 2) pixel coordinates; None for a full depth map.
    """
    uv = pixel_grid(*depth_m.shape) if pixels_uv is None else pixels_uv
    rays = np.stack([(uv[..., 0] - K[0, 2]) / K[0, 0], (uv[..., 1] - K[1, 2]) / K[1, 1]], -1)
    return np.concatenate([rays, np.ones_like(rays[..., :1])], -1) * depth_m[..., None]


def project(points_cam: FloatArray, K: FloatArray) -> FloatArray:
    """Return pixels (..., 2) of points (..., 3) in the camera frame; NaN behind the camera."""
    z = np.where(points_cam[..., 2] > 1e-9, points_cam[..., 2], np.nan)
    return np.stack(
        [
            K[0, 0] * points_cam[..., 0] / z + K[0, 2],
            K[1, 1] * points_cam[..., 1] / z + K[1, 2],
        ],
        -1,
    )


def focal_from_pointmap(
    points_cam: FloatArray,
    mask: BoolArray | None = None,
    iterations: int = 10,
    centre_uv: tuple[float, float] | None = None,
) -> float:
    """Estimate the focal length from a pointmap in its camera's frame.

    Minimises sum |px - f q| with q = (x/z, y/z) by reweighted least squares (Weiszfeld), as in
    DUSt3R (Wang et al. 2024).

    Args:
        points_cam: (H, W, 3) pointmap in the frame of its camera, any scale.
        mask: (H, W) bool, pixels to use; None for all.
        iterations: number of reweightings.
        centre_uv: principal point in pixels; None for half of width and height, as in DUSt3R.

    Returns:
        Focal length in pixels.

    Raises:
        AlignmentError: the points give no positive focal length.
    """
    height, width = points_cam.shape[:2]
    centre = (width / 2, height / 2) if centre_uv is None else centre_uv
    px = (pixel_grid(height, width) - centre).reshape(-1, 2)
    points = points_cam.reshape(-1, 3).astype(np.float64)
    if mask is not None:
        keep = np.asarray(mask, bool).ravel()
        px, points = px[keep], points[keep]
    with np.errstate(divide="ignore", invalid="ignore"):
        q = points[:, :2] / points[:, 2:]
    q[~np.isfinite(q).all(1)] = 0.0
    dots, squares = (q * px).sum(1), (q**2).sum(1)
    if len(q) == 0 or squares.sum() <= 0:
        raise AlignmentError("the reference pointmap is empty, no focal length can be found")
    f = float(dots.mean() / squares.mean())
    for _ in range(iterations):
        w = 1.0 / np.maximum(np.linalg.norm(px - f * q, axis=1), 1e-8)
        f = float((w * dots).mean() / (w * squares).mean())
    if not np.isfinite(f) or f <= 0:
        raise AlignmentError(f"the reference pointmap gives a focal length of {f} pixels")
    return f
