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

"""Start, configure and activate the mapper node, and optionally show it in RViz.

ros2 launch mvdust3r_ros recon.launch.py image:=/camera/image_raw odom:=/odom rviz:=true
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from mvdust3r_ros.ros.launch_settings import (
    camera_remappings,
    require_packages,
    rviz_remappings,
)

SHARE = Path(get_package_share_directory("mvdust3r_ros"))
ARGUMENTS = [
    ("image", "image", "image topic, without /compressed"),
    (
        "cameras",
        "",
        "names of several cameras, as in front,left; image, camera_info and depth then "
        "hold {camera} where the name goes, as in /{camera}/image_raw",
    ),
    ("image_transport", "", "raw or compressed; empty for what params_file says"),
    ("camera_info", "", "camera_info topic; empty for the one beside the image topic"),
    ("odom", "odom", "odometry topic (nav_msgs/Odometry)"),
    ("depth", "", "depth image topic registered to the image; empty for none"),
    ("engine", "", "engine folder; empty for what params_file says"),
    ("max_interval_s", "", "a keyframe at least this often (s); empty for what params_file says"),
    ("robot_radius", "", "radius of the robot (m); empty for what params_file says"),
    ("params_file", str(SHARE / "config" / "mapper.yaml"), "settings of the node"),
    ("namespace", "", "namespace of the node"),
    ("use_sim_time", "false", "take the time from /clock (bags, simulation)"),
    ("autostart", "true", "configure and activate; false under a lifecycle manager"),
    ("rviz", "false", "open RViz too"),
]


def _mapper(context: LaunchContext) -> LifecycleNode:
    """Return the node with topics and parameters from the arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    cameras = camera_remappings(
        given["image"], given["camera_info"], given["depth"], given["cameras"]
    )
    parameters: dict[str, object] = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    if given["depth"]:
        parameters["ros.use_depth"] = True
    if given["cameras"]:
        parameters["ros.cameras"] = given["cameras"]
    if given["engine"]:
        parameters["engine.engine"] = given["engine"]
    if given["max_interval_s"]:
        parameters["keyframes.max_interval_s"] = float(given["max_interval_s"])
    if given["robot_radius"]:
        parameters["map.robot_radius_m"] = float(given["robot_radius"])
    if given["image_transport"]:
        parameters["ros.image_transport"] = given["image_transport"]
    return LifecycleNode(
        package="mvdust3r_ros",
        executable="mapper_node",
        name="mapper",
        namespace=given["namespace"],
        parameters=[given["params_file"], parameters],
        remappings=[("odom", given["odom"]), *cameras],
        output="screen",
    )


def _transition(node: LifecycleNode, transition_id: int) -> EmitEvent:
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition_id)
    )


def _started(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """Return the node and the two transitions that activate it."""
    configure = RegisterEventHandler(
        OnProcessStart(
            target_action=node,
            on_start=[_transition(node, Transition.TRANSITION_CONFIGURE)],
        )
    )
    # Without the start state this would also fire after `deactivate`.
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[_transition(node, Transition.TRANSITION_ACTIVATE)],
        )
    )
    return [configure, activate, node]


def _rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return RViz if requested; fail before the mapper starts if it is not installed."""
    if LaunchConfiguration("rviz").perform(context).lower() != "true":
        return []
    require_packages(["rviz2"])
    view = SHARE / "config" / "recon.rviz"
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(view)],
            parameters=[{"use_sim_time": LaunchConfiguration("use_sim_time")}],
            remappings=rviz_remappings(view, LaunchConfiguration("namespace").perform(context)),
        )
    ]


def _actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return RViz and the mapper, activated with autostart."""
    autostart = LaunchConfiguration("autostart").perform(context).lower() == "true"
    node = _mapper(context)
    return [*_rviz(context), *(_started(node) if autostart else [node])]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, RViz and the node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=words)
        for name, default, words in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions)])
