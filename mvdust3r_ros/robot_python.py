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

"""The few packages that apt does not have, in an environment beside the system's Python.

ROS nodes run under the system's Python, and pip must not change that one: a NumPy of its own would
break the SciPy and OpenCV of the whole machine. `mvdust3r_ros setup-python` makes the environment;
whatever imports this package under the system's Python finds it.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDED = ("onnxruntime", "rosbags")
"""What goes into it: the engine of the node, and what the tools read and write bags with."""
FOLDER_VARIABLE = "MVDUST3R_ROS_PYTHON"
REMEDY = "run `mvdust3r_ros setup-python`, or pip install {} in a Python environment of your own"


def folder() -> Path:
    """Where the environment is or will be."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(data) / "mvdust3r_ros" / "python")


def packages(environment: Path) -> Path:
    """Its packages for the running Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / version / "site-packages"


def add_to_path() -> None:
    """Let the system's Python find the environment, in front of the system's own packages.

    A Python in an environment of its own is left alone.
    """
    found = str(packages(folder()))
    if sys.prefix != sys.base_prefix or found in sys.path or not Path(found).is_dir():
        return
    system = site.getsitepackages()
    places = [i for i, entry in enumerate(sys.path) if entry in system]
    sys.path.insert(places[0] if places else len(sys.path), found)


@contextmanager
def explain_missing() -> Iterator[None]:
    """End the program with one line where a package of the environment is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ADDED:
            raise
        sys.exit(f"{error.name} is not installed: {REMEDY.format(error.name)}")
