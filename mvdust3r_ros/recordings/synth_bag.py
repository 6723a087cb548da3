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

"""Write a synthetic drive as a ROS 2 bag with exact ground truth; needs no ROS."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import yaml
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mvdust3r_ros.datatypes import (
    FloatArray,
    ImageArray,
    MapSnapshot,
    MvDust3rError,
    ScaleEstimate,
    ScaleSource,
)
from mvdust3r_ros.drawing.map_files import save_map, write_tum
from mvdust3r_ros.geometry import invert_se3, quaternion_xyzw
from mvdust3r_ros.synthetic.render import Rendering
from mvdust3r_ros.synthetic.scenes import scene_occupancy
from mvdust3r_ros.synthetic.sequence import (
    CAMERA_NAME,
    Sequence,
    SequenceConfig,
    make_sequence,
    odometry,
)

BAG_VERSION: Literal[9] = 9
"""Version of metadata.yaml, the newest that rosbags writes."""
CLOUD_STEP_PX = 4
"""Step over rows and columns for the true cloud: every fourth pixel keeps the file small and shows
every wall."""


class SynthBagError(MvDust3rError):
    """A synthetic bag cannot be written."""


@dataclass(frozen=True)
class BagConfig:
    """Options for recording a drive.

    Attributes:
        sequence: the drive.
        compressed: JPEG images instead of raw ones.
        odometry: record odometry and TF.
        odom_drift: relative drift of the odometry, see `synthetic.sequence.odometry`.
        band_m: height band of the true occupancy grid, metres.
        resolution_m: cell of the true occupancy grid, metres.
    """

    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    compressed: bool = True
    odometry: bool = True
    odom_drift: float = 0.02
    band_m: tuple[float, float] = (0.1, 1.5)
    resolution_m: float = 0.05


def write_synthetic_bag(
    out: Path, config: BagConfig, report: Callable[[int, int], None] | None = None
) -> Path:
    """Render a drive and write it with ground truth.

    Args:
        out: folder to create; holds bag/ (MCAP), poses.txt (TUM, camera in `world`, which is
            `odom` at the start), depth/NNNNNN.png (16 bit, millimetres), frames.csv,
            intrinsics.yaml, occupancy.npz (cells, resolution_m, origin_xy_m) and the same as
            truth.pgm with truth.yaml, truth.ply (the true cloud) and truth.tum.
        config: what to record.
        report: called with frames done and the total, if given.

    Returns:
        The bag's folder.

    Raises:
        SynthBagError: `out` exists and was not created by this function.
    """
    sequence = make_sequence(config.sequence)
    _make_folder(out)
    recorder = _Recorder(out / "bag", sequence, config)
    points: list[FloatArray] = []
    colors: list[ImageArray] = []
    try:
        for k in range(config.sequence.frames):
            rendering = sequence.rendering(k)
            recorder.write_frame(k, rendering)
            _write_depth(out / "depth" / f"{k:06d}.png", rendering.depth_m)
            world, color = _cloud(rendering, sequence.truth.T_world_cam[k])
            points.append(world)
            colors.append(color)
            if report is not None:
                report(k + 1, config.sequence.frames)
    finally:
        recorder.close()
    _write_tables(out, sequence)
    grid = scene_occupancy(sequence.scene, config.resolution_m, config.band_m)
    np.savez(
        out / "occupancy.npz",
        cells=grid.cells,
        resolution_m=grid.resolution_m,
        origin_xy_m=np.array(grid.origin_xy_m),
    )
    xyz, rgb = np.concatenate(points).astype(np.float32), np.concatenate(colors)
    exact = ScaleEstimate(1.0, 0.0, ScaleSource.DEPTH)
    conf = np.ones(len(xyz), np.float32)
    true_map = MapSnapshot(xyz, rgb, conf, grid, sequence.truth, None, exact, gate_open=True)
    save_map(true_map, out, "truth")
    return out / "bag"


def _make_folder(out: Path) -> None:
    if out.exists():
        if not (out / "frames.csv").exists() and any(out.iterdir()):
            raise SynthBagError(f"{out} exists and is no synthetic bag; choose another folder")
        shutil.rmtree(out)
    (out / "depth").mkdir(parents=True)


def _write_depth(path: Path, depth_m: FloatArray) -> None:
    millimetres = np.clip(np.rint(depth_m * 1000), 0, 65535).astype(np.uint16)
    if not cv2.imwrite(str(path), millimetres, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise SynthBagError(f"cannot write {path}")


def _cloud(rendering: Rendering, T_world_cam: FloatArray) -> tuple[FloatArray, ImageArray]:
    step = slice(None, None, CLOUD_STEP_PX)
    p = rendering.points_cam[step, step].reshape(-1, 3)
    seen = p[:, 2] > 0
    return p[seen] @ T_world_cam[:3, :3].T + T_world_cam[:3, 3], rendering.rgb[step, step].reshape(
        -1, 3
    )[seen]


def _write_tables(out: Path, sequence: Sequence) -> None:
    write_tum(out / "poses.txt", sequence.truth)
    with (out / "frames.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["index", "timestamp", "depth_file"])
        for k, stamp in enumerate(sequence.truth.stamps_ns):
            seconds = f"{stamp // 10**9}.{stamp % 10**9:09d}"
            table.writerow([k, seconds, f"depth/{k:06d}.png"])
    K = [float(v) for v in sequence.camera.K.ravel()]
    h, w = sequence.config.hw
    (out / "intrinsics.yaml").write_text(
        yaml.safe_dump(
            {
                "image_width": w,
                "image_height": h,
                "camera_name": "camera",
                "camera_matrix": {"rows": 3, "cols": 3, "data": K},
                "distortion_model": "plumb_bob",
                "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
                "depth_unit_m": 0.001,
                "depth_invalid": 0,
                "seed": sequence.config.seed,
            },
            sort_keys=False,
        )
    )


class _Recorder:
    """Writes the messages of a drive; each frame's messages share one stamp."""

    def __init__(self, bag: Path, sequence: Sequence, config: BagConfig) -> None:
        self._sequence, self._config = sequence, config
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._types = self._store.types
        self._writer = Writer(bag, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        image = "CompressedImage" if config.compressed else "Image"
        topic = "/camera/image_raw/compressed" if config.compressed else "/camera/image_raw"
        self._image = self._connect(topic, f"sensor_msgs/msg/{image}")
        self._info = self._connect("/camera/camera_info", "sensor_msgs/msg/CameraInfo")
        self._truth = self._connect("/ground_truth/pose", "geometry_msgs/msg/PoseStamped")
        self._T_base_cam = sequence.config.rig.T_base_cam
        if config.odometry:
            self._odom = self._connect("/odom", "nav_msgs/msg/Odometry")
            self._tf = self._connect("/tf", "tf2_msgs/msg/TFMessage")
            latched = self._connect("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
            T_odom_cam = odometry(sequence, config.odom_drift)
            self._T_odom_base = T_odom_cam @ invert_se3(self._T_base_cam)
            start = int(sequence.truth.stamps_ns[0])
            static = self._transform(start, "base_link", CAMERA_NAME, self._T_base_cam)
            self._write(latched, start, self._new("tf2_msgs/msg/TFMessage", transforms=[static]))

    def close(self) -> None:
        """Close the files."""
        self._writer.close()

    def write_frame(self, k: int, rendering: Rendering) -> None:
        """Write image, camera_info, true pose, odometry and TF of frame k, 1 to 3 ms after it."""
        stamp = int(self._sequence.truth.stamps_ns[k])
        header = self._header(stamp, CAMERA_NAME)
        if self._config.odometry:
            T = self._T_odom_base[k]
            moved = self._transform(stamp, "odom", "base_link", T)
            message = self._new("tf2_msgs/msg/TFMessage", transforms=[moved])
            self._write(self._tf, stamp + 1_000_000, message)
            self._write(self._odom, stamp + 1_000_000, self._odometry(k, stamp))
        truth = self._new(
            "geometry_msgs/msg/PoseStamped",
            header=self._header(stamp, "world"),
            pose=self._pose(self._sequence.truth.T_world_cam[k]),
        )
        self._write(self._truth, stamp + 1_000_000, truth)
        self._write(self._info, stamp + 2_000_000, self._camera_info(header))
        self._write(self._image, stamp + 3_000_000, self._image_message(header, rendering.rgb))

    def _connect(self, topic: str, kind: str, *, latched: bool = False) -> Any:
        durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
        forever = QosTime(0x7FFFFFFF, 0xFFFFFFFF)
        qos = Qos(
            QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, durability,
            forever, forever, QosLiveliness.AUTOMATIC, forever, False,
        )  # fmt: skip
        return self._writer.add_connection(
            topic, kind, typestore=self._store, offered_qos_profiles=[qos]
        )

    def _new(self, kind: str, **fields: Any) -> Any:
        return self._types[kind](**fields)

    def _write(self, connection: Any, log_ns: int, message: Any) -> None:
        data = self._store.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, log_ns, data)

    def _header(self, stamp_ns: int, frame: str) -> Any:
        time = self._new(
            "builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
        )
        return self._new("std_msgs/msg/Header", stamp=time, frame_id=frame)

    def _pose(self, T: FloatArray) -> Any:
        x, y, z = (float(v) for v in T[:3, 3])
        position = self._new("geometry_msgs/msg/Point", x=x, y=y, z=z)
        orientation = self._quaternion(T)
        return self._new("geometry_msgs/msg/Pose", position=position, orientation=orientation)

    def _quaternion(self, T: FloatArray) -> Any:
        x, y, z, w = (float(v) for v in quaternion_xyzw(T[:3, :3]))
        return self._new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def _vector(self, values: FloatArray) -> Any:
        x, y, z = (float(v) for v in values)
        return self._new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def _transform(self, stamp_ns: int, parent: str, child: str, T: FloatArray) -> Any:
        transform = self._new(
            "geometry_msgs/msg/Transform",
            translation=self._vector(T[:3, 3]),
            rotation=self._quaternion(T),
        )
        return self._new(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(stamp_ns, parent),
            child_frame_id=child,
            transform=transform,
        )

    def _odometry(self, k: int, stamp_ns: int) -> Any:
        """Return pose and, by finite difference to the next frame, twist of base_link."""
        T = self._T_odom_base
        after = T[min(k + 1, len(T) - 1)]
        step = invert_se3(T[k]) @ after
        rate = self._sequence.config.rate_hz
        linear = step[:3, 3] * rate
        angular = np.array([0.0, 0.0, np.arctan2(step[1, 0], step[0, 0]) * rate])
        twist = self._new(
            "geometry_msgs/msg/Twist", linear=self._vector(linear), angular=self._vector(angular)
        )
        nothing = np.zeros(36)
        return self._new(
            "nav_msgs/msg/Odometry",
            header=self._header(stamp_ns, "odom"),
            child_frame_id="base_link",
            pose=self._new(
                "geometry_msgs/msg/PoseWithCovariance", pose=self._pose(T[k]), covariance=nothing
            ),
            twist=self._new(
                "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=nothing
            ),
        )

    def _camera_info(self, header: Any) -> Any:
        camera = self._sequence.camera
        roi = self._new(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
        )  # fmt: skip
        projection = np.concatenate([camera.K, np.zeros((3, 1))], 1)
        return self._new(
            "sensor_msgs/msg/CameraInfo",
            header=header, height=camera.height, width=camera.width,
            distortion_model="plumb_bob", d=np.zeros(5), k=camera.K.ravel(), r=np.eye(3).ravel(),
            p=projection.ravel(), binning_x=0, binning_y=0, roi=roi,
        )  # fmt: skip

    def _image_message(self, header: Any, rgb: ImageArray) -> Any:
        if self._config.compressed:
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), quality)[1]
            return self._new(
                "sensor_msgs/msg/CompressedImage",
                header=header, format="rgb8; jpeg compressed bgr8", data=data.ravel(),
            )  # fmt: skip
        h, w = rgb.shape[:2]
        return self._new(
            "sensor_msgs/msg/Image",
            header=header, height=h, width=w, encoding="rgb8", is_bigendian=0, step=3 * w,
            data=rgb.ravel(),
        )  # fmt: skip
