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

"""Open recordings other than bags; the layout of a path is detected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mvdust3r_ros.datatypes import Frame, Trajectory
from mvdust3r_ros.recordings.body_poses import at_camera
from mvdust3r_ros.recordings.camera_file import read_camera, sidecar_camera
from mvdust3r_ros.recordings.image_sequence import ImageSequence
from mvdust3r_ros.recordings.layouts import (
    FEW_IMAGES,
    NOT_PICTURES,
    image_folder,
    is_foreign_image,
    is_image,
    is_image_folder,
    is_replica,
    is_scannet,
    is_seven_scenes,
    is_tum_rgbd,
    replica,
    scannet,
    seven_scenes,
    tum_rgbd,
)
from mvdust3r_ros.recordings.recording import (
    OnBad,
    Recording,
    RecordingError,
    TruthOptions,
    recording_name,
)
from mvdust3r_ros.recordings.truth_files import (
    TruthError,
    check_overlap,
    read_truth,
    sidecar_truth,
)
from mvdust3r_ros.recordings.video import VIDEO_SUFFIXES, Video


class Layout(NamedTuple):
    """A layout of a folder of images.

    Attributes:
        name: for people.
        holds: for people, what such a folder holds.
        fits: whether a folder has the layout.
        read: opens it, with the image rate (Hz) for images without times.
    """

    name: str
    holds: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, float], ImageSequence]


LAYOUTS = (
    Layout(
        "TUM RGB-D", "a folder with rgb.txt (depth.txt, groundtruth.txt)",
        is_tum_rgbd, lambda folder, _: tum_rgbd(folder),
    ),
    Layout(
        "7-Scenes", "one sequence: frame-000000.color.png or .jpg (.depth.png, .pose.txt)",
        is_seven_scenes, lambda folder, _: seven_scenes(folder),
    ),
    Layout(
        "ScanNet", "as SensReader extracts it: color/, pose/ (depth/, intrinsic/)",
        is_scannet, lambda folder, _: scannet(folder),
    ),
    Layout(
        "Replica", "rendered for NICE-SLAM: results/frame000000.jpg (depth000000.png), traj.txt",
        is_replica, lambda folder, _: replica(folder),
    ),
    Layout(
        "images", "a folder of .png, .jpg, .bmp, .ppm or .pgm, or a folder above it",
        is_image_folder, image_folder,
    ),
)  # fmt: skip
"""In the order in which they are tried; a folder of images may be any of the others."""
UNDERSTOOD = "\n".join(
    f"  {name:14}{holds}"
    for name, holds in (
        ("ROS 2 bag", "a folder with metadata.yaml, or one .mcap or .db3 file"),
        *((layout.name, layout.holds) for layout in LAYOUTS),
        ("video", ".mp4, .mkv, .mov, .avi, .webm or .m4v"),
    )
)
FILES_SHOWN = 6
"""Chosen for readability: number of names in one message."""
DEEPEST = 4
"""Levels of folders searched for images: the name of a sequence, then mav0/cam0/data as in
EuRoC."""
MOST_FOLDERS = 1000
"""Limit of folders per level: a bound for a home folder or a whole disk."""


@dataclass(frozen=True)
class FileOptions:
    """Information that files lack.

    Attributes:
        intrinsics: YAML of a camera calibration; None for the one next to the images.
        fps: image rate (Hz), if nothing gives the times.
        max_frames: stop after this many images; 0 for all.
        depth_factor: steps of a depth image per metre; 0 for the layout's own.
        every: take the first of so many images.
        calibrated: use the intrinsics, where they are known.
    """

    intrinsics: Path | None = None
    fps: float = 30.0
    max_frames: int = 0
    depth_factor: float = 0.0
    every: int = 1
    calibrated: bool = True

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RecordingError(f"every {self.every} images: expected 1 or more (--every)")
        if not 0 <= self.depth_factor < float("inf"):
            raise RecordingError(
                f"{self.depth_factor:g} steps of depth in a metre: expected such as 1000 for "
                "millimetres (--depth-factor)"
            )


def files_recording(path: Path, truth: TruthOptions, options: FileOptions) -> Recording:
    """Detect the layout of a path and open it.

    Raises:
        RecordingError: it does not exist, or has no supported layout; the message lists those.
        MvDust3rError: one of its files cannot be used.
    """
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    if path.is_dir() and not _readable(path):
        raise RecordingError(f"{path} cannot be read: permission denied")
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _of_video(path, truth, options)
        raise RecordingError(_unknown(path))
    folder = _recording_folder(path)
    sequence = _sequence_in(folder, options)
    if folder.resolve() != path.resolve():
        sequence.notes.add(f"the recording is that in {folder}")
    if options.intrinsics is not None:
        camera = read_camera(options.intrinsics, sequence.size_wh, str(folder))
        sequence = replace(sequence, camera=camera)
    _check_size(sequence)
    return _of_sequence(path, sequence, truth, options)


def _check_size(sequence: ImageSequence) -> None:
    """Raise RecordingError for intrinsics of another image size, before the first image."""
    camera, size = sequence.camera, sequence.size_wh
    if camera is not None and size is not None and (camera.width, camera.height) != size:
        raise RecordingError(
            f"the published intrinsics of this data set are for {camera.width}x{camera.height} "
            f"pixels, the images have {size[0]}x{size[1]}: put an intrinsics.yaml beside them"
        )


def _recording_folder(path: Path) -> Path:
    """Return the folder of the recording: the given one, below it, or above it.

    Raises:
        RecordingError: there is none, or several; the message names them.
    """
    if path.name in ("rgb", "color", "results") and any(
        fits(path.parent) for fits in (is_tum_rgbd, is_scannet, is_replica)
    ):
        return path.parent
    if _fits(path) and not (is_image_folder(path) and _pictures(path) <= FEW_IMAGES):
        return path
    level = [path]
    for _ in range(DEEPEST):
        level = [inner for folder in level for inner in _inner_folders(folder)][:MOST_FOLDERS]
        found = [folder for folder in level if _fits(folder)]
        if len(found) == 1:
            return found[0]
        if found:
            named = ", ".join(str(folder) for folder in found[:FILES_SHOWN])
            more = f" and {len(found) - FILES_SHOWN} more" if len(found) > FILES_SHOWN else ""
            raise RecordingError(f"{path} holds several recordings, name one: {named}{more}")
    if _fits(path):
        return path
    raise RecordingError(_unknown(path))


def _inner_folders(folder: Path) -> list[Path]:
    """Return the subfolders that may hold pictures, by name."""
    return sorted(
        p for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith(".") and not NOT_PICTURES.search(p.name)
        and _readable(p)
    )  # fmt: skip


def _readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _fits(folder: Path) -> bool:
    return any(layout.fits(folder) for layout in LAYOUTS)


def _pictures(folder: Path) -> int:
    return sum(is_image(path) for path in folder.iterdir())


def _sequence_in(folder: Path, options: FileOptions) -> ImageSequence:
    for layout in LAYOUTS:
        if layout.fits(folder):
            return layout.read(folder, options.fps)
    raise RecordingError(_unknown(folder))


def _unknown(path: Path) -> str:
    if path.suffix.lower() == ".sens":
        return f"{path}: extract it with ScanNet's SensReader and name the folder it makes"
    holds = ""
    if path.is_dir() and (foreign := _foreign_images(path)):
        return f"{foreign}: convert them to JPEG or PNG"
    if path.is_dir():
        names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir() if p.name[0] != ".")
        more = f" and {len(names) - FILES_SHOWN} more" if len(names) > FILES_SHOWN else ""
        holds = f" (it holds {', '.join(names[:FILES_SHOWN]) or 'nothing'}{more})"
    return f"{path} is no recording of a kind that is understood{holds}; these are:\n{UNDERSTOOD}"


def _foreign_images(path: Path) -> str:
    """Report the first folder with images of an unsupported kind; empty if none."""
    level = [path]
    for _ in range(DEEPEST):
        for folder in level:
            found = next((one for one in sorted(folder.iterdir()) if is_foreign_image(one)), None)
            if found is not None:
                return f"{folder} holds {found.suffix.lower()} images"
        level = [inner for folder in level for inner in _inner_folders(folder)][:MOST_FOLDERS]
    return ""


def _of_sequence(
    path: Path, sequence: ImageSequence, truth: TruthOptions, options: FileOptions
) -> Recording:
    if truth.depth:
        sequence = _with_depth(sequence, truth.depth)
    if options.depth_factor:
        sequence = replace(sequence, unit_m=1 / options.depth_factor)
    elif sequence.kind == "images" and sequence.depth_source:
        sequence.notes.add("depth images are taken to be in millimetres (--depth-factor)")
    stamps = [image.stamp_ns for image in sequence.images]
    poses, source = _truth(truth.truth, sequence, stamps)
    chosen = sequence.images[:: options.every]
    count = min(len(chosen), options.max_frames or len(chosen))
    camera = sequence.camera if options.calibrated else None
    sequence = replace(sequence, images=chosen[:count], camera=camera)
    return Recording(
        name=recording_name(path),
        kind=sequence.kind,
        total=count,
        read=sequence.frames,
        truth=poses,
        truth_source=source,
        depth_source=sequence.depth_source,
        notes=sequence.notes,
    )


def _with_depth(sequence: ImageSequence, depth: str) -> ImageSequence:
    """Return the sequence with depth images of the same names from a folder, or without."""
    if depth == "none":
        return replace(sequence, images=tuple(replace(s, depth=None) for s in sequence.images))
    folder = _folder(depth)
    named = [(s, folder / f"{s.image.stem}.png") for s in sequence.images]
    if not any(file.exists() for _, file in named):
        raise RecordingError(
            f"depth {folder} holds no image named as the images are: no {named[0][1].name}"
        )
    found = tuple(replace(s, depth=file if file.exists() else None) for s, file in named)
    return replace(sequence, images=found, unit_m=0.001, K_depth=None)


def _folder(depth: str) -> Path:
    if not Path(depth).is_dir():
        raise RecordingError(f"depth {depth} is no folder")
    return Path(depth)


def _truth(
    wanted: str, sequence: ImageSequence, stamps_ns: Sequence[int]
) -> tuple[Trajectory | None, str]:
    """Return the requested truth or the recording's own, and its source."""
    source = Path(wanted) if wanted else sequence.truth_source
    if source is None or wanted == "none":
        return None, ""
    if not source.exists():
        raise TruthError(f"truth {source} does not exist")
    truth = None if wanted else sequence.truth
    if truth is None:
        truth = read_truth(source, np.array(stamps_ns, np.int64), sequence.notes.add)
        if sequence.images:
            images = sequence.images[0].image.parent
            truth = at_camera(truth, source, images, sequence.notes.add)
    if stamps_ns:
        check_overlap(truth, str(source), min(stamps_ns), max(stamps_ns))
    return truth, str(source)


def _video_depth(path: Path, wanted: str) -> Path | None:
    """Return the folder with the depth images of a video; None without one."""
    if wanted:
        return None if wanted == "none" else _folder(wanted)
    beside = path.resolve().parent / "depth"
    return beside if (beside / "000000.png").exists() else None


def _of_video(path: Path, truth: TruthOptions, options: FileOptions) -> Recording:
    depth = _video_depth(path, truth.depth)
    size = Video(path).size_wh()
    given = options.intrinsics
    camera = sidecar_camera(path, size) if given is None else read_camera(given, size)
    unit_m = 1 / (options.depth_factor or 1000)
    video = Video(path, camera if options.calibrated else None, depth, unit_m)
    own = None if truth.truth else sidecar_truth(path)
    stamps = [] if own is None and truth.truth in ("", "none") else video.stamps_ns()
    sequence = ImageSequence("video", (), truth_source=own, notes=video.notes)
    if (turned := video.rotation_deg()) != 0:
        sequence.notes.add(
            f"the video asks to be turned by {turned} degrees; pixels are taken as they are "
            "stored, as intrinsics and depth are of those"
        )
    poses, source = _truth(truth.truth, sequence, stamps)

    def frames(_: OnBad) -> Iterator[Frame]:
        end = options.max_frames * options.every or None
        return islice(video.frames(), 0, end, options.every)

    total = -(-(len(stamps) or len(video)) // options.every)
    return Recording(
        name=recording_name(path),
        kind="video",
        total=min(total, options.max_frames or total),
        read=frames,
        truth=poses,
        truth_source=source,
        depth_source=str(depth or ""),
        notes=sequence.notes,
    )
