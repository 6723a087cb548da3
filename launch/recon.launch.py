"""Start the mapper node, bring it to life, and show it in RViz if wanted.

ros2 launch mvdust3r_ros recon.launch.py image:=/camera/image_raw odom:=/odom rviz:=true
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

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
    ("params_file", str(SHARE / "config" / "mapper.yaml"), "settings of the node"),
    ("namespace", "", "namespace of the node"),
    ("use_sim_time", "false", "take the time from /clock (bags, simulation)"),
    ("autostart", "true", "configure and activate; false under a lifecycle manager"),
    ("rviz", "false", "open RViz too"),
]


def _camera_topics(given: dict[str, str]) -> list[tuple[str, str]]:
    """Remappings of all topics of each camera; one camera has no name."""
    remappings = []
    for name in [word.strip() for word in given["cameras"].split(",")]:
        image, info, depth = (
            given[key].replace("{camera}", name) for key in ("image", "camera_info", "depth")
        )
        if name and image == "image":
            continue  # the node's own names: front/image and so on
        image = image.removesuffix("/compressed")
        beside = "/".join([*image.split("/")[:-1], "camera_info"])
        before = f"{name}/" if name else ""
        remappings += [
            (f"{before}image", image),
            (f"{before}image/compressed", f"{image}/compressed"),
            (f"{before}camera_info", info or beside),
        ]
        if depth:
            remappings.append((f"{before}depth", depth))
    return remappings


def _mapper(context: LaunchContext) -> LifecycleNode:
    """The node with topics and parameters as the arguments say."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    remappings = [("odom", given["odom"]), *_camera_topics(given)]
    parameters: dict[str, object] = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    if given["depth"]:
        parameters["ros.use_depth"] = True
    if given["cameras"]:
        parameters["ros.cameras"] = given["cameras"]
    if given["engine"]:
        parameters["engine.engine"] = given["engine"]
    if given["max_interval_s"]:
        parameters["keyframes.max_interval_s"] = float(given["max_interval_s"])
    if given["image_transport"]:
        parameters["ros.image_transport"] = given["image_transport"]
    return LifecycleNode(
        package="mvdust3r_ros",
        executable="mapper_node",
        name="mapper",
        namespace=given["namespace"],
        parameters=[given["params_file"], parameters],
        remappings=remappings,
        output="screen",
    )


def _transition(node: LifecycleNode, transition_id: int) -> EmitEvent:
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition_id)
    )


def _actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and, with autostart, its two transitions."""
    node = _mapper(context)
    if LaunchConfiguration("autostart").perform(context).lower() != "true":
        return [node]
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


def generate_launch_description() -> LaunchDescription:
    """Arguments, node, RViz."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=words)
        for name, default, words in ARGUMENTS
    ]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "config" / "recon.rviz")],
        parameters=[{"use_sim_time": LaunchConfiguration("use_sim_time")}],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*arguments, OpaqueFunction(function=_actions), rviz])
