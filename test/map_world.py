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

import numpy as np

from mvdust3r_ros.atlas.revision import PlacedWindow, Revision
from mvdust3r_ros.config import MapperConfig, MapSettings
from mvdust3r_ros.datatypes import StageClock, Window
from mvdust3r_ros.geometry import Sim3
from mvdust3r_ros.graph.driven_path import OdometryTrack
from mvdust3r_ros.graph.floor_views import view_of_floor
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.known_points import Pointmap
from mvdust3r_ros.placing.scale import ScaleFilter
from mvdust3r_ros.placing.stitching import Placement
from mvdust3r_ros.window.window_geometry import WindowGeometry

SAW_NOTHING = Pointmap(np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32))


def grown(
    revision: Revision, new: Sequence[MapKeyframe], track: OdometryTrack | None = None
) -> Revision:
    """A map with a window of more keyframes, drawn."""
    config = MapperConfig(map=revision.drawing.settings)
    seen = [replace(item, floor_cam=view_of_floor(item)) for item in new]
    window = Window(0, tuple(item.keyframe for item in new))
    nothing = np.zeros((len(new), 0, 0, 3), np.float32)
    geometry = WindowGeometry(window, nothing, nothing[..., 0], [None] * len(new), False)
    here = Sim3(1.0, np.eye(3), np.zeros(3))
    placement = Placement(here, {m.id: m.T_map_cam for m in seen}, 0.0, ScaleFilter())
    return revision.with_window(
        PlacedWindow(geometry, placement, seen), track or OdometryTrack(), config,
        StageClock(), can_be_undone=False,
    )  # fmt: skip


def map_of(new: Sequence[MapKeyframe], settings: MapSettings | None = None) -> Revision:
    """A map of keyframes, drawn."""
    return grown(Revision.empty(settings or MapSettings()), new)
