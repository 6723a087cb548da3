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

"""The package's descriptions of itself agree with each other and with the code."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from mvdust3r_ros.datatypes import ScaleSource, Verdict
from mvdust3r_ros.ros.health.degradation import ServiceLevel

ROOT = Path(__file__).parents[1]
VERSION = ElementTree.parse(ROOT / "package.xml").findtext("version")

NODE_SCRIPTS = ["bag_player", "mapper_node", "recorder"]
NEEDS_ROS = pytest.mark.skipif(
    importlib.util.find_spec("rclpy") is None, reason="rclpy is not installed"
)


def constants(message: Path) -> dict[str, int]:
    """Name and value of the uint8 constants of an interface definition."""
    pattern = re.compile(r"^uint8 ([A-Z0-9_]+)=(\d+)", re.MULTILINE)
    return {name: int(value) for name, value in pattern.findall(message.read_text())}


def values(enum: type[IntEnum], prefix: str = "") -> dict[str, int]:
    return {prefix + item.name: item.value for item in enum}


def entry_points() -> dict[str, str]:
    """Console script -> "module:function"."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(tuple(part.strip() for part in line.split("=")) for line in lines)


def test_verdicts_and_rungs_are_those_of_the_message() -> None:
    both = {**values(Verdict), **values(ServiceLevel, "RUNG_")}
    assert constants(ROOT / "msg/WindowStatus.msg") == both


def test_scale_sources_are_those_of_the_message() -> None:
    assert constants(ROOT / "msg/OccupancySummary.msg") == values(ScaleSource, "SCALE_")


@NEEDS_ROS
def test_generated_messages_carry_the_constants() -> None:
    msg = pytest.importorskip("mvdust3r_ros.msg", reason="not built: make build, source env.sh")
    for name, value in {**values(Verdict), **values(ServiceLevel, "RUNG_")}.items():
        assert getattr(msg.WindowStatus, name) == value
    for name, value in values(ScaleSource, "SCALE_").items():
        assert getattr(msg.OccupancySummary, name) == value


def test_every_interface_is_generated() -> None:
    interfaces = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("[ms][sr][gv]/*") if path.is_file()
    }
    listed = re.findall(r'"((?:msg|srv)/\w+\.\w+)"', (ROOT / "CMakeLists.txt").read_text())
    assert set(listed) == interfaces
    assert len(interfaces) >= 3


def test_changelog_begins_with_what_is_to_come_or_with_this_version() -> None:
    """As the release tools read it: `Forthcoming`, or version and date of the release."""
    headings = re.findall(r"^(.+)\n(-+)$", (ROOT / "CHANGELOG.rst").read_text(), re.M)
    assert all(len(heading) == len(line) for heading, line in headings)
    first = headings[0][0]
    assert first == "Forthcoming" or re.fullmatch(rf"{VERSION} \(\d{{4}}-\d\d-\d\d\)", first)


def test_setup_takes_its_version_from_package_xml() -> None:
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    output = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.split()[-1] == VERSION


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_console_scripts_can_be_imported(name: str) -> None:
    module, function = entry_points()[name].split(":")
    if ".ros." in module:
        pytest.importorskip("rclpy", reason="needs ROS")
        pytest.importorskip("mvdust3r_ros.msg", reason="not built: make build, source env.sh")
    assert callable(getattr(importlib.import_module(module), function))


def test_scripts_call_the_functions_of_the_console_scripts() -> None:
    scripts = {path.name: path for path in (ROOT / "scripts").iterdir()}
    assert set(scripts) == set(entry_points()) == {*NODE_SCRIPTS, "mvdust3r_ros"}
    for name, path in scripts.items():
        module, function = entry_points()[name].split(":")
        assert f"from {module} import {function}\n" in path.read_text()
        assert path.read_text().startswith("#!/usr/bin/env python3\n")
        assert os.access(path, os.X_OK)


def test_every_script_is_installed() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert set(re.findall(r"scripts/(\w+)", cmake)) == set(entry_points())


def test_package_xml_lists_the_messages_imported_by_the_node() -> None:
    tree = ElementTree.parse(ROOT / "package.xml")
    depends = {element.text for tag in ("depend", "exec_depend") for element in tree.iter(tag)}
    used = set()
    for path in (ROOT / "mvdust3r_ros/ros").rglob("*.py"):
        used |= set(re.findall(r"^from (\w+_(?:msgs|srvs))\.", path.read_text(), re.M))
    assert used <= depends


def dependencies(*kinds: str) -> set[str]:
    tree = ElementTree.parse(ROOT / "package.xml")
    return {str(element.text) for kind in kinds for element in tree.iter(kind)}


def imported(*folders: str) -> set[str]:
    """Top packages that the Python files below some folders import, wherever they do."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.M)
    return {name for path in files for name in pattern.findall(path.read_text())}


def test_every_dependency_comes_from_apt() -> None:
    """rosdep has pip install what ends on -pip, and bloom takes pip's name for one of Debian."""
    every = dependencies("depend", "build_depend", "exec_depend", "test_depend")
    assert [name for name in every if name.endswith("-pip") or "onnxruntime" in name] == []


def test_what_runs_and_is_started_is_an_exec_depend() -> None:
    needed = {
        "ament_index_python", "launch", "launch_ros", "python3-numpy", "python3-opencv",
        "python3-scipy", "python3-venv", "python3-yaml", "rclpy", "rviz2",
    }  # fmt: skip
    assert needed <= dependencies("exec_depend")


def test_every_test_depend_is_used() -> None:
    used = imported("test")
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for name in dependencies("test_depend"):
        linter = name.startswith("ament_cmake_") and "ament_lint_auto_find" in cmake
        assert linter or name in cmake or name.removeprefix("python3-") in used, name


def test_every_file_of_code_says_its_licence() -> None:
    folders = ("mvdust3r_ros", "launch", "test", "benchmarks", "examples")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    assert [p for p in files if not p.read_text().startswith("# Copyright 2")] == []


def test_author_and_website_are_named() -> None:
    tree = ElementTree.parse(ROOT / "package.xml")
    website = tree.find("url[@type='website']")
    assert tree.findtext("author") == tree.findtext("maintainer")
    assert website is not None
    assert str(website.text) in (ROOT / "README.md").read_text()


def test_rosdoc2_is_told_where_the_pages_are() -> None:
    name = ElementTree.parse(ROOT / "package.xml").findtext("export/rosdoc2")
    _, settings = yaml.safe_load_all((ROOT / str(name)).read_text())
    (builder,) = settings["builders"]
    assert (ROOT / builder["sphinx"]["sphinx_sourcedir"] / "conf.py").is_file()


def test_ci_builds_on_every_distribution_of_the_readme() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (listed,) = re.findall(r"^ +ros: \[(.+)\]$", workflow, re.M)
    guide = (ROOT / "docs" / "install.md").read_text()
    for distro in ("humble", "jazzy", "kilted", "lyrical"):
        assert distro in listed.split(", ")
        assert distro.capitalize() in guide
        assert distro.capitalize() in (ROOT / "README.md").read_text()


def sourced(shell: str, command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A command after env.sh in a shell that knows nothing else, far from the checkout."""
    if not (ROOT / ".venv/bin/activate").exists():
        pytest.skip("the environment was not made by make env")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    return subprocess.run(
        [shell, "-euc", f'. "{ROOT}/env.sh"; {command}'],
        cwd=home,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_env_can_be_sourced_from_anywhere_with_unset_variables(shell: str, tmp_path: Path) -> None:
    names = "AMENT_PREFIX_PATH", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH"
    values = "; ".join(f'echo "${{{name}-}}"' for name in names)
    output = sourced(shell, f'{values}; . "{ROOT}/env.sh"; {values}', tmp_path)
    assert (output.returncode, output.stderr) == (0, "")
    once, twice = output.stdout.splitlines()[:4], output.stdout.splitlines()[4:]
    assert once == twice
    assert once[2].split(":")[0] in (f"{ROOT}/.venv/bin", f"{ROOT}/install/mvdust3r_ros/bin")
    if (ROOT / "install/local_setup.sh").exists():
        assert f"{ROOT}/install/mvdust3r_ros" in once[0].split(":")


def test_env_works_in_a_folder_with_a_space(tmp_path: Path) -> None:
    """What colcon generates calls its Python without quotes."""
    root = tmp_path / "my robot"
    (root / ".venv/bin").mkdir(parents=True)
    (root / "install").mkdir()
    shutil.copy(ROOT / "env.sh", root)
    (root / ".venv/bin/activate").touch()
    (root / ".venv/bin/python").symlink_to("/bin/sh")
    (root / "install/local_setup.sh").write_text(
        f'python="{root}/.venv/bin/python"\nFOUND="$($python -c "echo it")"\n'
    )
    command = f'. "{root}/env.sh"; echo "$FOUND"; words="1 2"; set -- $words; echo $#'
    output = subprocess.run(["bash", "-euc", command], capture_output=True, text=True)
    assert (output.stdout, output.stderr) == ("it\n2\n", "")


def test_env_says_which_shells_it_is_for(tmp_path: Path) -> None:
    output = sourced("dash", "echo went on", tmp_path)
    assert output.stderr.splitlines() == ["env.sh: source it in bash or zsh"]
    assert output.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["map"], "make map needs a bag: make map BAG=path/to/bag"),
        (["map", "BAG=/no where"], "BAG=/no where does not exist"),
        (["demo", "BAG=/no where"], "BAG=/no where does not exist"),
    ],
)
def test_make_asks_for_its_bag_before_it_installs_anything(words: list[str], said: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    plan = subprocess.run(
        ["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said in plan[: plan.index("tools/make_env")]
    check = "needs-bag" if len(words) == 1 else "bag-exists"
    output = subprocess.run(["make", check, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert output.returncode == 2
    assert output.stderr.splitlines()[0] == said
