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

"""A recording of any kind as frames, with its ground truth if there is any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import MAX_STAMP_GAP_NS, Frame, MvDust3rError, Trajectory
from mvdust3r_ros.messages.input_counts import InputCounts

PLAIN_NAMES = ("bag", "rosbag2", "images", "rgb", "data", "video")
NO_TRUE_POSE = f"no true pose within {MAX_STAMP_GAP_NS / 1e6:g} ms of the image at"
OnBad = Callable[[Exception], None]


class RecordingError(MvDust3rError):
    """A path holds no recording, or not of the expected kind."""


class Notes:
    """Remarks on a recording for the user: each kind once, with how often and where."""

    def __init__(self) -> None:
        """Start without remarks."""
        self._items: dict[str, dict[str, None]] = {}

    def add(self, kind: str, item: str = "") -> None:
        """Add a remark; a repeated item counts once."""
        self._items.setdefault(kind, {})[item] = None

    def lines(self) -> list[str]:
        """Return one line for each kind."""
        return [_note(kind, list(items)) for kind, items in self._items.items()]


def _note(kind: str, items: list[str]) -> str:
    if items == [""]:
        return kind
    return f"{kind}: {items[0]}" + (f" and {len(items) - 1} more" if len(items) > 1 else "")


@dataclass(frozen=True)
class TruthOptions:
    """Where to find the ground truth of a recording.

    Attributes:
        truth: topic or file; "none" for none; empty to look in the recording and next to it.
        depth: topic or folder of PNGs; "none" for none; empty to look next to the recording.
    """

    truth: str = ""
    depth: str = ""


@dataclass(frozen=True)
class Recording:
    """A recording and how to read it.

    Attributes:
        name: display name.
        kind: "ROS 2 bag", "TUM RGB-D", ...
        total: number of images.
        read: yields the frames in order; unusable ones go to the callback and are skipped.
        truth: true camera poses, or None.
        truth_source: source of the poses; empty for none.
        depth_source: source of the true depth; empty for none.
        details: further entries of the report: topics, files.
        notes: remarks for the report; grows while the recording is read.
        inputs: inputs of the images, counted while they are read.
    """

    name: str
    kind: str
    total: int
    read: Callable[[OnBad], Iterator[Frame]]
    truth: Trajectory | None = None
    truth_source: str = ""
    depth_source: str = ""
    details: dict[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    inputs: InputCounts = field(default_factory=InputCounts)

    def frames(self, on_bad: OnBad) -> Iterator[Frame]:
        """Yield the frames in order, with the true pose of the nearest stamp within 10 ms."""
        self.inputs.clear()
        for frame in self.read(on_bad):
            self.inputs.add(frame)
            if self.truth is None:
                yield frame
                continue
            stamps = self.truth.stamps_ns
            after = int(np.searchsorted(stamps, frame.stamp_ns))
            near = [k for k in (after - 1, after) if 0 <= k < len(stamps)]
            best = min(near, key=lambda k: abs(int(stamps[k]) - frame.stamp_ns))
            close = abs(int(stamps[best]) - frame.stamp_ns) <= MAX_STAMP_GAP_NS
            if not close:
                self.notes.add(NO_TRUE_POSE, f"{frame.stamp_ns / 1e9:.3f} s")
            yield replace(frame, T_world_cam=self.truth.T_world_cam[best] if close else None)


def recording_name(path: Path) -> str:
    """Return a recording's display name; the parent folder's if its own is just `bag`."""
    path = path.resolve()
    return path.parent.name if path.stem in PLAIN_NAMES else path.stem
