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

"""Bags as every release, recorder and copy leaves them behind: what is read is all there was."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mvdust3r_ros.cli import main
from mvdust3r_ros.messages.input_counts import InputCounts
from mvdust3r_ros.recordings.bag import opened_bag, read_frames
from mvdust3r_ros.recordings.bag_files import bag_at, is_bag
from mvdust3r_ros.recordings.bag_messages import BagError
from short_drive import Drive, Recorded, large_images, mcap_records

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROS2, ROS1 = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
FOREVER = {"sec": 9223372036, "nsec": 854775807}
QOS = {
    "history": 3, "depth": 0, "reliability": 1, "durability": 2, "deadline": FOREVER,
    "lifespan": FOREVER, "liveliness": 1, "liveliness_lease_duration": FOREVER,
    "avoid_ros_namespace_conventions": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def sqlite_bag(drive: Drive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drive.write(tmp_path_factory.mktemp("db3"), drive.items(), StoragePlugin.SQLITE3)


@pytest.fixture(scope="module")
def mcap_bag(drive: Drive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drive.write(tmp_path_factory.mktemp("mcap"), drive.items())


def assert_complete(bag: Path, drive: Drive) -> InputCounts:
    """Every image with its own pose and camera."""
    inputs = InputCounts()
    frames = list(read_frames(bag, inputs=inputs))
    assert [f.stamp_ns for f in frames] == drive.stamps_ns
    for frame, T in zip(frames, drive.T_odom_cam, strict=True):
        np.testing.assert_allclose(frame.T_odom_cam, T, atol=1e-9)
        np.testing.assert_array_equal(frame.camera.K, drive.K)
    return inputs


def ros1_message(message: Any) -> Any:
    """A message of ROS 2 as its namesake of ROS 1: a header counts, K is in capitals."""
    kind = message.__msgtype__
    if kind == "tf2_msgs/msg/TFMessage" and kind not in ROS1.types:
        text = "geometry_msgs/TransformStamped[] transforms"
        ROS1.register(get_types_from_msg(text, kind))
    values = {}
    for name, _ in ROS1.fielddefs[kind][1]:
        value = 7 if name == "seq" else getattr(message, name, None)
        value = getattr(message, name.lower()) if value is None else value
        if isinstance(value, list):
            value = [ros1_message(v) for v in value]
        values[name] = ros1_message(value) if hasattr(value, "__msgtype__") else value
    return ROS1.types[kind](**values)


def write_ros1(
    path: Path,
    items: list[Recorded],
    compression: Ros1Writer.CompressionFormat | None = None,
    chunk_bytes: int = 0,
) -> Path:
    writer = Ros1Writer(path)
    writer.chunk_threshold = chunk_bytes or writer.chunk_threshold
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        topics: dict[str, Connection] = {}
        for item in items:
            kind, message = item.message.__msgtype__, ros1_message(item.message)
            if item.topic not in topics:
                topics[item.topic] = writer.add_connection(item.topic, kind, typestore=ROS1)
            writer.write(topics[item.topic], item.log_ns, ROS1.serialize_ros1(message, kind))
    return path


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_a_bag_of_ros_1_is_read_as_one_of_ros_2(
    drive: Drive, tmp_path: Path, compression: str | None
) -> None:
    form = None if compression is None else Ros1Writer.CompressionFormat[compression]
    bag = write_ros1(tmp_path / "drive.bag", drive.items(), form)
    assert_complete(bag, drive)
    with opened_bag(bag) as reader:
        assert reader.kind == "ROS 1 bag"


def test_topics_of_ros_1_without_a_slash_and_split_bags(drive: Drive, tmp_path: Path) -> None:
    items = drive.items()
    for item in items:
        item.topic = item.topic.lstrip("/")
    write_ros1(tmp_path / "drive_0.bag", items[:20])
    write_ros1(tmp_path / "drive_1.bag", items[20:])
    assert_complete(tmp_path, drive)


def killed_ros1(drive: Drive, folder: Path, compression: str) -> bytes:
    """A bag of many chunks as the recorder leaves it when it is killed: no index, no counts."""
    form = None if compression == "NONE" else Ros1Writer.CompressionFormat[compression]
    items, noise = drive.items(), np.random.default_rng(1)
    for item in items:
        if item.topic == "/camera/image_raw":
            item.message.data = noise.integers(0, 255, len(item.message.data), dtype=np.uint8)
    path = write_ros1(folder / "drive.bag", items, form, chunk_bytes=6000)
    content = bytearray(path.read_bytes())
    for name, size in ((b"index_pos=", 8), (b"conn_count=", 4), (b"chunk_count=", 4)):
        place = content.index(name) + len(name)
        if size == 8:
            del content[int.from_bytes(content[place : place + 8], "little") :]
        content[place : place + size] = bytes(size)
    path.unlink()
    return bytes(content)


@pytest.mark.parametrize("compression", ["NONE", "BZ2", "LZ4"])
def test_a_ros_1_bag_of_a_killed_recorder_is_read_as_far_as_it_is_whole(
    compression: str, drive: Drive, tmp_path: Path
) -> None:
    content = killed_ros1(drive, tmp_path, compression)
    bag = tmp_path / "killed.bag.active"
    bag.write_bytes(content)
    assert is_bag(bag)
    assert_complete(bag, drive)
    bag.write_bytes(content[: len(content) // 2])
    inputs = InputCounts()
    frames = list(read_frames(bag, inputs=inputs))
    assert 2 <= len(frames) < len(drive.stamps_ns)
    assert [f.stamp_ns for f in frames] == drive.stamps_ns[: len(frames)]
    assert "not closed by its recorder" in inputs.lines()[-1]
    bag.write_bytes(content[:4200])
    with pytest.raises(BagError, match=r"no whole message.*`rosbag reindex` of ROS 1"):
        next(read_frames(bag))


def test_a_copy_of_a_ros_1_bag_that_stopped_half_way(drive: Drive, tmp_path: Path) -> None:
    bag = write_ros1(tmp_path / "drive.bag", drive.items(), chunk_bytes=6000)
    content = bag.read_bytes()
    bag.write_bytes(content[: len(content) // 2])
    assert 2 <= len(list(read_frames(bag))) < len(drive.stamps_ns)


def test_split_bags_of_ros_1_have_the_time_in_their_names(drive: Drive, tmp_path: Path) -> None:
    items = drive.items()
    write_ros1(tmp_path / "kitchen_2024-03-01-10-00-00_0.bag", items[:20])
    write_ros1(tmp_path / "kitchen_2024-03-01-10-05-00_1.bag", items[20:])
    assert_complete(tmp_path, drive)
    write_ros1(tmp_path / "kitchen_2024-03-02-09-00-00_0.bag", items[:20])
    with pytest.raises(BagError, match="several bags"):
        next(read_frames(tmp_path))


def information(bag: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change metadata.yaml."""
    file = bag / "metadata.yaml"
    data = yaml.safe_load(file.read_text())
    change(data["rosbag2_bagfile_information"])
    file.write_text(yaml.safe_dump(data))


def nothing_counted(info: dict[str, Any]) -> None:
    info["message_count"] = 0
    for topic in info["topics_with_message_count"]:
        topic["message_count"] = 0


def other_qos(info: dict[str, Any]) -> None:
    for topic in info["topics_with_message_count"]:
        topic["topic_metadata"]["offered_qos_profiles"] = yaml.safe_dump([QOS])


def fewer_topics(info: dict[str, Any]) -> None:
    del info["topics_with_message_count"][0]


METADATA_KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda b: (b / "metadata.yaml").unlink(),
    "empty": lambda b: (b / "metadata.yaml").write_text(""),
    "cut off": lambda b: (b / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  ver"),
    "counts nothing": lambda b: information(b, nothing_counted),
    "QoS edited": lambda b: information(b, other_qos),
    "a topic taken out": lambda b: information(b, fewer_topics),
    "storage id empty": lambda b: information(b, lambda i: i.update(storage_identifier="")),
    "of a later release": lambda b: information(b, lambda i: i.update(version=10)),
    "folder in front of the file": lambda b: information(
        b, lambda i: i.update(relative_file_paths=["rosbag2_2021/bag.db3"])
    ),
    "file renamed": lambda b: (b / "bag.db3").rename(b / "kitchen.db3"),
}


@pytest.mark.parametrize("kind", METADATA_KINDS)
def test_metadata_loses_nothing(kind: str, sqlite_bag: Path, drive: Drive, tmp_path: Path) -> None:
    bag = shutil.copytree(sqlite_bag, tmp_path / "bag")
    METADATA_KINDS[kind](bag)
    assert is_bag(bag)
    assert_complete(bag, drive)


def test_metadata_or_one_file_may_be_named(sqlite_bag: Path, drive: Drive) -> None:
    for path in (sqlite_bag / "metadata.yaml", sqlite_bag / "bag.db3"):
        assert is_bag(path)
        assert_complete(path, drive)


@pytest.mark.parametrize("version", [3, 5, 8])
def test_older_releases(version: int, sqlite_bag: Path, drive: Drive, tmp_path: Path) -> None:
    """Foxy, Humble and Iron wrote fewer columns and QoS as numbers in a text."""
    bag = shutil.copytree(sqlite_bag, tmp_path / "bag")
    information(bag, lambda i: i.update(version=version))
    information(bag, other_qos)
    database = sqlite3.connect(bag / "bag.db3")
    for table in ("schema", "metadata", "message_definitions"):
        database.execute(f"DROP TABLE {table}")
    database.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
    database.execute("UPDATE topics SET offered_qos_profiles = ?", (yaml.safe_dump([QOS]),))
    database.commit()
    database.close()
    assert_complete(bag, drive)


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_compressed_bags(mode: str, storage: StoragePlugin, drive: Drive, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=storage)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        topics: dict[str, Connection] = {}
        for item in drive.items():
            kind = item.message.__msgtype__
            if item.topic not in topics:
                topics[item.topic] = writer.add_connection(item.topic, kind, typestore=ROS2)
            data = ROS2.serialize_cdr(item.message, kind)
            writer.write(topics[item.topic], item.log_ns, data)
    assert_complete(tmp_path / "bag", drive)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert_complete(tmp_path / "bag", drive)
    (file,) = (tmp_path / "bag").iterdir()
    assert is_bag(file)
    assert_complete(file, drive)


def split(drive: Drive, folder: Path) -> Path:
    items = drive.items()
    bag = folder / "bag"
    bag.mkdir()
    for number, part in enumerate((items[:18], items[18:])):
        made = drive.write(folder / str(number), part, StoragePlugin.SQLITE3)
        shutil.copy(made / "bag.db3", bag / f"bag_{number}.db3")
    shutil.copy(made / "metadata.yaml", bag)
    information(bag, lambda i: i.update(relative_file_paths=["bag_0.db3", "bag_1.db3"]))
    return bag


def test_split_bags_with_and_without_metadata(drive: Drive, tmp_path: Path) -> None:
    bag = split(drive, tmp_path)
    assert_complete(bag, drive)
    (bag / "metadata.yaml").unlink()
    assert_complete(bag, drive)


def test_parts_of_a_recorder_that_was_killed_while_it_packed(drive: Drive, tmp_path: Path) -> None:
    """All but the last are packed; it lies there twice, or nothing of it was written yet."""
    bag, items = tmp_path / "bag", drive.items()
    bag.mkdir()
    parts = [
        (drive.write(tmp_path / str(n), part) / "bag.mcap").read_bytes()
        for n, part in enumerate((items[:18], items[18:]))
    ]
    (bag / "bag_0.mcap.zstd").write_bytes(zstd.compress(parts[0]))
    (bag / "bag_1.mcap").write_bytes(parts[1])
    assert_complete(bag, drive)
    (bag / "bag_1.mcap.zstd").write_bytes(zstd.compress(parts[1])[:200])
    assert_complete(bag, drive)
    (bag / "bag_2.mcap").write_bytes(b"")
    assert assert_complete(bag, drive).lines() == ["bag_2.mcap is empty and left out"]


def test_a_missing_part_is_named(drive: Drive, tmp_path: Path) -> None:
    bag = split(drive, tmp_path)
    (bag / "bag_0.db3").unlink()
    with pytest.raises(BagError, match=r"bag_0\.db3 of its metadata\.yaml is not there; copy it"):
        next(read_frames(bag))
    assert list(read_frames(bag / "bag_1.db3"))


def test_several_bags_in_a_folder_need_a_choice(
    sqlite_bag: Path, mcap_bag: Path, tmp_path: Path
) -> None:
    shutil.copy(sqlite_bag / "bag.db3", tmp_path / "monday.db3")
    shutil.copy(sqlite_bag / "bag.db3", tmp_path / "tuesday.db3")
    with pytest.raises(BagError, match=r"several bags, name one of them: monday\.db3, tuesday"):
        next(read_frames(tmp_path))
    (tmp_path / "tuesday.db3").unlink()
    shutil.copy(mcap_bag / "bag.mcap", tmp_path / "monday.mcap")
    with pytest.raises(BagError, match="several bags"):
        next(read_frames(tmp_path))


@pytest.mark.parametrize("tail", [0, 20, 37])
def test_an_mcap_of_a_killed_recorder_is_read_as_far_as_it_is_whole(
    tail: int, mcap_bag: Path, drive: Drive, tmp_path: Path
) -> None:
    """Cut within the index, within the end, and with zeros of the file system after it."""
    whole = (mcap_bag / "bag.mcap").read_bytes()
    cut = whole[: len(whole) - 200 + tail] + bytes(4096 if tail == 37 else 0)
    (tmp_path / "bag.mcap").write_bytes(cut)
    inputs = assert_complete(tmp_path / "bag.mcap", drive)
    assert "not closed by its recorder" in inputs.lines()[0]


def test_an_mcap_cut_in_a_record_keeps_those_before(drive: Drive, tmp_path: Path) -> None:
    """Images large enough that a chunk holds one or two of them."""
    file = drive.write(tmp_path, large_images(drive)) / "bag.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    frames = list(read_frames(file))
    assert 2 <= len(frames) < len(drive.stamps_ns)
    assert [f.stamp_ns for f in frames] == drive.stamps_ns[: len(frames)]


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_sqlite_bag_with_its_journal_beside(
    journal: str, sqlite_bag: Path, drive: Drive, tmp_path: Path
) -> None:
    """Copied while the recorder held the file: the newest messages lie beside it."""
    work = tmp_path / "work.db3"
    shutil.copy(sqlite_bag / "bag.db3", work)
    database = sqlite3.connect(work, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={journal}")
    rows = database.execute("SELECT topic_id, timestamp, data FROM messages").fetchall()
    if journal == "WAL":
        database.execute("DELETE FROM messages")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.executemany(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows
        )
    else:
        database.execute("PRAGMA cache_size=1")
        database.execute("BEGIN")
        database.execute("DELETE FROM messages")
    bag = tmp_path / "bag"
    bag.mkdir()
    for file in tmp_path.glob("work.db3*"):
        shutil.copy(file, bag / file.name.replace("work", "bag"))
    database.close()
    inputs = assert_complete(bag / "bag.db3", drive)
    assert "what lies beside it is read too" in inputs.lines()[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mcap", b"", "the file is empty; download or copy it again"),
        ("a.db3", b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull` fetches"),
        ("a.db3", b"SQLite format 3\0" + bytes(200), "recover"),
        ("a.mcap", b"\x89MCAP0\r\n" + b"\x01" + bytes(3), "cut off"),
        ("a.bag", b"#ROSBAG V1.2\n", "not supported"),
        ("a.bag", b"#ROSBAG V2.0\n" + bytes(20), "download or copy it again"),
        ("a.mcap", b"<!DOCTYPE html><html>", "neither SQLite, MCAP nor a bag of ROS 1"),
        ("a.db3", bytes(64), "download or copy it again"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    name: str, content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["evaluate", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_folder_without_storage_is_said(sqlite_bag: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_bag / "metadata.yaml", tmp_path)
    with pytest.raises(BagError, match=r"holds no storage file \(\.mcap, \.db3, \.bag"):
        next(read_frames(tmp_path))


@pytest.mark.parametrize(
    "name", ["run #3", "run?x=1", "100%25 done", "K\u00fcche S\u00fcd", ".run"]
)
def test_any_name_of_a_folder(name: str, sqlite_bag: Path, drive: Drive, tmp_path: Path) -> None:
    bag = shutil.copytree(sqlite_bag, tmp_path / name)
    assert_complete(bag, drive)
    assert_complete(bag / "bag.db3", drive)


def test_the_content_of_a_file_decides_not_its_name(
    sqlite_bag: Path, mcap_bag: Path, drive: Drive, tmp_path: Path
) -> None:
    ros1 = write_ros1(tmp_path / "drive.bag", drive.items())
    packed = tmp_path / "packed"
    packed.write_bytes(zstd.compress((mcap_bag / "bag.mcap").read_bytes()))
    for source, name in (
        (sqlite_bag / "bag.db3", "a.mcap"),
        (mcap_bag / "bag.mcap", "b.db3"),
        (mcap_bag / "bag.mcap", "C.MCAP"),
        (ros1, "d.mcap"),
        (packed, "e.mcap.zst"),
        (packed, "f.mcap"),
        (sqlite_bag / "bag.db3", "g.db3.zstd"),
    ):
        bag = Path(shutil.copy(source, tmp_path / name))
        assert is_bag(bag)
        assert_complete(bag, drive)


def test_a_folder_above_one_bag_is_that_bag(
    sqlite_bag: Path, mcap_bag: Path, drive: Drive, tmp_path: Path
) -> None:
    shutil.copytree(sqlite_bag, tmp_path / "monday")
    (tmp_path / "truth.pgm").write_bytes(b"P5 2 2 255\n1234")
    assert is_bag(tmp_path)
    assert bag_at(tmp_path) == tmp_path / "monday"
    assert_complete(tmp_path, drive)
    shutil.copytree(mcap_bag, tmp_path / "tuesday")
    with pytest.raises(BagError, match="several bags, name one of them: monday, tuesday"):
        next(read_frames(tmp_path))
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(b"")
    assert not is_bag(tmp_path), "it is a folder of images"


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_packed_mcap_that_is_cut_off_is_read_as_far_as_it_goes(
    share: float, drive: Drive, tmp_path: Path
) -> None:
    items = drive.items()
    noise = np.random.default_rng(1)
    for item in items:
        if item.topic == "/camera/image_raw":
            item.message.height, item.message.width, item.message.step = 480, 640, 1920
            item.message.data = noise.integers(0, 255, 480 * 1920, dtype=np.uint8)
    whole = zstd.compress((drive.write(tmp_path, items) / "bag.mcap").read_bytes())
    file = tmp_path / "cut.mcap.zstd"
    file.write_bytes(whole[: int(len(whole) * share)])
    frames = list(read_frames(file))
    assert 2 <= len(frames) < len(drive.stamps_ns)


def mcap_header(profile: str, library: str) -> bytes:
    words = b"".join(struct.pack("<I", len(w)) + w.encode() for w in (profile, library))
    return b"\x89MCAP0\r\n" + struct.pack("<BQ", 1, len(words)) + words


def test_an_mcap_without_a_profile(mcap_bag: Path, drive: Drive, tmp_path: Path) -> None:
    """As writers leave it that know no ROS; other places in the file stay what they were."""
    content = (mcap_bag / "bag.mcap").read_bytes()
    old = mcap_header("ros2", content[29 : 29 + content[25]].decode())
    assert content.startswith(old)
    new = mcap_header("", "four" + old[29:].decode())
    assert len(new) == len(old)
    (tmp_path / "a.mcap").write_bytes(new + content[len(old) :])
    assert_complete(tmp_path / "a.mcap", drive)


@pytest.mark.parametrize("missing", ["channels", "message index"])
def test_an_mcap_whose_summary_is_not_enough(
    missing: str, mcap_bag: Path, drive: Drive, tmp_path: Path
) -> None:
    """Recorders tuned for speed leave out the index of messages, others repeat no channels."""
    content = (mcap_bag / "bag.mcap").read_bytes()
    (summary,) = struct.unpack_from("<Q", content, len(content) - 28)
    kept = b""
    for opcode, data in mcap_records(content, summary):
        if opcode == 8 and missing == "message index":
            (length,) = struct.unpack_from("<I", data, 32)
            data = data[:32] + bytes(12) + data[36 + length + 8 :]
        if opcode not in ((2, 14, 3, 4) if missing == "channels" else (2, 14)):
            kept += struct.pack("<BQ", opcode, len(data)) + data
    footer = struct.pack("<BQQQI", 2, 20, summary, 0, 0) + content[-8:]
    (tmp_path / "a.mcap").write_bytes(content[:summary] + kept + footer)
    assert not assert_complete(tmp_path / "a.mcap", drive).lines()


def damaged(mcap_bag: Path, folder: Path) -> Path:
    """In a chunk without a checksum a wrong length swallows the rest of it."""
    content = bytearray((mcap_bag / "bag.mcap").read_bytes())
    chunk = content.index(b"\x06", 8 + 9 + content[9])
    (length,) = struct.unpack_from("<Q", content, chunk + 1)
    content[chunk + 9 + 24 : chunk + 9 + 28] = bytes(4)
    assert content[chunk + 9 + 28 : chunk + 9 + 32] == bytes(4), "is not compressed"
    middle = chunk + 9 + length // 2
    content[middle : middle + 4000] = b"\xa5" * 4000
    (folder / "a.mcap").write_bytes(content)
    return folder / "a.mcap"


def test_messages_that_are_lost_in_the_middle_do_not_pass_in_silence(
    mcap_bag: Path, tmp_path: Path
) -> None:
    bag = damaged(mcap_bag, tmp_path)
    with pytest.raises(BagError, match=r"damaged.*`mcap recover`"):
        list(read_frames(bag, on_bad=lambda _: None))


def test_messages_of_other_encodings_have_a_remedy(mcap_bag: Path, tmp_path: Path) -> None:
    content = (mcap_bag / "bag.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(content.replace(b"ros2msg", b"protobf"))
    with pytest.raises(BagError, match="'protobf' is no encoding of ROS 2; `mcap filter`"):
        next(read_frames(tmp_path / "a.mcap"))


def test_a_folder_above_bags_or_of_images_is_told_what_to_do(
    sqlite_bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0001.png").write_bytes(b"")
    assert main(["map", str(tmp_path / "images")]) == 1
    assert "`mvdust3r_ros evaluate` reads folders of images" in capsys.readouterr().err
    for name in ("walk", "drive"):
        shutil.copytree(sqlite_bag, tmp_path / "bags" / name)
    for command in ("map", "evaluate"):
        assert main([command, str(tmp_path / "bags")]) == 1
        assert "holds several bags, name one of them: drive, walk\n" in capsys.readouterr().err
