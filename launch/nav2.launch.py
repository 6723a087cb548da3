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

"""Start the mapper, and Nav2 driving with its grid and clouds.

ros2 launch mvdust3r_ros nav2.launch.py image:=/camera/image_raw odom:=/odom robot_radius:=0.22

The mapper replaces map_server and AMCL: it publishes the grid and map->odom.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from mvdust3r_ros.ros.launch_settings import (
    Nav2Request,
    nav2_parameters,
    plugin_packages,
    require_packages,
    shared_robot_radius,
)

SHARE = Path(get_package_share_directory("mvdust3r_ros"))
# Every argument of recon.launch.py: one not passed explicitly would leak into it.
FORWARDED = [
    ("image", "image", "image topic, without /compressed"),
    ("cameras", "", "names of several cameras, see recon.launch.py"),
    ("image_transport", "", "raw or compressed; empty for what params_file says"),
    ("camera_info", "", "camera_info topic; empty for the one beside the image topic"),
    ("odom", "odom", "odometry topic (nav_msgs/Odometry), of the mapper and of Nav2"),
    ("depth", "", "depth image topic registered to the image; empty for none"),
    ("engine", "", "engine folder; empty for what params_file says"),
    ("max_interval_s", "1.0", "a standing robot gets a keyframe this often (s), 0 for none"),
    (
        "robot_radius",
        "",
        "radius of the robot (m), of the mapper and both costmaps; empty for that of nav2_params",
    ),
    ("params_file", str(SHARE / "config" / "mapper.yaml"), "settings of the mapper"),
    ("namespace", "", "namespace of the mapper and of Nav2"),
    ("use_sim_time", "false", "take the time from /clock (bags, simulation)"),
    ("autostart", "true", "configure and activate the mapper and Nav2"),
    ("rviz", "false", "open RViz too"),
]
OWN = [("nav2_params", str(SHARE / "config" / "nav2_params.yaml"), "settings of Nav2")]
NAV2_NODES = [
    ("nav2_controller", "controller_server"),
    ("nav2_planner", "planner_server"),
    ("nav2_behaviors", "behavior_server"),
    ("nav2_bt_navigator", "bt_navigator"),
]
MANAGER = "nav2_lifecycle_manager"


def _mapper(given: dict[str, str]) -> GroupAction:
    """Include recon.launch.py with all arguments, in its own scope."""
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "recon.launch.py"))
    arguments = [(name, given[name]) for name, _, _ in FORWARDED]
    return GroupAction([IncludeLaunchDescription(source, launch_arguments=arguments)])


def _nav2(given: dict[str, str], parameters: Path) -> list[Node]:
    """Return the servers and their lifecycle manager."""
    servers = [
        Node(
            package=package,
            executable=executable,
            name=executable,
            namespace=given["namespace"],
            parameters=[str(parameters)],
            output="screen",
        )
        for package, executable in NAV2_NODES
    ]
    manager = Node(
        package=MANAGER,
        executable="lifecycle_manager",
        name="lifecycle_manager_navigation",
        namespace=given["namespace"],
        parameters=[
            {
                "use_sim_time": _is_true(given["use_sim_time"]),
                "autostart": _is_true(given["autostart"]),
                "node_names": [name for _, name in NAV2_NODES],
            }
        ],
        output="screen",
    )
    return [*servers, manager]


def _actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return Nav2 and the mapper, after checking that all of it can start."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in [*FORWARDED, *OWN]}
    source = Path(given["nav2_params"])
    given["robot_radius"] = shared_robot_radius(source, given["robot_radius"])
    request = Nav2Request(
        odom=given["odom"],
        robot_radius=given["robot_radius"],
        namespace=given["namespace"],
        use_sim_time=_is_true(given["use_sim_time"]),
        distro=os.environ.get("ROS_DISTRO", ""),
    )
    parameters = nav2_parameters(source, request)
    needed = [*(package for package, _ in NAV2_NODES), MANAGER, *plugin_packages(parameters)]
    require_packages([*needed, *(["rviz2"] if _is_true(given["rviz"]) else [])])
    # Next to the logs of this launch, as a record of Nav2's parameters.
    file = Path(launch_config.log_dir) / "nav2_params.yaml"
    file.write_text(yaml.safe_dump(parameters))
    return [*_nav2(given, file), _mapper(given)]


def _is_true(text: str) -> bool:
    return text.lower() == "true"


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, Nav2's servers and lifecycle manager, and the mapper."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=words)
        for name, default, words in [*FORWARDED, *OWN]
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions)])
