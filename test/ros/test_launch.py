"""The launch file, wherever launch is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "launch" / "recon.launch.py"


@pytest.fixture
def recon() -> ModuleType:
    pytest.importorskip("launch.actions", reason="launch is not installed")
    pytest.importorskip("launch_ros.actions", reason="launch_ros is not installed")
    spec = importlib.util.spec_from_file_location("recon_launch", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_launch_file_is_python() -> None:
    compile(FILE.read_text(), str(FILE), "exec")


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
