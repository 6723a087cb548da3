"""Start the mapper and a Nav2 that drives by its grid and clouds.

ros2 launch mvdust3r_ros nav2.launch.py image:=/camera/image_raw odom:=/odom

The mapper takes the place of map_server and AMCL: it publishes the grid and map->odom.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("mvdust3r_ros"))
FORWARDED = [
    ("image", "image", "image topic, without /compressed"),
    ("cameras", "", "names of several cameras, see recon.launch.py"),
    ("image_transport", "", "raw or compressed; empty for what params_file says"),
    ("camera_info", "", "camera_info topic; empty for the one beside the image topic"),
    ("odom", "odom", "odometry topic (nav_msgs/Odometry)"),
    ("depth", "", "depth image topic registered to the image; empty for none"),
    ("engine", "", "engine folder; empty for what params_file says"),
    ("params_file", str(SHARE / "config" / "mapper.yaml"), "settings of the mapper"),
    ("use_sim_time", "false", "take the time from /clock (bags, simulation)"),
    ("rviz", "false", "open RViz too"),
]
OWN = [
    ("max_interval_s", "1.0", "a standing robot gets a keyframe this often (s), 0 for none"),
    ("nav2_params", str(SHARE / "config" / "nav2_params.yaml"), "settings of Nav2"),
]
NAV2_NODES = [
    ("nav2_controller", "controller_server"),
    ("nav2_planner", "planner_server"),
    ("nav2_behaviors", "behavior_server"),
    ("nav2_bt_navigator", "bt_navigator"),
]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the mapper, Nav2's servers and their lifecycle manager."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=words)
        for name, default, words in [*FORWARDED, *OWN]
    ]
    mapper = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "recon.launch.py")),
        launch_arguments=[
            *((name, LaunchConfiguration(name)) for name, _, _ in FORWARDED),
            ("max_interval_s", LaunchConfiguration("max_interval_s")),
        ],
    )
    sim_time = {
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    }
    servers = [
        Node(
            package=package,
            executable=executable,
            name=executable,
            parameters=[LaunchConfiguration("nav2_params"), sim_time],
            output="screen",
        )
        for package, executable in NAV2_NODES
    ]
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_navigation",
        parameters=[
            sim_time, {"autostart": True, "node_names": [name for _, name in NAV2_NODES]}
        ],
        output="screen",
    )  # fmt: skip
    return LaunchDescription([*arguments, mapper, *servers, manager])
