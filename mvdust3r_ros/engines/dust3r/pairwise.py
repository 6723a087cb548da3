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

"""Windows out of pairs of views: those of any engine, put together by global alignment."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mvdust3r_ros.datatypes import FloatArray, View, ViewPose, ViewTokens, WindowPrediction
from mvdust3r_ros.engines.base import Engine, EngineError, EngineInfo
from mvdust3r_ros.engines.dust3r.alignment import Aligned, AlignmentSettings, align_pairs
from mvdust3r_ros.engines.dust3r.pairs import PairArray, PairError, PairMaps, pair_graph
from mvdust3r_ros.engines.views import path_count
from mvdust3r_ros.geometry import AlignmentError, backproject


@dataclass(frozen=True)
class WindowSettings:
    """How the views of a window are put together; `alignment` of the manifest's `network`.

    Attributes:
        graph: "complete" for all pairs, or "window".
        window: largest distance of the views of a pair in their order, for "window".
        alignment: how the pairs are aligned.
    """

    graph: str = "complete"
    window: int = 3
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        alignment = dataclasses.asdict(self.alignment)
        return {"graph": self.graph, "window": self.window, **alignment}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowSettings:
        """Settings out of plain values; missing ones take their defaults.

        Raises:
            EngineError: an unknown name or a value that is none.
        """
        own = {k: v for k, v in values.items() if k in {"graph", "window"}}
        try:
            alignment = AlignmentSettings(**{k: v for k, v in values.items() if k not in own})
            settings = cls(**own, alignment=alignment)
            pair_graph(2, settings.graph, settings.window)
        except (TypeError, PairError) as error:
            raise EngineError(f"alignment {dict(values)}: {error}") from None
        return settings


class AligningEngine(Engine):
    """An engine that sees views in pairs; subclasses say what it sees."""

    def __init__(self, info: EngineInfo, settings: WindowSettings, device: str) -> None:
        """Align on this device of torch; with `info.intrinsics`, keep intrinsics of the views."""
        self._info, self._settings, self._device = info, settings, device

    @abstractmethod
    def decode_pairs(
        self, tokens: Sequence[ViewTokens], pairs: PairArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the points and confidences of `PairMaps` for these pairs of views."""

    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Points, poses and focal lengths in the frame of the first view.

        Raises:
            EngineError: fewer than two views, or the pointmaps do not fit together.
        """
        path_count(tokens, n_ref, self._info)  # poses are adjusted together: one path, the first
        pairs = pair_graph(len(tokens), self._settings.graph, self._settings.window)
        K = _intrinsics([t.view for t in tokens]) if self._info.intrinsics else None
        try:
            maps = PairMaps(pairs, *self.decode_pairs(tokens, pairs))
            aligned = align_pairs(maps, self._settings.alignment, K, self._device)
        except (AlignmentError, PairError) as error:
            raise EngineError(f"the pairs cannot be aligned: {error}") from None
        return WindowPrediction(
            _points(aligned)[None],
            aligned.conf[None],
            poses=tuple(
                ViewPose(T, K, 1.0, 0.0) for T, K in zip(aligned.T_ref_cam, aligned.K, strict=True)
            ),
        )

    def describe(self) -> EngineInfo:
        """Describe the engine."""
        return self._info


class PairwiseEngine(AligningEngine):
    """Another engine that is shown two views at a time: with MV-DUSt3R, that is DUSt3R.

    In metres if that engine is: the scales of the pairs are adjusted, but their product stays 1.
    """

    def __init__(
        self,
        engine: Engine,
        settings: WindowSettings | None = None,
        device: str = "",
        threads: int = 0,
    ) -> None:
        """Take over an engine.

        Args:
            engine: takes two views, and answers in the frame of the first.
            settings: how windows are put together.
            device: torch's device for the alignment; empty for CUDA if available.
            threads: CPU threads of the alignment; 0 to leave torch's number as it is.
        """
        info = engine.describe()
        if threads:
            torch.set_num_threads(threads)
        pairwise = dataclasses.replace(
            info, name=f"pairs of {info.name}, globally aligned", backend="dust3r", n_ref=1,
            max_views=0, gaussians=False,
        )  # fmt: skip
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        super().__init__(pairwise, settings or WindowSettings(), device)
        self._engine = engine

    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Encode views one by one, by the engine of the pairs."""
        return self._engine.encode(views)

    def decode_pairs(
        self, tokens: Sequence[ViewTokens], pairs: PairArray
    ) -> tuple[FloatArray, FloatArray]:
        """Decode pair by pair.

        Raises:
            EngineError: the engine fails, or answers in the frame of the second view.
        """
        points = np.empty((len(pairs), 2, *tokens[0].view.image_rgb.shape[:2], 3), np.float32)
        conf = np.empty(points.shape[:4], np.float32)
        for index, (i, j) in enumerate(pairs):
            seen = self._engine.decode([tokens[i], tokens[j]], 1)
            if seen.references[0] != 0:
                name = self._engine.describe().name
                raise EngineError(f"{name} chooses the reference itself: its pairs have no order")
            points[index], conf[index] = seen.points[0], seen.conf[0]
        return points, conf

    def close(self) -> None:
        """Close the engine of the pairs."""
        self._engine.close()


def _intrinsics(views: Sequence[View]) -> FloatArray | None:
    """(V, 3, 3) pinhole matrices; None if a view has none."""
    known = [view.K for view in views if view.K is not None]
    return np.stack(known) if len(known) == len(views) else None


def _points(aligned: Aligned) -> FloatArray:
    """(V, H, W, 3) float32 points of all pixels in the frame of the first view."""
    out = np.empty((*aligned.depth.shape, 3), np.float32)
    for points, z, K, T in zip(out, aligned.depth, aligned.K, aligned.T_ref_cam, strict=True):
        points[:] = backproject(z, K) @ T[:3, :3].T + T[:3, 3]
    return out
