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

"""Choose the camera_info of an image: usable, of matching time and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mvdust3r_ros.datatypes import CameraModel
from mvdust3r_ros.messages.conversions import camera_from_info, resized_camera, stamp_to_ns
from mvdust3r_ros.messages.frame_ids import plain_frame
from mvdust3r_ros.messages.images import ConversionError

SAME_CLOCK_NS = 3600 * 10**9
"""Stamps further apart are of different clocks: one that starts at 0 and one since 1970 are years
apart, clocks of two computers seconds or minutes."""
MAX_ASPECT_CHANGE = 0.01
"""Tolerance for an image that was resized, not cropped: half a pixel of rounding on a side of 50
pixels."""
MAX_CHANGES = 1000
"""Bounds memory: a camera sends one calibration, or one for each step of its zoom."""
NO_INFO = "no camera_info came"
REMEDY = "; correct it, or map without it by --camera-info-topic none"


@dataclass(frozen=True)
class _Calibration:
    """One state of the calibration: start time, the camera or None, and why it is unusable."""

    stamp_ns: int
    since: float
    frame: str
    camera: CameraModel | None
    fault: str = ""

    def holds(self, stamp_ns: int, at: float) -> bool:
        """Whether it was sent before an image; by stamps if both are of one clock."""
        if self.stamp_ns > 0 and abs(stamp_ns - self.stamp_ns) < SAME_CLOCK_NS:
            return self.stamp_ns <= stamp_ns
        return self.since <= at


@dataclass(frozen=True)
class ChosenCamera:
    """The camera chosen for an image.

    Attributes:
        camera: intrinsics in pixels of the image; None if not calibrated.
        why: why there are none, or how they were adapted; empty if all is well.
    """

    camera: CameraModel | None
    why: str = ""


class CameraInfos:
    """The camera_info messages of one camera, and the choice of one for each image.

    A driver sends zeros before its calibration is loaded, another size before it switches, and
    other numbers after a zoom. Each image uses the newest calibrated one before it that has its
    size; without one before, the first after it. A wrong one blocks images until a good one
    arrives. If several cameras share a topic, the one of the image's frame is used, or one without
    a frame. One thread may add while others read.
    """

    def __init__(self, *, rectified: bool = False) -> None:
        """Start empty; `rectified` means that the images have no distortion left."""
        self._rectified = rectified
        self._states: tuple[_Calibration, ...] = ()
        self._last: dict[str, bytes] = {}
        self._fits = False

    def __len__(self) -> int:
        """Number of different states so far."""
        return len(self._states)

    @property
    def known(self) -> bool:
        """Whether a usable one has arrived."""
        return any(s.camera is not None for s in self._states)

    def notes(self) -> list[str]:
        """Return further remarks."""
        frames = sorted({s.frame for s in self._states if s.camera is not None} - {""})
        if len(frames) > 1:
            return [
                f"camera_info is of {len(frames)} frames, {', '.join(map(repr, frames))}: each "
                "image takes that of its own frame"
            ]
        cameras = [s.camera for s in self._states if s.camera is not None]
        known = {(c.K.tobytes(), c.width, c.height, c.distortion) for c in cameras}
        if len(known) < 2:
            return []
        return [f"camera_info holds {len(known)} calibrations: each image takes that of its time"]

    def add(self, info: Any, at: float) -> None:
        """Add a sensor_msgs/CameraInfo with its arrival time (any clock that only grows)."""
        content, frame = _content(info), plain_frame(info.header.frame_id)
        if content == self._last.get(frame):
            return
        if not frame:
            self._last.clear()  # it is for every camera, so the next one of each is news
        self._last[frame] = content
        camera, fault = None, ""
        try:
            camera = camera_from_info(info, rectified=self._rectified)
        except ConversionError as error:
            fault = str(error)
        state = _Calibration(stamp_to_ns(info.header.stamp), at, frame, camera, fault)
        self._states = (*self._states, state)[-MAX_CHANGES:]

    def camera_for(
        self, width: int, height: int, stamp_ns: int, at: float, frame: str = ""
    ) -> ChosenCamera:
        """Return the camera of an image.

        Args:
            width: image width (px).
            height: image height (px).
            stamp_ns: stamp of the image.
            at: arrival time of the image, by the clock of `add`.
            frame: frame of the image.

        Raises:
            ConversionError: camera_info is wrong, or of another size; images with an unknown lens
                must not pass for those of a pinhole camera.
        """
        states = list(self._in_turn(stamp_ns, at, frame))
        if not states:
            return ChosenCamera(None, NO_INFO)
        if states[0].fault and states[0].holds(stamp_ns, at):
            raise ConversionError("camera_info", f"{states[0].fault}{REMEDY}")
        good = [c for s in states if (c := s.camera) is not None]
        for camera in good:
            if (camera.width or width, camera.height or height) == (width, height):
                self._fits = True
                return ChosenCamera(resized_camera(camera, width, height))
        # If some images have the calibrated size, one of another size is not a resized stream.
        for camera in [] if self._fits else good:
            aspect = camera.width * height / (camera.height * width)
            if abs(aspect - 1) < MAX_ASPECT_CHANGE:
                words = f"{camera.width}x{camera.height} pixels, the images have {width}x{height}"
                return ChosenCamera(
                    resized_camera(camera, width, height),
                    f"camera_info is for {words}: scaled as the images must have been",
                )
        if good:
            raise ConversionError(
                "camera_info",
                f"camera_info is for {good[0].width}x{good[0].height} pixels, "
                f"the image has {width}x{height}{REMEDY}",
            )
        faults = [s.fault for s in states if s.fault]
        if faults:
            raise ConversionError("camera_info", f"{faults[0]}{REMEDY}")
        return ChosenCamera(None, "camera_info is not calibrated: K is zero")

    def _in_turn(self, stamp_ns: int, at: float, frame: str) -> Iterator[_Calibration]:
        """Yield states from the newest before an image backwards, then those after it."""
        known = self._states
        states = [s for s in known if frame and s.frame in (frame, "")] or known
        yield from (s for s in reversed(states) if s.holds(stamp_ns, at))
        yield from (s for s in states if not s.holds(stamp_ns, at))


def _content(info: Any) -> bytes:
    """Return everything relevant of a camera_info, to detect changes."""
    roi = info.roi
    values = (
        info.width, info.height, info.distortion_model, info.binning_x, info.binning_y,
        roi.x_offset, roi.y_offset, roi.width, roi.height,
        *(tuple(map(float, v)) for v in (info.k, info.d, info.p)),
    )  # fmt: skip
    return repr(values).encode()
