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

"""The public data sets: which sequences others report, what their folders look like."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.recordings.layouts import is_replica, is_seven_scenes, is_tum_rgbd
from mvdust3r_ros.recordings.tables import TableError, read_text
from mvdust3r_ros.wording import plural

TEST_SPLIT = "test"
FIRST = "seq-01"
SPLITS = (FIRST, TEST_SPLIT)


class BenchmarkError(MvDust3rError):
    """A data set is not where it was said to be, or has no such sequence."""


@dataclass(frozen=True)
class DataSet:
    """A data set as others report on it.

    Attributes:
        title: shown to people.
        folders: name of a sequence in the published tables -> its folder in that of the data set.
        images: where the recording is in the folder of a sequence; empty for right there.
        truth: true poses in the folder of a sequence; empty where the layout says.
        fits: whether a folder of images has the layout.
        layout: what it is recognised by, in words.
        source: where to get it.
        every: take the first of so many images.
    """

    title: str
    folders: Mapping[str, str]
    layout: str
    source: str
    fits: Callable[[Path], bool]
    images: str = ""
    truth: str = ""
    every: int = 2


@dataclass(frozen=True)
class BenchmarkSequence:
    """A sequence that is there.

    Attributes:
        name: as in the published tables; of a test split with the folder, chess/seq-03.
        folder: of the sequence.
        source: the recording in it.
        truth: file of true poses; None for those of the layout.
    """

    name: str
    folder: Path
    source: Path
    truth: Path | None = None


def _is_euroc(images: Path) -> bool:
    return (images.parent / "sensor.yaml").is_file() and any(images.glob("*.png"))


_TUM = ("360", "desk", "desk2", "floor", "plant", "room", "rpy", "teddy", "xyz")
_SCENES = ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")
_EUROC = (
    "MH_01_easy", "MH_02_easy", "MH_03_medium", "MH_04_difficult", "MH_05_difficult",
    "V1_01_easy", "V1_02_medium", "V1_03_difficult",
    "V2_01_easy", "V2_02_medium", "V2_03_difficult",
)  # fmt: skip
_REPLICA = ("room0", "room1", "room2", "office0", "office1", "office2", "office3", "office4")
SEVEN_SCENES = "7scenes"
# Sequences and, but for Replica, every second image as MASt3R-SLAM's evaluation scripts have them.
DATA_SETS = {
    "tum": DataSet(
        "TUM RGB-D, freiburg1", {name: f"rgbd_dataset_freiburg1_{name}" for name in _TUM},
        "rgb.txt", "https://cvg.cit.tum.de/data/datasets/rgbd-dataset/download", is_tum_rgbd,
    ),
    SEVEN_SCENES: DataSet(
        "7-Scenes", {name: name for name in _SCENES}, "frame-000000.color.png",
        "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/ "
        "(unpack the sequences inside each scene too)", is_seven_scenes,
    ),
    "euroc": DataSet(
        "EuRoC MAV", {name[:5]: name for name in _EUROC}, "PNGs, and sensor.yaml above them",
        "https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets "
        "(the ASL format)", _is_euroc, "mav0/cam0/data",
        "mav0/state_groundtruth_estimate0/data.csv",
    ),
    "replica": DataSet(
        "Replica, as rendered for NICE-SLAM", {name: name for name in _REPLICA},
        "results/frame000000.jpg and traj.txt",
        "https://cvg-data.inf.ethz.ch/nice-slam/data/Replica.zip", is_replica, every=1,
    ),
}  # fmt: skip


def find_sequences(
    key: str, data: Path, wanted: Sequence[str] = (), split: str = FIRST
) -> tuple[list[BenchmarkSequence], list[str]]:
    """The sequences of a data set that are there.

    Args:
        key: of `DATA_SETS`.
        data: folder of the data set.
        wanted: names of sequences; empty for all.
        split: of 7-Scenes: "seq-01" of each scene, or its "test" split.

    Returns:
        Those that are there, and a line about each other one.

    Raises:
        BenchmarkError: none of them is there, or there is no such name; with what was looked for
            and where to get it.
    """
    data_set = DATA_SETS[key]
    if unknown := [name for name in wanted if name.split("/")[0] not in data_set.folders]:
        raise BenchmarkError(
            f"{data_set.title} has no sequence {', '.join(unknown)}: it has "
            f"{', '.join(data_set.folders)}"
        )
    if not data.is_dir():
        raise BenchmarkError(f"{data} is no folder; {_where(data_set)}")
    found, missing = [], []
    for name, folder in _places(key, data, split).items():
        if wanted and name not in wanted and name.split("/")[0] not in wanted:
            continue
        source = folder / data_set.images
        if source.is_dir() and data_set.fits(source):
            truth = folder / data_set.truth if data_set.truth else None
            found.append(BenchmarkSequence(name, folder, source, truth))
        else:
            missing.append(f"{name}: {source} is not there, or has no {data_set.layout}")
    if not found:
        first = missing[0] if missing else f"{', '.join(wanted)}: not in the split {split}"
        more = f", as {plural(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
        raise BenchmarkError(
            f"{data} holds no sequence of {data_set.title}: {first}{more}; {_where(data_set)}"
        )
    return found, missing


def _places(key: str, data: Path, split: str) -> dict[str, Path]:
    """Name of a sequence -> its folder."""
    folders = DATA_SETS[key].folders
    if key != SEVEN_SCENES:
        return {name: data / folder for name, folder in folders.items()}
    if split == FIRST:
        return {name: data / folder / FIRST for name, folder in folders.items()}
    places = {}
    for name, folder in folders.items():
        for sequence in _test_split(data / folder):
            places[f"{name}/{sequence}"] = data / folder / sequence
    return places


def _test_split(scene: Path) -> list[str]:
    """Folders that the data set's TestSplit.txt names: `sequence3` is seq-03."""
    try:
        text = read_text(scene / "TestSplit.txt")
    except TableError:
        return []
    return [f"seq-{int(n):02d}" for n in re.findall(r"\d+", text)]


def _where(data_set: DataSet) -> str:
    return f"get it from {data_set.source}"
