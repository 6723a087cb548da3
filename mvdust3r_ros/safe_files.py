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

"""Atomic writing of files, and safe reading of untrusted ones.

Files that belong together are written as one: first under temporary names, then a small journal
records that all of them are on disk, then they are renamed. A process killed before the journal
leaves the old files; after it, the next reader or writer completes the new ones.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from mvdust3r_ros.datatypes import MvDust3rError

JOURNAL = ".save.commit"
DRAFT_SUFFIX = ".part"
MAX_JOURNAL_BYTES = 1 << 16
"""Limit for untrusted files: a journal lists the few files of one save."""
MAX_YAML_BYTES = 1 << 20
"""Limit for untrusted files: `config/mapper.yaml`, with every setting, has 12 kB."""
BLOCK_BYTES = 1 << 24
"""Most bytes allocated to read a short file, however large its limit."""


class FileError(MvDust3rError):
    """A file cannot be written, or has unexpected content."""


def require_writable(folder: Path) -> None:
    """Check in advance that a folder can be written or created. Creates nothing.

    Raises:
        FileError: it cannot; the message names the obstacle.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise FileError(f"cannot write to {folder}: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileError(f"cannot write to {folder}: {place} is read-only")


def write_together(directory: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files atomically: all or none appear, even if the process is killed.

    Args:
        directory: created if missing.
        contents: file name without a path -> content.

    Returns:
        The paths, in the order of `contents`.

    Raises:
        FileError: the folder cannot be written to; existing files are unchanged.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory) as folder:
            _finish(directory, folder)
            _discard_drafts(directory)
            try:
                _commit(directory, folder, contents)
            except OSError:
                _discard_drafts(directory)
                raise
            _finish(directory, folder)
    except OSError as error:
        raise FileError(f"cannot write to {directory}: {error.strerror or error}") from None
    return [directory / name for name in contents]


def finish_writing(directory: Path) -> None:
    """Complete a save that a killed process had fully written; cheap if there is none.

    Raises:
        FileError: the folder cannot be written to.
    """
    if not (directory / JOURNAL).exists():
        return
    try:
        with _locked(directory) as folder:
            _finish(directory, folder)
    except OSError as error:
        raise FileError(
            f"{directory} holds a map that was saved but not renamed yet, and it cannot be "
            f"finished: {error.strerror or error}"
        ) from None


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Yield the descriptor of a folder locked for one writer; the lock ends with the process."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def _commit(directory: Path, folder: int, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        _write_new(directory / f".{name}{DRAFT_SUFFIX}", content)
    journal = directory / f"{JOURNAL}{DRAFT_SUFFIX}"
    _write_new(journal, json.dumps(list(contents)).encode())
    os.fsync(folder)
    journal.replace(directory / JOURNAL)
    os.fsync(folder)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet; never follows a symbolic link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _finish(directory: Path, folder: int) -> None:
    """Rename the drafts listed in a complete journal."""
    journal = directory / JOURNAL
    if not journal.exists():
        return
    for name in _journal_names(journal):
        with suppress(FileNotFoundError):  # renamed before the kill
            (directory / f".{name}{DRAFT_SUFFIX}").replace(directory / name)
    os.fsync(folder)
    journal.unlink()
    os.fsync(folder)


def _journal_names(journal: Path) -> list[str]:
    try:
        names = json.loads(read_limited(journal, MAX_JOURNAL_BYTES))
    except (ValueError, RecursionError):
        names = None
    plain = isinstance(names, list) and all(
        isinstance(n, str) and n and Path(n).name == n and n != ".." and "\0" not in n
        for n in names
    )
    if not plain:
        raise FileError(f"{journal} is not a list of file names; delete it")
    return list(names)


def _discard_drafts(directory: Path) -> None:
    for draft in directory.glob(f".*{DRAFT_SUFFIX}"):
        with suppress(OSError):
            draft.unlink()


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file with a size limit.

    Raises:
        OSError: it cannot be read.
        FileError: it is larger.
    """
    blocks, left = [], max_bytes
    with path.open("rb") as file:
        # In blocks, since a large read allocates its full size even for a short file.
        while block := file.read(min(left + 1, BLOCK_BYTES)):
            left -= len(block)
            if left < 0:
                raise FileError(f"{path} is larger than {max_bytes} bytes")
            blocks.append(block)
    return b"".join(blocks)


# A wrong value after a tag such as !!bool can raise any of these.
BAD_YAML = (
    yaml.YAMLError,
    ValueError,
    RecursionError,
    ArithmeticError,
    TypeError,
    AttributeError,
    LookupError,
)


OPENCV_MATRIX = "tag:yaml.org,2002:opencv-matrix"


class _PlainLoader(yaml.SafeLoader):
    """Loads plain values only: no objects, and no aliases, which can inflate a small file.

    The tag of OpenCV's matrices is ignored, since their content is plain values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        if node.tag == OPENCV_MATRIX:
            node.tag = self.DEFAULT_MAPPING_TAG
        return node


def read_yaml(path: Path) -> Any:
    """Return the plain values of a small YAML file.

    Raises:
        OSError: it cannot be read.
        FileError: it is too large, or not YAML of plain values.
    """
    content = read_limited(path, MAX_YAML_BYTES)
    try:
        return parse_yaml(content.decode("utf-8-sig"))
    except (FileError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is not YAML of plain values: {error}") from None


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        FileError: it is not YAML of plain values; a one-line message.
    """
    try:
        # The loader creates plain values only, like yaml.safe_load.
        return yaml.load(text, Loader=_PlainLoader)
    except BAD_YAML as error:
        if isinstance(error, RecursionError):
            raise FileError("nested too deeply") from None
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            line = error.problem_mark.line + 1
            raise FileError(f"line {line}: {error.problem or error.context}") from None
        raise FileError(" ".join(str(error).split())) from None
