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

"""Which module may import what, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = Path(__file__).parents[1] / "mvdust3r_ros"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up. A unit (a module or a folder) imports from rows below its own, never from its
# own row; inside a folder anything goes.
ROWS = [
    {"robot_python"},
    {"datatypes", "wording"},
    {"image_quality", "image_size", "installed", "safe_files", "tones"},
    {"config", "encoded_image", "geometry"},
    {"descriptors", "model", "rolling_shutter"},
    {"sfm"},
    {"engines"},
    {"window"},
    {"placing"},
    {"graph"},
    {"drawing"},
    {"atlas"},
    {"mapper"},
    {"messages", "synthetic"},
    {"recordings"},
    {"evaluation"},
    {"ros"},
    {"commands"},
    {"cli"},
]
ROW_OF = {unit: row for row, units in enumerate(ROWS) for unit in units}

ROS = {
    "ament_index_python",
    "bondpy",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "map_msgs",
    "nav_msgs",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "tf2_msgs",
    "tf2_ros",
}
OWN_MESSAGES = {"mvdust3r_ros.msg", "mvdust3r_ros.srv", "mvdust3r_ros.action"}
TORCH_UNITS = {"model", "synthetic"}
TORCH_FILES = {
    "engines/torch_engine.py",
    "engines/dust3r/alignment.py",
    "engines/dust3r/engine.py",
    "engines/dust3r/pairwise.py",
    "engines/export.py",
    "engines/graph_weights.py",
    "engines/mvs/export.py",
    "engines/spann3r/engine.py",
    "evaluation/paper/scaling.py",
    "evaluation/trials/golden.py",
}
# What tests take from others in spite of its underscore.
DOCUMENTED = {"_replace", "_exit"}  # of named tuples and of `os`
UNAVOIDABLE = {
    "test_cli.py": {"_actions", "_SubParsersAction"}
}  # argparse lists commands so alone
FORBIDDEN_NAMES = {"msg", "srv", "action", "utils", "helpers", "manager"} | sys.stdlib_module_names


def imports(tree: ast.AST, *, lazy: bool = True) -> Iterator[str]:
    """Every imported name with its module; with `lazy`, those inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, lazy=lazy)


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def case_name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def violations(path: Path, text: str) -> list[str]:
    """What a source file at this place must not import."""
    unit, name, tree = unit_of(path), case_name(path), ast.parse(text)
    at_import = set(imports(tree, lazy=False))
    found = []
    for target in sorted(set(imports(tree))):
        top = target.split(".")[0]
        is_ros = top in ROS or any(
            target == own or target.startswith(own + ".") for own in OWN_MESSAGES
        )
        if is_ros and unit != "ros":
            found.append(f"{target}: ROS belongs to ros/")
        if top in {"torch", "torchvision"}:
            lazy_in_cli = unit in {"cli", "commands"} and target not in at_import
            if not lazy_in_cli and unit not in TORCH_UNITS and name not in TORCH_FILES:
                found.append(f"{target}: torch does not belong here")
        if top != "mvdust3r_ros" or is_ros or target == "mvdust3r_ros":
            continue
        other = target.split(".")[1]
        if other != unit and ROW_OF[other] >= ROW_OF[unit]:
            found.append(f"{target}: imports point down only")
    return found


def test_the_sources_are_found() -> None:
    assert {"datatypes.py", "engines/base.py"} <= {case_name(path) for path in SOURCES}


def test_every_module_has_a_row() -> None:
    without = {unit_of(path) for path in SOURCES} - {"__init__", *ROW_OF}
    assert not without, "give the new module its place in ROWS"


@pytest.mark.slow
def test_imports_point_down() -> None:
    found = {
        case_name(path): wrong
        for path in SOURCES
        if unit_of(path) != "__init__" and (wrong := violations(path, path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("geometry.py", "from mvdust3r_ros.mapper import Mapper"),
        ("geometry.py", "from mvdust3r_ros import config"),
        ("mapper.py", "import rclpy.node"),
        ("mapper.py", "def f():\n    from mvdust3r_ros.msg import WindowStatus"),
        ("engines/onnx_engine.py", "import torch"),
        ("ros/node.py", "def f():\n    import torch.nn"),
        ("cli.py", "import torch"),
        ("synthetic/scenes.py", "from mvdust3r_ros.evaluation.report.report import describe_run"),
    ],
)
def test_a_violation_is_noticed(place: str, line: str) -> None:
    assert len(violations(PACKAGE / place, line)) == 1


@pytest.mark.slow
def test_a_robot_loads_no_slow_package() -> None:
    code = (
        "import sys, mvdust3r_ros.cli, mvdust3r_ros.engines.base, mvdust3r_ros.mapper\n"
        "print(sorted({'torch', 'matplotlib', 'onnx'}.intersection(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout == "[]\n", output.stderr


def test_a_lazy_import_of_torch_is_allowed_in_the_command_line() -> None:
    assert violations(PACKAGE / "cli.py", "def f():\n    import torch") == []


def test_an_init_file_holds_only_a_docstring() -> None:
    more_than_that = []
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree) or (len(tree.body) > 1 and path.parent != PACKAGE):
            more_than_that.append(case_name(path))
    assert more_than_that == []


def test_the_package_itself_says_only_where_its_parts_are() -> None:
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert [ast.unparse(line) for line in body[1:]] == [
        "from pkgutil import extend_path",
        "from mvdust3r_ros.robot_python import add_to_path",
        "__path__ = extend_path(__path__, __name__)",
        "add_to_path()",
    ]


def test_names_collide_with_nothing() -> None:
    names = {
        case_name(path): [part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts]
        for path in SOURCES
    }
    assert {place for place, parts in names.items() if FORBIDDEN_NAMES & set(parts)} == set()


def test_every_folder_of_modules_is_a_package() -> None:
    assert all((path.parent / "__init__.py").is_file() for path in SOURCES)


def test_the_tests_are_not_a_package() -> None:
    assert list(Path(__file__).parent.rglob("__init__.py")) == []


def private_names(text: str) -> set[str]:
    """Private names that a test takes from other objects or modules, or names in a string."""
    tree, own, found = ast.parse(text), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute):
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if of_self and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            found.add(f"self.{node.attr}" if of_self else node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            named = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found |= {str(value).rpartition(".")[2] for value in named}
    taken = found - {f"self.{name}" for name in own}
    names = {name.removeprefix("self.") for name in taken}
    return {name for name in names if name[:1] == "_" and name[:2] != "__"} - DOCUMENTED


@pytest.mark.slow
def test_tests_take_nothing_private() -> None:
    found = {path.name: private_names(path.read_text()) for path in sorted(TESTS.rglob("*.py"))}
    assert {name: names for name, names in found.items() if names} == UNAVOIDABLE


@pytest.mark.parametrize(
    "line",
    [
        "mapper._state",
        "class Other(OracleEngine):\n    def hw(self): return self._image_hw",
        "from mvdust3r_ros.cli import _params",
        "monkeypatch.setattr('mvdust3r_ros.cli._params', None)",
        "monkeypatch.setattr(Mapper, '_join', None)",
        "getattr(mapper, '_state')",
    ],
)
def test_a_private_name_is_noticed(line: str) -> None:
    assert len(private_names(line)) == 1
    assert (
        private_names("class A:\n    def f(self): self._a = self.__dict__; return self._a")
        == set()
    )
