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

"""Depth levels: factors that reconcile the slightly different depths of windows.

The depth of a window scales with its baselines, which are known to a per cent or two, and low
parallax adds more. All views of a window share about one factor, so two windows may see a wall a
hand's breadth apart. Where views of several windows see the same surface, the ratios of their
ranges give the factors between them. Their mean is more accurate than each window.

Least squares with Huber weights (1964), iteratively reweighted as in Holland and Welsch (1977).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.graph.map_keyframe import MapKeyframe

LEVEL_SIGMA = 0.04
"""Relative depth error of a window: the engine's point error, 0.045, which all its views share.
Insensitive from 0.02 to 0.08 (benchmarks/constants.py)."""
LINK_SIGMA = 0.04
"""Sigma of the range ratio of two views of different windows; views of one window share their
error. Insensitive from 0.02 to 0.08 (benchmarks/constants.py)."""
HUBER_SIGMAS = 1.0
"""Where the weight starts to fall; 1.345 would keep 95 % of least squares' efficiency on normal
errors (Holland and Welsch 1977). Insensitive from 0.5 to 2 (benchmarks/constants.py)."""
MAX_LOG_RATIO = 0.2
"""Views that differ by more do not see the same surface: four sigmas of a link. Insensitive
from 0.1 to 0.4 (benchmarks/constants.py)."""
NEAR_LOG_RATIO, NEAR_SHARE, MIN_NEAR = 0.06, 0.4, 40
"""Points with a ratio this close to the median lie on the same surface. With a smaller share or
number of them, two views do not see the same surfaces. Insensitive from half to twice each value
(benchmarks/constants.py)."""
POINTS = 600
"""Points compared per view. Insensitive from 300 to 1200 (benchmarks/constants.py)."""
MAX_APART_M, MAX_TURN_DEG, MAX_RAY_DEG = 3.0, 35.0, 25.0
"""Largest distance and rotation between compared views, and largest angle between their rays to a
point. Insensitive from half to twice each value (benchmarks/constants.py)."""
NEIGHBOURS = 8
"""Nearest views, of several windows, that a view is compared with. Insensitive from 4 to 16
(benchmarks/constants.py)."""
A_WINDOW = 2
"""Most of these from one window. Insensitive from 1 to 4 (benchmarks/constants.py)."""
LEAST_CHANGE = 0.005
"""Smaller corrections are noise: 1.5 cm at 3 m, where a cell has 5. Insensitive from 0.0025 to
0.01 (benchmarks/constants.py)."""
ROUNDS = 5
"""Iterations of the reweighting, and of the trimmed median."""

Levels = dict[int, float]
"""Window -> factor."""


class Link(NamedTuple):
    """Measurement by two views: log of the ranges of `b` relative to those of `a`."""

    a: int
    b: int
    log_ratio: float


def levels_of(keyframes: Mapping[int, MapKeyframe], fixed: Collection[int] = ()) -> Levels:
    """Estimate the levels at which the windows agree best.

    Args:
        keyframes: key -> keyframe in the map.
        fixed: windows that keep their level; they are not compared with each other.

    Returns:
        Window -> level, of all that are not fixed.
    """
    views = [m for m in keyframes.values() if len(m.stored_cam) >= MIN_NEAR]
    free = [m for m in views if m.window not in fixed]
    links = [
        link for a in free for b in _neighbours(a, views) for link in _links(a, b)
    ]  # fmt: skip
    level_of = {m.window: m.level for m in keyframes.values()}
    wanted = [w for w in level_of if w not in fixed]
    found = _solved(links, level_of, wanted)
    return {
        w: level if abs(math.log(level / level_of[w])) > LEAST_CHANGE else level_of[w]
        for w, level in zip(wanted, found.tolist(), strict=True)
    }


def _neighbours(a: MapKeyframe, views: list[MapKeyframe]) -> list[MapKeyframe]:
    """Return nearby views of other windows with a similar direction, nearest first."""
    T = np.stack([b.T_map_cam for b in views])
    off_m = np.linalg.norm(T[:, :3, 3] - a.T_map_cam[:3, 3], axis=1)
    turn_deg = np.degrees(np.arccos(np.clip(T[:, :3, 2] @ a.T_map_cam[:3, 2], -1, 1)))
    cost = off_m / MAX_APART_M + turn_deg / MAX_TURN_DEG
    chosen: list[MapKeyframe] = []
    for index in np.argsort(cost, kind="stable").tolist():
        b = views[index]
        if off_m[index] > MAX_APART_M or turn_deg[index] > MAX_TURN_DEG or b.window == a.window:
            continue
        if sum(c.window == b.window for c in chosen) < A_WINDOW:
            chosen.append(b)
        if len(chosen) == NEIGHBOURS:
            break
    return chosen


def _links(a: MapKeyframe, b: MapKeyframe) -> list[Link]:
    """Return the mean of both directions, if measured: taking the nearest ray biases each."""
    there, back = _log_ratio(a, b), _log_ratio(b, a)
    if there is None or back is None:
        return []
    return [Link(a.window, b.window, (there - back) / 2)]


def _log_ratio(a: MapKeyframe, b: MapKeyframe) -> float | None:
    """Return the log ratio of `b`'s ranges to `a`'s points; None without a common surface."""
    thin = a.points_cam[:: max(1, len(a.stored_cam) // POINTS)]
    places = thin @ a.T_map_cam[:3, :3].T + a.T_map_cam[:3, 3]
    seen_m, range_m = b.ranges_to(places)
    rays = places - a.T_map_cam[:3, 3], places - b.T_map_cam[:3, 3]
    cosine = (rays[0] * rays[1]).sum(1) / (
        np.linalg.norm(rays[0], axis=1) * np.maximum(range_m, 1e-6)
    )
    use = (seen_m > 0) & (cosine > math.cos(math.radians(MAX_RAY_DEG)))
    if use.sum() < MIN_NEAR:
        return None
    logs = np.log(seen_m[use] / range_m[use])
    middle = float(np.median(logs))
    for _ in range(ROUNDS):
        near = np.abs(logs - middle) < NEAR_LOG_RATIO
        if near.sum() < max(MIN_NEAR, NEAR_SHARE * len(logs)):
            return None
        middle = float(np.median(logs[near]))
    return middle if abs(middle) < MAX_LOG_RATIO else None


def _solved(links: list[Link], level_of: Levels, wanted: list[int]) -> FloatArray:
    """Solve for levels (N,) of the wanted windows, the others fixed; robust least squares."""
    number = {w: i for i, w in enumerate(wanted)}
    logs = {w: math.log(level) for w, level in level_of.items()}
    x = np.array([logs[w] for w in wanted])
    if not links:
        return np.asarray(np.exp(x))
    # in log levels: x_b - x_a should make the ratio of the ranges 1
    goal = np.array([logs[k.b] - logs[k.a] - k.log_ratio for k in links])
    sides = [(np.array([number.get(w, -1) for w in end]), np.array([logs[w] for w in end]))
             for end in zip(*((k.a, k.b) for k in links), strict=True)]  # fmt: skip
    rows = np.arange(len(links))
    A, known = coo_array((len(links), len(wanted))).tocsr(), np.zeros(len(links))
    for (index, given), sign in zip(sides, (-1.0, 1.0), strict=True):
        free = index >= 0
        ones = np.full(int(free.sum()), sign)
        A = A + coo_array((ones, (rows[free], index[free])), A.shape).tocsr()
        known += np.where(free, 0.0, sign * given)
    for _ in range(ROUNDS):
        strain = np.abs(A @ x + known - goal) / LINK_SIGMA
        weight = np.minimum(1.0, HUBER_SIGMAS / np.maximum(strain, 1e-9)) / LINK_SIGMA**2
        normal = A.T @ (A * weight[:, None]) + diags_array(np.full(len(x), LEVEL_SIGMA**-2))
        x = np.atleast_1d(spsolve(normal.tocsc(), A.T @ (weight * (goal - known))))
    return np.asarray(np.exp(x))
