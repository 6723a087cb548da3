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

"""Match names of frames and topics despite slashes, prefixes and namespaces."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

MOVING, FIXED = "tf", "tf_static"
RECTIFIED = re.compile(r"(^|_)rect(ified)?(_|$)")


def plain_frame(name: str) -> str:
    """Return a frame id as in tf2: without the outer slashes of ROS 1 and old drivers."""
    return name.strip().strip("/")


def matching_frame(frame: str, known: Collection[str], topic: str = "") -> str:
    """Find a frame in TF, also if only one of the two names has the robot's prefix.

    Args:
        frame: name to look for, plain.
        known: frames of TF.
        topic: image topic; if several robots match, its namespace decides.

    Returns:
        The name in TF; `frame` itself if none or several match.
    """
    if frame in known or not frame:
        return frame
    found = [k for k in known if k.endswith(f"/{frame}") or frame.endswith(f"/{k}")]
    if len(found) > 1:
        robots = topic.strip("/").split("/")
        found = [k for k in found if k.split("/")[0] in robots]
    return found[0] if len(found) == 1 else frame


def namespace(topic: str) -> str:
    """Return the part before the last name of a topic: "/robot1" of "/robot1/tf"."""
    return topic.rpartition("/")[0]


def is_static(topic: str) -> bool:
    """Whether the transforms of a topic are static."""
    return topic.endswith("tf_static")


def choose_tf_topics(topics: Iterable[str], near: Sequence[str]) -> tuple[list[str], list[str]]:
    """Choose one robot's transforms: those in the namespace of its camera or odometry.

    Args:
        topics: all topics with transforms.
        near: topics of the robot, images first.

    Returns:
        Moving and static transforms to use, at most one topic of each, and all topics left out.
    """
    left = sorted(set(topics))
    chosen: list[str] = []
    for static in (False, True):
        word = FIXED if static else MOVING
        kind = [t for t in left if is_static(t) == static]
        named = [t for t in kind if t.rpartition("/")[2] == word] or kind
        around = [t for t in named if any(n.startswith(f"{namespace(t)}/") for n in near)]
        around = around or (named if len(named) == 1 else [])
        chosen += [max(around, key=lambda t: namespace(t).count("/"))] if around else []
    return chosen, [t for t in left if t not in chosen]


def is_rectified(image_topic: str) -> bool:
    """Whether images of a topic have no lens distortion left, judged by its name.

    image_proc calls them image_rect and image_rect_color; others use a word `rect`.
    """
    return any(RECTIFIED.search(word) for word in image_topic.split("/"))
