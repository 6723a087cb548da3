"""Which views are references, and which path to read.

The network takes its first views as references. A reference in the middle of the window sees more
of it than the first frame does, so the order decides quality (Tang et al. 2025, oracle rows).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, View, WindowPrediction


def order_views(views: Sequence[View], n_ref: int) -> tuple[int, ...]:
    """Order to feed views in: references first, spread evenly over the travelled path.

    Args:
        views: V views in time order; their odometry gives the path, else each step counts as one.
        n_ref: number of references, at most V are used.

    Returns:
        A permutation: position k gets view order[k]. The first one is nearest the path's middle.
    """
    path = travelled_path(views)
    count = min(max(1, n_ref), len(views))
    targets = (np.arange(count) + 0.5) / count * path[-1]
    targets = targets[np.argsort(np.abs(targets - path[-1] / 2), kind="stable")]
    chosen: list[int] = []
    for target in targets:
        distance = np.abs(path - target)
        distance[chosen] = np.inf
        chosen.append(int(np.argmin(distance)))
    return (*chosen, *(i for i in range(len(views)) if i not in chosen))


def travelled_path(views: Sequence[View]) -> FloatArray:
    """(V,) distance travelled up to each view, not decreasing, positive at the end."""
    poses = [v.T_odom_cam for v in views]
    steps = np.ones(len(views) - 1)
    if all(p is not None for p in poses):
        centres = np.array([p[:3, 3] for p in poses if p is not None])
        moved = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        if moved.sum() > 1e-6:
            # a small share per step keeps views apart when the robot only turns
            steps = moved + 0.1 * moved.mean()
    return np.concatenate([[0.0], np.cumsum(steps)])


def best_path(prediction: WindowPrediction) -> int:
    """Index of the path with the highest mean log confidence."""
    return int(np.argmax(np.log(prediction.conf).mean(axis=(1, 2, 3))))
