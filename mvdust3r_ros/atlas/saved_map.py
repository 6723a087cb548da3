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

"""Conversion between a map and its saved form."""

from __future__ import annotations

from dataclasses import replace

from mvdust3r_ros.atlas.session_file import StoredKeyframe, StoredMap
from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import Descriptor
from mvdust3r_ros.descriptors import of_one_kind
from mvdust3r_ros.graph.floor_views import view_of_floor
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.known_points import Pointmap
from mvdust3r_ros.placing.scale import ScaleFilter


def stored_map(graph: KeyframeGraph, engine: str) -> StoredMap:
    """Return what a map saves.

    Args:
        graph: the map.
        engine: name of the engine that made it.
    """
    items = list(graph.keyframes.values())
    if not items:
        return StoredMap([], [], graph.scale.estimate, engine)
    kind, looks = of_one_kind([m.descriptor for m in items], [m.keyframe.view for m in items])
    keyframes = [
        StoredKeyframe(
            m.keyframe,
            m.T_map_cam,
            m.points_cam,
            m.colors_rgb,
            m.conf,
            m.pointmap.points_cam,
            m.pointmap.conf,
            vector,
        )
        for m, vector in zip(items, looks, strict=True)
    ]
    return StoredMap(
        keyframes, list(graph.edges), graph.scale.estimate, engine, kind, graph.driven_path
    )


def restored(stored: StoredMap, rel_error: float, settings: MapSettings) -> KeyframeGraph:
    """Return a saved map, ready to be continued by an engine with this relative error."""
    items = [
        MapKeyframe(
            k.keyframe,
            k.T_map_cam,
            k.points_cam,
            k.colors_rgb,
            k.conf,
            pointmap=Pointmap(k.dense_points_cam, k.dense_conf),
            descriptor=Descriptor(stored.descriptor_kind, k.descriptor),
        )
        for k in stored.keyframes
    ]
    if settings.camera_height_m == 0:
        items = [replace(m, floor_cam=view_of_floor(m)) for m in items]
    return KeyframeGraph(
        {m.id: m for m in items},
        tuple(stored.edges),
        scale=ScaleFilter().known(stored.scale),
        driven_path=stored.driven_path,
        closures=sum(edge.robust for edge in stored.edges),
        rel_error=rel_error,
    )
