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

"""Feeds corrupted input to every reader and converter, or corrupted frames to the mapper.

    python benchmarks/fuzz.py --inputs 1000000
    python benchmarks/fuzz.py --engine models/mvs --inputs 100

With an engine, each input is a short drive through a room, corrupted in one to four ways: images
that are black, noise, tiny, huge, repeated or of other sizes; wrong K, depth, timestamps or
odometry. The map has to stay finite, and memory must not grow.

Each input has to be used, or rejected with one of the package's own errors, within one second of
processor time (the machine may be busy) and within the memory limit (the address space of the
process is limited: a larger allocation raises MemoryError, which counts as a crash). The exit
status is 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mvdust3r_ros.config import (
    MapperConfig,
    config_to_yaml,
    flat_settings,
    load_config,
    with_values,
)
from mvdust3r_ros.datatypes import (
    CameraModel,
    Frame,
    MapSnapshot,
    MapUpdate,
    MvDust3rError,
    OccupancyGrid,
    ScaleEstimate,
    Trajectory,
)
from mvdust3r_ros.drawing.map_files import load_occupancy, read_ply, read_tum, save_map
from mvdust3r_ros.engines.create import EngineOptions, create_engine, default_engine_folder
from mvdust3r_ros.engines.manifest import load_manifest
from mvdust3r_ros.mapper import Mapper
from mvdust3r_ros.messages.conversions import (
    camera_from_info,
    frame_from_msgs,
    pose_from_odometry,
    pose_from_transform,
)
from mvdust3r_ros.messages.images import ENCODINGS, compressed_to_rgb, depth_to_m
from mvdust3r_ros.recordings.bag import read_frames
from mvdust3r_ros.recordings.bag_messages import decoded
from mvdust3r_ros.ros.map_folder import place_in_folder
from mvdust3r_ros.ros.settings import NodeConfig
from mvdust3r_ros.safe_files import JOURNAL, finish_writing
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence, sequence_frames

LIMIT_S = 1.0
LIMIT_BYTES = 1 << 30
MAX_PIXELS = 1_000_000
SHOWN = 40
WARM_UP_DRIVES, MAX_GROWTH_MB = 20, 60
"""It depends on the seed which drive makes the process reach its final size: it does within 20
drives, and the next 130 add 20 MB (docs/reliability.md)."""
STORE = get_typestore(Stores.ROS2_JAZZY)
NUMBERS = (0, 1, -1, 2, 3, 96, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 1e-300, 1e300,
           float("nan"), float("inf"), -float("inf"))  # fmt: skip
WORDS = (
    "", "..", "/", "a", "../x", "/etc/passwd", "~", "\0", "\n", "é", "%s", "{}", ".", "a/../b",
    "x" * 300, "con", "a\\b", "-rf", "map.yaml", "null", "!!python/name:os", "&a [*a]",
)  # fmt: skip


class Fuzzer:
    """Corrupts valid inputs with one random generator."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = np.random.default_rng(seed)
        self.folder = folder
        rgb = self.rng.integers(0, 255, (48, 64, 3), np.uint8)
        self.jpeg = cv2.imencode(".jpg", rgb)[1].tobytes()
        self.png = cv2.imencode(".png", rgb)[1].tobytes()
        self.manifest = (default_engine_folder() / "manifest.yaml").read_bytes()
        self.settings = config_to_yaml(NodeConfig()).encode()
        poses = Trajectory(np.arange(9) + 1, np.tile(np.eye(4), (9, 1, 1)))
        points = self.rng.normal(size=(20, 3)).astype(np.float32)
        save_map(
            MapSnapshot(
                points, np.zeros((20, 3), np.uint8), np.ones(20, np.float32),
                OccupancyGrid(np.zeros((12, 15), np.int8), 0.05, (0.0, 0.0)), poses, None,
                ScaleEstimate(), gate_open=True,
            ), folder / "good", "map",
        )  # fmt: skip
        self.map_files = {p.suffix: p.read_bytes() for p in (folder / "good").iterdir()}
        self.image_cdr = self._image_cdr(rgb)
        self.bag = self._bag()
        self.names = [s.name for s in flat_settings(NodeConfig())]

    def _image(self, rgb: Any) -> Any:
        types = STORE.types
        stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
        return types["sensor_msgs/msg/Image"](
            header=header, height=48, width=64, encoding="rgb8", is_bigendian=0, step=192,
            data=rgb.ravel(),
        )  # fmt: skip

    def _image_cdr(self, rgb: Any) -> bytes:
        return bytes(STORE.serialize_cdr(self._image(rgb), "sensor_msgs/msg/Image"))

    def _bag(self) -> bytes:
        path = self.folder / "bag"
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            kind = "sensor_msgs/msg/Image"
            connection = writer.add_connection("/image", kind, typestore=STORE)
            for i in range(2):
                writer.write(connection, i + 1, self.image_cdr)
        content = next(path.glob("*.mcap")).read_bytes()
        shutil.rmtree(path)
        return content

    def number(self) -> Any:
        """Return a number, often a harmful one."""
        kind = self.rng.integers(4)
        if kind == 0:
            return NUMBERS[self.rng.integers(len(NUMBERS))]
        if kind == 1:
            return int(self.rng.integers(0, 200))
        return float(self.rng.normal() * 10.0 ** self.rng.integers(-6, 7))

    def whole(self) -> int:
        """Return an unsigned 32-bit number, as in a message."""
        value = self.number()
        return int(value) % 2**32 if np.isfinite(value) else 2**32 - 1

    def word(self) -> str:
        return WORDS[self.rng.integers(len(WORDS))]

    def damaged(self, good: bytes) -> bytes:
        """Return a copy with some bytes changed, cut, duplicated or inserted."""
        data = bytearray(good)
        for _ in range(self.rng.integers(1, 5)):
            at = int(self.rng.integers(0, len(data) + 1))
            how = self.rng.integers(6)
            if how == 0 and at < len(data):
                data[at] = int(self.rng.integers(256))
            elif how == 1:
                del data[at:]
            elif how == 2:
                del data[at : at + int(self.rng.integers(1, 20))]
            elif how == 3:
                data[at:at] = self.word().encode()
            elif how == 4:
                data[at : at + 4] = int(self.whole()).to_bytes(4, "little")
            else:
                data[at:at] = data[: int(self.rng.integers(0, 64))]
        return bytes(data)

    def file(self, name: str, good: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(self.damaged(good))
        return path

    # One function for each reader.

    def image(self) -> None:
        names = [*ENCODINGS, "nv16", "", "32FC1", "16UC1"]
        width, height = int(self.rng.integers(0, 12)), int(self.rng.integers(0, 12))
        if self.rng.integers(4) == 0:
            width, height = self.whole(), self.whole()
        size = int(self.rng.integers(0, 700))
        message = SimpleNamespace(
            header=SimpleNamespace(
                stamp=SimpleNamespace(sec=self.whole() - 1, nanosec=self.whole()),
                frame_id=self.word(),
            ),
            encoding=names[self.rng.integers(len(names))], width=width, height=height,
            step=self.whole() if self.rng.integers(3) == 0 else width * 3,
            is_bigendian=int(self.rng.integers(3)), data=self.rng.bytes(size),
        )  # fmt: skip
        if self.rng.integers(4) == 0:
            depth_to_m(message, MAX_PIXELS)
        frame_from_msgs(message, self._info(), max_pixels=MAX_PIXELS)

    def compressed(self) -> None:
        good = self.jpeg if self.rng.integers(2) else self.png
        message = SimpleNamespace(format=self.word(), data=self.damaged(good))
        compressed_to_rgb(message, MAX_PIXELS)

    def _info(self) -> Any | None:
        if self.rng.integers(2):
            return None
        models = ("plumb_bob", "equidistant", "rational_polynomial", "", "fisheye")
        roi = {k: self.whole() for k in ("x_offset", "y_offset", "width", "height")}
        return SimpleNamespace(
            k=[self.number() for _ in range(9)], d=[self.number()] * int(self.rng.integers(9)),
            distortion_model=models[self.rng.integers(len(models))],
            width=self.whole(), height=self.whole(), binning_x=self.whole(),
            binning_y=self.whole(), roi=SimpleNamespace(**roi),
        )  # fmt: skip

    def camera_info(self) -> None:
        info = self._info()
        if info is not None:
            camera_from_info(info)

    def odometry(self) -> None:
        x, y, z, w = (float(self.number()) for _ in range(4))
        turn = SimpleNamespace(x=x, y=y, z=z, w=w)
        x, y, z = (float(self.number()) for _ in range(3))
        shift = SimpleNamespace(x=x, y=y, z=z)
        if self.rng.integers(2):
            pose = SimpleNamespace(orientation=turn, position=shift)
            pose_from_odometry(SimpleNamespace(pose=SimpleNamespace(pose=pose)))
        else:
            pose_from_transform(SimpleNamespace(rotation=turn, translation=shift))

    def message_bytes(self) -> None:
        reader: Any = SimpleNamespace(deserialize=STORE.deserialize_cdr)
        connection: Any = SimpleNamespace(topic="/image", msgtype="sensor_msgs/msg/Image")
        message = decoded(reader, connection, 1, self.damaged(self.image_cdr))
        frame_from_msgs(message, max_pixels=MAX_PIXELS)

    def parameter(self) -> None:
        name = self.names[self.rng.integers(len(self.names))]
        if self.rng.integers(8) == 0:
            name += self.word()
        value = self.number() if self.rng.integers(2) else self.word()
        with_values(NodeConfig(), {name: value})

    def map_name(self) -> None:
        name = "".join(self.word() for _ in range(self.rng.integers(1, 4)))
        directory, _ = place_in_folder(self.folder, name)
        if not directory.is_relative_to(self.folder.resolve()):
            raise AssertionError(f"{name!r} leads out of the folder")

    def cloud(self) -> None:
        read_ply(self.file("m.ply", self.map_files[".ply"]))

    def trajectory(self) -> None:
        read_tum(self.file("m.tum", self.map_files[".tum"]))

    def grid(self) -> None:
        (self.folder / "map.pgm").write_bytes(self.damaged(self.map_files[".pgm"]))
        good = self.map_files[".yaml"]
        (self.folder / "m.yaml").write_bytes(self.damaged(good) if self.rng.integers(2) else good)
        load_occupancy(self.folder / "m.yaml")

    def journal(self) -> None:
        place = self.folder / "journal"
        place.mkdir(exist_ok=True)
        (place / JOURNAL).write_bytes(self.damaged(b'["map.pgm", "map.yaml", "map.ply"]'))
        try:
            finish_writing(place)
        finally:
            (place / JOURNAL).unlink(missing_ok=True)

    def settings_file(self) -> None:
        cut = int(self.rng.integers(0, len(self.settings)))
        load_config(self.file("s.yaml", self.settings[: cut // 8]))

    def engine_manifest(self) -> None:
        place = self.folder / "engine"
        place.mkdir(exist_ok=True)
        (place / "manifest.yaml").write_bytes(self.damaged(self.manifest))
        load_manifest(place, check_files=False)

    def bag_file(self) -> None:
        path = self.file("b.mcap", self.bag)
        for _ in read_frames(path, on_bad=lambda _: None):
            pass


SHARES: dict[str, float] = {
    "image": 22, "compressed": 10, "camera_info": 15, "odometry": 14, "message_bytes": 8,
    "parameter": 4, "map_name": 6, "cloud": 8, "trajectory": 4, "grid": 2, "journal": 4,
    "settings_file": 1, "engine_manifest": 1, "bag_file": 1,
}  # fmt: skip


class OddDrives:
    """Maps drives through a room, corrupted with one random generator.

    All drives share one engine, as in a node that is reset.
    """

    CORRUPTIONS: tuple[str, ...] = (
        "flat", "noise", "grey", "same", "turned", "tiny", "huge", "small", "wide", "tall",
        "depth", "camera", "no_camera", "lens", "repeated", "past", "future", "jump", "far",
        "no_odometry", "not_a_pose", "base", "other_camera",
    )  # fmt: skip

    def __init__(self, folder: str) -> None:
        self.engine = create_engine(folder, EngineOptions(threads=1))
        drive = make_sequence(SequenceConfig(frames=7, hw=(288, 384), supersample=1, step_m=0.2))
        self.frames = [vars(frame) for frame in sequence_frames(drive)]
        self.config = with_values(
            MapperConfig(),
            {"keyframes.window_size": 3, "keyframes.window_overlap": 1,
             "keyframes.min_sharpness": 0.0, "keyframes.max_interval_s": 0.1},
        )  # fmt: skip
        self.rng = np.random.default_rng(0)
        self.stamp_ns = 0
        self.verdicts: Counter[str] = Counter()

    def drive(self) -> None:
        """Map one drive."""
        chosen = self.rng.choice(self.CORRUPTIONS, self.rng.integers(1, 5))
        shares = self.rng.choice([0.1, 0.5, 1.0], len(chosen))
        mapper, refused = Mapper(self.config, self.engine), 0
        for given in self.frames:
            self.stamp_ns += 100_000_000
            values = {**given, "stamp_ns": self.stamp_ns}
            for name, share in zip(chosen, shares, strict=True):
                if self.rng.random() < share:
                    getattr(self, name)(values)
            try:
                self._note(mapper.process(Frame(**values)))
            except MvDust3rError:
                refused += 1
        self._note(mapper.finish())
        check_snapshot(mapper.snapshot())
        if refused == len(self.frames):
            raise MvDust3rError("every frame was refused")

    def _note(self, update: MapUpdate | None) -> None:
        if update is not None:
            self.verdicts[update.verdict.name] += 1

    def _put(self, values: dict[str, Any], image: Any) -> None:
        """Replace the image, and what has to match its size."""
        hw = image.shape[:2]
        values["image_rgb"] = np.ascontiguousarray(image, np.uint8)
        if values["depth_m"] is not None and values["depth_m"].shape != hw:
            values["depth_m"] = None
        if (camera := values["camera"]) is not None:
            K = np.diag([hw[1] / camera.width, hw[0] / camera.height, 1.0]) @ camera.K
            values["camera"] = CameraModel(K, hw[1], hw[0])

    # One function for each corruption.

    def flat(self, v: dict[str, Any]) -> None:
        v["image_rgb"] = np.zeros_like(v["image_rgb"]) + self.rng.choice([0, 3, 128, 255], 3)
        v["image_rgb"] = v["image_rgb"].astype(np.uint8)

    def noise(self, v: dict[str, Any]) -> None:
        v["image_rgb"] = self.rng.integers(0, 256, v["image_rgb"].shape, np.uint8)

    def grey(self, v: dict[str, Any]) -> None:
        v["image_rgb"] = np.repeat(v["image_rgb"][..., :1], 3, 2)

    def same(self, v: dict[str, Any]) -> None:
        v["image_rgb"] = self.frames[3]["image_rgb"]

    def turned(self, v: dict[str, Any]) -> None:
        v["image_rgb"] = np.ascontiguousarray(v["image_rgb"][::-1, ::-1])

    def tiny(self, v: dict[str, Any]) -> None:
        self._put(v, cv2.resize(v["image_rgb"], tuple(self.rng.choice([1, 2, 15, 16, 17, 40], 2))))

    def huge(self, v: dict[str, Any]) -> None:
        self._put(v, cv2.resize(v["image_rgb"], (4000, 3000)))

    def small(self, v: dict[str, Any]) -> None:
        self._put(v, cv2.resize(v["image_rgb"], (160, 120)))

    def wide(self, v: dict[str, Any]) -> None:
        self._put(v, cv2.resize(v["image_rgb"], (640, 160)))

    def tall(self, v: dict[str, Any]) -> None:
        self._put(v, cv2.resize(v["image_rgb"], (160, 640)))

    def depth(self, v: dict[str, Any]) -> None:
        number = np.float32(self.rng.choice([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30]))
        where = self.rng.random(v["image_rgb"].shape[:2]) < self.rng.random()
        v["depth_m"] = np.where(where, number, np.float32(2.0))

    def camera(self, v: dict[str, Any]) -> None:
        if v["camera"] is not None:
            factor = np.ones((3, 3))
            factor[:2] = self.rng.choice([1e-6, 0.1, 0.5, 1.0, 2.0, 10.0, 1e6, -1.0], (2, 3))
            v["camera"] = replace(v["camera"], K=v["camera"].K * factor)

    def no_camera(self, v: dict[str, Any]) -> None:
        v["camera"] = None

    def lens(self, v: dict[str, Any]) -> None:
        if v["camera"] is not None:
            bend = self.rng.normal(size=5) * 10.0 ** self.rng.integers(-2, 4)
            v["camera"] = replace(v["camera"], distortion=tuple(bend.tolist()))

    def repeated(self, v: dict[str, Any]) -> None:
        v["stamp_ns"] -= int(self.rng.choice([1, 50_000_000, 100_000_000]))

    def past(self, v: dict[str, Any]) -> None:
        v["stamp_ns"] -= int(self.rng.choice([1, 60, 2 * 10**9])) * 10**9

    def future(self, v: dict[str, Any]) -> None:
        v["stamp_ns"] += int(self.rng.choice([1, 60, 2 * 10**9])) * 10**9

    def jump(self, v: dict[str, Any]) -> None:
        self._move(v, self.rng.choice([0.1, 1.0, 100.0]))

    def far(self, v: dict[str, Any]) -> None:
        self._move(v, 10.0 ** self.rng.integers(3, 13))

    def _move(self, v: dict[str, Any], by_m: float) -> None:
        if v["T_odom_cam"] is not None and np.isfinite(v["T_odom_cam"]).all():
            T = v["T_odom_cam"].copy()
            T[:3, 3] += by_m * self.rng.normal(size=3)
            T[:3, :3] = T[:3, :3] @ cv2.Rodrigues(self.rng.normal(size=3))[0]
            v["T_odom_cam"] = T

    def no_odometry(self, v: dict[str, Any]) -> None:
        v["T_odom_cam"] = None

    def not_a_pose(self, v: dict[str, Any]) -> None:
        if v["T_odom_cam"] is not None:
            number = self.rng.choice([0.0, np.nan, np.inf, -1.0, 2.0])
            v["T_odom_cam"] = np.where(self.rng.random((4, 4)) < 0.3, number, v["T_odom_cam"])

    def base(self, v: dict[str, Any]) -> None:
        v["T_odom_base"] = v["T_odom_cam"]

    def other_camera(self, v: dict[str, Any]) -> None:
        v["camera_name"] = self.word()

    def word(self) -> str:
        return WORDS[self.rng.integers(len(WORDS))]


def check_snapshot(snapshot: MapSnapshot) -> None:
    """Raise AssertionError if a map is invalid."""
    named = {
        "points": snapshot.points_map, "conf": snapshot.conf, "floor": snapshot.floor_z_m,
        "path": snapshot.trajectory.T_world_cam,
    }  # fmt: skip
    if snapshot.T_map_odom is not None:
        named["T_map_odom"] = snapshot.T_map_odom
    wrong = [name for name, values in named.items() if not np.isfinite(values).all()]
    if snapshot.grid is not None and not np.isin(snapshot.grid.cells, (-1, 0, 100)).all():
        wrong.append("grid")
    if not snapshot.scale.scale > 0:
        wrong.append("scale")
    if wrong:
        raise AssertionError(f"not finite: {', '.join(wrong)}")


def fuzz_drives(folder: str, seed: int, count: int) -> list[str]:
    """Map corrupted drives with an engine; return the problems."""
    warnings.simplefilter("error", RuntimeWarning)  # unintended arithmetic
    drives, problems, found = OddDrives(folder), [], Counter[str]()
    begin_mb = 0.0
    for number, at in enumerate(range(seed, seed + count)):
        drives.rng = np.random.default_rng([at, *b"drives"])
        problem = try_one(drives.drive, at, "drive", found, math.inf)
        if problem:
            problems.append(problem)
            sys.stdout.write(f"{problem}\n")
            sys.stdout.flush()
        if number == WARM_UP_DRIVES:
            begin_mb = resident_mb()
        if number % 5 == 4:
            sys.stdout.write(f"{number + 1} drives, {resident_mb():.0f} MB\n")
            sys.stdout.flush()
    grown_mb = resident_mb() - begin_mb if begin_mb else 0.0
    if grown_mb > MAX_GROWTH_MB:
        problems.append(f"memory grew by {grown_mb:.0f} MB in {count - WARM_UP_DRIVES - 1} drives")
    sys.stdout.write(
        f"{count} drives: {found['used']} used, {found['refused']} refused as a whole, windows "
        f"{dict(drives.verdicts)}, memory grew by {grown_mb:.0f} MB after {WARM_UP_DRIVES} "
        f"drives, slowest {found['slowest ms']} ms\n"
    )
    return problems


def resident_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def limit_memory() -> None:
    """Limit this process to one gigabyte more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def try_one(
    target: Callable[[], None], seed: int, name: str, found: Counter[str], limit_s: float = LIMIT_S
) -> str:
    """Run one input; return the problem, empty if none."""
    begin = time.process_time()
    try:
        target()
        found["used"] += 1
    except MvDust3rError as error:
        found["refused"] += 1
        if len(str(error)) > 5000:
            return f"{name}, seed {seed}: a message of {len(str(error))} characters"
    except Exception as error:  # noqa: BLE001 - the fuzzer looks for any of them
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}"[:200]
        return f"{name}, seed {seed}: {text} at {Path(where.filename).name}:{where.lineno}"
    spent_s = time.process_time() - begin
    found["slowest ms"] = max(found["slowest ms"], round(spent_s * 1e3))
    return f"{name}, seed {seed}: {spent_s:.1f} s" if spent_s > limit_s else ""


def fuzz_readers(first: int, inputs: int, shares: dict[str, float]) -> list[str]:
    """Feed corrupted input to every reader; return the problems."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(first, Path(name))
        limit_memory()
        for target, share in shares.items():
            count = round(inputs * share / sum(shares.values()))
            found: Counter[str] = Counter()
            wrong = len(problems)
            for seed in range(first, first + count):
                fuzzer.rng = np.random.default_rng([seed, *target.encode()])
                problem = try_one(getattr(fuzzer, target), seed, target, found)
                if problem:
                    problems.append(problem)
                    sys.stdout.write(f"{problem}\n" if len(problems) <= SHOWN else "")
            sys.stdout.write(
                f"{target:16} {count:8} inputs: {found['used']} used, {found['refused']} refused, "
                f"{len(problems) - wrong} wrong, slowest {found['slowest ms']} ms\n"
            )
            sys.stdout.flush()
    return problems


def main() -> int:
    """Fuzz and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument("--only", choices=SHARES, help="one reader alone")
    parser.add_argument("--engine", help="odd drives through the mapper with this engine instead")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    shares = {given.only: 1.0} if given.only else SHARES
    begin = time.monotonic()
    if given.engine is None:
        problems = fuzz_readers(given.seed, given.inputs, shares)
    else:
        problems = fuzz_drives(given.engine, given.seed, given.inputs)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{given.inputs} inputs, {len(problems)} problems, {time.monotonic() - begin:.0f} s, "
        f"peak memory {peak_mb:.0f} MB\n"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
