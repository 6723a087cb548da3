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

"""Conversion of images with more than eight bits to eight, consistently over a recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import ImageArray

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths of sensors with 16-bit values: Mono8 to Mono16 of GenICam."""
NARROW_SHARE = 1 / 8
"""Grey images that use less of their range than this are stretched, as from thermal cameras: they
would have under 32 of 256 levels."""
TAILS_PERCENT = (0.5, 99.5)
"""Percentiles that define the range of an image, so that a lamp or a dark corner of under 0.5 % of
the pixels does not set it."""
HOT_PERCENT = 99.95
"""Above are hot pixels, which are ignored: 10 of the samples below."""
SAMPLES = 20_000
"""Values used for the percentiles: 100 of them lie beyond each end."""
FOLLOW = 0.05
"""Share of the distance to a new image's range that an end moves: a time constant of 20 images, so
that consecutive images look alike."""
MAX_STEP = 0.02
"""Largest move of an end per image, as a share of the range: 5 of 256 levels."""
CLIPPED_SHARE = 0.25
"""With a larger share of values beyond the range, following would take too long, and the range is
reset."""
Values = npt.NDArray[Any]


def _unheard(words: str) -> None:
    """Ignore the message."""


class Tones:
    """Converts the values of one camera to eight bits.

    A camera of 10, 12 or 14 bits keeps the upper eight of those. The bit depth is inferred from
    its images and only grows. Greys in a small part of that range are stretched to the range of
    the first image, which follows later ones slowly: a jump would look like a change of the scene.
    """

    def __init__(self, notify: Callable[[str], None] = _unheard) -> None:
        """`notify` gets one message on the conversion, unless that is just 16 bits' upper byte."""
        self._notify, self._notified = notify, ""
        self._bits = BIT_DEPTHS[0]
        self._range: tuple[float, float] | None = None
        self._is_new = True

    def to_8_bits(self, values: Values, *, is_grey: bool = True) -> ImageArray:
        """Convert values of any shape to uint8.

        Args:
            values: uint16, or finite float.
            is_grey: whether they may be stretched; colours keep their proportions.
        """
        low, high, top = self._spread(values)
        if values.dtype == np.uint16:
            self._bits = next(b for b in BIT_DEPTHS if b >= self._bits and top < 1 << b)
            full = float(1 << self._bits)
        else:
            full = 1.0 if top <= 1.0 and low >= 0 else float("inf")
        if self._is_new:
            self._is_new = False
            if is_grey and high - low < (full * NARROW_SHARE if np.isfinite(full) else np.inf):
                self._range = low, high
        if self._range is not None:
            self._follow(values, low, high)
            return self._stretched(values)
        if values.dtype == np.uint16:
            if self._bits < BIT_DEPTHS[-1]:
                self._report(
                    f"16-bit images use {self._bits} bits; the upper 8 of those are taken"
                )
            return np.asarray(np.minimum(values >> (self._bits - 8), 255), np.uint8)
        return np.asarray(np.clip(values * (255 / min(full, 1.0)) + 0.5, 0, 255), np.uint8)

    def _spread(self, values: Values) -> tuple[float, float, float]:
        """Return both tails and the top of the values, from a regular sample."""
        flat = values.reshape(-1)
        sample = flat[:: (len(flat) // SAMPLES) | 1]
        low, high, top = np.percentile(sample, (*TAILS_PERCENT, HOT_PERCENT))
        return float(low), float(high), float(top)

    def _follow(self, values: Values, low: float, high: float) -> None:
        assert self._range is not None
        begin, end = self._range
        flat = values.reshape(-1)
        sample = flat[:: (len(flat) // SAMPLES) | 1]
        if np.mean((sample < begin) | (sample > end)) > CLIPPED_SHARE:
            begin, end = low, high
        step = MAX_STEP * (end - begin)
        moves = np.clip([FOLLOW * (low - begin), FOLLOW * (high - end)], -step, step)
        self._range = begin + float(moves[0]), end + float(moves[1])

    def _stretched(self, values: Values) -> ImageArray:
        assert self._range is not None
        begin, end = self._range
        if end <= begin:
            self._report("images are of one grey alone: there is nothing to see in them")
            return np.full(values.shape, 128, np.uint8)
        self._report(
            f"images use the values {begin:g} to {end:g} alone; stretched to 8 bits, following "
            "slowly (thermal camera?)"
        )
        scaled = (values.astype(np.float32) - begin) * np.float32(255 / (end - begin))
        return np.asarray(np.clip(scaled + 0.5, 0, 255), np.uint8)

    def _report(self, words: str) -> None:
        if not self._notified:
            self._notified = words
            self._notify(words)
