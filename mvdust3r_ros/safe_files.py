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

"""Files that survive a kill, and files of strangers read without harm.

Several files that belong together are written as one: under temporary names first, then a small
journal says that all of them are on the disk, then they get their names. Whoever is killed before
the journal leaves the old files, after it the new ones: the next reader or writer finishes.
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
"""A bound against a hostile file: a journal names the few files of one save."""
MAX_YAML_BYTES = 1 << 20
"""A bound against a hostile file: `config/mapper.yaml`, with every setting, has 12 kB."""
BLOCK_BYTES = 1 << 24
"""What a read of a short file takes at most, however large its limit."""


class FileError(MvDust3rError):
    """A file cannot be written, or is not what it should be."""


def require_writable(folder: Path) -> None:
    """See that a folder can be written, or made, before work is done for it. Makes nothing.

    Raises:
        FileError: it cannot; the message names what is in the way.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise FileError(f"cannot write to {folder}: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileError(f"cannot write to {folder}: {place} is read-only")


def write_together(directory: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files so that all of them appear or none, whenever the process is killed.

    Args:
        directory: created when missing.
        contents: file name without a path -> content.

    Returns:
        The paths, in the order of `contents`.

    Raises:
        FileError: the folder cannot be written to; the files there are as before.
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
    """Finish what a killed process had written completely; cheap when there is nothing to do.

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
    """Descriptor of a folder that only one writer holds; the lock ends with its process."""
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
    """Write a file that must not exist yet; never through a link that somebody put there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _finish(directory: Path, folder: int) -> None:
    """Give the drafts of a complete journal their names."""
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
    """Content of a file that must not be larger than a limit.

    Raises:
        OSError: it cannot be read.
        FileError: it is larger.
    """
    blocks, left = [], max_bytes
    with path.open("rb") as file:
        # In blocks: a read of many bytes takes that much memory however short the file is.
        while block := file.read(min(left + 1, BLOCK_BYTES)):
            left -= len(block)
            if left < 0:
                raise FileError(f"{path} is larger than {max_bytes} bytes")
            blocks.append(block)
    return b"".join(blocks)


# A wrong value behind a tag such as !!bool raises whatever its constructor stumbles over.
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
    """Plain values alone: no objects, and no aliases, which can make a small file enormous.

    The tag of OpenCV's matrices is passed over: what stands behind it are plain values.
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
    """Plain values of a small YAML file.

    Raises:
        OSError: it cannot be read.
        FileError: it is too large, or no YAML of plain values.
    """
    content = read_limited(path, MAX_YAML_BYTES)
    try:
        return parse_yaml(content.decode("utf-8-sig"))
    except (FileError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is not YAML of plain values: {error}") from None


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        FileError: it is no YAML of plain values; in one line.
    """
    try:
        # The loader makes plain values only, as yaml.safe_load does.
        return yaml.load(text, Loader=_PlainLoader)
    except BAD_YAML as error:
        if isinstance(error, RecursionError):
            raise FileError("nested too deeply") from None
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            line = error.problem_mark.line + 1
            raise FileError(f"line {line}: {error.problem or error.context}") from None
        raise FileError(" ".join(str(error).split())) from None
