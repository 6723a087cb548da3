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

"""Restrict map files to the map folder."""

from __future__ import annotations

from pathlib import Path

from mvdust3r_ros.datatypes import MvDust3rError

DEFAULT_STEM = "map"
SUFFIXES = ("pgm", "yaml", "ply", "tum", "npz")


class MapFolderError(MvDust3rError):
    """A file name leads out of the map folder."""


def place_in_folder(folder: Path, filename: str) -> tuple[Path, str]:
    """Return directory and stem of a map file, always inside the map folder.

    Args:
        folder: the configured map folder; "~" is the home directory.
        filename: name relative to the folder, extension .yaml, .pgm or .npz allowed; empty for
            "map".

    Raises:
        MapFolderError: the name is absolute, escapes by ".." or a symbolic link, or is not a file
            name.
    """
    root = folder.expanduser().resolve()
    wanted = Path(
        filename.removesuffix(".yaml").removesuffix(".pgm").removesuffix(".npz") or DEFAULT_STEM
    )
    bad = any(not c.isprintable() for c in filename) or "\\" in filename
    if wanted.is_absolute() or ".." in wanted.parts or bad or filename.startswith("~"):
        raise MapFolderError(
            f"file name {filename!r} is refused: give a name inside the map folder {root}"
        )
    if wanted.name.startswith(".") or not wanted.name or filename.endswith("/"):
        raise MapFolderError(f"file name {filename!r} is no name for a map")
    try:
        directory = (root / wanted).parent.resolve()
        files = [(directory / f"{wanted.name}.{suffix}").resolve() for suffix in SUFFIXES]
    except (OSError, RuntimeError) as error:
        raise MapFolderError(f"file name {filename!r} is refused: {error}") from None
    if not all(path.is_relative_to(root) for path in (directory, *files)):
        raise MapFolderError(
            f"file name {filename!r} is refused: a link leads out of the map folder {root}"
        )
    return directory, wanted.name
