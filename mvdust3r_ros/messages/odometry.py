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

"""Camera poses from odometry: poses of a robot, and the transform to the camera.

The node and the bag reader share this class, so that they interpret a robot in the same way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvdust3r_ros.datatypes import FloatArray
from mvdust3r_ros.messages.conversions import pose_from_transform, stamp_to_ns
from mvdust3r_ros.messages.frame_ids import matching_frame, plain_frame
from mvdust3r_ros.messages.images import ConversionError
from mvdust3r_ros.messages.transforms import MAX_GAP_NS, FrameTree, PoseBuffer, TransformError

EXTRAPOLATION_NS = 100_000_000
"""How far motion is extrapolated beyond the first or last pose: two periods of odometry at 20
Hz."""
OTHER_CLOCK_NS = 60 * 10**9
"""No message is in transit for so long: stamps further apart are of two clocks."""
UPRIGHT = 0.7
"""cos(45 deg): an axis nearer to the vertical than to the horizontal, with room for tilt."""
MAX_SENDERS = 8
"""Bounds memory against a sender that invents frames: a topic has one, or two if fused odometry is
published on the topic of the wheels."""
NAMES_SHOWN = 4
"""Chosen for readability: the most camera-like frame names, in one line."""


@dataclass(frozen=True)
class Placement:
    """Poses of an image from odometry.

    Attributes:
        T_odom_cam: (4, 4) pose of the camera, or None.
        T_odom_base: (4, 4) pose of the robot, also if the camera's extrinsics are unknown; None if
            odometry is of the camera itself.
        why: why the camera's pose is unknown, or what was assumed.
    """

    T_odom_cam: FloatArray | None = None
    T_odom_base: FloatArray | None = None
    why: str = ""


class Odometry:
    """Poses of one robot on a topic, its transforms, or both.

    Attributes:
        odom_frame: root of the odometry, empty before it is known.
        child: child frame of the topic's poses; empty if the messages do not name one.
        tree: transforms.
    """

    def __init__(
        self,
        *,
        from_tf: bool,
        odom_frame: str = "",
        base_frame: str = "",
        near: str = "",
        horizon_ns: int = 0,
    ) -> None:
        """Start without poses.

        Args:
            from_tf: use the camera's pose from TF alone.
            odom_frame: root of the odometry; empty to take it from the messages.
            base_frame: the robot with `from_tf`; empty for the frame next below `odom_frame`.
            near: image topic; among frames of several robots, its namespace decides.
            horizon_ns: length of the history; 0 for all.
        """
        self.odom_frame, self.child = plain_frame(odom_frame), ""
        self.tree = FrameTree(horizon_ns)
        self._from_tf, self._near, self._named = from_tf, near, bool(odom_frame)
        self._base_frame = plain_frame(base_frame)
        self._horizon_ns = horizon_ns
        self._poses = PoseBuffer(horizon_ns)
        self._by_frames: dict[tuple[str, str], PoseBuffer] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        """Number of poses of the topic."""
        return len(self._poses)

    @property
    def is_from_tf(self) -> bool:
        """Whether poses come from TF alone."""
        return self._from_tf

    @property
    def newest_ns(self) -> int | None:
        """Newest stamp of the topic."""
        return self._poses.newest_ns

    def clear(self) -> None:
        """Drop all poses and moving transforms."""
        for poses in self._by_frames.values():
            poses.clear()
        self.tree.forget_moving()

    def add_pose(self, parent: str, child: str, stamp_ns: int, T: FloatArray) -> None:
        """Add a pose of the topic, T_parent_child; the most frequent of several senders counts."""
        frames = plain_frame(parent), plain_frame(child)
        self._drop_silent(stamp_ns)
        if frames not in self._counts and len(self._counts) >= MAX_SENDERS:
            return
        self._counts[frames] += 1
        poses = self._by_frames.setdefault(frames, PoseBuffer(self._horizon_ns))
        poses.add(stamp_ns, T)
        (frame, self.child), _ = self._counts.most_common(1)[0]
        self._poses = self._by_frames[frame, self.child]
        if not self._named:
            self.odom_frame = frame

    def _drop_silent(self, stamp_ns: int) -> None:
        """Drop frames that are no longer sent, if the history is limited."""
        for frames, poses in list(self._by_frames.items()) if self._horizon_ns else ():
            newest_ns = poses.newest_ns
            if newest_ns is not None and newest_ns < stamp_ns - MAX_GAP_NS:
                del self._by_frames[frames], self._counts[frames]

    def add_transforms(self, message: Any, *, fixed: bool, ignored: str = "") -> list[str]:
        """Add a tf2_msgs/TFMessage.

        Args:
            message: the message.
            fixed: whether its transforms are static.
            ignored: parent whose transforms are left out.

        Returns:
            Descriptions of the transforms that could not be used.
        """
        faults = []
        for item in message.transforms:
            parent = plain_frame(item.header.frame_id)
            child = plain_frame(item.child_frame_id)
            if ignored and parent == ignored:
                continue
            try:
                self._add_transform(parent, child, item, fixed=fixed)
            except (ConversionError, TransformError) as error:
                faults.append(f"TF {parent!r} -> {child!r}: {error}")
        return faults

    def _add_transform(self, parent: str, child: str, item: Any, *, fixed: bool) -> None:
        if not parent or not child or parent == child:
            raise TransformError("a transform needs two different frames")
        T = pose_from_transform(item.transform)
        if fixed:
            self.tree.set_fixed(parent, child, T)
        else:
            self.tree.set_moving(parent, child, stamp_to_ns(item.header.stamp), T)

    def base_frame(self, camera: str) -> str:
        """Return the child frame of the topic's poses, also if the messages do not name it.

        Then it is the only child of their parent in TF; otherwise the top of the camera's tree,
        below any moving transforms.
        """
        if self.child:
            return self._known(self.child)
        below = self.tree.children_of(self._known(self.odom_frame))
        if len(below) == 1:
            return below[0]
        top = self.tree.top_of(self._known(camera))
        return "" if top == self._known(camera) or below else top

    def camera_frame(self, frame: str) -> str:
        """Return TF's name of a camera's frame."""
        return self._known(plain_frame(frame))

    def lookup(self, target: str, source: str, stamp_ns: int, beyond_ns: int) -> FloatArray | None:
        """Return T_target_source from TF, or None."""
        return self.tree.lookup(self._known(target), self._known(source), stamp_ns, beyond_ns)

    def place(
        self, camera: str, stamp_ns: int, beyond_ns: int, T_base_cam: FloatArray | None = None
    ) -> Placement:
        """Return the pose of a camera.

        Args:
            camera: optical frame of the images.
            stamp_ns: time of the image.
            beyond_ns: how far odometry may be extrapolated beyond its ends.
            T_base_cam: (4, 4) extrinsics of the camera if TF lacks them; or None.
        """
        camera = self.camera_frame(camera)
        if self._from_tf:
            return self._place_by_tf(camera, stamp_ns, beyond_ns)
        T_odom_base = self._poses.at(stamp_ns, beyond_ns)
        if T_odom_base is None:
            return Placement(why=self._no_pose(stamp_ns))
        base = self.base_frame(camera)
        assumed = self._assumed(base, camera)
        if base == camera and base:
            return Placement(T_odom_base, why=assumed)
        if base:
            T = self.tree.lookup(base, camera, stamp_ns, beyond_ns)
            said = assumed or self._disputed(base, camera)
            assumed = assumed if T is None else _body_frame(camera, T) or said
            T_base_cam = T_base_cam if T is None else T
        if T_base_cam is None:
            return Placement(None, T_odom_base, self._no_transform(base, camera, stamp_ns))
        pose: FloatArray = T_odom_base @ T_base_cam
        return Placement(pose, T_odom_base, assumed)

    def _assumed(self, base: str, camera: str) -> str:
        """Return a remark if the frame of the odometry was chosen or guessed."""
        if len(self._counts) > 1:
            taken, *left = (f"{p!r} -> {c!r}" for (p, c), _ in self._counts.most_common())
            return f"odometry is of several frames: {taken} is taken, {', '.join(left)} left out"
        if not self.child:
            return f"odometry names no child frame; {base!r} of TF is taken"
        robot = base.removesuffix(f"/{self.child}")
        if robot == base or camera.startswith(f"{robot}/") or robot in self._near.split("/"):
            return ""
        return f"frame {self.child!r} is not in TF; {base!r} is taken for it"

    def _disputed(self, base: str, camera: str) -> str:
        """Return a remark if two nodes disagree on a frame between base and camera."""
        frame = self.tree.disputed(base, camera)
        if frame is None:
            return ""
        return f"fixed transforms of {frame!r} with different values were sent: the last is taken"

    def is_mounted(self, camera: str, stamp_ns: int, beyond_ns: int) -> bool:
        """Whether TF has the transform from the topic's child frame to the camera."""
        camera = self.camera_frame(camera)
        base = self.base_frame(camera)
        if self._from_tf or base == camera:
            return True
        return bool(base) and self.tree.lookup(base, camera, stamp_ns, beyond_ns) is not None

    def _place_by_tf(self, camera: str, stamp_ns: int, beyond_ns: int) -> Placement:
        T = self.lookup(self.odom_frame, camera, stamp_ns, beyond_ns)
        if T is None:
            return Placement(
                why=self._no_transform(self._known(self.odom_frame), camera, stamp_ns)
            )
        root = self._known(self.odom_frame)
        base = self._known(self._base_frame) or self.tree.below(root, camera)
        T_odom_base = None
        if base and base != camera:
            T_odom_base = self.tree.lookup(root, base, stamp_ns, beyond_ns)
        return Placement(T, T_odom_base, _body_frame(camera, T) or self._disputed(root, camera))

    def _known(self, frame: str) -> str:
        return matching_frame(frame, self.tree.frames, self._near)

    def _no_pose(self, stamp_ns: int) -> str:
        span = self._poses.span_ns
        if span is None:
            return "no usable odometry message came"
        return _out_of_reach("odometry", span, stamp_ns)

    def _no_transform(self, target: str, camera: str, stamp_ns: int) -> str:
        """Explain why TF has no transform from a frame to the camera."""
        if not camera:
            return "the images name no frame (header.frame_id is empty); name it by camera_frame"
        if not target:
            return "odometry names no child frame, and TF does not tell which it is"
        if not len(self.tree):
            return (
                f"no TF came, so the transform from {target!r} to the camera {camera!r} is not "
                "known"
            )
        for frame in (target, camera):
            if frame not in self.tree:
                remedy = "; name where odometry starts by odom_frame" if self._from_tf else ""
                remedy = remedy if frame == target else ""
                return f"frame {frame!r} is not in TF, which has {self._shown()}{remedy}"
        tops = [self.tree.root_of(f) for f in (target, camera)]
        if tops[0] != tops[1]:
            torn = self.tree.torn(camera) or self.tree.torn(target)
            if torn:
                words = " and ".join(map(repr, torn[1:]))
                return f"frame {torn[0]!r} has two parents in TF, {words}: only one may send it"
            return (
                f"no transform leads from {target!r} to {camera!r}: "
                f"their trees end at {tops[0]!r} and {tops[1]!r}"
            )
        span = self.tree.covered_ns(target, camera)
        if once := self.tree.sent_once(target, camera):
            return (
                f"TF holds a single pose of {once!r}: a transform that does not change belongs "
                "on /tf_static"
            )
        if span is None:
            return f"TF from {target!r} to {camera!r} is not known"
        return _out_of_reach(f"TF from {target!r} to {camera!r}", span, stamp_ns)

    def _shown(self) -> str:
        names = sorted(self.tree.frames, key=lambda f: ("optical" not in f, "camera" not in f, f))
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return ", ".join(map(repr, names[:NAMES_SHOWN])) + more


def _out_of_reach(what: str, span_ns: tuple[int, int], stamp_ns: int) -> str:
    begin, end = span_ns
    covers = (
        f"it covers {begin / 1e9:.3f} to {end / 1e9:.3f} s, the image is of {stamp_ns / 1e9:.3f} s"
    )
    if stamp_ns < begin - OTHER_CLOCK_NS or stamp_ns > end + OTHER_CLOCK_NS:
        return f"{what} is of another time: {covers}; both need one clock"
    return f"{what} has a gap at the image: {covers}"


def _body_frame(camera: str, T_up_cam: FloatArray) -> str:
    """Return a remark if an image is in a body frame, x ahead and z up, not an optical one."""
    is_upright = T_up_cam[2, 2] > UPRIGHT and abs(T_up_cam[2, 0]) < UPRIGHT
    if "optical" in camera or not is_upright or not np.all(np.isfinite(T_up_cam)):
        return ""
    return (
        f"the images' frame {camera!r} looks along its x axis as a body frame does; images belong "
        "in an optical frame (z along the view): name it by camera_frame"
    )
