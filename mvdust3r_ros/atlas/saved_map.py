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

"""A map as it is saved, and a saved one as a map."""

from __future__ import annotations

from dataclasses import replace

from mvdust3r_ros.atlas.session_file import StoredKeyframe, StoredMap
from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.descriptors import image_descriptor
from mvdust3r_ros.drawing.drawing import view_of_floor
from mvdust3r_ros.engines.base import EngineInfo
from mvdust3r_ros.graph.keyframe_graph import KeyframeGraph
from mvdust3r_ros.graph.map_keyframe import MapKeyframe
from mvdust3r_ros.placing.known_points import Pointmap
from mvdust3r_ros.placing.scale import ScaleFilter


def stored_map(graph: KeyframeGraph, engine: str) -> StoredMap:
    """What is saved of a map.

    Args:
        graph: the map.
        engine: name of the engine that made its descriptors.
    """
    items = graph.keyframes.values()
    sizes = {0 if m.descriptor is None else len(m.descriptor) for m in items}
    of_one_kind = len(sizes) == 1 and 0 not in sizes
    keyframes = [
        StoredKeyframe(
            m.keyframe,
            m.T_map_cam,
            m.points_cam,
            m.colors_rgb,
            m.conf,
            m.pointmap.points_cam,
            m.pointmap.conf,
            m.descriptor
            if of_one_kind and m.descriptor is not None
            else image_descriptor(m.keyframe.view),
        )
        for m in items
    ]
    way = graph.way.held_by(set(graph.keyframes))
    return StoredMap(keyframes, graph.poses, list(graph.edges), graph.scale.estimate, engine, way)


def restored(stored: StoredMap, engine: EngineInfo, settings: MapSettings) -> KeyframeGraph:
    """A saved map to go on with."""
    same = stored.engine == engine.name
    items = [
        MapKeyframe(
            k.keyframe,
            k.T_map_cam,
            k.points_cam,
            k.colors_rgb,
            k.conf,
            pointmap=Pointmap(k.dense_points_cam, k.dense_conf),
            descriptor=k.descriptor if same else image_descriptor(k.keyframe.view),
        )
        for k in stored.keyframes
    ]
    height_m = settings.camera_height_m
    return KeyframeGraph(
        {m.id: replace(m, floor_z_m=view_of_floor(m, height_m)) for m in items},
        tuple(stored.edges),
        scale=ScaleFilter().known(stored.scale),
        way=stored.way,
        closures=sum(edge.robust for edge in stored.edges),
        rel_error=engine.rel_error,
    )
