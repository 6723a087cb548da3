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

"""The synthetic bag read back, against the truth beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from mvdust3r_ros.drawing.map_files import load_occupancy, read_ply
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg, se3_from_quaternion
from mvdust3r_ros.recordings.synth_bag import BagConfig, SynthBagError, write_synthetic_bag
from mvdust3r_ros.synthetic.scenes import sample_room, scene_occupancy
from mvdust3r_ros.synthetic.sequence import SequenceConfig, make_sequence, odometry

DRIVE = SequenceConfig(seed=6, frames=10, hw=(48, 64))


@pytest.fixture(scope="module", params=[True, False], ids=["jpeg", "raw"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bag") / "drive"
    write_synthetic_bag(out, BagConfig(DRIVE, compressed=request.param))
    return out


def messages(bag: Path) -> dict[str, list]:
    store = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, list] = {}
    with Reader(bag) as reader:
        for connection, _, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            found.setdefault(connection.topic, []).append(message)
    return found


def pose(p: object) -> np.ndarray:
    q, t = p.orientation, p.position  # type: ignore[attr-defined]
    return se3_from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z]))


@pytest.mark.slow
def test_topics_counts_and_frames(made: Path) -> None:
    found = messages(made / "bag")
    image = next(topic for topic in found if "image" in topic)
    expected = {image: 10, "/camera/camera_info": 10, "/odom": 10, "/tf": 10, "/tf_static": 1,
                "/ground_truth/pose": 10}  # fmt: skip
    assert {topic: len(m) for topic, m in found.items()} == expected
    assert {m.header.frame_id for m in found[image]} == {"camera_optical"}
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in found[image]]
    assert set(np.diff(stamps)) == {100_000_000}
    assert [m.header.stamp for m in found["/odom"]] == [m.header.stamp for m in found[image]]


def test_images_are_the_renderings(made: Path) -> None:
    found = messages(made / "bag")
    message = next(m for topic, m in found.items() if "image" in topic)[4]
    truth = make_sequence(DRIVE).rendering(4).rgb
    if hasattr(message, "format"):
        image = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(image.astype(int) - truth).mean() < 4
    else:
        assert np.array_equal(message.data.reshape(48, 64, 3), truth)


def test_tf_tree_leads_to_the_odometry_pose_of_the_camera(made: Path) -> None:
    found = messages(made / "bag")
    static = found["/tf_static"][0].transforms[0]
    r, t = static.transform.rotation, static.transform.translation
    T_base_cam = se3_from_quaternion(np.array([r.x, r.y, r.z, r.w]), np.array([t.x, t.y, t.z]))
    assert (static.header.frame_id, static.child_frame_id) == ("base_link", "camera_optical")
    sequence = make_sequence(DRIVE)
    expected = odometry(sequence)
    for k, message in enumerate(found["/odom"]):
        assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
        assert np.allclose(pose(message.pose.pose) @ T_base_cam, expected[k], atol=1e-6)
        truth = pose(found["/ground_truth/pose"][k].pose)
        assert np.allclose(truth, sequence.truth.T_world_cam[k], atol=1e-6)


def test_truth_beside_the_bag(made: Path) -> None:
    sequence = make_sequence(DRIVE)
    poses = np.loadtxt(made / "poses.txt")
    assert np.allclose(poses[:, 1:4], sequence.truth.T_world_cam[:, :3, 3], atol=1e-6)
    rows = list(csv.DictReader((made / "frames.csv").open()))
    assert [row["depth_file"] for row in rows][3] == "depth/000003.png"
    depth = cv2.imread(str(made / "depth/000003.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert np.abs(depth / 1000 - sequence.rendering(3).depth_m).max() < 6e-4
    K = yaml.safe_load((made / "intrinsics.yaml").read_text())["camera_matrix"]["data"]
    assert np.allclose(K, sequence.camera.K.ravel())


def test_true_grid_and_cloud(made: Path) -> None:
    truth = scene_occupancy(sample_room(6))
    stored = np.load(made / "occupancy.npz")
    assert np.array_equal(stored["cells"], truth.cells)
    assert np.allclose(stored["origin_xy_m"], truth.origin_xy_m)
    assert np.array_equal(load_occupancy(made / "truth.yaml").cells, truth.cells)
    points = read_ply(made / "truth.ply").points
    x0, y0, x1, y1 = sample_room(6).bounds
    assert len(points) > 1000
    assert (points.min(0) > np.array([x0, y0, 0.0]) - 1e-3).all()
    assert (points.max(0) < np.array([x1, y1, 3.0]) + 1e-3).all()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SynthBagError, match="choose another folder"):
        write_synthetic_bag(tmp_path, BagConfig(DRIVE))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_odometry_drifts_with_the_distance() -> None:
    sequence = make_sequence(SequenceConfig(seed=2, frames=200))
    truth = sequence.truth.T_world_cam
    exact = odometry(sequence, drift=0.0, noise_m=0.0)
    assert np.allclose(exact[:, :2, 3], truth[:, :2, 3], atol=0.02)
    drifted = odometry(sequence, drift=0.05, noise_m=0.0)
    gap = np.linalg.norm(drifted[:, :3, 3] - truth[:, :3, 3], axis=1)
    assert gap[0] == 0.0
    assert 0.01 < gap[-1] < 3.0
    turned = rotation_angle_deg((invert_se3(truth) @ drifted)[:, :3, :3])
    assert turned[-1] > turned[20] - 1e-6
