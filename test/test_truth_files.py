"""Truth of every format, and what is said when it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.evaluation.truth_files import TruthError, check_overlap, read_truth
from mvdust3r_ros.geometry import quaternion_xyzw, se3_from_quaternion
from mvdust3r_ros.map_files import MapFileError, write_tum

STAMPS = np.array([1_000_000_000, 1_500_000_000, 2_250_000_000], np.int64)


@pytest.fixture
def path() -> Trajectory:
    rng = np.random.default_rng(3)
    poses = [se3_from_quaternion(rng.normal(size=4), rng.normal(size=3)) for _ in STAMPS]
    return Trajectory(STAMPS, np.array(poses))


def write_euroc(file: Path, path: Trajectory, tail: str = "") -> None:
    lines = ["#timestamp [ns], p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_w, q_x, q_y, q_z"]
    for stamp, T in zip(path.stamps_ns, path.T_world_cam, strict=True):
        qx, qy, qz, qw = quaternion_xyzw(T[:3, :3])
        lines.append(",".join(str(float(v)) for v in (*T[:3, 3], qw, qx, qy, qz)) + tail)
        lines[-1] = f"{stamp},{lines[-1]}"
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("tail", ["", ",0,0,0,0,0,0,0,0,0"])
def test_euroc(tmp_path: Path, path: Trajectory, tail: str) -> None:
    write_euroc(tmp_path / "data.csv", path, tail)
    got = read_truth(tmp_path / "data.csv")
    np.testing.assert_array_equal(got.stamps_ns, path.stamps_ns)
    np.testing.assert_allclose(got.T_world_cam, path.T_world_cam, atol=1e-12)


def test_tum(tmp_path: Path, path: Trajectory) -> None:
    write_tum(tmp_path / "truth.txt", path)
    got = read_truth(tmp_path / "truth.txt")
    np.testing.assert_array_equal(got.stamps_ns, path.stamps_ns)
    np.testing.assert_allclose(got.T_world_cam, path.T_world_cam, atol=1e-8)


def test_kitti_takes_its_stamps_from_times_txt_or_the_frames(
    tmp_path: Path, path: Trajectory
) -> None:
    file = tmp_path / "00.txt"
    np.savetxt(file, path.T_world_cam[:, :3].reshape(3, 12))
    with pytest.raises(TruthError, match=r"times\.txt"):
        read_truth(file)
    got = read_truth(file, path.stamps_ns)
    np.testing.assert_array_equal(got.stamps_ns, path.stamps_ns)
    np.testing.assert_allclose(got.T_world_cam, path.T_world_cam)
    with pytest.raises(TruthError, match="3 poses, the recording has 2 stamps"):
        read_truth(file, path.stamps_ns[:2])
    np.savetxt(tmp_path / "times.txt", [7.0, 8.0, 9.5])
    assert read_truth(file, path.stamps_ns).stamps_ns.tolist() == [
        7 * 10**9,
        8 * 10**9,
        9_500_000_000,
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no poses"),
        ("# nothing\n", "holds no poses"),
        ("1 2 3\n", "neither TUM"),
        ("1,2,3,4,x,6,7,8\n", "line 1"),
        ("1,0,0,0,1,0,0,0\n1,0,0,0,1,0,0,0\n", "do not increase"),
        ("1 0 0 0 0 0 0 0\n", "line 1"),
    ],
)
def test_a_file_that_is_no_truth_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "truth.txt"
    file.write_text(text)
    with pytest.raises((TruthError, MapFileError), match=words) as caught:
        read_truth(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"nowhere\.tum cannot be read"):
        read_truth(tmp_path / "nowhere.tum")


def test_a_truth_of_another_time_names_both_times(path: Trajectory) -> None:
    check_overlap(path, "t", 2_000_000_000, 9_000_000_000)
    with pytest.raises(TruthError, match=r"1\.000 to 2\.250 s.*5\.000 to 9\.000 s"):
        check_overlap(path, "t", 5_000_000_000, 9_000_000_000)
