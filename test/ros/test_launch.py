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

"""The launch files, run by the real launch wherever it is installed.

Programs of Nav2 and RViz are stand-ins that write down how they were called.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from live_nodes import Stage

FOLDER = Path(__file__).parents[2] / "launch"
NAV2 = {
    "nav2_controller": "controller_server",
    "nav2_planner": "planner_server",
    "nav2_behaviors": "behavior_server",
    "nav2_bt_navigator": "bt_navigator",
    "nav2_lifecycle_manager": "lifecycle_manager",
}
PLUGINS = ["nav2_costmap_2d", "nav2_navfn_planner", "nav2_regulated_pure_pursuit_controller"]
PROGRAM = """#!{python}
import pathlib, sys
pathlib.Path({folder!r}, pathlib.Path(sys.argv[0]).name).write_text("\\n".join(sys.argv[1:]))
"""
LAUNCH = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
words = [tuple(word.split(":=", 1)) for word in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=words))
sys.exit(service.run())
"""


class Loader(yaml.SafeLoader):
    """Reads lists as launch_ros writes them."""


Loader.add_constructor("tag:yaml.org,2002:python/tuple", Loader.construct_sequence)


def literal(file: Path, name: str) -> list[str]:
    """First entries of the tuples in a list at the top of a launch file, without importing it."""
    (value,) = [
        node.value
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    assert isinstance(value, ast.List)
    return [ast.literal_eval(e.elts[0]) for e in value.elts if isinstance(e, ast.Tuple)]


def test_navigation_hands_over_every_argument_of_the_mapper() -> None:
    """One that is not would come into the included file from outside."""
    forwarded = literal(FOLDER / "nav2.launch.py", "FORWARDED")
    assert sorted(forwarded) == sorted(literal(FOLDER / "recon.launch.py", "ARGUMENTS"))


class Machine:
    """A machine with stand-ins, and what they were called with.

    Attributes:
        calls: program -> its words.
    """

    def __init__(self, folder: Path) -> None:
        self._prefix = folder / "prefix"
        self._calls = folder / "calls"
        self._calls.mkdir()
        self._log = folder / "log"
        self.calls: dict[str, list[str]] = {}

    def install(self, package: str, program: str = "") -> None:
        index = self._prefix / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / package).touch()
        (self._prefix / "share" / package).mkdir(parents=True, exist_ok=True)
        if program:
            file = self._prefix / "lib" / package / program
            file.parent.mkdir(parents=True)
            file.write_text(PROGRAM.format(python=sys.executable, folder=str(self._calls)))
            file.chmod(0o755)

    def install_mapper(self) -> None:
        """A mapper that only says how it was called, with the files of this tree."""
        self.install("mvdust3r_ros", "mapper_node")
        for name in ("config", "launch"):
            (self._prefix / "share" / "mvdust3r_ros" / name).symlink_to(FOLDER.parent / name)

    def launch(self, file: str, *words: str) -> subprocess.CompletedProcess[str]:
        paths = f"{self._prefix}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"
        found = subprocess.run(
            [sys.executable, "-c", LAUNCH, str(FOLDER / file), *words],
            env={**os.environ, "AMENT_PREFIX_PATH": paths, "ROS_LOG_DIR": str(self._log),
                 "ROS_DISTRO": "jazzy"},
            cwd=self._calls, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.calls = {path.name: path.read_text().split("\n") for path in self._calls.iterdir()}
        return found

    def settings(self, program: str) -> list[Any]:
        """Parameter files that a program was given, read."""
        words = self.calls[program]
        files = [words[i + 1] for i, word in enumerate(words) if word == "--params-file"]
        return [yaml.load(Path(file).read_text(), Loader) for file in files]

    def own(self, program: str) -> dict[str, Any]:
        """Parameters that the launch file itself gave to a program."""
        found: dict[str, Any] = {}
        for parameters in self.settings(program):
            for node in parameters.values():
                found.update(node.get("ros__parameters", {}))
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    pytest.importorskip("launch_ros.actions", reason="launch_ros is not installed")
    return Machine(tmp_path)


@pytest.fixture
def robot(machine: Machine) -> Machine:
    """With Nav2, RViz and the mapper."""
    machine.install_mapper()
    for package, program in NAV2.items():
        machine.install(package, program)
    for package in PLUGINS:
        machine.install(package)
    machine.install("rviz2", "rviz2")
    return machine


NAVIGATION = ["image:=/cam/image_raw", "odom:=/wheels/odom", "autostart:=false"]


def test_odometry_and_radius_reach_mapper_and_nav2(robot: Machine) -> None:
    found = robot.launch("nav2.launch.py", *NAVIGATION, "robot_radius:=0.35", "rviz:=true")
    assert found.returncode == 0, found.stderr
    assert set(robot.calls) == {*NAV2.values(), "mapper_node", "rviz2"}
    assert "odom:=/wheels/odom" in robot.calls["mapper_node"]
    assert "image:=/cam/image_raw" in robot.calls["mapper_node"]
    assert robot.own("mapper_node")["map.robot_radius_m"] == 0.35
    for server in ("controller_server", "bt_navigator"):
        (settings,) = robot.settings(server)
        assert settings[server]["ros__parameters"]["odom_topic"] == "/wheels/odom"
    (settings,) = robot.settings("planner_server")
    for costmap in ("global_costmap", "local_costmap"):
        assert settings[costmap][costmap]["ros__parameters"]["robot_radius"] == 0.35


def test_radius_without_an_argument_is_that_of_nav2(robot: Machine) -> None:
    robot.launch("nav2.launch.py", *NAVIGATION)
    (settings,) = robot.settings("planner_server")
    radius = settings["global_costmap"]["global_costmap"]["ros__parameters"]["robot_radius"]
    assert robot.own("mapper_node")["map.robot_radius_m"] == radius


@pytest.mark.parametrize("namespace", ["", "robot1"])
def test_a_namespace_is_that_of_all(robot: Machine, namespace: str) -> None:
    words = [f"namespace:={namespace}"] if namespace else []
    found = robot.launch("nav2.launch.py", *NAVIGATION, *words, "rviz:=true")
    assert found.returncode == 0, found.stderr
    for program in [*NAV2.values(), "mapper_node"]:
        spaces = {word for word in robot.calls[program] if word.startswith("__ns:=")}
        assert spaces <= {f"__ns:=/{namespace}"}
        assert spaces or not namespace
    shown = f"/mapper/map_points:=/{namespace}/mapper/map_points"
    assert (shown in robot.calls["rviz2"]) == bool(namespace)


def test_autostart_goes_to_the_lifecycle_manager(robot: Machine) -> None:
    robot.launch("nav2.launch.py", *NAVIGATION, "use_sim_time:=true")
    settings = robot.own("lifecycle_manager")
    assert settings["autostart"] is False
    assert settings["use_sim_time"] is True
    servers = [name for name in NAV2.values() if name != "lifecycle_manager"]
    assert settings["node_names"] == servers
    assert robot.own("mapper_node")["use_sim_time"] is True


@pytest.mark.parametrize(
    ("file", "absent", "words"),
    [
        ("nav2.launch.py", "nav2_planner", []),
        ("nav2.launch.py", "nav2_navfn_planner", []),
        ("nav2.launch.py", "nav2_lifecycle_manager", []),
        ("nav2.launch.py", "rviz2", ["rviz:=true"]),
        ("recon.launch.py", "rviz2", ["rviz:=true"]),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(
    machine: Machine, file: str, absent: str, words: list[str]
) -> None:
    machine.install_mapper()
    for package in [*NAV2, *PLUGINS, "rviz2"]:
        if package != absent:
            machine.install(package, NAV2.get(package, ""))
    found = machine.launch(file, *words)
    assert found.returncode == 1
    assert machine.calls == {}
    deb = f"ros-jazzy-{absent.replace('_', '-')}"
    output = found.stdout + found.stderr
    lines = [line for line in output.splitlines() if "sudo apt install" in line]
    assert len(lines) == 1
    assert lines[0].endswith(f"{absent} not found: sudo apt install {deb}")


def test_arguments_do_not_leak_out_of_the_included_file(robot: Machine, tmp_path: Path) -> None:
    """A bring-up of one's own that includes the file keeps its own arguments."""
    file = tmp_path / "bringup.launch.py"
    file.write_text(
        f"""
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo
from launch.launch_description_sources import PythonLaunchDescriptionSource as Source
from launch.substitutions import LaunchConfiguration
def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("namespace", default_value="mine"),
        IncludeLaunchDescription(
            Source({str(FOLDER / "nav2.launch.py")!r}),
            launch_arguments=[("robot_radius", ""), ("autostart", "false")],
        ),
        LogInfo(msg=["radius: ", LaunchConfiguration("robot_radius"), "."]),
    ])
"""
    )
    found = robot.launch(str(file))
    assert found.returncode == 0, found.stderr
    assert "radius: ." in found.stdout + found.stderr
    assert "__ns:=/mine" in robot.calls["mapper_node"]


def test_a_started_mapper_comes_to_life(new_stage: Callable[[], Stage]) -> None:
    """The real node under the real launch; the oracle engine needs no network."""
    pytest.importorskip("launch_ros.actions", reason="launch_ros is not installed")
    domain = new_stage()
    words = ["engine:=oracle", "depth:=/camera/depth", "robot_radius:=0.4"]
    domain.processes.run("launch", ["-c", LAUNCH, str(FOLDER / "recon.launch.py"), *words])
    control = domain.control
    control.wait(lambda: control.diagnostics, 30.0, "the mapper to run")
    control.wait(lambda: control.state() == "active", 30.0, "the mapper to be active")
