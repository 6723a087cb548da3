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

"""Folder layouts: TUM RGB-D, 7-Scenes, ScanNet, Replica, or plain images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Trajectory
from mvdust3r_ros.recordings.camera_file import sidecar_camera
from mvdust3r_ros.recordings.camera_forms import Size, pinhole_matrix
from mvdust3r_ros.recordings.image_sequence import ImageSequence, SequenceImage, common_size
from mvdust3r_ros.recordings.image_times import times_of_images
from mvdust3r_ros.recordings.recording import Notes, RecordingError
from mvdust3r_ros.recordings.tables import (
    COMMENT,
    FEW_TWINS,
    TableError,
    decimal,
    read_text,
    stamp_of,
    unit_since_1970,
)
from mvdust3r_ros.recordings.truth_files import ROTATION_TOLERANCE, sidecar_truth

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
FOREIGN_SUFFIXES = (
    ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".exr", ".dng",
)  # fmt: skip
FEW_IMAGES = 2
"""So few pictures next to other files are a plan or a preview, not a recording."""
DATASET_HZ = 30.0
"""Rate of the depth cameras of 7-Scenes (Kinect) and ScanNet (Structure), whose files hold no
times; those of Replica, which were rendered, hold none either."""
TUM_UNIT_M = 1 / 5000
"""From the data set's page: 5000 is 1 m."""
TUM_MATCH_NS = 20_000_000
"""Default of `--max_difference` in the data set's associate.py."""
# fx, fy, cx, cy and distortion as published with the data set, for 640x480 pixels.
TUM_CAMERAS = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), ()),
}
SEVEN_SCENES_CAMERA = (585.0, 585.0, 320.0, 240.0)
"""fx, fy, cx, cy as published with the data set, for 640x480 pixels."""
REPLICA_CAMERA = (600.0, 600.0, 599.5, 339.5)
"""fx, fy, cx, cy of `cam_params.json` as published with NICE-SLAM's renderings, for 1200x680."""
REPLICA_UNIT_M = 1 / 6553.5
"""`scale` of the same file: the steps of a metre."""
NOT_PICTURES = re.compile(
    r"depth|disp|mask|label|normal|confidence|semantic|segment|instance", re.IGNORECASE
)
MIN_SERIES = 8
"""Fewer images may all have different names: shares of them mean nothing."""
SERIES_SHARE = 0.2
"""A name shared by more of the images than this is a series; by fewer, they are strays."""


def is_tum_rgbd(folder: Path) -> bool:
    """Whether a folder holds `rgb.txt`."""
    return (folder / "rgb.txt").is_file()


def tum_rgbd(folder: Path) -> ImageSequence:
    """Read TUM RGB-D: rgb.txt, depth.txt and groundtruth.txt.

    The intrinsics are from an `intrinsics.yaml` in the folder, otherwise the published ones of
    freiburg1, 2 or 3, by the folder's name.

    Raises:
        RecordingError: a list cannot be parsed.
    """
    notes = Notes()
    images = _tum_list(folder, "rgb.txt", notes)
    if not images:
        raise RecordingError(
            f"{folder / 'rgb.txt'} lists no images: expected lines of `timestamp file`"
        )
    depths = _tum_list(folder, "depth.txt", notes) if (folder / "depth.txt").exists() else {}
    depth_stamps = np.array(sorted(depths), np.int64)
    items = []
    for stamp in sorted(images):
        depth = None
        if len(depth_stamps):
            nearest = int(depth_stamps[np.abs(depth_stamps - stamp).argmin()])
            depth = depths[nearest] if abs(nearest - stamp) <= TUM_MATCH_NS else None
        items.append(SequenceImage(stamp, images[stamp], depth))
    truth = folder / "groundtruth.txt"
    size = common_size([item.image for item in items])
    return ImageSequence(
        "TUM RGB-D", tuple(items), _tum_camera(folder, size), TUM_UNIT_M,
        truth_source=truth if truth.exists() else None, size_wh=size, notes=notes,
    )  # fmt: skip


def _tum_list(folder: Path, name: str, notes: Notes) -> dict[int, Path]:
    """Return stamp -> file of the lines `timestamp path`; other lines are noted and skipped."""
    found: dict[int, Path] = {}
    path = folder / name
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or COMMENT.match(line):
            continue
        words = re.split(r"[\s,;]+", line.strip(), maxsplit=1)
        try:
            value = decimal(words[0])
            stamp = stamp_of(value, unit_since_1970(value) or "seconds")
            found[stamp] = folder / words[1].strip().replace("\\", "/")
        except (ValueError, IndexError):
            notes.add(
                f"{path}: lines that are not `timestamp file` are left out", f"line {number}"
            )
    return found


def _tum_camera(folder: Path, size_wh: Size | None) -> CameraModel | None:
    if (given := sidecar_camera(folder, size_wh)) is not None:
        return given
    name = folder.resolve().name.lower()
    for family, (pinhole, distortion) in TUM_CAMERAS.items():
        if family in name:
            return CameraModel(pinhole_matrix(*pinhole), 640, 480, distortion)
    return None


def is_seven_scenes(folder: Path) -> bool:
    """Whether a folder holds `frame-000000.color.png` and the like, or the same as JPEG."""
    return bool(_color_frames(folder))


def _color_frames(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("frame-*.color.*") if is_image(p)]
    return in_natural_order(p for p in found if re.match(r"frame-\d+\.", p.name))


def seven_scenes(folder: Path) -> ImageSequence:
    """Read a 7-Scenes sequence at 30 Hz: frame-N.color.png or .jpg, .depth.png, .pose.txt."""
    images = _color_frames(folder)
    numbers = [_number(path.name.split(".")[0]) for path in images]
    stems = [str(path).removesuffix(path.suffix).removesuffix(".color") for path in images]
    size = common_size(images)
    published = CameraModel(pinhole_matrix(*SEVEN_SCENES_CAMERA), 640, 480)
    depths = [Path(f"{stem}.depth.png") for stem in stems]
    poses = [Path(f"{stem}.pose.txt") for stem in stems]
    camera = sidecar_camera(folder, size) or published
    return _numbered("7-Scenes", images, numbers, depths, poses, camera, size)


def is_replica(folder: Path) -> bool:
    """Whether a folder holds `traj.txt` and `results/frame000000.jpg` and the like."""
    return (folder / "traj.txt").is_file() and bool(_replica_frames(folder))


def _replica_frames(folder: Path) -> list[Path]:
    return in_natural_order(p for p in folder.glob("results/frame*") if is_image(p))


def replica(folder: Path) -> ImageSequence:
    """A sequence of Replica as rendered for NICE-SLAM: results/frameN.jpg, depthN.png; traj.txt.

    Times are those of 30 images a second; `traj.txt` has a 4x4 matrix a line, one for each image.
    """
    images = [path for path in _replica_frames(folder) if re.search(r"\d", path.stem)]
    items = []
    for image in images:
        depth = image.with_name(f"{image.stem.replace('frame', 'depth', 1)}.png")
        stamp = round(_number(image.stem) * 1e9 / DATASET_HZ)
        items.append(SequenceImage(stamp, image, depth if depth.exists() else None))
    size = common_size(images)
    published = CameraModel(pinhole_matrix(*REPLICA_CAMERA), 1200, 680)
    return ImageSequence(
        "Replica", tuple(items), sidecar_camera(folder, size) or published, REPLICA_UNIT_M,
        truth_source=folder / "traj.txt", size_wh=size,
    )  # fmt: skip


def is_scannet(folder: Path) -> bool:
    """Whether a folder holds `color` and `pose`."""
    return all((folder / name).is_dir() for name in ("color", "pose"))


def scannet(folder: Path) -> ImageSequence:
    """Read a ScanNet scan as extracted by SensReader: color, depth, pose and intrinsic.

    Depth differs from colour in size and intrinsics; the viewpoint is the same.

    Raises:
        RecordingError: a matrix cannot be read, or there are no images.
    """
    images = in_natural_order(p for p in (folder / "color").iterdir() if is_image(p))
    images = [path for path in images if re.search(r"\d", path.stem)]
    if not images:
        raise RecordingError(f"{folder / 'color'} holds no images")
    numbers = [_number(path.stem) for path in images]
    depths = _by_number(folder / "depth", "png", numbers)
    poses = _by_number(folder / "pose", "txt", numbers)
    size, K_depth = common_size(images), None
    camera = sidecar_camera(folder, size)
    if size is not None and (folder / "intrinsic" / "intrinsic_color.txt").exists():
        camera = CameraModel(_intrinsic(folder, "color"), *size)
        K_depth = _intrinsic(folder, "depth") if (folder / "depth").is_dir() else None
    return _numbered("ScanNet", images, numbers, depths, poses, camera, size, K_depth)


def _by_number(folder: Path, suffix: str, numbers: Sequence[int]) -> list[Path]:
    """Return the file of each number, zero-padded or not; it may not exist."""
    named = [path for path in folder.glob(f"*.{suffix}") if path.stem.isdecimal()]
    found = {int(path.stem): path for path in in_natural_order(named)}
    return [found.get(number, folder / f"{number}.{suffix}") for number in numbers]


def _intrinsic(folder: Path, which: str) -> FloatArray:
    return _matrix(folder / "intrinsic" / f"intrinsic_{which}.txt")[:3, :3]


def _numbered(
    kind: str,
    images: Sequence[Path],
    numbers: Sequence[int],
    depths: Sequence[Path],
    poses: Sequence[Path],
    camera: CameraModel | None,
    size_wh: Size | None,
    K_depth: FloatArray | None = None,
) -> ImageSequence:
    """Make a recording whose files are identified by frame number."""
    notes, has_poses = Notes(), any(pose.exists() for pose in poses)
    found, items, known = dict[int, FloatArray](), list[SequenceImage](), set[int]()
    for number, image, depth, pose in zip(numbers, images, depths, poses, strict=True):
        stamp = round(number * 1e9 / DATASET_HZ)
        if number in known:
            notes.add("images with the number of another are left out", image.name)
            continue
        known.add(number)
        items.append(SequenceImage(stamp, image, depth if depth.exists() else None))
        T, why = _pose(pose)
        if T is not None:
            found[stamp] = T
        elif has_poses:
            notes.add(f"true poses: {why}", pose.name)
    truth = None
    if found:
        ordered = sorted(found)
        truth = Trajectory(np.array(ordered, np.int64), np.array([found[s] for s in ordered]))
    source = poses[0].parent if truth is not None else None
    in_order = tuple(sorted(items, key=lambda item: item.stamp_ns))
    return ImageSequence(
        kind, in_order, camera, 0.001, K_depth, truth, source, size_wh=size_wh, notes=notes
    )


def _pose(path: Path) -> tuple[FloatArray | None, str]:
    """Return the camera-to-world pose in a file; or None and the reason."""
    if not path.exists():
        return None, "no file for"
    try:
        T = _matrix(path)
    except RecordingError:
        return None, "no matrix of 4x4 numbers in"
    if not np.isfinite(T).all():
        return None, "tracking was lost in"
    U, stretch, Vt = np.linalg.svd(T[:3, :3])
    R = U @ Vt
    if np.abs(stretch - 1).max() > ROTATION_TOLERANCE or np.linalg.det(R) < 0:
        return None, "no rotation in"
    T[:3, :3] = R
    return T, ""


def _matrix(path: Path) -> FloatArray:
    try:
        values = np.array([float(word) for word in _text(path).replace(",", " ").split()])
        return values.reshape(4, 4)
    except ValueError:
        raise RecordingError(f"{path} does not hold a matrix of 4x4 numbers") from None


def is_image_folder(folder: Path) -> bool:
    """Whether a folder directly contains images."""
    return any(is_image(path) for path in folder.iterdir())


def image_folder(folder: Path, fps: float) -> ImageSequence:
    """Read plain images in natural order, with intrinsics, truth and depth next to them.

    Stamps come from `times.txt` in the folder or above it, from names that are times, or from
    `fps`. Images that cannot belong to the series are noted and skipped.

    Raises:
        RecordingError: a file next to them cannot be parsed, or there are several series.
    """
    notes = Notes()
    images = _one_series(folder, notes)
    times = times_of_images(folder, images, fps)
    if times.note:
        notes.add(times.note)
    items: dict[int, SequenceImage] = {}
    twins = 0
    for stamp, image in zip(times.stamps_ns, images, strict=True):
        if stamp is None:
            notes.add(
                "images whose name is no time, as those of the others are, are left out",
                image.name,
            )
        elif stamp in items:
            twins += 1
            notes.add("images with the time of another are left out", image.name)
        else:
            items[stamp] = SequenceImage(stamp, image, sidecar_depth(folder, image.stem))
    if twins > FEW_TWINS * len(images):
        raise RecordingError(
            f"{folder}: {twins} images have the same time as another; put the times into times.txt"
        )
    ordered = tuple(items[stamp] for stamp in sorted(items))
    _note_other_depth(folder, ordered, notes)
    size = common_size([item.image for item in ordered])
    return ImageSequence(
        "images", ordered, sidecar_camera(folder, size), truth_source=sidecar_truth(folder),
        size_wh=size, notes=notes,
    )  # fmt: skip


def _one_series(folder: Path, notes: Notes) -> list[Path]:
    """Return the images of a folder in order, without non-pictures and duplicates.

    Raises:
        RecordingError: they are from several cameras.
    """
    images = in_natural_order(p for p in folder.iterdir() if is_image(p))
    for path in in_natural_order(p for p in folder.iterdir() if is_foreign_image(p)):
        notes.add(
            "images of a kind that is not read are left out, convert them to JPEG", path.name
        )
    pictures = [path for path in images if not NOT_PICTURES.search(path.stem)]
    if pictures and len(pictures) < len(images):
        notes.add(
            "images that are no pictures by their names are left out",
            next(path.name for path in images if path not in pictures),
        )
        images = pictures
    first: dict[str, Path] = {}
    for path in images:
        if first.setdefault(path.stem, path) is not path:
            notes.add("images with the name of another are left out", path.name)
    series = Counter(re.sub(r"\d+", "#", stem) for stem in first)
    large = [name for name, count in series.items() if count > SERIES_SHARE * len(first)]
    if len(first) >= MIN_SERIES and len(large) > 1:
        raise RecordingError(
            f"{folder} holds images of several series ({', '.join(sorted(large))}): put those of "
            "one camera into a folder of their own"
        )
    return list(first.values())


def sidecar_depth(folder: Path, stem: str) -> Path | None:
    """Return the depth image of the same name, in `depth` inside the folder or next to it."""
    places = (folder / "depth", folder.resolve().parent / "depth")
    return next((p / f"{stem}.png" for p in places if (p / f"{stem}.png").exists()), None)


def _note_other_depth(folder: Path, items: Sequence[SequenceImage], notes: Notes) -> None:
    """Add a note if a depth folder exists, but with other names."""
    if any(item.depth is not None for item in items):
        return
    for place in (folder / "depth", folder.resolve().parent / "depth"):
        if place != folder.resolve() and place.is_dir() and any(map(is_image, place.iterdir())):
            notes.add(
                f"{place} is not used: it holds no PNG named as an image is, such as "
                f"{items[0].image.stem}.png"
            )


def is_image(path: Path) -> bool:
    """Whether a file has an image suffix and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_foreign_image(path: Path) -> bool:
    """Whether a file has the suffix of an unsupported image format."""
    return path.suffix.lower() in FOREIGN_SUFFIXES and not path.name.startswith(".")


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort by name, with numbers by value: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"([0-9]+)", path.name)
        return [(k % 2, int(p), "") if k % 2 else (0, 0, p) for k, p in enumerate(parts)]

    return sorted(paths, key=key)


def _number(text: str) -> int:
    digits = re.search(r"\d+", text)
    if digits is None:
        raise RecordingError(f"{text!r} has no number of its frame")
    return int(digits[0])


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except TableError as error:
        raise RecordingError(str(error)) from None
