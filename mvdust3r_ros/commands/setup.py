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

"""`mvdust3r_ros setup-python`: install what apt lacks without touching the system's Python."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mvdust3r_ros.commands.command_line import Commands, add_command
from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.robot_python import ADDED, FOLDER_VARIABLE, folder

OF_THE_SYSTEM = ("numpy", "scipy", "cv2")
"""Installed by apt and left unchanged: SciPy and OpenCV are built for one NumPy."""
NUMPY_VERSION = "import numpy; print(numpy.__version__)"
WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    print(name, importlib.import_module(name).__file__)
"""


class SetupError(MvDust3rError):
    """The environment cannot be created."""


def add_setup_python(commands: Commands) -> None:
    """Add the command `setup-python`."""
    command = add_command(
        commands,
        "setup-python",
        f"install {' and '.join(ADDED)} beside the system's Python, for ROS installations",
        "mvdust3r_ros setup-python",
        f"apt has no {' and no '.join(ADDED)}. This makes a Python environment that sees the "
        "packages of the system and holds these two in addition, with NumPy kept at the system's "
        "version. Nothing outside its folder is written; the nodes and commands of this package "
        f"find it by themselves. The folder is {folder()}; {FOLDER_VARIABLE} names another.",
    )
    command.set_defaults(run=_setup_python)


def _setup_python(args: argparse.Namespace) -> int:
    del args
    if sys.prefix != sys.base_prefix:
        raise SetupError(
            f"this Python has an environment of its own, {sys.prefix}: pip install "
            f"{' '.join(ADDED)} there"
        )
    place = folder()
    print(f"{' and '.join(ADDED)} go into {place}; the system's packages stay as they are.")
    make_environment(place, Path(sys.executable))
    print(
        f"The nodes and commands of this package find them there. For other programs:\n"
        f"  source {place}/bin/activate\nTo remove them: rm -r {place}"
    )
    return 0


def make_environment(place: Path, python: Path, wanted: Sequence[str] = ADDED) -> None:
    """Create an environment, or update it.

    Args:
        place: its folder.
        python: the system's interpreter; has NumPy, SciPy and OpenCV.
        wanted: packages to install.

    Raises:
        SetupError: a system package is missing, or pip fails.
    """
    numpy = _run(
        [python, "-c", NUMPY_VERSION],
        "the system's Python has no NumPy: rosdep install --from-paths src --ignore-src -y",
    )
    _run(
        [python, "-m", "venv", "--system-site-packages", place],
        f"{place} cannot be made: sudo apt install python3-venv",
    )
    limits = place / "constraints.txt"
    limits.write_text(f"numpy=={numpy}\n")
    own = place / "bin" / "python"
    _run(
        [own, "-m", "pip", "install", "--constraint", limits, *wanted],
        f"pip cannot install {' '.join(wanted)} with NumPy {numpy} into {place}",
    )
    lines = _run(
        [own, "-c", WHERE, *OF_THE_SYSTEM, *wanted], f"{place} does not work: rm -r it, try again"
    ).splitlines()
    for name, file in (line.split(" ", 1) for line in lines):
        if name in OF_THE_SYSTEM and Path(file).is_relative_to(place):
            raise SetupError(f"{place} holds a {name} of its own: rm -r {place}, then try again")


def _run(command: Sequence[str | Path], trouble: str) -> str:
    """Return the output of a command; its last line goes into the error."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"]
        raise SetupError(f"{trouble} ({lines[-1]})")
    return done.stdout.strip()
