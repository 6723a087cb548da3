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

"""Maps of keyframes that no network has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mvdust3r_ros.atlas.revision import Revision
from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.graph.driven_way import OdometryTrack
from mvdust3r_ros.graph.floor_views import view_of_floor
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.scale import ScaleFilter


def grown(
    revision: Revision, new: Sequence[MapKeyframe], track: OdometryTrack | None = None
) -> Revision:
    """A map with more keyframes, drawn."""
    new = [replace(item, floor_cam=view_of_floor(item)) for item in new]
    graph = revision.graph.with_window(new, ScaleFilter(), track or OdometryTrack(), 0.02)
    return replace(revision, graph=graph, drawing=revision.drawing.with_views(graph, new))


def map_of(new: Sequence[MapKeyframe], settings: MapSettings | None = None) -> Revision:
    """A map of keyframes, drawn."""
    return grown(Revision.empty(settings or MapSettings()), new)
