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
from dataclasses import dataclass, replace

from mvdust3r_ros.config import AnyConfig, ConfigError, KeyframeDefaults, MapperConfig, filled_in
from mvdust3r_ros.datatypes import MvDust3rError, View, ViewTokens, WindowPrediction

SIDE_MULTIPLE = 32
"""Both sides of views in the camera's aspect are multiples of this many pixels, so that five
halvings give whole pixels."""
MIN_CONF, CONF_QUANTILE = 1.0, 0.3
"""Values most engines prefer for `map.min_conf` and `map.conf_quantile`: 1 is the lowest possible
confidence, and a window stays dense enough without its least confident pixels."""


class EngineError(MvDust3rError):
    """An engine cannot be created or failed to give a prediction."""


IN_TIME_ORDER = ("spann3r", "colmap")
"""Backends that take the views of a window as they were seen."""


@dataclass(frozen=True)
class EngineInfo:
    """What a caller needs to know about an engine.

    Attributes:
        name: shown to people, for example "room (ONNX Runtime, CPUExecutionProvider)".
        backend: "oracle", "onnx", "torch", "tensorrt", "mvs", "dust3r", "spann3r" or "colmap".
        image_hw: height and width of the views it accepts, in pixels; with `long_side`, one of
            several accepted sizes.
        n_ref: number of reference paths it runs by default.
        max_views: maximum number of views decoded together; 0 for no limit of its own.
        metric: whether its pointmaps are in metres; a window may override this.
        rel_error: typical point error over distance; 0 when unknown. Checks on windows allow for
            the error of a coarse network. A window may override this.
        needs_truth: whether its input is true depth and poses rather than images alone.
        licence: SPDX licence identifier of the weights; empty without weights.
        long_side: longer side in pixels of views that keep the camera's aspect and its whole field
            of view, up to rounding to `side_multiple`; 0 for views of `image_hw`. The first camera
            of a map sets the size of all its views.
        side_multiple: with `long_side`, both sides are multiples of this.
        keyframes: preferred values of settings left to the engine; None for the defaults.
        min_conf: preferred `map.min_conf`; None for `MIN_CONF`.
        conf_quantile: preferred `map.conf_quantile`; None for `CONF_QUANTILE`.
        point_rel_sigma: lower bound of `map.point_rel_sigma` for its points; 0 for none.
        gaussians: whether its predictions have Gaussians.
        intrinsics: whether intrinsics of the views are an input of its network.

    Raises:
        EngineError: on construction, if `long_side` is not a multiple of `side_multiple`,
            `image_hw` does not match them, or a setting is out of range.
    """

    name: str
    backend: str
    image_hw: tuple[int, int]
    n_ref: int = 1
    max_views: int = 0
    metric: bool = False
    rel_error: float = 0.0
    needs_truth: bool = False
    licence: str = ""
    long_side: int = 0
    side_multiple: int = SIDE_MULTIPLE
    keyframes: KeyframeDefaults | None = None
    min_conf: float | None = None
    conf_quantile: float | None = None
    point_rel_sigma: float = 0.0
    gaussians: bool = False
    intrinsics: bool = False

    def __post_init__(self) -> None:
        wrong = self.long_side < 0 or self.side_multiple < 1
        if wrong or self.long_side % self.side_multiple:
            raise EngineError(
                f"long_side {self.long_side} of {self.name} is no multiple of side_multiple "
                f"{self.side_multiple}"
            )
        if not self.takes(self.image_hw):
            raise EngineError(
                f"image_hw {self.image_hw} of {self.name} is not of long_side {self.long_side} "
                f"and multiples of {self.side_multiple}"
            )
        try:
            self.filled_in(MapperConfig())
        except ConfigError as error:
            raise EngineError(f"{self.name}: {error}") from None

    @property
    def has_reference(self) -> bool:
        """Whether it matters which view is the reference."""
        return self.backend not in ("dust3r", *IN_TIME_ORDER)

    @property
    def in_time_order(self) -> bool:
        """Whether it takes the views as they were seen; the first one gives the frame."""
        return self.backend in IN_TIME_ORDER

    def takes(self, view_hw: tuple[int, int]) -> bool:
        """Whether the engine accepts views of this height and width in pixels."""
        if not self.long_side:
            return tuple(view_hw) == tuple(self.image_hw)
        fits = all(side > 0 and side % self.side_multiple == 0 for side in view_hw)
        return fits and max(view_hw) == self.long_side

    def view_hw(self, camera_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the view height and width of a map whose first camera has images of this size."""
        if not self.long_side:
            return self.image_hw
        return aspect_size(camera_hw, self.long_side, self.side_multiple)

    def describe_size(self) -> str:
        """Describe the accepted view size in words."""
        if not self.long_side:
            return f"{self.image_hw[1]}x{self.image_hw[0]}"
        return f"{self.long_side} pixels on the longer side, multiples of {self.side_multiple}"

    def filled_in(self, config: AnyConfig) -> AnyConfig:
        """Return the settings, with the engine's preferences where they are left to it."""
        min_conf, quantile = config.map.min_conf, config.map.conf_quantile
        if min_conf == 0:
            min_conf = MIN_CONF if self.min_conf is None else self.min_conf
        if quantile < 0:
            quantile = CONF_QUANTILE if self.conf_quantile is None else self.conf_quantile
        return replace(
            config,
            keyframes=filled_in(config.keyframes, self.keyframes),
            map=replace(
                config.map,
                min_conf=min_conf,
                conf_quantile=quantile,
                point_rel_sigma=max(config.map.point_rel_sigma, self.point_rel_sigma),
            ),
        )


def aspect_size(camera_hw: tuple[int, int], long_side: int, side_multiple: int) -> tuple[int, int]:
    """Return the view size nearest to the camera's aspect, in multiples of a number of pixels.

    `preprocess.view_from_frame` crops what rounding costs: 1280x720 at 384 becomes 384x224, and 14
    of 398 columns are lost.

    Args:
        camera_hw: height and width of the images in pixels.
        long_side: longer side of the views in pixels, a multiple of `side_multiple`.
        side_multiple: both sides of the views are multiples of this.

    Returns:
        Height and width of the views.
    """
    height, width = camera_hw
    exact = long_side * min(height, width) / max(height, width)
    below = max(side_multiple, int(exact) // side_multiple * side_multiple)
    above = min(below + side_multiple, long_side)
    # the size that shows more of the image
    short = below if below / exact > exact / above else above
    return (short, long_side) if height < width else (long_side, short)


class Engine(ABC):
    """One network on one backend, or another method that turns views into pointmaps.

    Not thread-safe: one worker thread owns the engine. Only `describe` and `observe` may be called
    from another thread while `encode` or `decode` runs.
    """

    def observe(self, view: View) -> None:  # noqa: B027 - most engines need no more than views
        """Observe a frame, including those between keyframes; does nothing by default.

        The mapper calls this for each frame that passes its checks, before the frame can become a
        keyframe. Each camera's frames arrive in timestamp order; after a jump back in time or a
        reset, timestamps start again. The call runs in the thread of `Mapper.select`, in parallel
        with `encode` and `decode` in the worker thread, and may happen once more after `close`.
        The engine needs its own lock for shared state. The call must be cheap (a few milliseconds:
        the camera does not wait) and must not raise; useless frames are skipped.

        Args:
            view: view of the frame, with its timestamp, camera, and `T_odom_cam` where known.
        """

    @abstractmethod
    def encode(self, views: Sequence[View]) -> list[ViewTokens]:
        """Encode views one by one; the results can be kept and decoded repeatedly.

        Args:
            views: views that all have the same size, one that `describe()` accepts.

        Returns:
            One entry per view. Its place descriptor is `token_descriptor` of the tokens, or
            `image_descriptor` if there are none.

        Raises:
            EngineError: a view has the wrong size, or the backend failed.
        """

    @abstractmethod
    def decode(self, tokens: Sequence[ViewTokens], n_ref: int = 0) -> WindowPrediction:
        """Estimate pointmaps of all views together; the first views are the references, in order.

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
        """Describe this engine."""

    @abstractmethod
    def close(self) -> None:
        """Free the engine's resources; it cannot be used afterwards."""

    def infer(self, views: Sequence[View], n_ref: int = 0) -> WindowPrediction:
        """Encode and decode in one call."""
        return self.decode(self.encode(views), n_ref)
