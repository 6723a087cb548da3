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

"""True poses in place of those of the data set: a file a sequence, or pseudo truth of 7-Scenes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import FloatArray, Trajectory
from mvdust3r_ros.drawing.map_files import write_tum
from mvdust3r_ros.evaluation.benchmark.data_sets import BenchmarkError, BenchmarkSequence
from mvdust3r_ros.geometry import invert_se3, se3_from_quaternion
from mvdust3r_ros.recordings.layouts import DATASET_HZ
from mvdust3r_ros.recordings.tables import TableError, read_text

PARTS = ("test", "train")
"""Files of a scene in the pseudo truth of Brachmann et al. (2021): either split."""
LINE = re.compile(r"(?P<sequence>[^/\s]+)/frame-(?P<number>\d+)\S*\s+(?P<numbers>.+)")
"""`seq-01/frame-000000.color.png qw qx qy qz tx ty tz f`, world to camera."""


def true_poses(sequence: BenchmarkSequence, given: Path | None, out: Path) -> str:
    """The file of true poses of a sequence, for `--truth`.

    Args:
        sequence: of the data set.
        given: folder with NAME.txt (TUM; for 7-Scenes the number of the image may be the time), or
            with SCENE_test.txt and SCENE_train.txt of the pseudo truth of 7-Scenes; None for the
            poses of the data set.
        out: folder to write the poses of pseudo truth into.

    Returns:
        The file; empty for the poses that the layout has.

    Raises:
        BenchmarkError: the folder has none for this sequence.
        MapFileError: they cannot be written.
    """
    if given is None:
        return "" if sequence.truth is None else str(sequence.truth)
    scene = sequence.name.split("/")[0]
    plain = [given / f"{name}.txt" for name in (sequence.name, sequence.folder.name)]
    lists = [given / f"{scene}_{part}.txt" for part in PARTS]
    for path in plain:
        if path.is_file():
            return str(path)
    for path in lists:
        poses = _pseudo_truth(path, sequence.folder.name) if path.is_file() else None
        if poses is not None:
            out.mkdir(parents=True, exist_ok=True)
            write_tum(out / "pseudo_truth.tum", poses)
            return str(out / "pseudo_truth.tum")
    names = ", ".join(path.name for path in (*plain, *lists))
    raise BenchmarkError(
        f"truth {given} has no poses of {sequence.name}, looked for in {names}: the pseudo truth "
        "of 7-Scenes is in pgt/sfm/7scenes of "
        "https://github.com/tsattler/visloc_pseudo_gt_limitations"
    )


def _pseudo_truth(path: Path, sequence: str) -> Trajectory | None:
    """Poses of one sequence in the list of a scene; None where it has none of it."""
    found: dict[int, FloatArray] = {}
    try:
        text = read_text(path)
    except TableError as error:
        raise BenchmarkError(f"truth {error}") from None
    for line in text.splitlines():
        match = LINE.match(line.strip())
        if match is None or match["sequence"] != sequence:
            continue
        try:
            w, x, y, z, *t = (float(word) for word in match["numbers"].split()[:7])
            T_cam_world = se3_from_quaternion(np.array([x, y, z, w]), np.array(t))
        except ValueError:
            raise BenchmarkError(f"truth {path}: no pose in {line.strip()[:60]!r}") from None
        found[round(int(match["number"]) * 1e9 / DATASET_HZ)] = invert_se3(T_cam_world)
    if not found:
        return None
    stamps = sorted(found)
    return Trajectory(np.array(stamps, np.int64), np.array([found[stamp] for stamp in stamps]))
