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

"""Read frames from a video file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mvdust3r_ros.datatypes import CameraModel, Frame, FrameError
from mvdust3r_ros.encoded_image import EncodedImageError
from mvdust3r_ros.recordings.image_sequence import read_depth
from mvdust3r_ros.recordings.recording import Notes, RecordingError
from mvdust3r_ros.window.preprocess import registered_depth

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")


@dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
        path: the file.
        camera: intrinsics, or None.
        depth: folder of 16-bit PNGs named by frame number (000000.png), or None.
        unit_m: metres per step of a depth image.
        notes: remarks on it.
    """

    path: Path
    camera: CameraModel | None = None
    depth: Path | None = None
    unit_m: float = 0.001
    notes: Notes = field(default_factory=Notes)

    def __len__(self) -> int:
        """Number of frames according to the file."""
        with self._opened() as capture:
            return max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def size_wh(self) -> tuple[int, int]:
        """Width and height of the frames."""
        with self._opened() as capture:
            width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
            return round(capture.get(width)), round(capture.get(height))

    def rotation_deg(self) -> int:
        """Return the rotation that the file requests; frames are returned as stored."""
        with self._opened() as capture:
            return round(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360

    def stamps_ns(self) -> list[int]:
        """Return times of all frames since the start; reads the file once."""
        stamps = []
        with self._opened() as capture:
            while capture.grab():
                stamps.append(_stamp_ns(capture))
        return stamps

    def frames(self) -> Iterator[Frame]:
        """Yield all frames in order; unusable depth is noted and left out."""
        with self._opened() as capture:
            index = -1
            while True:
                found, bgr = capture.read()
                if not found:
                    break
                index += 1
                rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
                depth = None
                path = None if self.depth is None else self.depth / f"{index:06d}.png"
                if path is not None and path.exists():
                    try:
                        depth = read_depth(path, self.unit_m)
                        depth = registered_depth(depth, (rgb.shape[1], rgb.shape[0]))
                    except (EncodedImageError, FrameError) as error:
                        self.notes.add(f"depth image {error} and is not used", path.name)
                        depth = None
                yield Frame(_stamp_ns(capture), rgb, self.camera, depth_m=depth)

    @contextmanager
    def _opened(self) -> Iterator[cv2.VideoCapture]:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise RecordingError(f"video {self.path} cannot be opened: damaged, or no codec")
            # Pixels as stored, as for pictures: intrinsics and depth refer to them.
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
            yield capture
        finally:
            capture.release()


def _stamp_ns(capture: cv2.VideoCapture) -> int:
    """Return the time of the last frame read."""
    return round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
