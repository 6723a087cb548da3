"""The launch file, wherever launch is installed."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "launch"
FILE = FOLDER / "recon.launch.py"


def loaded(file: Path) -> ModuleType:
    pytest.importorskip("launch.actions", reason="launch is not installed")
    pytest.importorskip("launch_ros.actions", reason="launch_ros is not installed")
    spec = importlib.util.spec_from_file_location(file.name.replace(".", "_"), file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recon() -> ModuleType:
    return loaded(FILE)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.launch.py")), ids=lambda f: f.name)
def test_the_launch_files_are_python(file: Path) -> None:
    compile(file.read_text(), str(file), "exec")


def literal(file: Path, name: str) -> list[str]:
    """First entries of the tuples in a list at the top of a launch file, without importing it."""
    (value,) = [
        node.value
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    assert isinstance(value, ast.List)
    return [ast.literal_eval(e.elts[0]) for e in value.elts if isinstance(e, ast.Tuple)]


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
    """The function alone, so that it is tested where launch is not installed."""
    (function,) = [
        node
        for node in ast.parse(FILE.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "_camera_topics"
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), str(FILE), "exec"), names)
    given = {"image": image, "cameras": cameras, "camera_info": "", "depth": ""}
    found = dict(names["_camera_topics"](given))
    assert expected.items() <= found.items()
    assert bool(found) == bool(expected)


def test_navigation_forwards_arguments_that_the_mapper_has() -> None:
    forwarded = literal(FOLDER / "nav2.launch.py", "FORWARDED")
    assert {"image", "odom", "params_file"} <= set(forwarded)
    assert {*forwarded, "max_interval_s"} <= set(literal(FILE, "ARGUMENTS"))


def test_navigation_starts_the_mapper_and_every_server() -> None:
    nav2 = loaded(FOLDER / "nav2.launch.py")
    from launch_ros.actions import Node

    nodes = [e for e in nav2.generate_launch_description().entities if isinstance(e, Node)]
    assert len(nodes) == len(nav2.NAV2_NODES) + 1


def test_it_has_the_arguments(recon: ModuleType) -> None:
    from launch.actions import DeclareLaunchArgument

    found = recon.generate_launch_description().entities
    names = {e.name for e in found if isinstance(e, DeclareLaunchArgument)}
    assert {
        "image", "engine", "params_file", "namespace", "use_sim_time", "autostart", "rviz",
    } <= names  # fmt: skip


@pytest.mark.parametrize(("autostart", "entities"), [("true", 3), ("false", 1)])
def test_autostart_adds_the_two_transitions(
    recon: ModuleType, autostart: str, entities: int
) -> None:
    from launch import LaunchContext
    from launch_ros.actions import LifecycleNode

    context = LaunchContext()
    for name, default, _ in recon.ARGUMENTS:
        context.launch_configurations[name] = default
    context.launch_configurations["autostart"] = autostart
    made = recon._actions(context)
    assert len(made) == entities
    assert isinstance(made[-1], LifecycleNode)
