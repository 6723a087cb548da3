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

"""The environment beside the system's Python, and what the node needs without it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mvdust3r_ros.commands.setup import SetupError, make_environment
from mvdust3r_ros.robot_python import packages

ROOT = Path(__file__).parents[1]
SYSTEM = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
"""The interpreter below the environment in which the tests run."""
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
NEEDS_ROS = pytest.mark.skipif(
    importlib.util.find_spec("rclpy") is None, reason="rclpy is not installed"
)


def python(code: str, *blocked: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python that does not have some packages."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=set(blocked) or "{''}") + code],
        env={**os.environ, **variables}, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip


def only(tmp_path: Path, name: str, version: str, needs: str = "") -> Path:
    """A package of one empty module, installed into a folder of its own."""
    folder = tmp_path / "system"
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f'__version__ = "{version}"\n')
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata(name, version, needs))
    return folder


def metadata(name: str, version: str, needs: str) -> str:
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """The same as a wheel."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", f'__version__ = "{version}"\n')
        archive.writestr(f"{info}/METADATA", metadata(name, version, needs))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with an old NumPy, and a registry whose newest engine wants a new one."""
    for name in ("numpy", "scipy", "cv2"):
        folder = only(tmp_path, name, "1.21.5")
    registry = tmp_path / "registry"
    wheel(registry, "numpy", "2.4.0")
    wheel(registry, "onnxruntime", "1.12.0", "numpy>=1.21")
    wheel(registry, "onnxruntime", "1.32.0", "numpy>=2")
    wheel(registry, "rosbags", "0.11.0", "numpy")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    return tmp_path


@pytest.mark.slow
def test_the_environment_keeps_the_systems_numpy(system: Path) -> None:
    """pip alone would take the newest engine and NumPy 2 with it."""
    place = system / "environment"
    make_environment(place, SYSTEM)
    held = {path.name for path in packages(place).iterdir()}
    assert {"onnxruntime-1.12.0.dist-info", "rosbags-0.11.0.dist-info"} <= held
    assert "numpy" not in held


def test_without_numpy_of_the_system_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if subprocess.run([SYSTEM, "-c", "import numpy"], check=False, capture_output=True).returncode:
        with pytest.raises(SetupError, match=r"no NumPy: rosdep install .* \(ModuleNotFoundError"):
            make_environment(tmp_path / "environment", SYSTEM)
    assert not (tmp_path / "environment").exists()


def test_the_systems_python_finds_it_in_front_of_its_own_packages(tmp_path: Path) -> None:
    own = packages(tmp_path)
    own.mkdir(parents=True)
    code = "import mvdust3r_ros, site, sys; print(*[p for p in sys.path if 'site-packages' in p])"
    variables = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "MVDUST3R_ROS_PYTHON": str(tmp_path),
        "PYTHONNOUSERSITE": "1",
    }  # fmt: skip
    found = subprocess.run(
        [SYSTEM, "-c", code], env=variables, cwd="/", capture_output=True, text=True, check=True
    )
    assert found.stdout.split()[0] == str(own)
    if sys.prefix != sys.base_prefix:  # one of its own is left alone
        assert str(own) not in python(code, **variables).stdout


@NEEDS_ROS
@pytest.mark.slow
def test_the_node_needs_what_apt_has_alone() -> None:
    found = python(
        "import mvdust3r_ros.ros.node",
        "argcomplete", "matplotlib", "onnxruntime", "rich", "rosbags", "torch",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


@NEEDS_ROS
@pytest.mark.slow
def test_a_node_without_its_engine_says_in_one_line_what_to_do() -> None:
    code = """
import rclpy
from mvdust3r_ros.ros.node import MapperNode
rclpy.init()
node = MapperNode()
print(node.trigger_configure())
"""
    found = python(code, "onnxruntime", ROS_DOMAIN_ID="89")
    words = "needs onnxruntime: run `mvdust3r_ros setup-python`"
    assert len([line for line in found.stderr.splitlines() if words in line]) == 1
    assert "FAILURE" in found.stdout, found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("words", [["map", "bag"], ["synth", "bag", "--out", "bag"]])
@pytest.mark.slow
def test_a_tool_without_rosbags_says_in_one_line_what_to_do(words: list[str]) -> None:
    code = f"import sys\nfrom mvdust3r_ros.cli import main\nsys.exit(main({words}))"
    found = python(code, "rosbags")
    assert found.returncode == 1
    assert found.stderr == (
        "rosbags is not installed: run `mvdust3r_ros setup-python`, or pip install rosbags in a "
        "Python environment of your own\n"
    )


@NEEDS_ROS
@pytest.mark.parametrize("name", ["bag_player", "recorder"])
def test_a_program_without_rosbags_says_in_one_line_what_to_do(name: str) -> None:
    code = f"import runpy\nrunpy.run_path({str(ROOT / 'scripts' / name)!r})"
    found = python(code, "rosbags")
    assert found.returncode == 1
    assert found.stderr.startswith("rosbags is not installed: run `mvdust3r_ros setup-python`")
    assert len(found.stderr.splitlines()) == 1


def test_help_names_the_folder() -> None:
    found = python(
        "from mvdust3r_ros.cli import main\nmain(['setup-python', '--help'])",
        MVDUST3R_ROS_PYTHON="/somewhere/else",
    )
    assert "/somewhere/else" in found.stdout
