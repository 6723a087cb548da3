"""Installation without ROS (`pip install .`); with ROS, colcon builds by CMakeLists.txt."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from setuptools import setup

ROOT = Path(__file__).parent


def shared_files() -> Iterator[tuple[str, list[str]]]:
    """The folders that CMake installs to share/, at the same place below the Python prefix."""
    for top in ("config", "demo", "models"):
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]:
            files = [str(f.relative_to(ROOT)) for f in sorted(folder.glob("*")) if f.is_file()]
            if files:
                yield f"share/mvdust3r_ros/{folder.relative_to(ROOT)}", files


setup(
    # The version lives in package.xml.
    version=ElementTree.parse(ROOT / "package.xml").findtext("version"),
    data_files=list(shared_files()),
)
