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

"""An environment next to the system's Python, for the few packages that apt does not have.

ROS nodes run under the system's Python, which pip must not modify: another NumPy would break SciPy
and OpenCV for the whole machine. `mvdust3r_ros setup-python` creates the environment, and
importing this package under the system's Python adds it to the path.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDED = ("onnxruntime", "rosbags")
"""Its packages: the node's engine, and the library that reads and writes bags."""
FOLDER_VARIABLE = "MVDUST3R_ROS_PYTHON"
REMEDY = "run `mvdust3r_ros setup-python`, or pip install {} in a Python environment of your own"


def folder() -> Path:
    """Return the current or future location of the environment."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(data) / "mvdust3r_ros" / "python")


def packages(environment: Path) -> Path:
    """Return its packages folder for the running Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / version / "site-packages"


def add_to_path() -> None:
    """Add the environment to the system Python's path, before the system's own packages.

    Does nothing in a virtual environment.
    """
    found = str(packages(folder()))
    if sys.prefix != sys.base_prefix or found in sys.path or not Path(found).is_dir():
        return
    system = site.getsitepackages()
    places = [i for i, entry in enumerate(sys.path) if entry in system]
    sys.path.insert(places[0] if places else len(sys.path), found)


@contextmanager
def explain_missing() -> Iterator[None]:
    """Exit with a one-line message if a package of the environment is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ADDED:
            raise
        sys.exit(f"{error.name} is not installed: {REMEDY.format(error.name)}")
