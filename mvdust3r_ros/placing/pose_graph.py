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

"""Pose graph optimisation: poses that best fit all relative measurements between them.

Errors, derivatives and sparse normal equations follow Grisetti, Kuemmerle, Stachniss and Burgard
("A tutorial on graph-based SLAM", 2010). Steps are taken in the local frame of each pose, as in
Sola, Deray and Atchuthan ("A micro Lie theory for state estimation in robotics", 2018), with
translation and rotation separate.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, csc_matrix
from scipy.sparse.linalg import MatrixRankWarning, spsolve
from scipy.spatial.transform import Rotation

from mvdust3r_ros.datatypes import BoolArray, FloatArray, MvDust3rError
from mvdust3r_ros.geometry import invert_se3

KERNEL_SIGMAS = 3.0
"""Final width of the kernel, beyond which a closure loses its weight. Insensitive from 1.5 to 6
(benchmarks/constants.py)."""
CONVERGED = 1e-7
"""Step size in metres and radians: far below the resolution of a map."""


class PoseGraphError(MvDust3rError):
    """The measurements do not determine the poses."""


@dataclass(frozen=True)
class PoseEdge:
    """A measured pose of node `b` in the frame of node `a`.

    Attributes:
        a: node.
        b: node.
        T_a_b: (4, 4) measured pose.
        sigma_m: one-sigma of the translation, per axis.
        sigma_rad: one-sigma of the rotation, per axis.
        robust: whether it may be rejected if it disagrees with all others (loop closures).
    """

    a: int
    b: int
    T_a_b: FloatArray
    sigma_m: float
    sigma_rad: float
    robust: bool = False


def optimize_poses(
    poses: Mapping[int, FloatArray],
    edges: Sequence[PoseEdge],
    fixed: Collection[int],
    iterations: int = 20,
) -> dict[int, FloatArray]:
    """Minimise the residuals of all edges by Gauss-Newton on SE(3) with SciPy's sparse solver.

    Robust edges are reweighted by a Cauchy kernel that narrows to three sigmas over the iterations
    (graduated non-convexity, Yang et al. 2020): a true closure first pulls the drift in, a false
    one ends up far outside and loses its weight.

    Args:
        poses: node -> (4, 4) initial value.
        edges: measurements; both nodes must be in `poses`.
        fixed: nodes that do not move; at least one, otherwise the graph floats.
        iterations: most iterations.

    Returns:
        Node -> (4, 4) pose; fixed nodes unchanged.

    Raises:
        PoseGraphError: no fixed node, an unknown node, or poses that no edge determines.
    """
    free = [node for node in poses if node not in fixed]
    if not free:
        return dict(poses)
    if len(free) == len(poses):
        raise PoseGraphError("no pose is fixed, the graph floats freely")
    unknown = {n for e in edges for n in (e.a, e.b)} - set(poses)
    if unknown:
        raise PoseGraphError(f"edges name unknown poses {sorted(unknown)}")
    nodes = list(poses)
    row = {node: i for i, node in enumerate(nodes)}
    T = np.stack([poses[n] for n in nodes]).astype(float)
    column = np.full(len(nodes), -1)
    column[[row[n] for n in free]] = np.arange(len(free))
    table = _EdgeTable.of(edges, row)
    width = max(_largest_robust_residual(T, table), KERNEL_SIGMAS)
    for _ in range(iterations):
        step = _gauss_newton_step(T, table, column, width)
        moving = column >= 0
        T[moving] = T[moving] @ _exp(step[column[moving]])
        if width == KERNEL_SIGMAS and np.abs(step).max() < CONVERGED:
            break
        width = max(width / 2, KERNEL_SIGMAS)
    T[:, :3, :3] = Rotation.from_matrix(T[:, :3, :3]).as_matrix()  # products lose orthogonality
    return {node: T[i] if column[i] >= 0 else poses[node] for node, i in row.items()}


@dataclass(frozen=True)
class _EdgeTable:
    """Edges as arrays: rows of both nodes, inverse measurement, weights (E, 6), robust flags."""

    a: npt.NDArray[np.intp]
    b: npt.NDArray[np.intp]
    T_b_a: FloatArray
    root_weight: FloatArray
    robust: BoolArray

    @staticmethod
    def of(edges: Sequence[PoseEdge], row: Mapping[int, int]) -> _EdgeTable:
        sigma = np.array([[e.sigma_m] * 3 + [e.sigma_rad] * 3 for e in edges]).reshape(-1, 6)
        return _EdgeTable(
            np.array([row[e.a] for e in edges], int),
            np.array([row[e.b] for e in edges], int),
            invert_se3(np.array([e.T_a_b for e in edges]).reshape(-1, 4, 4)),
            1.0 / sigma,
            np.array([e.robust for e in edges], bool),
        )


def _residuals(T: FloatArray, table: _EdgeTable) -> tuple[FloatArray, FloatArray]:
    """(E, 6) residuals in sigmas and (E, 4, 4) relative poses."""
    relative = invert_se3(T[table.a]) @ T[table.b]
    return _log(table.T_b_a @ relative) * table.root_weight, relative


def edge_sigmas(poses: Mapping[int, FloatArray], edges: Sequence[PoseEdge]) -> FloatArray:
    """Return (E,) norms of the edges' residuals in sigmas."""
    nodes = {n for e in edges for n in (e.a, e.b)}
    row = {node: i for i, node in enumerate(nodes)}
    T = np.array([poses[n] for n in nodes], float).reshape(-1, 4, 4)
    residual, _ = _residuals(T, _EdgeTable.of(edges, row))
    norms: FloatArray = np.linalg.norm(residual, axis=1)
    return norms


def _largest_robust_residual(T: FloatArray, table: _EdgeTable) -> float:
    residual, _ = _residuals(T, table)
    return float(np.linalg.norm(residual[table.robust], axis=1).max(initial=0.0))


def _gauss_newton_step(
    T: FloatArray, table: _EdgeTable, column: npt.NDArray[np.intp], width: float
) -> FloatArray:
    """Return (free nodes, 6) right-hand increments, translation first."""
    residual, relative = _residuals(T, table)
    kernel = np.ones(len(residual))
    squared = (residual[table.robust] ** 2).sum(1)
    kernel[table.robust] = 1.0 / np.sqrt(1.0 + squared / width**2)
    weight = table.root_weight * kernel[:, None]
    jac_b = np.eye(6) * weight[:, :, None]
    jac_a = -_adjoint(invert_se3(relative)) * weight[:, :, None]
    n_free = int(column.max()) + 1
    J = _sparse(((table.a, jac_a), (table.b, jac_b)), column, n_free)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatrixRankWarning)
        step: FloatArray = -spsolve((J.T @ J).tocsc(), J.T @ (residual * kernel[:, None]).ravel())
    if not np.all(np.isfinite(step)):
        raise PoseGraphError("a pose is not connected to a fixed one by any edge")
    return step.reshape(n_free, 6)


def _sparse(
    blocks: Sequence[tuple[npt.NDArray[np.intp], FloatArray]],
    column: npt.NDArray[np.intp],
    n_free: int,
) -> csc_matrix:
    """Jacobian (6 E, 6 n_free) from (node row, (E, 6, 6) block) pairs, without fixed nodes."""
    rows, cols, values = [], [], []
    for node, block in blocks:
        edge = np.flatnonzero(column[node] >= 0)
        base_row = 6 * edge[:, None, None] + np.arange(6)[None, :, None]
        base_col = 6 * column[node[edge]][:, None, None] + np.arange(6)[None, None, :]
        rows.append(np.broadcast_to(base_row, (len(edge), 6, 6)).ravel())
        cols.append(np.broadcast_to(base_col, (len(edge), 6, 6)).ravel())
        values.append(block[edge].ravel())
    shape = (6 * len(column[blocks[0][0]]), 6 * n_free)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
    return coo_matrix(entries, shape=shape).tocsc()


def _exp(xi: FloatArray) -> FloatArray:
    """Map (N, 6) increments to (N, 4, 4): rotation vector last, translation unchanged."""
    T = np.tile(np.eye(4), (len(xi), 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(xi[:, 3:]).as_matrix()
    T[:, :3, 3] = xi[:, :3]
    return T


def _log(T: FloatArray) -> FloatArray:
    """Inverse of `_exp`."""
    return np.concatenate([T[:, :3, 3], Rotation.from_matrix(T[:, :3, :3]).as_rotvec()], 1)


def _adjoint(T: FloatArray) -> FloatArray:
    """Return (N, 6, 6) frame changes of increments, translation first."""
    adjoint = np.zeros((len(T), 6, 6))
    R, t = T[:, :3, :3], T[:, :3, 3]
    adjoint[:, :3, :3] = adjoint[:, 3:, 3:] = R
    skew = np.zeros((len(T), 3, 3))
    skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 2] = -t[:, 2], t[:, 1], -t[:, 0]
    adjoint[:, :3, 3:] = (skew - np.swapaxes(skew, 1, 2)) @ R
    return adjoint


def relative_edge(
    a: int, b: int, T_w_a: FloatArray, T_w_b: FloatArray, sigma_m: float, sigma_rad: float
) -> PoseEdge:
    """Return the edge between two poses given in one frame."""
    return PoseEdge(a, b, invert_se3(T_w_a) @ T_w_b, sigma_m, sigma_rad)
