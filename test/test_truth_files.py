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

"""Truth of every format, and what is said when it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvdust3r_ros.datatypes import Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.geometry import quaternion_xyzw, se3_from_quaternion
from mvdust3r_ros.recordings.truth_files import TruthError, check_overlap, read_truth

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


NS = 10**9
START = 1_700_000_000 * NS


@pytest.fixture
def drive() -> Trajectory:
    """Six poses since 1970 whose stamps need every digit of a microsecond."""
    rng = np.random.default_rng(5)
    stamps = START + np.arange(6, dtype=np.int64) * 100_001_000
    poses = [se3_from_quaternion(rng.normal(size=4), rng.normal(size=3)) for _ in stamps]
    return Trajectory(stamps, np.array(poses))


UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def stamp_text(stamp_ns: int, unit: str) -> str:
    step = UNITS[unit]
    digits = len(str(step)) - 1
    whole = str(stamp_ns // step)
    return f"{whole}.{stamp_ns % step:0{digits}d}" if unit in ("s", "ms") else whole


def pose_rows(drive: Trajectory, unit: str = "s", order: str = "xyzw") -> list[list[str]]:
    rows = []
    for stamp, T in zip(drive.stamps_ns.tolist(), drive.T_world_cam, strict=True):
        quat = dict(zip("xyzw", quaternion_xyzw(T[:3, :3]), strict=True))
        numbers = [*T[:3, 3], *(quat[c] for c in order)]
        rows.append([stamp_text(stamp, unit), *(f"{v:.12f}" for v in numbers)])
    return rows


def joined(rows: list[list[str]], separator: str = " ", end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in rows)


def matrix_rows(drive: Trajectory, height: int = 3) -> list[list[str]]:
    return [[f"{v:.12e}" for v in T[:height].ravel()] for T in drive.T_world_cam]


HEADERS = {
    "tum": "timestamp,tx,ty,tz,qx,qy,qz,qw\n",
    "euroc": "#timestamp [ns],p_RS_R_x [m],p_RS_R_y [m],p_RS_R_z [m],q_RS_w [],q_RS_x [],"
    "q_RS_y [],q_RS_z []\n",
    "ros": "%time,field.pose.position.x,field.pose.position.y,field.pose.position.z,"
    "field.pose.orientation.x,field.pose.orientation.y,field.pose.orientation.z,"
    "field.pose.orientation.w\n",
}
Write = Callable[[Trajectory], str | bytes]
SAME: dict[str, Write] = {
    "tum": lambda d: joined(pose_rows(d)),
    "tum, dos": lambda d: joined(pose_rows(d), end="\r\n"),
    "tum, old mac": lambda d: joined(pose_rows(d), end="\r"),
    "tum, tabs": lambda d: joined(pose_rows(d), "\t"),
    "tum, tabs and spaces at the ends": lambda d: joined(pose_rows(d), "\t ", " \t\n"),
    "tum, commas": lambda d: joined(pose_rows(d), ","),
    "tum, commas and spaces": lambda d: joined(pose_rows(d), ", "),
    "tum, a comma at each end": lambda d: joined(pose_rows(d), ",", ",\n"),
    "tum, semicolons": lambda d: joined(pose_rows(d), ";"),
    "tum, header": lambda d: HEADERS["tum"] + joined(pose_rows(d), ","),
    "tum, header and spaces": lambda d: HEADERS["tum"].replace(",", " ") + joined(pose_rows(d)),
    "tum, byte order mark": lambda d: b"\xef\xbb\xbf" + joined(pose_rows(d)).encode(),
    "tum, utf-16": lambda d: joined(pose_rows(d)).encode("utf-16"),
    "tum, utf-16 without a mark": lambda d: joined(pose_rows(d)).encode("utf-16-be"),
    "tum, windows-1252": lambda d: (
        "# Büro, 3 m²\n".encode("cp1252") + joined(pose_rows(d)).encode()
    ),
    "tum, decimal commas": lambda d: joined(pose_rows(d), ";").replace(".", ","),
    "tum, decimal commas and spaces": lambda d: joined(pose_rows(d)).replace(".", ","),
    "tum, decimal commas and tabs": lambda d: joined(pose_rows(d), "\t").replace(".", ","),
    "tum, ms": lambda d: joined(pose_rows(d, "ms")),
    "tum, us": lambda d: joined(pose_rows(d, "us")),
    "tum, ns": lambda d: joined(pose_rows(d, "ns")),
    "tum, exponents": lambda d: joined(
        [[f"{float(r[0]):.16e}", *(f"{float(v):.12E}" for v in r[1:])] for r in pose_rows(d, "ns")]
    ),
    "tum, header tells the order": lambda d: (
        "time x y z qw qx qy qz\n" + joined(pose_rows(d, order="wxyz"))
    ),
    "tum, comments between": lambda d: joined(pose_rows(d), end=" # seen\n# and so on\n\n"),
    "euroc": lambda d: HEADERS["euroc"] + joined(pose_rows(d, "ns", "wxyz"), ","),
    "euroc, header without a mark": lambda d: (
        HEADERS["euroc"][1:] + joined(pose_rows(d, "ns", "wxyz"), ",")
    ),
    "euroc, no header": lambda d: joined(pose_rows(d, "ns", "wxyz"), ", "),
    "euroc, header of one word": lambda d: "#t\n" + joined(pose_rows(d, "ns", "wxyz"), ","),
    "euroc, seconds": lambda d: HEADERS["euroc"] + joined(pose_rows(d, "s", "wxyz"), ","),
    "euroc, x first by its header": lambda d: HEADERS["tum"] + joined(pose_rows(d, "ns"), ","),
    "euroc, velocities": lambda d: joined(
        [[*r, *"000000000"] for r in pose_rows(d, "ns", "wxyz")], ","
    ),
    "ros, csv": lambda d: HEADERS["ros"] + joined(pose_rows(d, "ns"), ","),
    "more columns by a header": lambda d: (
        "seq,frame_id,"
        + HEADERS["tum"]
        + joined([["7", "map", *r] for r in pose_rows(d, "ns")], ",")
    ),
    "columns, then a comment": lambda d: (
        "# timestamp tx ty tz qw qx qy qz\n# seen from the left\n"
        + joined(pose_rows(d, order="wxyz"))
    ),
    "quotes": lambda d: joined([[f'"{v}"' for v in row] for row in pose_rows(d)], ","),
    "seconds and nanoseconds apart": lambda d: (
        "sec,nanosec,x,y,z,qx,qy,qz,qw\n"
        + joined(
            [
                [str(t // NS), str(t % NS), *r[1:]]
                for t, r in zip(d.stamps_ns.tolist(), pose_rows(d), strict=True)
            ],
            ",",
        )
    ),
    "lost, nothing written": lambda d: (
        joined(pose_rows(d)[:3], ",")
        + "1700000009.5,,,,,,,\n1700000009.6"
        + ",-nan(ind)" * 7
        + "\n"
        + joined(pose_rows(d)[3:], ",")
    ),
    "numbers of the images": lambda d: joined(
        [[str(k), *r[1:]] for k, r in enumerate(pose_rows(d))]
    ),
    "numbers of the images, from one, matrices": lambda d: joined(
        [[str(k), *m] for k, m in enumerate(matrix_rows(d), 1)]
    ),
    "cut off at its end": lambda d: joined(pose_rows(d)) + "1700000009.5 0.3 0.",
    "twice": lambda d: joined(pose_rows(d) + pose_rows(d)[-2:]),
    "reversed": lambda d: joined(pose_rows(d)[::-1]),
    "lost in between": lambda d: joined(
        [*pose_rows(d), ["1700000009.5", *["nan"] * 7], ["1700000009.6", *["0"] * 7]]
    ),
    "rounded quaternions": lambda d: joined(
        [[*r[:4], *(str(1.01 * float(v)) for v in r[4:])] for r in pose_rows(d)]
    ),
    "stamp and 3x4": lambda d: joined(
        [[r[0], *m] for r, m in zip(pose_rows(d), matrix_rows(d), strict=True)]
    ),
    "stamp and 4x4": lambda d: joined(
        [[r[0], *m] for r, m in zip(pose_rows(d, "ns"), matrix_rows(d, 4), strict=True)], ","
    ),
    "kitti": lambda d: joined(matrix_rows(d)),
    "kitti, commas": lambda d: joined(matrix_rows(d), ", "),
    "kitti, byte order mark": lambda d: b"\xef\xbb\xbf" + joined(matrix_rows(d)).encode(),
    "4x4 a line": lambda d: joined(matrix_rows(d, 4)),
    "4x4 a line, column by column": lambda d: joined(
        [[f"{v:.12e}" for v in T.T.ravel()] for T in d.T_world_cam]
    ),
    "4x4 a block": lambda d: "\n".join(
        joined([[f"{v:.12f}" for v in row] for row in T]) for T in d.T_world_cam
    ),
    "3x4 a block": lambda d: "\n".join(
        joined([[f"{v:.12f}" for v in row] for row in T[:3]]) for T in d.T_world_cam
    ),
}
SAID = {
    "cut off at its end": "the last line is cut off",
    "twice": "come twice: 2 left out",
    "reversed": "were sorted",
    "lost in between": "without a pose: 2 left out, the first is line 7",
    "euroc, no header": "w first",
    "lost, nothing written": "without a pose: 2 left out, the first is line 4",
    "numbers of the images": "taken as the numbers of the images",
    "numbers of the images, from one, matrices": "taken as the numbers of the images",
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_poses_come_out_of_every_form(
    tmp_path: Path, drive: Trajectory, name: str
) -> None:
    written = SAME[name](drive)
    file = tmp_path / "truth.txt"
    file.write_bytes(written if isinstance(written, bytes) else written.encode())
    said: list[str] = []
    got = read_truth(file, drive.stamps_ns, said.append)
    assert np.abs(got.stamps_ns - drive.stamps_ns).max() <= (256 if "exponents" in name else 0)
    np.testing.assert_allclose(got.T_world_cam, drive.T_world_cam, atol=1e-9)
    assert SAID.get(name, "") in " ".join(said)
    assert name in SAID or not said or name.startswith("euroc"), said


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_a_clock_of_its_own_are_told_by_those_of_the_images(
    tmp_path: Path, drive: Trajectory, unit: str
) -> None:
    later = Trajectory(drive.stamps_ns - START + 5 * NS, drive.T_world_cam)
    file, said = tmp_path / "truth.txt", []
    file.write_text(joined(pose_rows(later, unit)))
    got = read_truth(file, later.stamps_ns, said.append)
    np.testing.assert_array_equal(got.stamps_ns, later.stamps_ns)
    assert any("times are taken as" in words for words in said)


def test_a_header_tells_the_unit_of_a_clock_of_its_own(tmp_path: Path, drive: Trajectory) -> None:
    """Whole numbers with commas would be nanoseconds, all of them in the first millisecond."""
    later = Trajectory(np.arange(6, dtype=np.int64) * 100 * 10**6, drive.T_world_cam)
    for name in ("time_ms", "time [ms]", "t (msec)"):
        file = tmp_path / "truth.csv"
        rows = joined(pose_rows(later, "ms"), ",").replace(".000000,", ",")
        file.write_text(f"{name},x,y,z,qx,qy,qz,qw\n{rows}")
        np.testing.assert_array_equal(read_truth(file).stamps_ns, later.stamps_ns)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_that_begin_with_zero_are_of_the_unit_that_lasts_as_long_as_the_images(
    tmp_path: Path, drive: Trajectory, unit: str
) -> None:
    later = Trajectory(np.arange(6, dtype=np.int64) * 100 * 10**6, drive.T_world_cam)
    file, said = tmp_path / "truth.txt", []
    file.write_text(joined(pose_rows(later, unit)).replace(".000000 ", " "))
    got = read_truth(file, later.stamps_ns + 3 * 10**6, said.append)
    np.testing.assert_array_equal(got.stamps_ns, later.stamps_ns)
    assert "times are taken as" in said[0]


@pytest.mark.parametrize(
    "times",
    [
        "{:.9f}\n",
        "{ns}\n",
        "{us}\r\n",
        "2023-11-14 22:13:{s:012.9f}\n",
        "2023-11-14T22:13:{s:012.9f}\n",
    ],
)
def test_times_beside_a_list_are_of_any_unit(
    tmp_path: Path, drive: Trajectory, times: str
) -> None:
    (tmp_path / "poses.txt").write_text(joined(matrix_rows(drive)))
    lines = []
    for stamp in drive.stamps_ns.tolist():
        exact = f"{stamp // NS}.{stamp % NS:09d}"
        values = {"ns": stamp, "us": stamp // 1000, "s": 20 + (stamp - START) / NS}
        lines.append(times.replace("{:.9f}", exact).format(**values))
    (tmp_path / "times.txt").write_text("".join(lines))
    got = read_truth(tmp_path / "poses.txt")
    assert np.abs(got.stamps_ns - drive.stamps_ns).max() <= (2 if "{s" in times else 0)


GOOD = "1700000000.0 0 0 0 0 0 0 1\n1700000001.0 0 0 0 0 0 0 1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no poses"),
        ("# nothing\n", "holds no poses"),
        ("timestamp,tx,ty,tz,qx,qy,qz,qw\n", "holds no poses"),
        ("1 2 3\n", "line 1: a line of 3 values is neither TUM"),
        ("0 0 0 0 0 0 1\n", "line 1: a line of 7 values"),
        ("1,2,3,4,x,6,7,8\n", "line 1"),
        ("1 0 0 0 0 0 0 0\n", "line 1 and all others have NaN or a quaternion of zeros"),
        (GOOD + "1700000001 0 0 1 0 0 0 1\n", "line 3: another pose of the time of line 2"),
        (GOOD + "1700000002 0 0 0 0 1\n" + "1700000003 0 0 0 0 0 0 1\n", "line 3: 6 values"),
        (GOOD + "1700000002 0 0 0 0 0 0 2\n", "line 3: a quaternion of length 2, expected 1"),
        (GOOD + "1700000002 0 a 0 0 0 0 1\n", "line 3: could not convert"),
        (GOOD + "1700000002000 0 0 0 0 0 0 1\n", "seconds and milliseconds; give all of them"),
        (GOOD + "nan 0 0 0 0 0 0 1\n", "line 3: expected a time first"),
        (GOOD + "1e400 0 0 0 0 0 0 1\n", "line 3: expected a time first"),
        (GOOD + "1e99999999999 0 0 0 0 0 0 1\n", "line 3: expected a time first"),
        (
            GOOD + "1e-99999999 0 0 0 0 0 0 1\n" * 2 + "5e9 0 0 0 0 0 0 1\n",
            "expected a time|out of",
        ),
        ("1e30 0 0 0 0 0 0 1\n", "line 1: expected a time first"),
        ("1e15 0 0 0 0 0 0 1\n1e15 1 0 0 0 0 0 1\n", "another pose of the time of line 1"),
        ("1.7e9 0 0 0 0 0 0 1\n1.7e9 1 0 0 0 0 0 1\n1.7e9 2 0 0 0 0 0 1\n", "with more digits"),
        (
            '{"frames": [{"transform_matrix": [[1, 0]]}]}',
            "is JSON, which is not read: write lines",
        ),
        ("VERTEX_SE3:QUAT 0 0 0 0 0 0 0 1\n", "is a pose graph .g2o., which is not read"),
        (
            "# two lines\n#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
            "1 1 0 0 0 0 0 0 1 a.jpg\n1 2 -1\n",
            "is COLMAP's images.txt, which is not read",
        ),
        ("version https://git-lfs.github.com/spec/v1\noid 1\n", "`git lfs pull`"),
        ("<html>\n", "is HTML"),
        (
            "2023-11-14 22:13:20 a b\n",
            "holds no poses: its first line is .2023-11-14 .*--truth none",
        ),
        ("1 0 0 0\n0 x 0 0\n0 0 1 0\n", "line 2: could not convert"),
        ("1 2 3 4\n5 6 7 8\n9 1 2 3\n", "line 1: 4 values are neither a pose nor a row"),
        ("0\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "line 1: 1 values, the other lines have 4"),
        ("t,x,y,z,roll,pitch,yaw\n1,0,0,0,0,0,0\n", "Euler angles: write quaternions"),
        ("2 0 0 0 0 2 0 0 0 0 2 0\n", "line 1: the 3x3 part is no rotation .*by 2 to 2"),
        ("1 0 0 3 0 1 0 0 0 0 1 0 0 0 5 1\n", "line 1: the last row of a 4x4 matrix is 0 0 0 1"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n1 0 0 0\n", "5 lines of 4 numbers"),
        ("\0\1\2binary", "no text"),
    ],
)
def test_a_file_that_is_no_truth_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "truth.txt"
    file.write_text(text)
    with pytest.raises(TruthError, match=words) as caught:
        read_truth(file, STAMPS[:1])
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"nowhere\.tum cannot be read"):
        read_truth(tmp_path / "nowhere.tum")


def test_a_truth_of_another_time_names_both_times(path: Trajectory) -> None:
    check_overlap(path, "t", 2_000_000_000, 9_000_000_000)
    with pytest.raises(TruthError, match=r"1\.000 to 2\.250 s.*5\.000 to 9\.000 s"):
        check_overlap(path, "t", 5_000_000_000, 9_000_000_000)
