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

"""Read the files of a bag of any ROS release and recorder.

The storage files are read directly. `metadata.yaml` only lists which of them belong together, so
nothing is lost if it is missing, has no counts, or was edited by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from heapq import merge
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader as Ros2Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from mvdust3r_ros.recordings.bag_messages import RECOVER, BagError
from mvdust3r_ros.recordings.layouts import FEW_IMAGES, is_image
from mvdust3r_ros.recordings.unfinished_mcap import MAGIC as MCAP_MAGIC
from mvdust3r_ros.recordings.unfinished_mcap import repaired_mcap
from mvdust3r_ros.recordings.unfinished_ros1 import repaired_ros1

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BAG_SUFFIXES = (".mcap", ".db3", ".bag")
ROS2_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".mcap.zst", ".db3.zst")
ZSTD_SUFFIXES = (".zstd", ".zst")
METADATA = "metadata.yaml"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LFS_MAGIC = b"version https://git-lfs"
MAGICS = {b"SQLite format 3": ".db3", MCAP_MAGIC: ".mcap", b"#ROSBAG": ".bag"}
NOT_IN_URI = set("#?%")
"""Characters of a path that break SQLite's URI."""
ROS1_RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}
LISTED_FILES = re.compile(r"relative_file_paths:[ \t]*(\[[^\]]*\]|(?:\r?\n[ \t]*- .*)+)")
SPLIT = re.compile(r"(_?\d{4}(?:-\d\d){5})?_(\d+)$")
CUT_OFF = re.compile(
    "magic|malformed|truncated|unexpected record|missing tables|not a database|mismatch"
)
REINDEX = "`rosbag reindex` of ROS 1 may save the rest"
NO_BAG = "neither SQLite, MCAP nor a bag of ROS 1"
IDL_SEPARATOR = "=" * 80 + "\n"


class BagReader:
    """ROS 2 messages from the files of one bag, in log time order.

    Attributes:
        path: the path that was opened.
        connections: one for each topic and type, with its number of messages.
        notes: what is lost or was repaired.
        kind: "ROS 2 bag" or "ROS 1 bag"; messages of the latter are converted to ROS 2.
    """

    def __init__(self, path: Path) -> None:
        """Open all files.

        Raises:
            BagError: a file is missing or cannot be read; the message names the remedy.
        """
        self.path = path
        self.notes: list[str] = []
        self._stack = ExitStack()
        try:
            self._parts = [self._open(file) for file in self._not_empty(storage_files(path))]
        except BaseException:
            self.close()
            raise
        self._is_ros1 = any(isinstance(part, Ros1Reader) for part in self._parts)
        self.kind = "ROS 1 bag" if self._is_ros1 else "ROS 2 bag"
        self._types = _release() if self._is_ros1 else _recorded_types(self._recorded())
        self.connections = self._united()
        if self.notes and not self.message_count:
            self.close()
            remedy = REINDEX if self._is_ros1 else RECOVER
            raise BagError(f"bag {path} holds no whole message: {self.notes[0]}; {remedy}")

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    @property
    def start_time(self) -> int:
        """Log time (ns) of the first message."""
        return min(part.start_time for part in self._parts)

    @property
    def message_count(self) -> int:
        """Number of messages on all topics."""
        return sum(c.msgcount for c in self.connections)

    def messages(
        self, connections: Iterable[Connection] | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, log time (ns) and CDR bytes; of all topics by default.

        Bytes that cannot be unpacked or converted are returned empty, as no message is.
        """
        chosen = self.connections if connections is None else connections
        wanted = {(c.topic, c.msgtype): c for c in chosen}
        yield from merge(*(self._of(p, wanted) for p in self._parts), key=lambda item: item[1])

    def deserialize(self, raw: bytes, msgtype: str) -> Any:
        """Decode a ROS 2 message; may raise any error of rosbags."""
        types = self._types if msgtype in self._types.fielddefs else _release()
        return types.deserialize_cdr(raw, msgtype)

    def _of(
        self, part: Any, wanted: dict[tuple[str, str], Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        known = {c.id: wanted[k] for c in part.connections if (k := _key(c)) in wanted}
        recorded = [c for c in part.connections if c.id in known]
        for connection, log_ns, raw in part.messages(recorded) if recorded else ():
            mine = known[connection.id]
            yield mine, log_ns, self._as_cdr(raw, mine.msgtype)

    def _as_cdr(self, raw: bytes, msgtype: str) -> bytes:
        try:
            if self._is_ros1:
                return bytes(self._types.ros1_to_cdr(raw, msgtype))
            return zstd.decompress(raw) if raw[:4] == ZSTD_MAGIC else raw
        except Exception:  # noqa: BLE001 - rosbags and zstd may raise anything
            return b""

    def _recorded(self) -> list[Connection]:
        return [c for part in self._parts for c in part.connections]

    def _united(self) -> list[Connection]:
        """Merge connections by topic and type; of ROS 1, only types that ROS 2 shares."""
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str], Connection] = {}
        for connection in self._recorded():
            topic, msgtype = key = _key(connection)
            if self._is_ros1 and not _is_alike(connection, msgtype, self._types):
                continue
            counts[key] += connection.msgcount
            first.setdefault(key, connection._replace(topic=topic, msgtype=msgtype))
        return [c._replace(msgcount=counts[key]) for key, c in first.items()]

    def _open(self, file: Path) -> Ros1Reader | Ros2Reader:
        try:
            reader = self._reader(file)
            reader.open()
        except Exception as error:  # noqa: BLE001 - rosbags may raise anything
            raise BagError(f"bag {file} cannot be read: {error}{_remedy(error)}") from None
        self._stack.callback(reader.close)
        return reader

    def _not_empty(self, files: list[Path]) -> list[Path]:
        """Drop empty files that a recorder had only started, unless all are empty."""
        whole = [file for file in files if file.stat().st_size]
        if not whole:
            return files
        self.notes += [f"{f.name} is empty and left out" for f in files if f not in whole]
        return whole

    def _reader(self, file: Path) -> Ros1Reader | Ros2Reader:
        """Return a reader for a file by its content, whatever its name."""
        begin = _begin(file)
        if begin.startswith(ZSTD_MAGIC):
            file = self._unpacked(file)
            begin = _begin(file)
        kind = next((kind for magic, kind in MAGICS.items() if begin.startswith(magic)), "")
        if kind == ".db3":
            return Ros2Reader(self._named(self._settled(file), kind))
        if not kind:
            raise ValueError(f"it is {NO_BAG}: it begins with {begin[:12]!r}")
        repaired, lost = repaired_mcap(file) if kind == ".mcap" else repaired_ros1(file)
        if lost:
            self.notes.append(
                f"{file.name} was not closed by its recorder: it is read up to where it is whole, "
                f"{lost} bytes at its end are lost"
            )
        if kind == ".bag":
            return Ros1Reader(repaired or file)  # type: ignore[arg-type] # duck-typed
        if repaired is None:
            return Ros2Reader(self._named(file, kind))
        repaired.suffix = kind
        return Ros2Reader(repaired)  # type: ignore[arg-type] # as above

    def _named(self, file: Path, suffix: str) -> Path:
        """Return the file under a name that rosbags accepts."""
        if file.suffix == suffix and not NOT_IN_URI & set(str(file)):
            return file
        link = self._folder() / f"bag{suffix}"
        link.symlink_to(file.resolve())
        return link

    def _folder(self) -> Path:
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="mvdust3r_bag_")))

    def _unpacked(self, file: Path) -> Path:
        """Decompress a file, as far as possible if it is truncated."""
        out = self._folder() / (file.stem if file.suffix in ZSTD_SUFFIXES else file.name)
        with suppress(EOFError), zstd.open(file, "rb") as packed, out.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        return out

    def _settled(self, file: Path) -> Path:
        """Return the file, or a copy with its recorder's pending writes applied."""
        beside = [Path(f"{file}{end}") for end in ("-wal", "-journal")]
        if not any(path.exists() and path.stat().st_size for path in beside):
            return file
        folder = self._folder()
        for path in (file, *(p for p in beside if p.exists())):
            shutil.copy(path, folder / path.name)
        database = sqlite3.connect(folder / file.name)
        try:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("PRAGMA journal_mode=DELETE")
        finally:
            database.close()
        self.notes.append(
            f"{file.name} was not closed by its recorder: what lies beside it is read too"
        )
        return folder / file.name


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: its folder, or one of its files."""
    if path.is_dir():
        return _is_bag_folder(path) or bool(_bags_below(path))
    return path.name == METADATA or _is_storage(path)


def bag_at(path: Path) -> Path:
    """Return the bag at a path: itself, or the only bag in a folder that is not one.

    Raises:
        BagError: the folder holds several; the message names them.
    """
    if not path.is_dir() or _is_bag_folder(path):
        return path
    below = _bags_below(path)
    if len(below) > 1:
        names = ", ".join(folder.name for folder in below)
        raise BagError(f"{path} holds several bags, name one of them: {names}")
    return below[0] if below else path


def storage_files(bag: Path) -> list[Path]:
    """Return the files that hold the messages of a bag.

    Args:
        bag: folder, its metadata.yaml, or one storage file.

    Raises:
        BagError: there is none, one is missing, or they belong to several bags.
    """
    if not bag.exists():
        raise BagError(f"bag {bag} does not exist")
    bag = bag_at(bag)
    if bag.name == METADATA:
        bag = bag.parent
    if bag.is_file():
        return [bag]
    if not bag.is_dir():
        raise BagError(f"bag {bag} is neither a folder nor a file")
    found, listed = _bags_in(bag), _listed_files(bag)
    if not found:
        raise BagError(_without_storage(bag, listed))
    by_name = {file.name: file for file in found}
    places = [_place(name, by_name) for name in listed]
    missing = [name for name, place in zip(listed, places, strict=True) if place is None]
    if missing and len(missing) < len(listed):
        raise BagError(
            f"bag {bag}: {', '.join(missing)} of its metadata.yaml is not there; copy it beside "
            "the others, or name one file to read it alone"
        )
    if listed and not missing:
        return [place for place in places if place is not None]
    # A part that was being compressed is there twice, and its compressed copy may be incomplete.
    found = [file for file in found if file.with_suffix("") not in found]
    if not _are_one_bag(found):
        names = ", ".join(file.name for file in found)
        raise BagError(f"{bag} holds several bags, name one of them: {names}")
    return found


def _is_bag_folder(folder: Path) -> bool:
    return (folder / METADATA).exists() or bool(_bags_in(folder))


def _are_one_bag(files: Sequence[Path]) -> bool:
    """Whether files are the parts of one bag: same name and kind, each number once.

    ROS 1 puts the start time of a part in front of its number.
    """
    parts = [SPLIT.search(_stem(file)) for file in files]
    names = {
        (_stem(file)[: part.start()] if part else _stem(file), _kind(file))
        for file, part in zip(files, parts, strict=True)
    }
    numbers = {part[2] if part else "" for part in parts}
    return len(names) == 1 and len(numbers) == len(files)


def _bags_below(folder: Path) -> list[Path]:
    """Return bags directly below a folder; none for a folder of images.

    A picture or two, as of a true map, do not make a folder of images.
    """
    inside = list(folder.iterdir())
    if sum(map(is_image, inside)) > FEW_IMAGES:
        return []
    return sorted(
        f for f in inside if f.is_dir() and os.access(f, os.R_OK | os.X_OK) and _is_bag_folder(f)
    )


def _begin(file: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        ValueError: the file is empty, or a Git LFS pointer instead of the bag.
    """
    with file.open("rb") as data:
        begin = data.read(len(LFS_MAGIC))
    if not begin:
        raise ValueError("the file is empty")
    if begin == LFS_MAGIC:
        raise ValueError("it is the pointer of Git LFS")
    return begin


def _bags_in(folder: Path) -> list[Path]:
    """Return the storage files of a folder, numbered ones in order."""
    found = [f for f in folder.iterdir() if _is_storage(f) and f.is_file()]
    return sorted(found, key=lambda f: [int(w) if w.isdigit() else w for w in _name_parts(f)])


def _without_storage(folder: Path, listed: Sequence[str]) -> str:
    """Explain what is wrong with a folder without storage files, and what may be meant."""
    kinds = ", ".join((*BAG_SUFFIXES, *ROS2_SUFFIXES[2:4]))
    remedy = ""
    if listed:
        remedy = f"; its metadata.yaml names {', '.join(listed)}: copy it here"
    elif any(map(is_image, folder.iterdir())):
        remedy = "; `mvdust3r_ros evaluate` reads folders of images"
    return f"bag {folder} holds no storage file ({kinds}){remedy}"


def _name_parts(file: Path) -> list[str]:
    return re.split(r"(\d+)", file.name)


def _is_storage(file: Path) -> bool:
    return not file.name.startswith(".") and file.name.lower().endswith(
        (*BAG_SUFFIXES, *ROS2_SUFFIXES, ".bag.active")
    )


def _kind(file: Path) -> str:
    """Return its suffix without compression: a killed recorder leaves its last part unpacked."""
    return file.name.removeprefix(_stem(file)).removesuffix(".zstd").removesuffix(".zst")


def _stem(file: Path) -> str:
    return re.sub(r"(?i)(\.(mcap|db3)(\.zstd?)?|\.bag(\.active)?)$", "", file.name)


def _listed_files(bag: Path) -> list[str]:
    """Return names in metadata.yaml, of which only this list must be intact; none if missing."""
    try:
        text = (bag / METADATA).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = LISTED_FILES.search(text)
    words = found[1].strip("[]\n ").replace(",", "\n").splitlines() if found else []
    paths = [word.strip().removeprefix("- ").strip("\"' ") for word in words]
    return [PurePath(path).name for path in paths if path]


def _place(name: str, by_name: dict[str, Path]) -> Path | None:
    """Return a listed file, also if compressed or decompressed by hand."""
    names = (name, f"{name}.zstd", f"{name}.zst", name.removesuffix(".zstd"))
    return next((by_name[n] for n in names if n in by_name), None)


def _key(connection: Connection) -> tuple[str, str]:
    """Return topic and type as in ROS 2."""
    topic = connection.topic if connection.topic.startswith("/") else f"/{connection.topic}"
    return topic, ROS1_RENAMED.get(connection.msgtype, connection.msgtype)


@cache
def _release() -> Any:
    """Return the types of a release, for bags that do not define their own."""
    return get_typestore(Stores.ROS2_JAZZY)


def _recorded_types(connections: Sequence[Connection]) -> Any:
    """Return the types that a bag defines; those of a release if missing or broken."""
    defined: dict[str, Any] = {}
    for connection in connections:
        try:
            defined |= _definitions(connection)
        except Exception:  # noqa: BLE001 - an odd type of another topic must not matter
            continue
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(defined)
    except Exception:  # noqa: BLE001 - as above
        return _release()
    return store


def _definitions(connection: Connection) -> dict[str, Any]:
    text = connection.msgdef.data
    if connection.msgdef.format == MessageDefinitionFormat.MSG:
        return get_types_from_msg(text, connection.msgtype)
    if connection.msgdef.format != MessageDefinitionFormat.IDL:
        return {}
    parts = [p.partition("\n")[2] for p in text.split(IDL_SEPARATOR) if p.startswith("IDL: ")]
    types: dict[str, Any] = {}
    for part in parts or [text]:
        types |= get_types_from_idl(part)
    return types


def _is_alike(connection: Connection, msgtype: str, store: Any) -> bool:
    """Whether a ROS 1 type has the same fields as its ROS 2 counterpart (names may differ)."""
    try:
        theirs = get_types_from_msg(connection.msgdef.data, connection.msgtype)
        return _same_fields(connection.msgtype, theirs, msgtype, store.fielddefs)
    except Exception:  # noqa: BLE001 - an unreadable definition does not match
        return False


def _same_fields(name: str, theirs: dict[str, Any], other: str, ours: dict[str, Any]) -> bool:
    if name == "std_msgs/msg/Header" or name.startswith("builtin_interfaces/"):
        return True  # the conversion drops `seq`
    mine, yours = ours[other][1], theirs[name][1]
    if len(mine) != len(yours):
        return False
    for (_, a), (_, b) in zip(yours, mine, strict=True):
        if a != b:
            return False
        inner = a[1][0] if isinstance(a[1][0], tuple) else a
        is_message = isinstance(inner[1], str) and "/" in inner[1]
        if is_message and not _same_fields(inner[1], theirs, inner[1], ours):
            return False
    return True


def _remedy(error: Exception) -> str:
    text = str(error).lower()
    if "git lfs" in text:
        return "; `git lfs pull` fetches the bag"
    if any(words in text for words in (NO_BAG.lower(), "could not read", "file is empty")):
        return "; download or copy it again"
    if "not indexed" in text or "index looks damaged" in text:
        return f"; {REINDEX}"
    if "profile" in text or "ros1msg" in text:
        return "; convert the recording with `rosbags-convert` to a bag of ROS 2"
    if isinstance(error, KeyError):
        return " is no encoding of ROS 2; `mcap filter` leaves out the topics that have it"
    if CUT_OFF.search(text):
        return f" (it seems to be cut off; {RECOVER})"
    return ""
