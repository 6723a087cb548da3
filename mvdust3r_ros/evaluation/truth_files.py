"""True camera poses from a file: TUM, KITTI or EuRoC."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError, Trajectory
from mvdust3r_ros.geometry import AlignmentError, se3_from_quaternion
from mvdust3r_ros.map_files import read_tum

KITTI_NUMBERS = 12
EUROC_NUMBERS = 8
TRUTH_FILES = ("poses.txt", "groundtruth.txt", "truth.tum")
StampArray = npt.NDArray[np.int64]


class TruthError(MvDust3rError):
    """A truth cannot be read or does not belong to the recording."""


def truth_beside(place: Path) -> Path | None:
    """A file of true poses in a folder, or beside it or a file; None where there is none."""
    folders = (place, place.resolve().parent)
    paths = (folder / name for folder in folders for name in TRUTH_FILES)
    return next((path for path in paths if path.is_file()), None)


def read_truth(path: Path, frame_stamps_ns: StampArray | None = None) -> Trajectory:
    """Camera-to-world poses; the format follows from the contents.

    Args:
        path: TUM (`timestamp tx ty tz qx qy qz qw`, seconds), EuRoC (csv, nanoseconds, w first) or
            KITTI (the upper three rows of the matrix, one line a frame; stamps from `times.txt`
            beside it, else those of the frames).
        frame_stamps_ns: (N,) stamps of the recording's frames, for KITTI without times.txt.

    Raises:
        TruthError: the file cannot be read, or is none of these.
        MapFileError: a line of a TUM file is not one.
    """
    line = _first_line(path)
    if "," in line and len(line.split(",")) >= EUROC_NUMBERS:
        return _read_euroc(path)
    numbers = len(line.split())
    if numbers == KITTI_NUMBERS:
        return _read_kitti(path, frame_stamps_ns)
    if numbers == EUROC_NUMBERS:
        return read_tum(path)
    raise TruthError(
        f"truth {path}: a line of {numbers} values is neither TUM (8), KITTI (12) nor EuRoC "
        f"(8 or 17, with commas): {line[:80]!r}"
    )


def _first_line(path: Path) -> str:
    """The first line that is no comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TruthError(f"truth {path} cannot be read: {reason}") from None
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            return line
    raise TruthError(f"truth {path} holds no poses")


def _read_euroc(path: Path) -> Trajectory:
    stamps, poses = [], []
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if not row or row[0].lstrip().startswith("#"):
                continue
            try:
                x, y, z, qw, qx, qy, qz = (float(v) for v in row[1:EUROC_NUMBERS])
                stamps.append(int(row[0]))
                poses.append(se3_from_quaternion(np.array([qx, qy, qz, qw]), np.array([x, y, z])))
            except (ValueError, AlignmentError) as error:
                raise TruthError(
                    f"{path}, line {number}: expected `time_ns, x, y, z, qw, qx, qy, qz` ({error})"
                ) from None
    return _in_order(path, np.array(stamps, np.int64), np.array(poses))


def _read_kitti(path: Path, frame_stamps_ns: StampArray | None) -> Trajectory:
    try:
        rows = np.loadtxt(path, ndmin=2)
        times = path.with_name("times.txt")
        if times.exists():
            stamps = np.rint(np.loadtxt(times, ndmin=1) * 1e9).astype(np.int64)
        elif frame_stamps_ns is not None:
            stamps = np.asarray(frame_stamps_ns, np.int64)
        else:
            raise TruthError(f"truth {path} has no stamps: put KITTI's times.txt beside it")
    except ValueError as error:
        raise TruthError(f"truth {path} cannot be read as KITTI poses: {error}") from None
    if len(rows) != len(stamps):
        whose = "times.txt" if times.exists() else "the recording"
        raise TruthError(f"truth {path} has {len(rows)} poses, {whose} has {len(stamps)} stamps")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows.reshape(-1, 3, 4)
    return _in_order(path, stamps, poses)


def _in_order(path: Path, stamps_ns: StampArray, poses: FloatArray) -> Trajectory:
    if np.any(np.diff(stamps_ns) <= 0):
        raise TruthError(f"truth {path}: the stamps do not increase")
    return Trajectory(np.asarray(stamps_ns, np.int64), poses)


def check_overlap(truth: Trajectory, source: str, first_ns: int, last_ns: int) -> None:
    """See that the truth is of the time of the images.

    Raises:
        TruthError: it is not; with both ranges.
    """
    if len(truth) == 0:
        raise TruthError(f"truth {source} holds no poses")
    begin, end = int(truth.stamps_ns[0]), int(truth.stamps_ns[-1])
    if end < first_ns or begin > last_ns:
        raise TruthError(
            f"truth {source} is of {begin / 1e9:.3f} to {end / 1e9:.3f} s, the images are of "
            f"{first_ns / 1e9:.3f} to {last_ns / 1e9:.3f} s: no common time; is it of this "
            "recording and by the same clock?"
        )
