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

"""Robust bundle adjustment of a window: analytic derivatives, Schur complement, motion priors.

Triggs, McLauchlan, Hartley and Fitzgibbon ("Bundle adjustment - a modern synthesis", 1999), solved
by Levenberg-Marquardt (1944, 1963) with a Cauchy kernel as iteratively re-weighted least squares.
Poses are T_ref_cam, updated on the right: R exp(w), t + R v, so (w, v) is a step in the camera's
own axes. The first view is fixed. Dense in the few views; points are eliminated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError
from mvdust3r_ros.geometry import invert_se3

IndexArray = npt.NDArray[np.intp]

ROBUST_SIGMAS = 2.5
"""Width of the Cauchy kernel of reprojection errors, in sigmas. At 2.4 it has 95 % of the
efficiency of least squares for normal errors (Holland and Welsch 1977). Insensitive from 1.25 to 5
(benchmarks/constants.py, office with odometry)."""
PRIOR_SIGMAS = 3.0
"""The same for measured motions, for rotation and translation separately. Insensitive from 3 to 6;
at 1.5 good odometry loses weight, and the ATE is 15 mm instead of 10 (benchmarks/constants.py,
office with odometry)."""
SCALE_GAUGE_SIGMA = 1e-3
"""Relative sigma of the distance that fixes the scale if nothing measures it: far below the
precision of any distance from images, and far above rounding. It is a gauge, not a measurement."""
NEAREST_SHARE = 1e-3
"""Points nearer than this share of the median depth, or behind a camera, are projected from that
depth, so that every pixel is finite: a guard against division by zero."""
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-4, 1e-9, 1e4
"""Damping of Marquardt's scaled diagonal: the first step is close to Gauss-Newton. Below the least
it equals Gauss-Newton, above the most steps are too short to help."""
COST_CONVERGED = 1e-5
"""The iteration ends if a step lowers the cost by a smaller share. One sigma of a pose costs 1/2;
at a cost of a few thousand, as of as many observations, less than a quarter of that is left."""


class BundleError(MvDust3rError):
    """The observations do not determine the poses."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Observations of points in views.

    Attributes:
        view: (N,) view of each observation.
        point: (N,) point of each observation; at most one observation per point and view.
        uv: (N, 2) pixels.
        drift: (N, 2) displacement in pixels per second of readout time
            (`rolling_shutter.row_drift`); None for a global shutter.
    """

    view: IndexArray
    point: IndexArray
    uv: FloatArray
    drift: FloatArray | None = None

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.view)

    def chosen(self, keep: npt.NDArray[np.bool_]) -> Observations:
        """Return the observations where (N,) `keep` is true."""
        drift = None if self.drift is None else self.drift[keep]
        return Observations(self.view[keep], self.point[keep], self.uv[keep], drift)


@dataclass(frozen=True, eq=False)
class MotionPrior:
    """A measured pose of view `b` in the frame of view `a`.

    Attributes:
        a: view.
        b: view.
        T_a_b: (4, 4) measured pose.
        sigma_rad: one-sigma of the rotation, each axis.
        sigma_t: one-sigma of the translation, each axis, in the unit of the poses.
    """

    a: int
    b: int
    T_a_b: FloatArray
    sigma_rad: float
    sigma_t: float


@dataclass(frozen=True, eq=False)
class Scene:
    """Cameras and points, adjusted together.

    Attributes:
        T: (V, 4, 4) T_ref_cam.
        K: (V, 3, 3) intrinsics.
        points: (P, 3) in the frame ref.
        readout_s: (V,) readout time of each camera in addition to that already corrected in the
            pixels; empty for a global shutter.
    """

    T: FloatArray
    K: FloatArray
    points: FloatArray
    readout_s: FloatArray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Problem:
    """Measurements and fixed quantities.

    Attributes:
        observations: observations of the points.
        priors: measured motions.
        sigma_px: one-sigma of an observation, each axis.
        trust: weight of the observations relative to the priors; below 1 if their errors are
            correlated.
        free: (V,) views that move; the first view never does.
        camera_of: (V,) camera group of each view; -1 if K is exact.
        focal_prior: (G, 2) log of each group's measured fx and its sigma, inf for unknown.
        readout_sigma_s: (G,) sigma of each group's readout, with mean 0; empty if observations
            have no drift.
        kept_distance: a view and its distance from the first one, which fixes the scale; None if
            priors do.
    """

    observations: Observations
    priors: Sequence[MotionPrior]
    sigma_px: float
    free: npt.NDArray[np.bool_]
    camera_of: IndexArray
    focal_prior: FloatArray
    kept_distance: tuple[int, float] | None = None
    trust: float = 1.0
    readout_sigma_s: FloatArray = field(default_factory=lambda: np.zeros(0))

    @property
    def size(self) -> int:
        """Number of unknowns without the points: six per view, log focal lengths, readouts."""
        return 6 * len(self.free) + self.size_of_camera * len(self.focal_prior)

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """(size,) mask of the unknowns that are free."""
        moving = self.free.copy()
        moving[0] = False
        return np.concatenate([np.repeat(moving, 6), np.ones(self.size - 6 * len(moving), bool)])

    @property
    def size_of_camera(self) -> int:
        """Number of unknowns per camera: log focal length and, if observed, readout."""
        return 2 if len(self.readout_sigma_s) else 1

    def unknowns_of(self, view: int) -> IndexArray:
        """Return the indices of a view's unknowns: its pose and those of its camera."""
        pose, group = np.arange(6 * view, 6 * view + 6), self.camera_of[view]
        if group < 0:
            return pose
        of_camera = np.arange(6 * len(self.free) + group, self.size, len(self.focal_prior))
        return np.concatenate([pose, of_camera])


@dataclass(frozen=True, eq=False)
class Adjusted:
    """Result of a bundle adjustment.

    Attributes:
        scene: the adjusted cameras and points.
        cost: half the robust sum of squares.
        information: (size, size) information of the unknowns after elimination of the points.
    """

    scene: Scene
    cost: float
    information: FloatArray


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Normal equations: cameras (D, D), (D,); points (P, 3, 3), (P, 3); cross terms (D, 3, P)."""

    cameras: FloatArray
    g_cameras: FloatArray
    points: FloatArray
    g_points: FloatArray
    cross: FloatArray


def adjust(scene: Scene, problem: Problem, iterations: int = 10) -> Adjusted:
    """Run Levenberg-Marquardt from a good initial guess.

    Args:
        scene: initial guess.
        problem: measurements.
        iterations: maximum number of steps.

    Raises:
        BundleError: the equations have no finite solution.
    """
    damping, now = FIRST_DAMPING, cost(scene, problem)
    for _ in range(iterations):
        normal = normal_equations(scene, problem)
        fallen = 0.0
        while damping <= MOST_DAMPING:
            tried = _moved(scene, problem, *damped_step(normal, problem, damping))
            then = cost(tried, problem)
            if then < now:
                fallen, scene, now = now - then, tried, then
                damping = max(damping / 10, LEAST_DAMPING)  # Marquardt's factor
                break
            damping *= 10
        if fallen <= COST_CONVERGED * now:
            break
    S, _, _ = _reduced(normal_equations(scene, problem), 0.0)
    return Adjusted(scene, now, S)


def covariance(adjusted: Adjusted, problem: Problem) -> FloatArray:
    """Return the (size, size) covariance of the unknowns; zero for fixed ones.

    Raises:
        BundleError: the observations leave some unknown undetermined.
    """
    free = problem.unknown
    full = np.zeros((problem.size, problem.size))
    try:
        inverse = np.linalg.inv(adjusted.information[np.ix_(free, free)])
    except np.linalg.LinAlgError:
        raise BundleError("the observations leave some pose undetermined") from None
    if not np.isfinite(inverse).all() or (np.diag(inverse) <= 0).any():
        raise BundleError("the observations leave some pose undetermined")
    full[np.ix_(free, free)] = inverse
    return full


def residuals(scene: Scene, observations: Observations) -> tuple[FloatArray, FloatArray]:
    """Return (N, 2) reprojection errors (predicted minus observed) and (N,) depths."""
    cam, z = _in_cameras(scene, observations)
    return _projected(scene, observations, cam, z) - _at_once(scene, observations), cam[:, 2]


def cost(scene: Scene, problem: Problem) -> float:
    """Return half the robust sum of squares of reprojection errors and priors."""
    error, _ = residuals(scene, problem.observations)
    square = (error**2).sum(1) / problem.sigma_px**2
    total = problem.trust * _cauchy(square, ROBUST_SIGMAS).sum()
    for prior in problem.priors:
        turn, shift = _prior_residual(scene, prior)
        total += _cauchy(np.array([turn @ turn, shift @ shift]), PRIOR_SIGMAS).sum()
    total += (_camera_residual(scene, problem) ** 2).sum()
    if problem.kept_distance is not None:
        total += _distance_residual(scene, *problem.kept_distance)[1] ** 2
    return 0.5 * float(total)


def _cauchy(square: FloatArray, width: float) -> FloatArray:
    return np.asarray(width**2 * np.log1p(square / width**2))


def _cauchy_weight(square: FloatArray, width: float) -> FloatArray:
    return 1.0 / (1.0 + square / width**2)


def _in_cameras(scene: Scene, seen: Observations) -> tuple[FloatArray, FloatArray]:
    """Return (N, 3) points in the frames of their cameras, and (N,) depths bounded above zero."""
    R, t = scene.T[:, :3, :3], scene.T[:, :3, 3]
    cam = np.einsum("nji,nj->ni", R[seen.view], scene.points[seen.point] - t[seen.view])
    near = NEAREST_SHARE * float(np.median(np.abs(cam[:, 2]))) if len(cam) else 0.0
    return cam, np.maximum(cam[:, 2], max(near, 1e-12))


def _at_once(scene: Scene, seen: Observations) -> FloatArray:
    """Return the (N, 2) pixels of a global shutter."""
    if seen.drift is None or not len(scene.readout_s):
        return seen.uv
    return np.asarray(seen.uv - scene.readout_s[seen.view, None] * seen.drift)


def _projected(scene: Scene, seen: Observations, cam: FloatArray, z: FloatArray) -> FloatArray:
    K = scene.K[seen.view]
    xy = cam[:, :2] / z[:, None]
    return np.stack([K[:, 0, 0], K[:, 1, 1]], 1) * xy + K[:, :2, 2]


def normal_equations(scene: Scene, problem: Problem) -> NormalEquations:
    """Return the normal equations of a Gauss-Newton step with weights from current residuals."""
    seen, views, count = problem.observations, len(scene.T), len(scene.points)
    J_pose, J_focal, J_point, error = derivatives(scene, seen)
    of_camera = [J_focal] if seen.drift is None else [J_focal, seen.drift]
    J_camera = np.concatenate([J_pose, np.stack(of_camera, 2)], 2)
    square = (error**2).sum(1) / problem.sigma_px**2
    root = np.sqrt(problem.trust * _cauchy_weight(square, ROBUST_SIGMAS)) / problem.sigma_px
    J_camera, J_point = J_camera * root[:, None, None], J_point * root[:, None, None]
    e = (error * root[:, None])[:, :, None]
    to_camera, to_point = np.swapaxes(J_camera, 1, 2), np.swapaxes(J_point, 1, 2)
    H, g = np.zeros((problem.size, problem.size)), np.zeros(problem.size)
    of_views = _summed(seen.view, views, to_camera @ np.concatenate([J_camera, e], 2))
    for view, own in enumerate(of_views):
        at = problem.unknowns_of(view)
        H[np.ix_(at, at)] += own[: len(at), : len(at)]
        g[at] += own[: len(at), -1]
    both = to_camera @ J_point
    cross = np.zeros((problem.size, 3, count))
    by_view = cross[: 6 * views].reshape(views, 6, 3, count)
    by_view[seen.view, :, :, seen.point] = both[:, :6]
    group, groups = problem.camera_of[seen.view], len(problem.focal_prior)
    own, kinds = group >= 0, problem.size_of_camera
    at = group[own] * count + seen.point[own]
    by_camera = _summed(at, groups * count, both[own, 6 : 6 + kinds])
    by_camera = by_camera.reshape(groups, count, kinds, 3).transpose(2, 0, 3, 1)
    cross[6 * views :] = by_camera.reshape(kinds * groups, 3, count)
    of_points = _summed(seen.point, count, to_point @ np.concatenate([J_point, e], 2))
    for prior in problem.priors:
        _add_prior(H, g, scene, prior)
    last, sigma = np.arange(6 * views, problem.size), _camera_sigma(problem)
    H[last, last] += 1 / sigma**2
    g[last] += _camera_residual(scene, problem) / sigma
    if problem.kept_distance is not None:
        _add_distance(H, g, scene, *problem.kept_distance)
    return NormalEquations(H, g, of_points[..., :3], of_points[..., 3], cross)


def _summed(at: IndexArray, size: int, values: FloatArray) -> FloatArray:
    """Return (size, ...) sums of the (N, ...) values of each index."""
    to = csr_array((np.ones(len(at)), (at, np.arange(len(at)))), shape=(size, len(at)))
    flat = values.reshape(len(at), math.prod(values.shape[1:]))
    return np.asarray(to @ flat).reshape(size, *values.shape[1:])


def derivatives(
    scene: Scene, seen: Observations
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return residuals, and derivatives by pose, log focal length and point.

    Returns:
        Derivatives of the pixels by pose (N, 2, 6), log focal length (N, 2) and point (N, 2, 3);
        (N, 2) residuals.
    """
    cam, z = _in_cameras(scene, seen)
    where = _projected(scene, seen, cam, z)
    K = scene.K[seen.view]
    fx, fy = K[:, 0, 0] / z, K[:, 1, 1] / z
    J = np.zeros((len(seen), 2, 3))
    J[:, 0, 0], J[:, 0, 2] = fx, -fx * cam[:, 0] / z
    J[:, 1, 1], J[:, 1, 2] = fy, -fy * cam[:, 1] / z
    J_cam = np.concatenate([np.cross(J, cam[:, None, :]), -J], 2)  # a row times [cam]x
    J_point = J @ np.swapaxes(scene.T[:, :3, :3], 1, 2)[seen.view]
    return J_cam, where - K[:, :2, 2], J_point, where - _at_once(scene, seen)


def _prior_residual(scene: Scene, prior: MotionPrior) -> tuple[FloatArray, FloatArray]:
    """Return (3,) rotation and (3,) translation between measured and current motion, in sigmas."""
    T = invert_se3(scene.T[prior.a]) @ scene.T[prior.b]
    turn = _log_rotation(prior.T_a_b[:3, :3].T @ T[:3, :3])
    return turn / prior.sigma_rad, (T[:3, 3] - prior.T_a_b[:3, 3]) / prior.sigma_t


def prior_information(priors: Sequence[MotionPrior], T: FloatArray) -> FloatArray:
    """Return the (6V, 6V) information of the priors at (V, 4, 4) poses, without robust weights."""
    H = np.zeros((6 * len(T), 6 * len(T)))
    for prior in priors:
        J, _ = prior_derivatives(Scene(T, np.zeros((0, 3, 3)), np.zeros((0, 3))), prior)
        at = np.r_[6 * prior.a : 6 * prior.a + 6, 6 * prior.b : 6 * prior.b + 6]
        H[np.ix_(at, at)] += J.T @ J
    return H


def prior_strain(priors: Sequence[MotionPrior], T: FloatArray) -> FloatArray:
    """Return (N, 2) residuals of each prior in sigmas per axis (RMS): rotation, translation."""
    scene = Scene(T, np.zeros((0, 3, 3)), np.zeros((0, 3)))
    pairs = [_prior_residual(scene, prior) for prior in priors]
    strain = [[np.linalg.norm(r) / math.sqrt(3) for r in pair] for pair in pairs]
    return np.array(strain).reshape(-1, 2)


def prior_derivatives(scene: Scene, prior: MotionPrior) -> tuple[FloatArray, FloatArray]:
    """Return the (6, 12) derivative of a prior's residual by both poses, and the (6,) residual.

    The residual is in sigmas.
    """
    turn, shift = _prior_residual(scene, prior)
    T = invert_se3(scene.T[prior.a]) @ scene.T[prior.b]
    by_turn = _inverse_right_jacobian(turn * prior.sigma_rad)
    J = np.zeros((6, 12))
    J[:3, :3] = -by_turn @ T[:3, :3].T / prior.sigma_rad
    J[:3, 6:9] = by_turn / prior.sigma_rad
    J[3:, :3] = _skew(T[:3, 3]) / prior.sigma_t
    J[3:, 3:6] = -np.eye(3) / prior.sigma_t
    J[3:, 9:] = T[:3, :3] / prior.sigma_t
    return J, np.concatenate([turn, shift])


def _add_prior(H: FloatArray, g: FloatArray, scene: Scene, prior: MotionPrior) -> None:
    J, r = prior_derivatives(scene, prior)
    square = np.array([r[:3] @ r[:3], r[3:] @ r[3:]])
    w = np.repeat(_cauchy_weight(square, PRIOR_SIGMAS), 3)
    at = np.r_[6 * prior.a : 6 * prior.a + 6, 6 * prior.b : 6 * prior.b + 6]
    H[np.ix_(at, at)] += J.T @ (w[:, None] * J)
    g[at] += J.T @ (w * r)


def _camera_residual(scene: Scene, problem: Problem) -> FloatArray:
    """Return residuals of log focal lengths (G,), then readouts (G,), in sigmas."""
    first = [int(np.argmax(problem.camera_of == g)) for g in range(len(problem.focal_prior))]
    off = np.log(scene.K[first, 0, 0]) - problem.focal_prior[:, 0]
    if len(problem.readout_sigma_s):
        off = np.concatenate([off, scene.readout_s[first]])
    return np.asarray(off / _camera_sigma(problem))


def _camera_sigma(problem: Problem) -> FloatArray:
    return np.concatenate([problem.focal_prior[:, 1], problem.readout_sigma_s])


def _distance_residual(scene: Scene, view: int, distance: float) -> tuple[FloatArray, float]:
    """Return the (3,) derivative of the kept distance by the view's step, and its residual."""
    t, sigma = scene.T[view, :3, 3], SCALE_GAUGE_SIGMA * distance
    length = max(float(np.linalg.norm(t)), 1e-12)
    return scene.T[view, :3, :3].T @ t / (length * sigma), (length - distance) / sigma


def _add_distance(H: FloatArray, g: FloatArray, scene: Scene, view: int, distance: float) -> None:
    J, r = _distance_residual(scene, view, distance)
    at = slice(6 * view + 3, 6 * view + 6)
    H[at, at] += np.outer(J, J)
    g[at] += J * r


def _log_rotation(R: FloatArray) -> FloatArray:
    """Return the (3,) rotation vector, without SciPy's input checks, which dominate the time."""
    axis = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / 2
    sine, cosine = math.sqrt(float(axis @ axis)), (float(R[0, 0] + R[1, 1] + R[2, 2]) - 1) / 2
    # sin(x) == x in doubles below 1e-7; near half a turn the difference cancels the axis
    if sine < 1e-7 and cosine > 0:
        return np.asarray(axis)
    if sine < 1e-4:
        return np.asarray(Rotation.from_matrix(R).as_rotvec())
    return np.asarray(axis * (math.atan2(sine, cosine) / sine))


def _skew(v: FloatArray) -> FloatArray:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0.0]])


def _inverse_right_jacobian(turn: FloatArray) -> FloatArray:
    """Return the (3, 3) derivative of log(R exp(w)) by w at R = exp(turn)."""
    angle, W = float(np.linalg.norm(turn)), _skew(turn)
    if angle < 1e-4:  # the next term of the series is of the order of angle^4
        return np.eye(3) + W / 2 + W @ W / 12
    share = 1 / angle**2 - (1 + np.cos(angle)) / (2 * angle * np.sin(angle))
    return np.asarray(np.eye(3) + W / 2 + share * W @ W)


def _reduced(normal: NormalEquations, damping: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the Schur complement (D, D), (D,) of the cameras, and (P, 3, 3) point inverses."""
    own = np.einsum("pii->pi", normal.points)
    damped = normal.points.copy()
    np.einsum("pii->pi", damped)[:] += damping * own + 1e-12 * own.max(1, keepdims=True) + 1e-12
    inverse = np.linalg.inv(damped)
    D, by_axis = len(normal.cross), inverse.transpose(1, 2, 0).copy()
    left = np.zeros_like(normal.cross)
    for i, j in product(range(3), repeat=2):
        left[:, j] += normal.cross[:, i] * by_axis[i, j]
    left = left.reshape(D, -1)
    S = normal.cameras - left @ normal.cross.reshape(D, -1).T
    S = (S + S.T) / 2
    g = normal.g_cameras - left @ normal.g_points.T.ravel()
    np.einsum("ii->i", S)[:] += damping * np.diag(normal.cameras)
    return S, g, inverse


def damped_step(
    normal: NormalEquations, problem: Problem, damping: float
) -> tuple[FloatArray, FloatArray]:
    """Return the damped step: (D,) of the cameras and (P, 3) of the points.

    Raises:
        BundleError: the observations leave some pose undetermined.
    """
    S, g, inverse = _reduced(normal, damping)
    free = problem.unknown
    step = np.zeros(problem.size)
    held = S[np.ix_(free, free)]
    held[np.diag_indices_from(held)] += 1e-12 * max(float(np.trace(held)), 1e-12)
    try:
        step[free] = -np.linalg.solve(held, g[free])
    except np.linalg.LinAlgError:
        raise BundleError("the observations leave some pose undetermined") from None
    rest = normal.g_points + np.tensordot(step, normal.cross, 1).T
    return step, -np.einsum("pij,pj->pi", inverse, rest)


def _moved(scene: Scene, problem: Problem, step: FloatArray, shift: FloatArray) -> Scene:
    """Return the scene after a step."""
    views = len(scene.T)
    poses = step[: 6 * views].reshape(views, 6)
    T = scene.T.copy()
    T[:, :3, :3] = scene.T[:, :3, :3] @ Rotation.from_rotvec(poses[:, :3]).as_matrix()
    T[:, :3, 3] += np.einsum("vij,vj->vi", scene.T[:, :3, :3], poses[:, 3:])
    K, readout_s, count = scene.K, scene.readout_s, len(problem.focal_prior)
    if count:
        K = K.copy()
        of_focal, of_readout = step[6 * views : 6 * views + count], step[6 * views + count :]
        grown = np.append(np.exp(of_focal), 1.0)[problem.camera_of]
        K[:, 0, 0] *= grown
        K[:, 1, 1] *= grown
        if len(of_readout):
            readout_s = readout_s + np.append(of_readout, 0.0)[problem.camera_of]
    return replace(scene, T=T, K=K, points=scene.points + shift, readout_s=readout_s)
