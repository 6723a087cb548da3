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

"""Settings that launch files compute before they start any node; needs neither launch nor Nav2."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from mvdust3r_ros.datatypes import MvDust3rError

COSTMAPS = ("global_costmap", "local_costmap")
ODOMETRY_READERS = ("controller_server", "bt_navigator")
MAPPER_TOPICS = "/mapper/"
NAVFN = "nav2_navfn_planner::NavfnPlanner"
NAVFN_IN_HUMBLE = "nav2_navfn_planner/NavfnPlanner"

Parameters = dict[str, Any]


class LaunchError(MvDust3rError):
    """The requested nodes cannot be started."""


def require_packages(names: Iterable[str]) -> None:
    """Check that packages are installed, before the first process starts.

    Raises:
        LaunchError: packages are missing; the message names their apt packages.
    """
    missing = sorted({name for name in names if not _installed(name)})
    if missing:
        distro = os.environ.get("ROS_DISTRO", "<distro>")
        debs = " ".join(f"ros-{distro}-{name.replace('_', '-')}" for name in missing)
        raise LaunchError(f"{', '.join(missing)} not found: sudo apt install {debs}")


def _installed(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def plugin_packages(parameters: Parameters) -> set[str]:
    """Return the Nav2 packages whose plugins a parameter file names; others are not checked."""
    found: set[str] = set()
    for key, value in parameters.items():
        if isinstance(value, dict):
            found |= plugin_packages(value)
        elif key == "plugin" and str(value).startswith("nav2_"):
            found.add(re.split("::|/", value)[0])
    return found


def camera_remappings(
    image: str, camera_info: str = "", depth: str = "", cameras: str = ""
) -> list[tuple[str, str]]:
    """Return remappings for all topics of each camera; a single camera has no name.

    Args:
        image: image topic, with or without "/compressed"; `{camera}` stands for the name.
        camera_info: its camera_info topic; empty for the one next to the image.
        depth: its depth image; empty for none.
        cameras: names of several cameras, as in "front,left".
    """
    remappings = []
    for name in [word.strip() for word in cameras.split(",")]:
        topic, info, range_image = (
            text.replace("{camera}", name) for text in (image, camera_info, depth)
        )
        if name and topic == "image":
            continue  # the node's own names: front/image and so on
        topic = topic.removesuffix("/compressed")
        beside = "/".join([*topic.split("/")[:-1], "camera_info"])
        before = f"{name}/" if name else ""
        remappings += [
            (f"{before}image", topic),
            (f"{before}image/compressed", f"{topic}/compressed"),
            (f"{before}camera_info", info or beside),
        ]
        if range_image:
            remappings.append((f"{before}depth", range_image))
    return remappings


def rviz_remappings(file: Path, namespace: str) -> list[tuple[str, str]]:
    """Return remappings that let RViz show a mapper in a namespace.

    Args:
        file: RViz's configuration, with the topics of a mapper without a namespace.
        namespace: the mapper's namespace; empty for none.
    """
    prefix = namespace.strip("/")
    topics = sorted(set(re.findall(rf"{MAPPER_TOPICS}\w+", file.read_text())))
    return [(topic, f"/{prefix}{topic}") for topic in topics] if prefix else []


@dataclass(frozen=True)
class Nav2Request:
    """Arguments of nav2.launch.py that change Nav2's parameters.

    Attributes:
        odom: odometry topic, the same as the mapper's.
        robot_radius: radius of the robot in metres; empty for the value in the file.
        namespace: namespace of the mapper and of all servers; empty for none.
        use_sim_time: whether time comes from /clock.
        distro: ROS_DISTRO.
    """

    odom: str = "odom"
    robot_radius: str = ""
    namespace: str = ""
    use_sim_time: bool = False
    distro: str = ""


def nav2_parameters(file: Path, request: Nav2Request) -> Parameters:
    """Return the settings of a Nav2 parameter file, overridden by the launch arguments.

    Raises:
        LaunchError: the file cannot be read or is not Nav2's, or the radius is not a length.
    """
    found = _read(file)
    for server in ODOMETRY_READERS:
        _section(found, server)["odom_topic"] = request.odom
    if request.robot_radius:
        radius_m = _length_m(request.robot_radius)
        for name in COSTMAPS:
            _section(found, name, name)["robot_radius"] = radius_m
    _section(found, "/**")["use_sim_time"] = request.use_sim_time
    for section in list(_sections(found)):
        section["use_sim_time"] = request.use_sim_time
    _rename_navfn(found, NAVFN_IN_HUMBLE if request.distro == "humble" else NAVFN)
    return _in_namespace(found, request.namespace.strip("/"))


def shared_robot_radius(file: Path, given: str) -> str:
    """Return the radius of both costmaps and the mapper, in metres; empty if not in the file.

    Args:
        file: Nav2's parameters.
        given: the launch argument; empty for the value in the file.

    Raises:
        LaunchError: the two costmaps differ in radius, or a radius is not a length.
    """
    if given:
        return str(_length_m(given))
    parameters = _read(file)
    radii = {_section(parameters, name, name).get("robot_radius") for name in COSTMAPS} - {None}
    if len(radii) > 1:
        raise LaunchError(
            f"{file}: the costmaps have robot_radius {' and '.join(sorted(map(str, radii)))}; "
            "make them one, or pass robot_radius:=METRES"
        )
    return str(_length_m(str(radii.pop()))) if radii else ""


def _read(file: Path) -> Parameters:
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise LaunchError(f"nav2_params: cannot read {file}: {words}") from None
    if not isinstance(found, dict) or not any(True for _ in _sections(found)):
        raise LaunchError(f"nav2_params: {file} has no ros__parameters")
    return found


def _length_m(text: str) -> float:
    try:
        length_m = float(text)
    except ValueError:
        length_m = -1.0
    if not 0.0 < length_m < 100.0:  # no robot is that wide
        raise LaunchError(f"robot_radius: {text!r} is no length in metres")
    return length_m


def _section(parameters: Parameters, *path: str) -> Parameters:
    """Return `ros__parameters` of one node, created if missing."""
    for key in (*path, "ros__parameters"):
        parameters = parameters.setdefault(key, {})
    return parameters


def _sections(parameters: Parameters) -> Iterator[Parameters]:
    """Yield `ros__parameters` of every node, at any depth."""
    for key, inner in parameters.items():
        if isinstance(inner, dict):
            if key == "ros__parameters":
                yield inner
            else:
                yield from _sections(inner)


def _rename_navfn(parameters: Parameters, name: str) -> None:
    """Use this distribution's name of the NavFn plugin."""
    for key, value in parameters.items():
        if isinstance(value, dict):
            _rename_navfn(value, name)
        elif value in (NAVFN, NAVFN_IN_HUMBLE):
            parameters[key] = name


def _in_namespace(parameters: Parameters, namespace: str) -> Parameters:
    """Move the nodes, and the mapper topics that they read, into a namespace."""
    if not namespace:
        return parameters
    everywhere = {"/**": parameters.pop("/**")}
    for name in reversed(namespace.split("/")):
        parameters = {name: parameters}
    return {**everywhere, **_with_topics_below(parameters, f"/{namespace}")}


def _with_topics_below(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_topics_below(inner, prefix) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith(MAPPER_TOPICS):
        return prefix + value
    return value
