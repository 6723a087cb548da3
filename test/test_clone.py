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

"""What a clone with nothing beside it can do, and what of the tests it leaves out."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stored_data import VARIABLE, WITHOUT_MORE_DATA

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent


def python(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", VARIABLE))}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env={**env, **variables}, capture_output=True, text=True
    )


PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "import mvdust3r_ros.msg, mvdust3r_ros.srv, mvdust3r_ros.config"),
        (*PYTEST, "test/test_package.py", "-k", "generated"),
    ],
    ids=["python -c", "python -m pytest"],
)
@pytest.mark.slow
def test_the_messages_are_found_from_the_root_of_the_checkout(words: tuple[str, ...]) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")
    done = python(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def outside(path: Path, text: str) -> list[str]:
    """Expressions of a source file of the tests that lead out of the repository."""
    most = len(path.relative_to(ROOT).parts) - 1
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Subscript) and ast.unparse(node).startswith(
            ("Path(__file__).parents[", "Path(__file__).resolve().parents[")
        ):
            if ast.literal_eval(node.slice) > most:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.BinOp) and ast.unparse(node.right) == "'..'":
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and "shared" in Path(str(node.value)).parts:
            found.append(str(node.value))
    return found


@pytest.mark.slow
def test_tests_read_outside_the_repository_by_one_variable_alone() -> None:
    places = {
        path.name: found
        for path in TESTS.rglob("*.py")
        if path != Path(__file__) and (found := outside(path, path.read_text()))
    }
    assert places == {"stored_data.py": ["Path(__file__).parents[2]", "shared"]}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("test_a.py", "DATA = Path(__file__).parents[2] / 'data'"),
        ("ros/test_a.py", "DATA = Path(__file__).resolve().parents[3]"),
        ("test_a.py", "DATA = ROOT / '..' / 'golden'"),
        ("test_a.py", "DATA = '../shared/data'"),
        ("test_a.py", "DATA = ROOT.parent / 'shared'"),
    ],
)
def test_a_way_out_is_noticed(name: str, line: str) -> None:
    assert len(outside(TESTS / name, line)) == 1
    assert outside(TESTS / "ros/test_a.py", "ROOT = Path(__file__).parents[2]") == []


@pytest.mark.slow
def test_without_more_data_tests_are_skipped_with_one_reason(tmp_path: Path) -> None:
    root = tmp_path / "empty" / "checkout"
    (root / "test").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    helpers = ("box_room.py", "room_bag.py", "short_drive.py", "stored_data.py")
    for name in ("conftest.py", *helpers, "test_map_bag.py"):
        shutil.copy(TESTS / name, root / "test")
    path = os.pathsep.join([*sys.path[1:], str(ROOT)])
    done = python(*PYTEST, "-k", "becomes or images_are_counted", cwd=root, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped, done.stdout
    assert all(line.endswith(WITHOUT_MORE_DATA) for line in skipped), done.stdout
    assert "passed" not in done.stdout


@pytest.mark.slow
def test_a_folder_that_the_variable_names_in_vain_is_an_error(tmp_path: Path) -> None:
    done = python("-m", "pytest", "--collect-only", "-q", str(TESTS / "test_map_bag.py"),
                  **{VARIABLE: str(tmp_path)})  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{VARIABLE}: {tmp_path} holds no" in done.stderr


@pytest.mark.slow
def test_a_package_built_before_a_module_came_is_refused_in_words(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "mvdust3r_ros"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    tests = str(TESTS / "test_package.py")
    done = python(*PYTEST, tests, cwd=tmp_path, PYTHONPATH=str(package.parent))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    line = done.stderr.splitlines()[0]
    assert line.startswith(f"ERROR: the tests would run {package}, which is not what lies beside")
    assert line.endswith("run make build")


@pytest.mark.slow
def test_before_the_messages_are_built_tests_that_need_them_are_skipped(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    for folder in ("mvdust3r_ros", "test"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    path = os.pathsep.join(p for p in sys.path[1:] if not (Path(p) / "mvdust3r_ros").exists())
    words = (*PYTEST, "--collect-only", "-q", "test/ros")
    done = python(*words, cwd=root, PYTHONPATH=path, AMENT_PREFIX_PATH="")
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout
    assert "not built" in done.stdout or "ROS 2 is not installed" in done.stdout
