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

"""Present a damaged file in repaired form: truncated, patched, with a new end."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RepairedFile:
    """Stands in for the path of a file that is repaired while reading, without a copy."""

    def __init__(
        self,
        file: Path,
        end: int,
        tail: bytes = b"",
        patches: Mapping[int, bytes] | None = None,
    ) -> None:
        """Use the first `end` bytes of a file, then `tail`, with some bytes replaced.

        Args:
            file: the file.
            end: number of bytes to keep.
            tail: bytes that follow.
            patches: offset in the file -> replacement bytes.
        """
        self._file, self._end, self._tail = file, end, tail
        self._patches = dict(patches or {})
        self.suffix = file.suffix

    def __str__(self) -> str:
        """Return the path of the file."""
        return str(self._file)

    def exists(self) -> bool:
        """Whether the file exists."""
        return self._file.exists()

    def is_dir(self) -> bool:
        """Always False."""
        return False

    def open(self, mode: str = "rb") -> Any:
        """Open the repaired file for reading."""
        assert mode == "rb"
        return io.BufferedReader(_Repaired(self._file, self._end, self._tail, self._patches))


class _Repaired(io.RawIOBase):
    def __init__(self, file: Path, end: int, tail: bytes, patches: dict[int, bytes]) -> None:
        self._data = file.open("rb")
        self._end, self._tail, self._patches, self._at = end, tail, patches, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._end + len(self._tail))[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at < self._end:
            self._data.seek(self._at)
            piece = bytearray(self._data.read(min(len(buffer), self._end - self._at)))
            self._repair(piece)
        else:
            begin = self._at - self._end
            piece = bytearray(self._tail[begin : begin + len(buffer)])
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _repair(self, piece: bytearray) -> None:
        for place, values in self._patches.items():
            for at, value in enumerate(values, place - self._at):
                if 0 <= at < len(piece):
                    piece[at] = value

    def close(self) -> None:
        self._data.close()
        super().close()
