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

"""How much the choice of the reference view matters: order_views against others and the best.

    python benchmarks/references.py [--engine models/room] [--views 4,8,12] [--seeds A:B]
    python benchmarks/references.py --bag bag --depth depth [--step 10] ...

Windows are those of synthetic rooms, or of every n-th image of a bag with true depth and poses.
Each is decoded once with each of its views as the only reference. Every rule then picks one of
these predictions, which has the same error for all rules that pick it. The oracle picks the one
with the least ND; the gap of a rule is its mean ND over that of the oracle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvdust3r_ros.commands.command_line import number_list, seeds
from mvdust3r_ros.datatypes import FloatArray, View, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import Engine
from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.evaluation.metrics.window_metrics import align_pointmaps, normalized_distance
from mvdust3r_ros.evaluation.window_scores import window_truth
from mvdust3r_ros.geometry import invert_se3
from mvdust3r_ros.recordings.bag_recording import BagOptions, bag_recording
from mvdust3r_ros.recordings.recording import TruthOptions
from mvdust3r_ros.synthetic.dataset import exact_views
from mvdust3r_ros.window.preprocess import view_from_frame
from mvdust3r_ros.window.reference_views import order_views


@dataclass(frozen=True)
class Tried:
    """A window with each of its views as the reference.

    Attributes:
        views: of the window, with odometry.
        nd: (V,) ND by reference, metres.
        confidence: (V,) mean logarithm of the confidence by reference.
        alike: (V,) mean cosine of a view's descriptor with those of the others.
    """

    views: list[View]
    nd: FloatArray
    confidence: FloatArray
    alike: FloatArray


Choice = Callable[[Tried], float]
"""The ND that a rule comes to."""

RULES: dict[str, Choice] = {
    "first": lambda t: float(t.nd[0]),
    "last": lambda t: float(t.nd[-1]),
    "random (mean of all)": lambda t: float(t.nd.mean()),
    "middle of the order": lambda t: float(t.nd[order_views(_without_odometry(t.views), 1)[0]]),
    "middle of the path (`order_views`)": lambda t: float(t.nd[order_views(t.views, 1)[0]]),
    "most like the others": lambda t: float(t.nd[t.alike.argmax()]),
    "most confident of all": lambda t: float(t.nd[t.confidence.argmax()]),
    "oracle": lambda t: float(t.nd.min()),
    "worst": lambda t: float(t.nd.max()),
}
OURS = "middle of the path (`order_views`)"


def main() -> None:
    """Run and print a table for each number of views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="models/room", metavar="DIR")
    parser.add_argument("--seeds", type=seeds, default=range(7_500_000, 7_500_040), metavar="A:B")
    parser.add_argument("--views", type=number_list, default=[4, 8, 12], metavar="N,N,...")
    parser.add_argument("--bag", type=Path, help="in place of rooms; needs --depth")
    parser.add_argument("--depth", type=Path, help="topic or folder of true depth")
    parser.add_argument("--step", type=int, default=10, help="images from one view to the next")
    given = parser.parse_args()
    engine = create_engine(given.engine, EngineOptions(threads=1))
    hw = engine.describe().image_hw
    recorded = _recorded(given, hw) if given.bag else []
    for count in given.views:
        starts = range(0, len(recorded) - count + 1, count // 2)
        chosen = [recorded[start : start + count] for start in starts]
        windows = [try_all(engine, w) for w in chosen or _rooms(given.seeds, count, hw)]
        print(f"\n{count} views, {len(windows)} windows\n\n{table(windows)}", flush=True)


def try_all(engine: Engine, views: list[View]) -> Tried:
    """Decode a window with each view as the reference."""
    tokens = engine.encode([replace(view, depth_m=None, T_odom_cam=None) for view in views])
    truth = window_truth(views)
    nd, confidence = [], []
    for reference in range(len(views)):
        prediction = _decode(engine, tokens, reference)
        T = invert_se3(truth.T_world_cam[reference])
        points = truth.points_world @ T[:3, :3].T + T[:3, 3]
        pair = align_pointmaps(prediction.points[0], points, truth.valid)
        nd.append(normalized_distance(*pair, truth.valid))
        confidence.append(float(np.log(prediction.conf[0].astype(np.float64)).mean()))
    looks = np.array([token.descriptor.vector for token in tokens])
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    alike = (looks @ looks.T - np.eye(len(looks))).mean(1)
    return Tried(views, np.array(nd), np.array(confidence), alike)


def _decode(engine: Engine, tokens: Sequence[ViewTokens], reference: int) -> WindowPrediction:
    """The reference first, then the others in order of time; the answer has them as they were."""
    order = (reference, *(index for index in range(len(tokens)) if index != reference))
    return engine.decode([tokens[index] for index in order], 1).in_caller_order(order)


def _rooms(seeds_: Sequence[int], count: int, hw: tuple[int, int]) -> list[list[View]]:
    windows = [exact_views(seed, count, hw) for seed in seeds_]
    return [[replace(view, T_world_cam=view.T_odom_cam) for view in window] for window in windows]


def _recorded(given: argparse.Namespace, hw: tuple[int, int]) -> list[View]:
    """Every n-th image of a bag that has true depth and a true pose, which is odometry too."""
    truth = TruthOptions(depth=str(given.depth))
    frames = bag_recording(given.bag, BagOptions(), truth).frames(lambda *_: None)
    known = [f for f in frames if f.depth_m is not None and f.T_world_cam is not None]
    views = (view_from_frame(frame, hw) for frame in known[:: given.step])
    return [replace(view, T_odom_cam=view.T_world_cam) for view in views]


def _without_odometry(views: Sequence[View]) -> list[View]:
    return [replace(view, T_odom_cam=None) for view in views]


def table(windows: Sequence[Tried]) -> str:
    """ND, its gap to the oracle, and the difference to `order_views` with its standard error."""
    found = {name: np.array([rule(w) for w in windows]) for name, rule in RULES.items()}
    lines = [
        "| reference | ND x10 | above the oracle | against `order_views` |",
        "| --- | ---: | ---: | ---: |",
    ]
    best, ours = found["oracle"].mean(), found[OURS]
    for name, nd in found.items():
        off = (nd - ours) / ours.mean()
        error = off.std(ddof=1) / np.sqrt(len(off))
        lines.append(
            f"| {name} | {10 * nd.mean():.2f} | {nd.mean() / best - 1:.1%} | "
            + ("|" if name == OURS else f"{off.mean():+.1%} ± {error:.1%} |")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
