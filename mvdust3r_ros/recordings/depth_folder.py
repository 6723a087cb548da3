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

"""Depth images stored as PNG files next to a bag."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.encoded_image import EncodedImageError
from mvdust3r_ros.recordings.image_sequence import read_steps


class DepthFolderError(MvDust3rError):
    """A folder of depth maps cannot be used."""


class DepthFolder:
    """Depth maps as 16-bit PNGs in millimetres, found by stamp if `frames.csv` has it."""

    def __init__(self, folder: Path) -> None:
        """Index a folder.

        Raises:
            DepthFolderError: the folder holds no PNG, or frames.csv cannot be parsed.
        """
        if not any(folder.glob("*.png")):
            raise DepthFolderError(f"depth folder {folder} holds no .png files")
        self._folder = folder
        self._by_stamp: dict[int, Path] = {}
        table = next(
            (p for p in (folder / "frames.csv", folder.parent / "frames.csv") if p.exists()), None
        )
        if table is not None:
            self._read_table(table)

    def _read_table(self, table: Path) -> None:
        try:
            with table.open(newline="") as lines:
                for row in csv.DictReader(lines):
                    path = self._folder / Path(row["depth_file"]).name
                    self._by_stamp[int(Decimal(row["timestamp"]) * 10**9)] = path
        except (KeyError, ArithmeticError, OSError) as error:
            raise DepthFolderError(
                f"{table}: expected columns timestamp and depth_file ({error!r})"
            ) from None

    def path(self, index: int, stamp_ns: int) -> Path | None:
        """Return the file of a frame, by stamp or by number; None without one."""
        if self._by_stamp:
            path = self._by_stamp.get(stamp_ns)
        else:
            path = self._folder / f"{index:06d}.png"
        return path if path is not None and path.exists() else None

    def load_mm(self, index: int, stamp_ns: int) -> Any | None:
        """Return (H, W) uint16 millimetres, 0 where there is no value; None without a file.

        Raises:
            DepthFolderError: the file is not a 16-bit PNG; the message suits all such files.
        """
        path = self.path(index, stamp_ns)
        if path is None:
            return None
        try:
            return read_steps(path)
        except EncodedImageError as error:
            raise DepthFolderError(f"depth image {error}") from None
