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

"""Choose views of a scene for a test window by their overlap, as MV-DUSt3R+ (Tang et al. 2024).

Each new view overlaps with one chosen view, and hardly with the others, so that a window spreads
over the scene without losing its connection. The numbers are those of the published generators of
tuples (github.com/facebookresearch/mvdust3r, scripts/tuple_gen).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mvdust3r_ros.datatypes import BoolArray, FloatArray, MvDust3rError
from mvdust3r_ros.geometry import backproject, invert_se3, pixel_grid

LEAST_SHARED, MOST_SHARED = 0.3, 0.7
"""Range of the overlap with one chosen view, as published; with all others it is below."""
LEAST_COVERED = 0.95
"""Share of a held-out view that the first input views see, as published."""
INPUTS_A_HELD_OUT_VIEW = 4
"""The paper holds out one view for every four, and the k-th is seen by the first 4 k."""
SAME_SURFACE_M = 0.05
"""How far behind the surface a view sees a point may lie, as in the generator for Habitat."""
OVERLAP_PX = 100
"""Width of the depth maps that are compared, as in the generator for Habitat."""
POINT_STEP = 4
"""Every fourth pixel of those, in both directions, is looked for in other views: 475 points of a
view of 4:3 give the overlap to about 2 %."""
SCENE_STARTS = 20
"""First views tried. With up to 1000 candidates for each of 24 views that is more than the 100 000
tries after which the generator for ScanNet leaves a scene."""


class SamplingError(MvDust3rError):
    """A scene holds no window of the wanted kind."""


class Candidates:
    """Views of a scene to choose from, as coarse depth."""

    def __init__(
        self, depths_m: Iterable[FloatArray], Ks: Sequence[FloatArray], T_world_cam: FloatArray
    ) -> None:
        """Take what the overlaps are computed from.

        Args:
            depths_m: (H, W) depth of each view, all of one size, metres; 0 or NaN where unknown.
                Taken one by one, as those of a scan fill gigabytes.
            Ks: (3, 3) pinhole matrix of each.
            T_world_cam: (N, 4, 4) camera-to-world poses.

        Raises:
            SamplingError: the depth maps differ in size.
        """
        coarse, sizes = list[FloatArray](), set[tuple[int, ...]]()
        for depth_m in depths_m:
            sizes.add(depth_m.shape)
            step = max(depth_m.shape[1] // OVERLAP_PX, 1)
            coarse.append(np.array(depth_m[::step, ::step], np.float32))
        if len(sizes) != 1:
            raise SamplingError("the depth images of a scene have to be of one size")
        self._depth = np.nan_to_num(np.stack(coarse), nan=0.0, posinf=0.0, neginf=0.0)
        self._K = np.stack([np.array(K, float) / [[step], [step], [1]] for K in Ks])
        self._T_cam_world = np.stack([invert_se3(np.asarray(T, float)) for T in T_world_cam])
        some = (slice(POINT_STEP // 2, None, POINT_STEP),) * 2
        pixels = pixel_grid(*self._depth.shape[1:])[some].reshape(-1, 2)
        z = self._depth[(slice(None), *some)].reshape(len(self), -1)
        self._known: BoolArray = z > 0
        self._counts = np.maximum(self._known.sum(1), 1)
        points = [backproject(d.astype(float), K, pixels) for d, K in zip(z, self._K, strict=True)]
        T = np.asarray(T_world_cam, float)
        self._points_world = np.stack(points) @ T[:, :3, :3].swapaxes(1, 2) + T[:, None, :3, 3]
        self._overlaps: dict[int, FloatArray] = {}

    def __len__(self) -> int:
        """Number of views."""
        return len(self._depth)

    def overlaps(self, view: int) -> FloatArray:
        """Return (N,) overlaps of a view with all views, 0 to 1.

        An overlap is the share of one view's points that the other sees, averaged over both
        directions.
        """
        if view not in self._overlaps:
            theirs = self._seen_by(view).sum(1) / self._counts
            ours = self._known[view] & self._in_all(self._points_world[view])
            self._overlaps[view] = (theirs + ours.sum(1) / self._counts[view]) / 2
        return self._overlaps[view]

    def covered(self, views: Sequence[int], ends: Sequence[int]) -> Iterator[FloatArray]:
        """Yield, for each end, (N,) shares of each view's points that views[:end] see together.

        Args:
            views: some views.
            ends: numbers of them, increasing.
        """
        seen, start = np.zeros_like(self._known), 0
        for end in ends:
            for view in views[start:end]:
                seen |= self._seen_by(view)
            start = end
            yield seen.sum(1) / self._counts

    def _seen_by(self, view: int) -> BoolArray:
        """(N, P) which known points of all views a view sees."""
        one = slice(view, view + 1)
        points = self._points_world.reshape(1, -1, 3)
        seen = _sees(points, self._T_cam_world[one], self._K[one], self._depth[one])
        return self._known & seen.reshape(self._known.shape)

    def _in_all(self, points_world: FloatArray) -> BoolArray:
        """(N, P) which of (P, 3) points each view sees."""
        return _sees(points_world[None], self._T_cam_world, self._K, self._depth)


def _sees(
    points_world: FloatArray, T_cam_world: FloatArray, K: FloatArray, depth_m: FloatArray
) -> BoolArray:
    """(C, P) whether cameras see points (C or 1, P, 3): inside the image, not behind a surface."""
    height, width = depth_m.shape[1:]
    points = points_world @ T_cam_world[:, :3, :3].swapaxes(1, 2) + T_cam_world[:, None, :3, 3]
    z = points[..., 2]
    ahead = z > 0
    scale = 1 / np.where(ahead, z, 1.0)
    u = np.rint(K[:, 0, 0, None] * points[..., 0] * scale + K[:, 0, 2, None])
    v = np.rint(K[:, 1, 1, None] * points[..., 1] * scale + K[:, 1, 2, None])
    inside = ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    column, row = (np.where(inside, i, 0).astype(int) for i in (u, v))
    there = depth_m[np.arange(len(depth_m))[:, None], row, column]
    seen: BoolArray = inside & (there > 0) & (z - there < SAME_SURFACE_M)
    return seen


def choose_inputs(candidates: Candidates, views: int, seed: int) -> list[int]:
    """Choose the input views of a window at random.

    Args:
        candidates: views of the scene.
        views: number of views to choose.
        seed: same seed and candidates, same views; with more views, the same ones come first
            unless the search had to start again.

    Returns:
        Indices of the candidates. Each but the first has an overlap of 30 to 70 % with one before
        it, and less with all others before it.

    Raises:
        SamplingError: none of 20 first views leads to enough views.
    """
    rng = np.random.default_rng(seed)
    most = 0
    for _ in range(SCENE_STARTS):
        chosen = [int(rng.integers(len(candidates)))]
        while len(chosen) < views:
            ranked = np.sort([candidates.overlaps(i) for i in chosen], axis=0)
            fits = (ranked[-1] >= LEAST_SHARED) & (ranked[-1] <= MOST_SHARED)
            if len(ranked) > 1:
                fits &= ranked[-2] < LEAST_SHARED
            fits[chosen] = False
            if not fits.any():
                break
            chosen.append(int(rng.choice(np.flatnonzero(fits))))
        else:
            return chosen
        most = max(most, len(chosen))
    raise SamplingError(
        f"no {views} of {len(candidates)} views overlap by {LEAST_SHARED:.0%} to "
        f"{MOST_SHARED:.0%} each with one before it ({most} do)"
    )


def held_out_count(inputs: int) -> int:
    """Return how many views are held out for a number of input views."""
    return max(inputs // INPUTS_A_HELD_OUT_VIEW, 1)


def choose_held_out(candidates: Candidates, inputs: Sequence[int], seed: int) -> list[int]:
    """Choose views to hold out of a window, to be rendered: one for four inputs, at least one.

    Args:
        candidates: views of the scene.
        inputs: the input views, in the order in which they were chosen.
        seed: same seed, same views.

    Returns:
        Indices of the candidates; of the k-th, the first 4 k inputs see 95 %.

    Raises:
        SamplingError: there are too few such views.
    """
    rng = np.random.default_rng([seed, 1])  # other draws than those of the inputs
    chosen: list[int] = []
    counts = range(1, held_out_count(len(inputs)) + 1)
    ends = [min(INPUTS_A_HELD_OUT_VIEW * k, len(inputs)) for k in counts]
    for end, share in zip(ends, candidates.covered(inputs, ends), strict=True):
        fits = share > LEAST_COVERED
        fits[[*inputs, *chosen]] = False
        if not fits.any():
            raise SamplingError(
                f"no view of which {end} input views see {LEAST_COVERED:.0%} is left to hold out"
            )
        chosen.append(int(rng.choice(np.flatnonzero(fits))))
    return chosen
