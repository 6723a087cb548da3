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

"""Which pairs of views the network sees, and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError

PAIR_GRAPHS = ("complete", "window")

PairArray = npt.NDArray[np.int64]


class PairError(MvDust3rError):
    """Pairs of views cannot be aligned."""


@dataclass(frozen=True, eq=False)
class PairMaps:
    """Pointmaps of P ordered pairs of V views, each in a frame and a scale of its own.

    Attributes:
        pairs: (P, 2) views of each pair; with (i, j) there is (j, i).
        points: (P, 2, H, W, 3) of both views, in the camera frame of the pair's first one.
        conf: (P, 2, H, W) above 1.

    Raises:
        PairError: on construction, shapes that do not match, a pair without its reverse, or views
            that no chain of pairs joins.
    """

    pairs: PairArray
    points: FloatArray
    conf: FloatArray

    def __post_init__(self) -> None:
        shape = (len(self.pairs), 2, *np.shape(self.points)[2:4], 3)
        if np.shape(self.points) != shape or np.shape(self.conf) != shape[:4]:
            raise PairError(
                f"{len(self.pairs)} pairs with points {np.shape(self.points)} and confidence "
                f"{np.shape(self.conf)}"
            )
        known = {(int(i), int(j)) for i, j in self.pairs}
        if any(i == j or (j, i) not in known for i, j in known) or len(known) < len(self.pairs):
            raise PairError("each pair of different views is needed once, and its reverse")
        if len(self.tree()) != self.views - 1:
            raise PairError(f"the pairs do not join all {self.views} views")

    @property
    def views(self) -> int:
        """Number of views."""
        return int(self.pairs.max()) + 1

    def scores(self) -> FloatArray:
        """(P,) how sure the network is of each pair: mean confidence of one view times other's."""
        score: FloatArray = self.conf.mean((2, 3), dtype=np.float64).prod(1)
        return score

    def tree(self) -> PairArray:
        """(V - 1,) pairs of a spanning tree of the highest scores, the surest pair first."""
        score = self.scores()
        i, j = self.pairs.T
        cost = csr_array((1 / score, (i, j)), shape=(self.views, self.views))
        tree = minimum_spanning_tree(cost).tocoo()
        number = {(int(a), int(b)): index for index, (a, b) in enumerate(self.pairs)}
        chosen = np.array(
            [number[int(a), int(b)] for a, b in zip(tree.row, tree.col, strict=True)], np.int64
        )
        return chosen[np.argsort(-score[chosen], kind="stable")]


def pair_graph(views: int, graph: str = "complete", window: int = 3) -> PairArray:
    """(P, 2) ordered pairs of views, each with its reverse.

    Args:
        views: number of views, at least 2.
        graph: "complete" for all V (V - 1) pairs, "window" for views that follow each other.
        window: largest distance in the order of the views, at least 1; for "window".

    Raises:
        PairError: another kind of graph, or too few views.
    """
    if graph not in PAIR_GRAPHS or window < 1:
        raise PairError(f"graph {graph!r} with window {window}; known: {', '.join(PAIR_GRAPHS)}")
    if views < 2:
        raise PairError(f"{views} views make no pair")
    i, j = np.nonzero(~np.eye(views, dtype=bool))
    if graph == "window":
        near = np.abs(i - j) <= window
        i, j = i[near], j[near]
    return np.stack((i, j), 1).astype(np.int64)
