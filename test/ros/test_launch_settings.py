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

"""What the launch files work out before they start anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ament_index_python", reason="needs ROS")

from mvdust3r_ros.config import MapSettings
from mvdust3r_ros.ros.launch_settings import (
    LaunchError,
    Nav2Request,
    camera_remappings,
    nav2_parameters,
    plugin_packages,
    require_packages,
    rviz_remappings,
    shared_robot_radius,
)

FILE = Path(__file__).parents[2] / "config" / "nav2_params.yaml"


def section(parameters: Any, *path: str) -> Any:
    for key in (*path, "ros__parameters"):
        parameters = parameters[key]
    return parameters


@pytest.mark.parametrize(
    ("image", "cameras", "expected"),
    [
        ("/cam/image_raw", "", {"image": "/cam/image_raw", "camera_info": "/cam/camera_info"}),
        (
            "/{camera}/rgb", "front, left",
            {"front/image": "/front/rgb", "left/camera_info": "/left/camera_info"},
        ),
        ("image", "front,left", {}),
    ],
)  # fmt: skip
def test_topics_of_cameras(image: str, cameras: str, expected: dict[str, str]) -> None:
    found = dict(camera_remappings(image, cameras=cameras))
    assert expected.items() <= found.items()
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("namespace", ["robot1", "/fleet/robot1/"])
def test_rviz_follows_the_mapper_into_its_namespace(namespace: str) -> None:
    file = FILE.with_name("recon.rviz")
    shown = {w for w in file.read_text().split() if w.startswith("/")}
    prefix = f"/{namespace.strip('/')}"
    assert dict(rviz_remappings(file, namespace)) == {topic: prefix + topic for topic in shown}
    assert shown and not rviz_remappings(file, "")


def test_odometry_and_time_reach_the_servers_that_read_them() -> None:
    request = Nav2Request(odom="/wheels/odom", use_sim_time=True)
    found = nav2_parameters(FILE, request)
    for server in ("controller_server", "bt_navigator"):
        assert section(found, server)["odom_topic"] == "/wheels/odom"
    for costmap in ("global_costmap", "local_costmap"):
        assert section(found, costmap, costmap)["use_sim_time"] is True
    assert section(found, "/**")["use_sim_time"] is True


@pytest.mark.parametrize("given", ["", "0.31"])
def test_mapper_and_costmaps_have_one_radius(given: str) -> None:
    radius = shared_robot_radius(FILE, given)
    assert float(radius) == (float(given) if given else MapSettings().robot_radius_m)
    found = nav2_parameters(FILE, Nav2Request(robot_radius=radius))
    for costmap in ("global_costmap", "local_costmap"):
        assert section(found, costmap, costmap)["robot_radius"] == float(radius)


def test_a_robot_with_a_footprint_keeps_the_radius_of_the_mapper(tmp_path: Path) -> None:
    file = tmp_path / "nav2.yaml"
    costmap = {"ros__parameters": {"footprint": "[[0.3, 0.2], [0.3, -0.2], [-0.3, 0.0]]"}}
    file.write_text(yaml.safe_dump({"local_costmap": {"local_costmap": costmap}}))
    assert shared_robot_radius(file, "") == ""
    found = nav2_parameters(file, Nav2Request())
    assert "robot_radius" not in section(found, "local_costmap", "local_costmap")


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        (None, "", "cannot read .*nav2.yaml: .*No such file"),
        ("a: [1", "", "cannot read .*nav2.yaml: while parsing"),
        ("mapper: {ros: {}}", "", "nav2.yaml has no ros__parameters"),
        ("a: {ros__parameters: {}}", "wide", "robot_radius: 'wide' is no length in metres"),
        ("a: {ros__parameters: {}}", "nan", "robot_radius: 'nan' is no length in metres"),
        (
            "global_costmap: {global_costmap: {ros__parameters: {robot_radius: 0.2}}}\n"
            "local_costmap: {local_costmap: {ros__parameters: {robot_radius: 0.3}}}",
            "", "robot_radius 0.2 and 0.3; make them one, or pass robot_radius:=",
        ),
    ],
)  # fmt: skip
def test_a_file_that_nav2_could_not_use_is_refused(
    tmp_path: Path, text: str | None, given: str, words: str
) -> None:
    file = tmp_path / "nav2.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LaunchError, match=words) as refusal:
        shared_robot_radius(file, given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("distro", "name"),
    [
        ("humble", "nav2_navfn_planner/NavfnPlanner"),
        ("jazzy", "nav2_navfn_planner::NavfnPlanner"),
        ("kilted", "nav2_navfn_planner::NavfnPlanner"),
        ("lyrical", "nav2_navfn_planner::NavfnPlanner"),
        ("", "nav2_navfn_planner::NavfnPlanner"),
    ],
)
def test_navfn_is_named_as_the_distribution_names_it(distro: str, name: str) -> None:
    """Humble's plugin description gives NavFn a name of its own; later ones the class's."""
    found = nav2_parameters(FILE, Nav2Request(distro=distro))
    assert section(found, "planner_server")["GridBased"]["plugin"] == name


@pytest.mark.parametrize("namespace", ["robot1", "/fleet/robot1"])
def test_a_namespace_holds_the_servers_and_the_topics_of_the_mapper(namespace: str) -> None:
    plain = nav2_parameters(FILE, Nav2Request(use_sim_time=True))
    found = nav2_parameters(FILE, Nav2Request(namespace=namespace, use_sim_time=True))
    assert section(found, "/**")["use_sim_time"] is True
    names = namespace.strip("/").split("/")
    costmap = section(found, *names, "global_costmap", "global_costmap")
    prefix = f"/{namespace.strip('/')}"
    assert costmap["static_layer"]["map_topic"] == f"{prefix}/mapper/occupancy_grid"
    for source in ("marker", "clearer"):
        topic = costmap["obstacle_layer"][source]["topic"]
        assert topic == f"{prefix}/mapper/obstacle_points"
    assert section(found, *names, "bt_navigator") == section(plain, "bt_navigator")
    assert set(found) == {"/**", names[0]}


def test_missing_packages_are_named_with_their_apt_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "lyrical")
    require_packages(["std_msgs"])
    with pytest.raises(LaunchError) as refusal:
        require_packages(["std_msgs", "no_such_planner", "no_such_rviz"])
    assert str(refusal.value) == (
        "no_such_planner, no_such_rviz not found: "
        "sudo apt install ros-lyrical-no-such-planner ros-lyrical-no-such-rviz"
    )


def test_plugins_name_their_packages() -> None:
    found = plugin_packages(nav2_parameters(FILE, Nav2Request(distro="humble")))
    assert found == {
        "nav2_costmap_2d", "nav2_navfn_planner", "nav2_regulated_pure_pursuit_controller",
    }  # fmt: skip
    assert plugin_packages({"a": {"plugin": "my_layers::Layer"}}) == set()
