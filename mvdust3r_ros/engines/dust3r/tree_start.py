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

"""Where global alignment starts: pairs chained along a spanning tree (DUSt3R, section 3.3)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.engines.dust3r.pairs import PairMaps
from mvdust3r_ros.geometry import (
    AlignmentError,
    Sim3,
    align_sim3_robust,
    focal_from_pointmap,
    invert_se3,
    make_se3,
)

OWN_MAP_ROWS = 112
"""Rows and columns of a pointmap, at least, that its focal length is taken from: 12,000 points are
enough for one number."""
LEAST_DEPTH = 1e-3
"""Share of the median depth that no depth of the start is below: its logarithm is adjusted."""


@dataclass(frozen=True, eq=False)
class Start:
    """A first guess of all that is adjusted, but for the focal lengths.

    Attributes:
        T_world_cam: (V, 4, 4) poses of the cameras.
        depth: (V, N) depths of the sampled pixels.
        S_world_pair: P similarities from the frames of the pairs.
    """

    T_world_cam: FloatArray
    depth: FloatArray
    S_world_pair: tuple[Sim3, ...]


def start_from_tree(maps: PairMaps, sample: slice) -> Start:
    """Place each view by the surest pair that leads to it, then every pair by its two views.

    Args:
        maps: of all pairs.
        sample: rows and columns that are looked at.

    Raises:
        AlignmentError: the points of a pair determine no similarity.
    """
    points = (
        maps.points[:, :, sample, sample].astype(np.float64).reshape(len(maps.pairs), 2, -1, 3)
    )
    conf = maps.conf[:, :, sample, sample].astype(np.float64).reshape(len(maps.pairs), 2, -1)
    weight = np.log(conf) + 1e-9  # so that not all are zero
    world = _chained(maps, points, weight)
    S_world_pair = tuple(
        align_sim3_robust(
            points[p].reshape(-1, 3), world[pair].reshape(-1, 3), weight[p].ravel(), symmetric=True
        )[0]
        for p, pair in enumerate(maps.pairs)
    )
    own = _best_own(maps)
    T_world_cam = np.empty((maps.views, 4, 4))
    depth = np.empty(world.shape[:2])
    for view, p in enumerate(own):
        S, _ = align_sim3_robust(points[p, 0], world[view], weight[p, 0], symmetric=True)
        T_world_cam[view] = make_se3(S.R, S.t)
        T = invert_se3(T_world_cam[view])
        z = world[view] @ T[2, :3] + T[2, 3]
        depth[view] = np.maximum(z, LEAST_DEPTH * max(float(np.median(z)), np.finfo(float).tiny))
    return Start(T_world_cam, depth, S_world_pair)


def own_focals(maps: PairMaps) -> FloatArray:
    """(V,) focal lengths in pixels: medians of all maps of each view in its own frame.

    The principal point is taken to be in the middle of the image.

    Raises:
        AlignmentError: no map of a view gives a focal length.
    """
    height, width = maps.points.shape[2:4]
    stride = max(1, min(height, width) // OWN_MAP_ROWS)
    centre = ((width - 1) / 2 / stride, (height - 1) / 2 / stride)
    found: list[list[float]] = [[] for _ in range(maps.views)]
    for view, points in zip(maps.pairs[:, 0], maps.points[:, 0, ::stride, ::stride], strict=True):
        with suppress(AlignmentError):  # points behind the camera, of a pair that shows nothing
            found[view].append(focal_from_pointmap(points, centre_uv=centre) * stride)
    without = [view for view, focals in enumerate(found) if not focals]
    if without:
        raise AlignmentError(f"no pointmap of view {without[0]} gives a focal length")
    return np.array([np.median(focals) for focals in found])


def _best_own(maps: PairMaps) -> list[int]:
    """The surest pair in which each view is the first."""
    score = maps.scores()
    first = [np.nonzero(maps.pairs[:, 0] == view)[0] for view in range(maps.views)]
    return [int(of[np.argmax(score[of])]) for of in first]


def _chained(maps: PairMaps, points: FloatArray, weight: FloatArray) -> FloatArray:
    """(V, N, 3) points of all views in the frame of the surest pair."""
    todo = list(maps.tree())
    world = np.empty((maps.views, *points.shape[2:]))
    strongest = todo.pop(0)
    world[maps.pairs[strongest]] = points[strongest]
    placed = set(maps.pairs[strongest].tolist())
    while todo:
        p = next(p for p in todo if placed & set(maps.pairs[p].tolist()))
        todo.remove(p)
        known = 0 if int(maps.pairs[p, 0]) in placed else 1
        view, new = maps.pairs[p, known], maps.pairs[p, 1 - known]
        S, _ = align_sim3_robust(points[p, known], world[view], weight[p, known], symmetric=True)
        world[new] = S.apply(points[p, 1 - known])
        placed.add(int(new))
    return world
