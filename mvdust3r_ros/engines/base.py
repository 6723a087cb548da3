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

"""The engine interface: encode each view once, decode any set of encoded views together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mvdust3r_ros.datatypes import MvDust3rError, View, ViewTokens, WindowPrediction


class EngineError(MvDust3rError):
    """An engine cannot be made or did not give a prediction."""


@dataclass(frozen=True)
class EngineInfo:
    """What a caller needs to know about an engine.

    Attributes:
        name: shown to people, for example "room (ONNX Runtime, CPUExecutionProvider)".
        backend: "oracle", "onnx", "torch" or "tensorrt".
        image_hw: height and width of the views it takes, in pixels.
        n_ref: number of reference paths it runs by default.
        max_views: most views it can decode together; 0 for no limit of its own.
        metric: whether its pointmaps are in metres.
        rel_error: typical error of a point over its distance; 0 when unknown. Windows of a coarse
            network are held to what it can give.
        licence: licence of the weights, SPDX identifier; empty when there are none.
    """

    name: str
    backend: str
    image_hw: tuple[int, int]
    n_ref: int = 1
    max_views: int = 0
    metric: bool = False
    rel_error: float = 0.0
    licence: str = ""


class Engine(ABC):
    """One network on one backend. Not thread-safe: one worker thread owns it."""

    @abstractmethod
    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Encode views one by one; the results can be kept and decoded again and again.

        Args:
            views: views of `describe().image_hw` pixels.

        Returns:
            One entry per view.

        Raises:
            EngineError: a view has the wrong size, or the backend failed.
        """

    @abstractmethod
    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Pointmaps of all views together; the first views are the references, in order.

        Args:
            tokens: encoded views, at least two.
            n_ref: number of reference paths to run; 0 for the engine's default, at most V.

        Returns:
            Path 0, in the frame of the first view; engines may return more paths.

        Raises:
            EngineError: too many views, or the backend failed.
        """

    @abstractmethod
    def describe(self) -> EngineInfo:
        """What this engine is."""

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds; the engine cannot be used afterwards."""

    def infer(self, views: Sequence[View], n_ref: int = 0) -> WindowPrediction:
        """Encode and decode in one go."""
        return self.decode(self.encode(views), n_ref)
