"""Recordings that are no bags: which layout a path has, and the recording behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, Frame, Trajectory
from mvdust3r_ros.evaluation.camera_file import camera_beside, read_camera
from mvdust3r_ros.evaluation.layouts import (
    image_folder,
    is_image_folder,
    is_scannet,
    is_seven_scenes,
    is_tum_rgbd,
    scannet,
    seven_scenes,
    tum_rgbd,
)
from mvdust3r_ros.evaluation.recording import (
    OnBad,
    Recording,
    RecordingError,
    TruthOptions,
    recording_name,
)
from mvdust3r_ros.evaluation.shots import ShotList
from mvdust3r_ros.evaluation.truth_files import (
    TruthError,
    check_overlap,
    read_truth,
    truth_beside,
)
from mvdust3r_ros.evaluation.video import VIDEO_SUFFIXES, Video

UNDERSTOOD = """\
  ROS 2 bag     a folder with metadata.yaml, or one .mcap or .db3 file
  TUM RGB-D     a folder with rgb.txt (depth.txt, groundtruth.txt)
  7-Scenes      one sequence: frame-000000.color.png (.depth.png, .pose.txt)
  ScanNet       as SensReader extracts it: color/, pose/ (depth/, intrinsic/)
  images        a folder of .png, .jpg, .bmp, .ppm or .pgm
  video         .mp4, .mkv, .mov, .avi, .webm or .m4v"""
SHOWN = 6


@dataclass(frozen=True)
class FileOptions:
    """What files do not say themselves.

    Attributes:
        intrinsics: YAML of a camera calibration; None for what lies beside the images.
        fps: images a second, where nothing tells their times.
        max_frames: stop after this many images; 0 for all.
    """

    intrinsics: Path | None = None
    fps: float = 30.0
    max_frames: int = 0


def files_recording(path: Path, truth: TruthOptions, options: FileOptions) -> Recording:
    """Find out what a path holds.

    Raises:
        RecordingError: it does not exist, or has no layout that is understood; the message lists
            those that are.
        MvDust3rError: a file of it cannot be used.
    """
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    camera = None if options.intrinsics is None else read_camera(options.intrinsics)
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _of_video(path, camera, truth, options)
        raise RecordingError(_unknown(path))
    shots = _shots_of(path, options)
    if camera is not None:
        shots = replace(shots, camera=camera)
    return _of_shots(path, shots, truth, options)


def _shots_of(folder: Path, options: FileOptions) -> ShotList:
    layouts: tuple[tuple[Callable[[Path], bool], Callable[[Path], ShotList]], ...] = (
        (is_tum_rgbd, tum_rgbd),
        (is_seven_scenes, seven_scenes),
        (is_scannet, scannet),
        (is_image_folder, lambda path: image_folder(path, options.fps)),
    )
    for fits, read in layouts:
        if fits(folder):
            return read(folder)
    raise RecordingError(_unknown(folder))


def _unknown(path: Path) -> str:
    if path.suffix.lower() == ".sens":
        return f"{path}: extract it with ScanNet's SensReader and name the folder it makes"
    holds = ""
    if path.is_dir():
        names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir() if p.name[0] != ".")
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        holds = f" (it holds {', '.join(names[:SHOWN]) or 'nothing'}{more})"
    return f"{path} is no recording of a kind that is understood{holds}; these are:\n{UNDERSTOOD}"


def _of_shots(path: Path, shots: ShotList, truth: TruthOptions, options: FileOptions) -> Recording:
    if truth.depth:
        shots = _with_depth(shots, truth.depth)
    stamps = [shot.stamp_ns for shot in shots.shots]
    poses, source = _truth(truth.truth, shots.truth, shots.truth_source, stamps)
    count = min(len(stamps), options.max_frames or len(stamps))
    shots = replace(shots, shots=shots.shots[:count])
    return Recording(
        name=recording_name(path),
        kind=shots.kind,
        total=count,
        read=shots.frames,
        truth=poses,
        truth_source=source,
        depth_source=shots.depth_source,
    )


def _with_depth(shots: ShotList, depth: str) -> ShotList:
    """The list with depth images of the same names from another folder, or without."""
    if depth == "none":
        return replace(shots, shots=tuple(replace(s, depth=None) for s in shots.shots))
    folder = _folder(depth)
    named = [(s, folder / f"{s.image.stem}.png") for s in shots.shots]
    if not any(file.exists() for _, file in named):
        raise RecordingError(
            f"depth {folder} holds no image named as the images are: no {named[0][1].name}"
        )
    found = tuple(replace(s, depth=file if file.exists() else None) for s, file in named)
    return replace(shots, shots=found, unit_m=0.001, K_depth=None)


def _folder(depth: str) -> Path:
    if not Path(depth).is_dir():
        raise RecordingError(f"depth {depth} is no folder")
    return Path(depth)


def _truth(
    wanted: str, own: Trajectory | None, own_source: Path | None, stamps_ns: Sequence[int]
) -> tuple[Trajectory | None, str]:
    """The truth asked for, else the recording's own, with where it comes from."""
    source = Path(wanted) if wanted else own_source
    if source is None or wanted == "none":
        return None, ""
    if not source.exists():
        raise TruthError(f"truth {source} does not exist")
    truth = None if wanted else own
    if truth is None:
        truth = read_truth(source, np.array(stamps_ns, np.int64))
    if stamps_ns:
        check_overlap(truth, str(source), min(stamps_ns), max(stamps_ns))
    return truth, str(source)


def _of_video(
    path: Path, camera: CameraModel | None, truth: TruthOptions, options: FileOptions
) -> Recording:
    depth: Path | None = path.resolve().parent / "depth"
    if truth.depth:
        depth = None if truth.depth == "none" else _folder(truth.depth)
    elif not (path.resolve().parent / "depth" / "000000.png").exists():
        depth = None
    video = Video(path, camera or camera_beside(path), depth)
    own = None if truth.truth else truth_beside(path)
    stamps = [] if own is None and truth.truth in ("", "none") else video.stamps_ns()
    poses, source = _truth(truth.truth, None, own, stamps)

    def frames(on_bad: OnBad) -> Iterator[Frame]:
        return islice(video.frames(on_bad), options.max_frames or None)

    total = len(stamps) or len(video)
    return Recording(
        name=recording_name(path),
        kind="video",
        total=min(total, options.max_frames or total),
        read=frames,
        truth=poses,
        truth_source=source,
        depth_source=str(depth or ""),
    )
