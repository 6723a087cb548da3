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

"""Count the inputs of a recording's images, and why some lack them: one line for each kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mvdust3r_ros.datatypes import Frame

ODOMETRY, CAMERA_INFO, DEPTH = KINDS = ("odometry", "camera_info", "depth")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
REASONS_SHOWN = 3
"""Chosen for readability: the most frequent ones, so that each kind stays on one line."""


@dataclass
class InputCounts:
    """Inputs that the images of a recording have.

    Attributes:
        images: frames so far.
        had: kind -> number of images that had it.
        reasons: kind -> why it was missing, or what was assumed -> number of images.
        faults: why other messages could not be used -> number of messages.
        notes: further remarks about the recording.
    """

    images: int = 0
    had: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Reset the counts, as the recording is read again."""
        self.images = 0
        for counts in (self.had, self.reasons, self.faults, self.notes):
            counts.clear()

    def add(self, frame: Frame) -> None:
        """Count a frame."""
        self.images += 1
        self.had.update(kinds_of(frame))

    def because(self, kind: str, why: str) -> None:
        """Count why one image lacks something, or what was assumed; nothing if empty."""
        if why:
            self.reasons.setdefault(kind, Counter())[why] += 1

    def numbers(self) -> dict[str, int]:
        """Return kind -> number of images that had it."""
        return {kind: self.had[kind] for kind in KINDS}

    def lines(self) -> list[str]:
        """Return a line for each kind that needs a remark."""
        lines = []
        for kind, reasons in self.reasons.items():
            counts = [
                words if count == self.images else f"{words} ({counted(count, 'image')})"
                for words, count in Counter(by_kind(reasons)).most_common(REASONS_SHOWN)
            ]
            lines.append(
                f"{kind} for {self.had[kind]} of {self.images} images: {'; '.join(counts)}"
            )
        faults = by_kind(self.faults)
        lines += [f"{counted(n, 'message')} not used: {why}" for why, n in faults.items()]
        return lines + self.notes


def kinds_of(frame: Frame) -> list[str]:
    """Return the kinds of input that a frame has."""
    had = (frame.T_odom_cam, frame.camera, frame.depth_m)
    return [kind for kind, value in zip(KINDS, had, strict=True) if value is not None]


def counted(count: int, word: str) -> str:
    """Return a count with its noun: 1 image, 2 images."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def by_kind(messages: Mapping[str, int]) -> dict[str, int]:
    """Merge messages that differ only in numbers, under the first of them."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for message, count in messages.items():
        shown = first.setdefault(NUMBER.sub("#", message), message)
        counts[shown] = counts.get(shown, 0) + count
    return counts
