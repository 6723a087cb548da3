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

"""Read true camera poses from a file: TUM, KITTI, EuRoC, or matrices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FloatArray, MvDust3rError, Trajectory
from mvdust3r_ros.geometry import se3_from_quaternion
from mvdust3r_ros.recordings.tables import (
    COMMENT,
    FEW_TWINS,
    TIMES_FILES,
    UNITS,
    Row,
    Table,
    TableError,
    common_unit,
    decimal,
    number,
    read_table,
    read_text,
    read_times,
    stamp_of,
)

TUM_COLUMNS = ("stamp", "x", "y", "z", "qx", "qy", "qz", "qw")
EUROC_COLUMNS = ("stamp", "x", "y", "z", "qw", "qx", "qy", "qz")
EUROC_NUMBERS = 17
"""Time, position, quaternion, velocity and the biases of gyroscope and accelerometer."""
MATRIX_NUMBERS = (12, 16)
"""3x4 as in KITTI, and 4x4."""
ROTATION_TOLERANCE = 1e-2
"""On the stretch of a rotation and the length of its rows: files round to three digits or more."""
UNIT_LENGTH = (0.95, 1.05)
"""Quaternions rounded to two digits have a length within 0.01 of 1; others are invalid."""
BOTTOM_ROW = (0.0, 0.0, 0.0, 1.0)
"""The last row of a rigid transform in homogeneous coordinates."""
TRUTH_FILES = tuple(
    f"{stem}.{suffix}"
    for stem in ("poses", "groundtruth", "truth", "trajectory", "traj")
    for suffix in ("txt", "tum", "csv")
)
StampArray = npt.NDArray[np.int64]
Notify = Callable[[str], None]


FOREIGN = (
    (r"^version https://git-lfs", "a pointer of Git LFS"),
    (r"IMAGE_ID, QW", "COLMAP's images.txt"),
    (r"^(?:VERTEX|EDGE)_", "a pose graph (g2o)"),
    (r"\A[{\[]", "JSON"),
    (r"\A<", "HTML or XML"),
)
MOST_HEADER_LINES = 20
"""A foreign format identifies itself in its first lines; later comments may hold anything."""
EXPECTED = "lines of `timestamp x y z qx qy qz qw`, or of 3x4 or 4x4 matrices"


MOST_RATIO = 100.0
"""Limit of the ratio between the time spans of truth and images; units differ by 1000."""
UNIT_NAMED = re.compile(
    r"(?:^|[^a-z])(n|ns|nsecs?|nanosec\w*|u|us|usecs?|microsec\w*|ms|msecs?|millisec\w*|s|secs?|"
    r"seconds?)(?:[^a-z]|$)"
)
UNIT_OF_LETTER = {
    "n": "nanoseconds",
    "u": "microseconds",
    "mi": "microseconds",
    "m": "milliseconds",
    "s": "seconds",
}


class TruthError(MvDust3rError):
    """A ground truth cannot be read or does not belong to the recording."""


def sidecar_truth(place: Path) -> Path | None:
    """Return a file of true poses in a folder, or next to a folder or file; None without one."""
    folders = (place, place.resolve().parent)
    paths = (folder / name for folder in folders for name in TRUTH_FILES)
    return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class _Source:
    """The file being read.

    Attributes:
        path: the file.
        frame_stamps_ns: stamps of the recording's frames, or None.
        notify: called with what was left out or decided.
    """

    path: Path
    frame_stamps_ns: StampArray | None
    notify: Notify

    def wrong(self, row: Row, why: object) -> TruthError:
        text = " ".join(row.fields)[:60]
        return TruthError(f"truth {self.path}, line {row.line}: {why}; got {text!r}")


def read_truth(
    path: Path, frame_stamps_ns: StampArray | None = None, notify: Notify | None = None
) -> Trajectory:
    """Read camera-to-world poses; the format is detected from the content.

    Args:
        path: TUM (`timestamp tx ty tz qx qy qz qw`), EuRoC (csv, nanoseconds, w first), any order
            that a header names, or matrices: the upper three rows (KITTI) or all four, one line
            per pose or per row, with a stamp in front or without (then stamps come from
            `times.txt` next to it, or from the frames). Stamps since 1970 may be in any unit.
        frame_stamps_ns: (N,) stamps of the recording's frames, for lists without stamps.
        notify: called with what was left out or decided, one line each.

    Returns:
        The poses in order of time, without lines that have no pose (NaN, zero quaternion).

    Raises:
        TruthError: the file cannot be read, or has none of these forms; with the line and the
            remedy.
    """
    source = _Source(path, frame_stamps_ns, notify or (lambda _: None))
    try:
        table = read_table(path)
        if not table.rows or "IMAGE_ID" in table.header:
            raise _foreign(path)
        rows = _of_one_width(source, table.rows)
        numbers = len(rows[0].fields)
        if numbers == 4:  # one row of a matrix per line
            return _from_matrices(source, table, _joined(source, rows), 0)
        if numbers in MATRIX_NUMBERS:
            return _from_matrices(source, table, rows, 0)
        # a time before 12 or 16 numbers; EuRoC's lines have 17 as well
        if numbers == 13 or (numbers == EUROC_NUMBERS and _ends_as_matrix(rows)):
            return _from_matrices(source, table, rows, 1)
        return _from_quaternions(source, table, rows)
    except TableError as error:
        raise TruthError(f"truth {error}") from None


def _foreign(path: Path) -> TruthError:
    """Explain what is wrong with a file without lines of poses."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    text = "\n".join(lines[:MOST_HEADER_LINES])
    for pattern, kind in FOREIGN:
        if re.search(pattern, text, re.MULTILINE):
            remedy = "`git lfs pull` fetches the file" if "LFS" in kind else f"write {EXPECTED}"
            return TruthError(f"truth {path} is {kind}, which is not read: {remedy}")
    first = next((line for line in lines if not COMMENT.match(line)), "")
    return TruthError(
        f"truth {path} holds no poses"
        + (f": its first line is {first[:60]!r}" if first else "")
        + f"; expected {EXPECTED}; or leave it out by --truth none"
    )


def _of_one_width(source: _Source, rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows, without a truncated last one.

    Raises:
        TruthError: a row has more or fewer numbers than the others.
    """
    width, _ = Counter(len(row.fields) for row in rows).most_common(1)[0]
    if len(rows) > 1 and len(rows[-1].fields) < width:
        source.notify(f"truth {source.path}: the last line is cut off and left out")
        rows = rows[:-1]
    with_stamps = width >= len(TUM_COLUMNS) and width not in MATRIX_NUMBERS
    for row in rows:
        if len(row.fields) != width and not (with_stamps and len(row.fields) == 1):
            raise source.wrong(row, f"{len(row.fields)} values, the other lines have {width}")
    nothing = ("",) * (width - 1)  # a time alone: tracking was lost
    return [
        row if len(row.fields) == width else Row(row.line, row.fields + nothing) for row in rows
    ]


def _ends_as_matrix(rows: Sequence[Row]) -> bool:
    try:
        return all(tuple(map(float, row.fields[-4:])) == BOTTOM_ROW for row in rows)
    except ValueError:
        return False


def _from_quaternions(source: _Source, table: Table, rows: Sequence[Row]) -> Trajectory:
    columns = _columns(source, table, rows)
    places = [columns[name] for name in TUM_COLUMNS[1:]]
    stamps = _stamps(source, table, rows, columns)
    return _trajectory(
        source, rows, stamps, lambda row: _pose(np.array([number(row.fields[k]) for k in places]))
    )


def _from_matrices(source: _Source, table: Table, rows: Sequence[Row], begin: int) -> Trajectory:
    """Return poses whose matrices begin at this word; with stamps if it is not the first."""
    if begin:
        stamps = _stamps(source, table, rows, {"stamp": 0})
    else:
        stamps = _sidecar_stamps(source, len(rows))
    return _trajectory(
        source,
        rows,
        stamps,
        lambda row: _matrix(np.array([number(w) for w in row.fields[begin:]])),
    )


def _trajectory(
    source: _Source,
    rows: Sequence[Row],
    stamps: Sequence[int],
    pose: Callable[[Row], FloatArray | None],
) -> Trajectory:
    """Return the poses by time, of the rows that have one."""
    found: list[tuple[int, FloatArray, Row]] = []
    without = []
    for stamp, row in zip(stamps, rows, strict=True):
        try:
            T = pose(row)
        except ValueError as error:
            raise source.wrong(row, error) from None
        if T is None:
            without.append(row)
        else:
            found.append((stamp, T, row))
    if without:
        source.notify(
            f"truth {source.path}: lines without a pose: {len(without)} left out, the first is "
            f"line {without[0].line}"
        )
    if not found:
        raise TruthError(
            f"truth {source.path} holds no poses: line {without[0].line} and all others have NaN "
            "or a quaternion of zeros"
        )
    return _in_order(source, found)


def _pose(numbers: FloatArray) -> FloatArray | None:
    """Return (4, 4) of x y z qx qy qz qw; None without a pose."""
    length = float(np.linalg.norm(numbers[3:]))
    if not np.isfinite(numbers).all() or length < 1e-6:
        return None
    if not UNIT_LENGTH[0] < length < UNIT_LENGTH[1]:
        raise ValueError(f"a quaternion of length {length:.3g}, expected 1")
    return se3_from_quaternion(numbers[3:], numbers[:3])


def _columns(source: _Source, table: Table, rows: Sequence[Row]) -> dict[str, int]:
    """Return the column of each value: by the header, otherwise as in TUM or EuRoC."""
    numbers = len(rows[0].fields)
    names = [_meaning(name) for name in table.header]
    if len(names) == numbers and set(TUM_COLUMNS[1:]) <= set(names):
        found = {name: names.index(name) for name in TUM_COLUMNS[1:]}
        for name in ("stamp", "nanoseconds"):
            if name in names:
                found[name] = names.index(name)
        return {"stamp": 0, **found}
    if any(re.search(r"roll|pitch|yaw|euler", name.lower()) for name in table.header):
        raise TruthError(f"truth {source.path} has Euler angles: write quaternions instead")
    if numbers != len(TUM_COLUMNS) and not (table.has_separators and numbers == EUROC_NUMBERS):
        raise TruthError(
            f"truth {source.path}, line {rows[0].line}: a line of {numbers} values is neither TUM "
            "(8), KITTI (12), a matrix (16) nor EuRoC (8 or 17, with commas)"
        )
    is_integer = all(re.fullmatch(r"[-+]?\d+", row.fields[0]) for row in rows)
    is_euroc = table.has_separators and is_integer
    if is_euroc and not names:
        source.notify(f"truth {source.path}: quaternions are taken as EuRoC has them, w first")
    order = EUROC_COLUMNS if is_euroc else TUM_COLUMNS
    return {name: k for k, name in enumerate(order)}


def _meaning(name: str) -> str:
    """Return the value that a column of this name holds; empty for others."""
    words = re.sub(r"[\[(].*", "", name).strip().lower().replace(".", "_")
    if re.fullmatch(r"(?:.*_)?n(?:ano)?_?(?:secs?|seconds?)", words):
        return "nanoseconds"
    if re.search(r"time|stamp|^t$|^ts$|^(?:secs?|seconds?)$", words):
        return "stamp"
    if found := re.fullmatch(r"(?:.*(?:quat|orient|rot|_q).*|q.*?)_?([wxyz])", words):
        return f"q{found[1]}"
    if found := re.fullmatch(r"(?:t|p|p_.*|.*pos.*|.*trans.*)?_?([xyz])", words):
        return found[1]
    return ""


def _stamps(
    source: _Source, table: Table, rows: Sequence[Row], columns: Mapping[str, int]
) -> list[int]:
    """Return stamps in ns: from times in any unit, seconds and nanoseconds, or the images."""
    values = _values(source, rows, columns["stamp"])
    if "nanoseconds" in columns:
        rest = _values(source, rows, columns["nanoseconds"])
        return [stamp_of(s, "seconds") + int(n) for s, n in zip(values, rest, strict=True)]
    try:
        unit = common_unit(values)
    except ValueError as error:
        raise TruthError(f"truth {source.path}: {error}; give all of them in one unit") from None
    if unit is None and (of_images := _stamps_of_images(source, values)) is not None:
        return of_images
    if unit is None:
        unit = _unit_of_own_clock(source, table, rows, values, columns["stamp"])
    stamps = []
    for value, row in zip(values, rows, strict=True):
        try:
            stamps.append(stamp_of(value, unit))
        except ValueError as error:
            raise source.wrong(row, error) from None
    return stamps


def _values(source: _Source, rows: Sequence[Row], column: int) -> list[Decimal]:
    found = []
    for row in rows:
        try:
            found.append(decimal(row.fields[column]))
        except ValueError as error:
            raise source.wrong(row, f"expected a time first ({error})") from None
    return found


def _stamps_of_images(source: _Source, values: Sequence[Decimal]) -> list[int] | None:
    """Return stamps of the images if the times just count them; None otherwise."""
    frames = source.frame_stamps_ns
    if frames is None or len(frames) < 2 or len(values) != len(frames):
        return None
    counted = [value - values[0] for value in values] == list(range(len(values)))
    every_s = float(np.median(np.diff(frames))) / 1e9
    # at about one image per second, numbers look like times
    if not counted or values[0] not in (0, 1) or 0.5 < every_s < 2:
        return None
    source.notify(f"truth {source.path}: its times are taken as the numbers of the images")
    return [int(stamp) for stamp in frames]


def _unit_of_own_clock(
    source: _Source,
    table: Table,
    rows: Sequence[Row],
    values: Sequence[Decimal],
    column: int,
) -> str:
    """Return the unit of times with an origin other than 1970."""
    if column < len(table.header) and (named := UNIT_NAMED.search(table.header[column].lower())):
        return UNIT_OF_LETTER[named[1][:2] if named[1].startswith("mi") else named[1][0]]
    is_integer = all("." not in row.fields[column] for row in rows)
    default = "nanoseconds" if table.has_separators and is_integer else "seconds"
    frames = source.frame_stamps_ns
    span = float(max(values) - min(values))
    if frames is None or len(frames) < 2 or span == 0:
        return default
    first, last = int(frames.min()), int(frames.max())
    ratios = {
        name: span * ns / (last - first)
        for name, ns in UNITS.items()
        if min(values) * ns <= last and max(values) * ns >= first
    }
    if 1 / MOST_RATIO < ratios.get(default, 0) < MOST_RATIO:
        return default
    fitting = {name: ratio for name, ratio in ratios.items() if 0.5 <= ratio < MOST_RATIO}
    best = min(fitting, key=lambda name: abs(np.log(ratios[name])), default=default)
    if best != default:
        source.notify(f"truth {source.path}: its times are taken as {best}")
    return best


def _joined(source: _Source, rows: Sequence[Row]) -> list[Row]:
    """Join matrices with one row per line into one line each."""
    for row in rows[:3]:
        try:
            length = float(np.linalg.norm([number(word) for word in row.fields[:3]]))
        except ValueError as error:
            raise source.wrong(row, error) from None
        if abs(length - 1) > ROTATION_TOLERANCE:
            raise source.wrong(
                row, f"4 values are neither a pose nor a row of its matrix; expected {EXPECTED}"
            )
    height = 4 if len(rows) % 4 == 0 and _ends_as_matrix(rows[3::4]) else 3
    if len(rows) % height:
        raise TruthError(f"truth {source.path}: {len(rows)} lines of 4 numbers are no matrices")
    groups = [rows[k : k + height] for k in range(0, len(rows), height)]
    return [Row(g[0].line, tuple(word for row in g for word in row.fields)) for g in groups]


def _matrix(numbers: FloatArray) -> FloatArray | None:
    """Return (4, 4) of 12 or 16 numbers, row by row; None without a pose.

    Raises:
        ValueError: it is not a rigid transform.
    """
    if not np.isfinite(numbers).all():
        return None
    T = np.vstack([numbers.reshape(-1, 4)[:3], BOTTOM_ROW])
    bottom = tuple(numbers[12:]) or BOTTOM_ROW
    if not np.allclose(bottom, BOTTOM_ROW):
        if not np.allclose(numbers[3::4], BOTTOM_ROW):
            raise ValueError("the last row of a 4x4 matrix is 0 0 0 1")
        T = numbers.reshape(4, 4).T.copy()  # column by column
    U, stretch, Vt = np.linalg.svd(T[:3, :3])
    R = U @ Vt
    if np.abs(stretch - 1).max() > ROTATION_TOLERANCE or np.linalg.det(R) < 0:
        raise ValueError(
            f"the 3x3 part is no rotation (it stretches by {stretch.min():.3g} to "
            f"{stretch.max():.3g})"
        )
    T[:3, :3] = R
    return T


def _sidecar_stamps(source: _Source, poses: int) -> list[int]:
    """Return stamps for poses without any: of times.txt next to them, or of the frames."""
    times = next((p for p in map(source.path.with_name, TIMES_FILES) if p.is_file()), None)
    if times is not None:
        stamps, whose = read_times(times), times.name
    elif source.frame_stamps_ns is not None:
        stamps, whose = [int(s) for s in source.frame_stamps_ns], "the recording"
    else:
        raise TruthError(f"truth {source.path} has no stamps: put KITTI's times.txt beside it")
    if poses != len(stamps):
        raise TruthError(
            f"truth {source.path} has {poses} poses, {whose} has {len(stamps)} stamps: without "
            "stamps each image needs a line, NaN where there is no pose"
        )
    return stamps


def _in_order(source: _Source, found: Sequence[tuple[int, FloatArray, Row]]) -> Trajectory:
    """Return the poses by time, without duplicates."""
    path = source.path
    ordered = sorted(found, key=lambda one: (one[0], one[2].line))
    if [one[0] for one in ordered] != [one[0] for one in found]:
        source.notify(f"truth {path}: its lines are not in order of time and were sorted")
    kept, others = ordered[:1], []
    for stamp, T, row in ordered[1:]:
        if stamp > kept[-1][0]:
            kept.append((stamp, T, row))
        elif not np.allclose(T, kept[-1][1], atol=1e-6):
            others.append((row, kept[-1][2].line))
    if others:
        row, line = others[0]
        remedy = "delete one"
        if len(others) > max(1, FEW_TWINS * len(found)):
            remedy = f"as it is with {len(others)} lines: write times with more digits"
        raise source.wrong(row, f"another pose of the time of line {line}; {remedy}")
    if len(kept) < len(found):
        source.notify(f"truth {path}: lines that come twice: {len(found) - len(kept)} left out")
    return Trajectory(
        np.array([stamp for stamp, _, _ in kept], np.int64), np.array([T for _, T, _ in kept])
    )


def check_overlap(truth: Trajectory, source: str, first_ns: int, last_ns: int) -> None:
    """Check that the truth overlaps the images in time.

    Raises:
        TruthError: it does not; with both ranges.
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
