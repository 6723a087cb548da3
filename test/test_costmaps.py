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

"""config/nav2_params.yaml by the rules of Nav2's costmap layers, written down here once more.

A source of a layer keeps its newest cloud alone (`observation_persistence: 0.0`) and drops the
points outside its heights at once. At each update the layer first clears along the rays from the
camera to the points of the clearing sources, then marks the points of the marking ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.datatypes import FloatArray

NAV2 = yaml.safe_load((Path(__file__).parents[1] / "config" / "nav2_params.yaml").read_text())
LAYERS = {"global_costmap": "obstacle_layer", "local_costmap": "voxel_layer"}
CELL_M = 0.05
CLOUD_GAP_S = 0.25
"""The node sends the clouds of a window this far apart."""
CAMERA = np.array([0.0, 0.0, 0.5])
MAX_RANGE_M = 8.0
STEP_M = 0.02


def costmap(name: str) -> Any:
    return NAV2[name][name]["ros__parameters"]


def layer_of(name: str) -> Any:
    return costmap(name)[LAYERS[name]]


def view(*, person: bool, wall_m: float = 7.0, ceiling_m: float = 2.6) -> FloatArray:
    """(N, 3) What the camera sees: floor, wall, ceiling, a person 1.8 m ahead. Global frame."""
    yaw, pitch = np.radians(np.meshgrid(np.arange(-35, 36, 2), np.arange(-30, 31, 2)))
    rays = np.stack(
        [np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], -1
    ).reshape(-1, 3)
    with np.errstate(divide="ignore"):
        lengths = [wall_m / rays[:, 0], (ceiling_m - CAMERA[2]) / rays[:, 2],
                   -CAMERA[2] / rays[:, 2]]  # fmt: skip
    lengths = [np.where(length > 0, length, np.inf) for length in lengths]
    if person:
        front = 1.8 / rays[:, 0]
        hit = CAMERA + rays * front[:, None]
        lengths.append(np.where((abs(hit[:, 1]) < 0.25) & (hit[:, 2] < 1.75), front, np.inf))
    nearest = np.min(lengths, axis=0)
    seen = nearest < MAX_RANGE_M
    points: FloatArray = CAMERA + rays[seen] * nearest[seen, None]
    return points


@dataclass
class Layer:
    """An obstacle layer (columns) or a voxel layer (cells at each height).

    Attributes:
        settings: of nav2_params.yaml.
        marked: indices (x, y, z) of what is lethal; z is 0 throughout in columns.
    """

    settings: Any
    marked: set[tuple[int, int, int]] = field(default_factory=set)

    def update(self, cloud: FloatArray) -> int:
        """One update with a cloud; how many columns are lethal afterwards."""
        sources = [self.settings[n] for n in self.settings["observation_sources"].split()]
        for source in sources:
            if source["clearing"]:
                self._clear(within(source, cloud), source["raytrace_max_range"])
        for source in sources:
            if source["marking"]:
                points = within(source, cloud)
                points = points[points[:, 2] <= self.settings["max_obstacle_height"]]
                near = np.linalg.norm(points - CAMERA, axis=1) < source["obstacle_max_range"]
                self.marked |= self._cells(points[near])
        return len({cell[:2] for cell in self.marked})

    def _clear(self, points: FloatArray, range_m: float) -> None:
        ways = points - CAMERA
        lengths = np.linalg.norm(ways, axis=1, keepdims=True)
        stops = np.clip(lengths - 2 * CELL_M, 0.0, range_m)
        steps = np.minimum(np.arange(0.0, range_m, STEP_M), stops)
        on_rays = CAMERA + ways[:, None] * (steps / lengths)[..., None]
        self.marked -= self._cells(on_rays.reshape(-1, 3))

    def _cells(self, points: FloatArray) -> set[tuple[int, int, int]]:
        height_m = self.settings.get("z_resolution", np.inf)
        cells = np.floor(points / [CELL_M, CELL_M, height_m]).astype(int)
        return set(zip(*cells.T.tolist(), strict=True))


def within(source: Any, cloud: FloatArray) -> FloatArray:
    """The points that a source keeps."""
    low, high = source["min_obstacle_height"], source["max_obstacle_height"]
    return cloud[(cloud[:, 2] >= low) & (cloud[:, 2] <= high)]


@pytest.mark.parametrize(
    ("name", "wall_m"),
    [("global_costmap", 7.0), ("global_costmap", 50.0), ("local_costmap", 7.0)],
)
def test_a_person_who_left_is_cleared(name: str, wall_m: float) -> None:
    layer = Layer(layer_of(name))
    there = view(person=True, wall_m=wall_m)
    assert layer.update(there) >= 9
    assert layer.update(there) >= 9, "who stays is not cleared"
    assert layer.update(view(person=False, wall_m=wall_m)) == 0


@pytest.mark.parametrize(("name", "wall_m"), [("global_costmap", 50.0), ("local_costmap", 7.0)])
def test_one_source_for_both_would_leave_the_person_there(name: str, wall_m: float) -> None:
    """The rule knows the fault: no ray inside the band goes through all of a person."""
    settings = copy.deepcopy(layer_of(name))
    settings["marker"].update(clearing=True, raytrace_max_range=5.0)
    settings["observation_sources"] = "marker"
    layer = Layer(settings)
    assert layer.update(view(person=True, wall_m=wall_m)) >= 9
    assert layer.update(view(person=False, wall_m=wall_m)) >= 9


@pytest.mark.parametrize("name", LAYERS)
def test_sources_mark_the_band_and_clear_with_everything(name: str) -> None:
    layer, rule = layer_of(name), MapSettings()
    marker, clearer = (layer[n] for n in layer["observation_sources"].split())
    assert (marker["marking"], marker["clearing"]) == (True, False)
    assert (clearer["marking"], clearer["clearing"]) == (False, True)
    assert marker["topic"] == clearer["topic"]
    assert marker["min_obstacle_height"] == rule.obstacle_min_z_m
    assert marker["max_obstacle_height"] == rule.obstacle_max_z_m
    assert layer["max_obstacle_height"] >= rule.obstacle_max_z_m
    # What lies above the floor of Nav2's frame: stairs down, and every ceiling.
    assert clearer["min_obstacle_height"] <= -1.0
    assert clearer["max_obstacle_height"] >= 10.0
    assert 0 < marker["obstacle_max_range"] < clearer["raytrace_max_range"] <= rule.max_depth_m


@pytest.mark.parametrize("name", LAYERS)
def test_every_cloud_is_used(name: str) -> None:
    """A source holds one cloud: the next update must come before the next cloud."""
    period_s = 1.0 / costmap(name)["update_frequency"]
    layer = layer_of(name)
    assert all(
        layer[n]["observation_persistence"] == 0.0 for n in layer["observation_sources"].split()
    )
    arrivals_s = np.arange(40) * CLOUD_GAP_S
    for phase_s in np.linspace(0.0, period_s, 7):
        updates_s = np.arange(phase_s, arrivals_s[-1] + 2 * period_s, period_s)
        newest = np.searchsorted(arrivals_s, updates_s, side="right") - 1
        assert set(range(40)) <= set(newest.tolist())


def test_the_radius_is_that_of_the_mapper() -> None:
    assert {costmap(name)["robot_radius"] for name in LAYERS} == {MapSettings().robot_radius_m}


SOURCE = {
    "topic", "data_type", "sensor_frame", "marking", "clearing", "min_obstacle_height",
    "max_obstacle_height", "obstacle_min_range", "obstacle_max_range", "raytrace_min_range",
    "raytrace_max_range", "inf_is_valid", "observation_persistence", "expected_update_rate",
}  # fmt: skip
OBSTACLE = {
    "plugin", "enabled", "combination_method", "footprint_clearing_enabled",
    "max_obstacle_height", "observation_sources",
}  # fmt: skip
COSTMAP = {
    "global_frame", "robot_base_frame", "update_frequency", "publish_frequency", "resolution",
    "robot_radius", "footprint", "track_unknown_space", "plugins", "rolling_window", "width",
    "height", "trinary_costmap", "lethal_cost_threshold", "transform_tolerance",
}  # fmt: skip
READ_BY = {
    "nav2_costmap_2d::StaticLayer": {
        "plugin", "enabled", "map_topic", "map_subscribe_transient_local", "subscribe_to_updates",
        "transform_tolerance", "footprint_clearing_enabled",
    },
    "nav2_costmap_2d::ObstacleLayer": OBSTACLE,
    "nav2_costmap_2d::VoxelLayer": OBSTACLE | {
        "publish_voxel_map", "origin_z", "z_resolution", "z_voxels", "unknown_threshold",
        "mark_threshold",
    },
    "nav2_costmap_2d::InflationLayer": {
        "plugin", "enabled", "cost_scaling_factor", "inflation_radius",
    },
    "nav2_navfn_planner::NavfnPlanner": {
        "plugin", "tolerance", "use_astar", "allow_unknown", "use_final_approach_orientation",
    },
    "nav2_regulated_pure_pursuit_controller::RegulatedPurePursuitController": {
        "plugin", "desired_linear_vel", "lookahead_dist", "use_collision_detection",
    },
    "planner_server": {"expected_planner_frequency", "planner_plugins"},
    "controller_server": {"controller_frequency", "controller_plugins", "odom_topic"},
    "global_costmap": COSTMAP,
    "local_costmap": COSTMAP,
}  # fmt: skip
"""Parameters that each part reads in Humble, Jazzy, Kilted and Lyrical alike."""


def unread(owner: str, parameters: Any) -> list[str]:
    """Parameters that nobody reads."""
    found = []
    sources = parameters.get("observation_sources", "").split()
    for name, value in parameters.items():
        if name in sources:
            found += [f"{owner}.{name}.{key}" for key in set(value) - SOURCE]
        elif isinstance(value, dict):
            found += [f"{owner}.{word}" for word in unread(value["plugin"], value)]
        elif name not in READ_BY[owner]:
            found.append(f"{owner}.{name}")
    return found


def test_every_parameter_is_read_by_nav2() -> None:
    owners = [(name, costmap(name)) for name in LAYERS]
    owners += [(n, NAV2[n]["ros__parameters"]) for n in ("planner_server", "controller_server")]
    assert {name for name, _ in owners} == set(NAV2)
    assert [word for owner, settings in owners for word in unread(owner, settings)] == []
