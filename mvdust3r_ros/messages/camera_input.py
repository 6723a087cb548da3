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

"""Collect one camera's messages, and make frames of images and matching data.

The node and the bag reader share this class, so that they interpret a recording in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame
from mvdust3r_ros.messages.camera_infos import CameraInfos
from mvdust3r_ros.messages.conversions import frame_from_msgs, stamp_to_ns
from mvdust3r_ros.messages.frame_ids import plain_frame
from mvdust3r_ros.messages.images import DEFAULT_MAX_PIXELS
from mvdust3r_ros.messages.input_counts import CAMERA_INFO, DEPTH
from mvdust3r_ros.messages.odometry import Placement
from mvdust3r_ros.tones import Tones

DEPTH_MATCH_NS = 20_000_000
"""Half the image period of a camera at 25 Hz: the depth of this image, not of the next."""
STALE_NS = 2_000_000_000
"""Messages this much older or newer than an image are unrelated: nothing waits for them. A chosen
limit, 50 periods of a camera at 25 Hz."""
Notify = Callable[[str, str], None]
"""Receives CAMERA_INFO or DEPTH, and why an image lacks it or what was assumed."""
NO_DEPTH = f"nothing within {DEPTH_MATCH_NS // 10**6} ms of the image"


class CameraInput:
    """Received messages of one camera.

    Attributes:
        infos: its camera_info.
        wants_depth: whether images should have depth.
    """

    def __init__(
        self,
        notify: Notify,
        tones: Tones,
        *,
        rectified: bool = False,
        uses_info: bool = True,
        wants_depth: bool = False,
    ) -> None:
        """Start without messages.

        Args:
            notify: called with what images lack.
            tones: how images with more than 8 bits are reduced to 8.
            rectified: the images have no distortion left.
            uses_info: False to ignore camera_info.
            wants_depth: whether images should have depth.
        """
        self.infos = CameraInfos(rectified=rectified)
        self.wants_depth = wants_depth
        self._notify, self._tones, self._uses_info = notify, tones, uses_info
        self._info_frame = ""
        self._depths: dict[int, Any] = {}

    def add_info(self, info: Any, at: float) -> None:
        """Add a sensor_msgs/CameraInfo with its arrival time (any clock that only grows)."""
        self.infos.add(info, at)
        self._info_frame = self._info_frame or plain_frame(info.header.frame_id)

    def add_depth(self, depth: Any, most: int = 0) -> None:
        """Add a depth image; beyond `most` drop the first to arrive, 0 keeps all."""
        self._depths[stamp_to_ns(depth.header.stamp)] = depth
        while most and len(self._depths) > most:
            del self._depths[next(iter(self._depths))]

    def forget_depths(self, before_ns: int | None = None) -> None:
        """Drop depth images older than a stamp, or all."""
        kept = {} if before_ns is None else self._depths
        self._depths = {s: d for s, d in kept.items() if before_ns is None or s > before_ns}

    def depth_at(self, stamp_ns: int) -> Any | None:
        """Return the depth image that matches an image's stamp, or None."""
        best = min(self._depths, key=lambda s: abs(s - stamp_ns), default=None)
        if best is None or abs(best - stamp_ns) > DEPTH_MATCH_NS:
            return None
        return self._depths[best]

    def depth_may_come(self, stamp_ns: int) -> bool:
        """Whether the depth of an image is missing and no later one has overtaken it."""
        newest = max(self._depths, default=None)
        overtaken = newest is not None and stamp_ns + DEPTH_MATCH_NS < newest < stamp_ns + STALE_NS
        return self.wants_depth and self.depth_at(stamp_ns) is None and not overtaken

    def optical_frame(self, image: Any, named: str = "") -> str:
        """Return the frame of an image: as named, or from its header, or from camera_info."""
        return plain_frame(named) or plain_frame(image.header.frame_id) or self._info_frame

    def frame(
        self,
        image: Any,
        camera_name: str,
        at: float,
        placement: Placement,
        depth: Any | None,
        *,
        T_rig_cam: FloatArray | None = None,
        why_no_depth: str = "",
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Frame:
        """Return the frame of an image message.

        Args:
            image: sensor_msgs Image or CompressedImage.
            camera_name: its optical frame.
            at: its arrival time, by the clock of `add_info`.
            placement: camera pose from odometry; the caller reports what it lacks.
            depth: matching depth image, or None.
            T_rig_cam: (4, 4) pose of the camera on a rig of several, or None.
            why_no_depth: why there is no depth, if known.
            max_pixels: larger images are rejected.

        Raises:
            ConversionError: the image, or data that belongs to it, cannot be used.
        """
        stamp_ns, own_frame = stamp_to_ns(image.header.stamp), plain_frame(image.header.frame_id)
        of_camera, of_depth = [""], [why_no_depth]

        def camera(width: int, height: int) -> CameraModel | None:
            chosen = self.infos.camera_for(width, height, stamp_ns, at, own_frame)
            of_camera.append(chosen.why)
            return chosen.camera

        frame = frame_from_msgs(
            image,
            camera if self._uses_info else None,
            placement.T_odom_cam,
            depth,
            camera_name=camera_name,
            T_rig_cam=T_rig_cam,
            T_odom_base=placement.T_odom_base,
            max_pixels=max_pixels,
            tones=self._tones,
            on_bad_depth=of_depth.append,
        )
        of_depth.append(NO_DEPTH if depth is None and self.wants_depth else "")
        of_depth.append(_other_frame(depth, own_frame))
        for kind, reasons in ((CAMERA_INFO, of_camera), (DEPTH, of_depth)):
            if why := next(filter(None, reasons), ""):
                self._notify(kind, why)
        return frame


def _other_frame(depth: Any | None, own: str) -> str:
    """Return a warning if depth is of another camera, so that its pixels may not fit."""
    other = "" if depth is None else plain_frame(depth.header.frame_id)
    if other in ("", own) or not own:
        return ""
    return (
        f"depth is of frame {other!r}, the images are of {own!r}: it has to be registered to them"
    )
