"""Folders of images as people have them: TUM RGB-D, 7-Scenes, ScanNet, or just images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path

import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Trajectory
from mvdust3r_ros.evaluation.camera_file import camera_beside
from mvdust3r_ros.evaluation.recording import RecordingError
from mvdust3r_ros.evaluation.shots import Shot, ShotList, read_image
from mvdust3r_ros.evaluation.truth_files import truth_beside

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
DATASET_HZ = 30.0
TUM_UNIT_M = 1 / 5000
TUM_MATCH_NS = 20_000_000
# fx, fy, cx, cy and distortion as published with the data set, for 640x480 pixels.
TUM_CAMERAS = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), ()),
}
SEVEN_SCENES_CAMERA = (585.0, 585.0, 320.0, 240.0)
ROTATION_TOLERANCE = 1e-2
NANOSECONDS_FROM = 10**15
SECONDS_FROM = 10**8


def pinhole_matrix(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    """(3, 3) pinhole matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def is_tum_rgbd(folder: Path) -> bool:
    """Whether a folder holds `rgb.txt`."""
    return (folder / "rgb.txt").is_file()


def tum_rgbd(folder: Path) -> ShotList:
    """TUM RGB-D: rgb.txt, depth.txt and groundtruth.txt.

    The intrinsics are those of an `intrinsics.yaml` in the folder, else the published ones of
    freiburg1, 2 or 3 where the folder's name says which.

    Raises:
        RecordingError: a list cannot be understood.
    """
    images = _tum_list(folder, "rgb.txt")
    depths = _tum_list(folder, "depth.txt") if (folder / "depth.txt").exists() else {}
    depth_stamps = np.array(sorted(depths), np.int64)
    shots = []
    for stamp in sorted(images):
        depth = None
        if len(depth_stamps):
            nearest = int(depth_stamps[np.abs(depth_stamps - stamp).argmin()])
            depth = depths[nearest] if abs(nearest - stamp) <= TUM_MATCH_NS else None
        shots.append(Shot(stamp, images[stamp], depth))
    truth = folder / "groundtruth.txt"
    return ShotList(
        "TUM RGB-D", tuple(shots), _tum_camera(folder), TUM_UNIT_M,
        truth_source=truth if truth.exists() else None,
    )  # fmt: skip


def _tum_list(folder: Path, name: str) -> dict[int, Path]:
    """Stamp -> file of the lines `timestamp path`."""
    found = {}
    lines = _text(folder / name).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            stamp, file = line.split(maxsplit=1)
            found[int((Decimal(stamp) * 10**9).to_integral_value())] = folder / file.strip()
        except (ValueError, InvalidOperation):
            raise RecordingError(
                f"{folder / name}, line {number}: expected `timestamp file`, got {line[:80]!r}"
            ) from None
    if not found:
        raise RecordingError(f"{folder / name} lists no images")
    return found


def _tum_camera(folder: Path) -> CameraModel | None:
    if (given := camera_beside(folder)) is not None:
        return given
    name = folder.resolve().name.lower()
    for family, (pinhole, distortion) in TUM_CAMERAS.items():
        if family in name:
            return CameraModel(pinhole_matrix(*pinhole), 640, 480, distortion)
    return None


def is_seven_scenes(folder: Path) -> bool:
    """Whether a folder holds `frame-000000.color.png` and the like."""
    return any(folder.glob("frame-*.color.png"))


def seven_scenes(folder: Path) -> ShotList:
    """One sequence of 7-Scenes: frame-N.color.png, .depth.png and .pose.txt, 30 a second.

    Raises:
        RecordingError: a pose is not a matrix of 4x4.
    """
    images = in_natural_order(folder.glob("frame-*.color.png"))
    numbers = [_number(path.name.split(".")[0]) for path in images]
    stems = [str(path).removesuffix(".color.png") for path in images]
    depths = [Path(f"{stem}.depth.png") for stem in stems]
    camera = camera_beside(folder) or CameraModel(pinhole_matrix(*SEVEN_SCENES_CAMERA), 640, 480)
    return _numbered(
        "7-Scenes", images, numbers, depths,
        [Path(f"{stem}.pose.txt") for stem in stems], camera,
    )  # fmt: skip


def is_scannet(folder: Path) -> bool:
    """Whether a folder holds `color` and `pose`."""
    return all((folder / name).is_dir() for name in ("color", "pose"))


def scannet(folder: Path) -> ShotList:
    """A scan of ScanNet as its SensReader extracts it: color, depth, pose and intrinsic.

    Depth has another size and camera than colour; both look from the same place.

    Raises:
        RecordingError: a matrix cannot be read, or there are no images.
    """
    images = in_natural_order(p for p in (folder / "color").iterdir() if is_image(p))
    if not images:
        raise RecordingError(f"{folder / 'color'} holds no images")
    numbers = [_number(path.stem) for path in images]
    depths = [folder / "depth" / f"{path.stem}.png" for path in images]
    poses = [folder / "pose" / f"{path.stem}.txt" for path in images]
    camera, K_depth = None, None
    if (folder / "intrinsic" / "intrinsic_color.txt").exists():
        height, width = read_image(images[0]).shape[:2]
        camera = CameraModel(_intrinsic(folder, "color"), width, height)
        K_depth = _intrinsic(folder, "depth") if (folder / "depth").is_dir() else None
    return _numbered("ScanNet", images, numbers, depths, poses, camera, K_depth)


def _intrinsic(folder: Path, which: str) -> FloatArray:
    return _matrix(folder / "intrinsic" / f"intrinsic_{which}.txt")[:3, :3]


def _numbered(
    kind: str,
    images: Sequence[Path],
    numbers: Sequence[int],
    depths: Sequence[Path],
    poses: Sequence[Path],
    camera: CameraModel | None,
    K_depth: FloatArray | None = None,
) -> ShotList:
    """A recording whose files are told apart by the number of their frame."""
    stamps = [round(n * 1e9 / DATASET_HZ) for n in numbers]
    shots = tuple(
        Shot(stamp, image, depth if depth.exists() else None)
        for stamp, image, depth in zip(stamps, images, depths, strict=True)
    )
    known = {s: _pose(path) for s, path in zip(stamps, poses, strict=True) if path.exists()}
    found = {s: T for s, T in known.items() if T is not None}
    truth = None
    if found:
        truth = Trajectory(np.array(list(found), np.int64), np.array(list(found.values())))
    source = poses[0].parent if truth is not None else None
    return ShotList(kind, shots, camera, 0.001, K_depth, truth, source)


def _pose(path: Path) -> FloatArray | None:
    """Camera-to-world pose; None where tracking was lost."""
    T = _matrix(path)
    if not np.isfinite(T).all():
        return None
    U, stretch, Vt = np.linalg.svd(T[:3, :3])
    R = U @ Vt
    if np.abs(stretch - 1).max() > ROTATION_TOLERANCE or np.linalg.det(R) < 0:
        return None
    T[:3, :3] = R
    return T


def _matrix(path: Path) -> FloatArray:
    try:
        values = np.array([float(word) for word in _text(path).split()])
        return values.reshape(4, 4)
    except ValueError:
        raise RecordingError(f"{path} does not hold a matrix of 4x4 numbers") from None


def is_image_folder(folder: Path) -> bool:
    """Whether there are images right in a folder."""
    return any(is_image(path) for path in folder.iterdir())


def image_folder(folder: Path, fps: float) -> ShotList:
    """Just images, in natural order; intrinsics, truth and depth where they lie beside.

    Stamps come from `times.txt` (seconds) in the folder or above it, from names that are seconds
    or nanoseconds since 1970, else from `fps`.

    Raises:
        RecordingError: a file beside them cannot be understood.
    """
    images = in_natural_order(p for p in folder.iterdir() if is_image(p))
    stamps = _stamps_of_images(folder, images, fps)
    shots = tuple(
        Shot(stamp, image, depth_beside(folder, image.stem))
        for stamp, image in sorted(zip(stamps, images, strict=True))
    )
    if any(a.stamp_ns == b.stamp_ns for a, b in pairwise(shots)):
        raise RecordingError(f"{folder}: several images have the same time")
    camera = camera_beside(folder)
    return ShotList("images", shots, camera, truth_source=truth_beside(folder))


def depth_beside(folder: Path, stem: str) -> Path | None:
    """The depth image of an image: of the same name, in `depth` in the folder or beside it."""
    places = (folder / "depth", folder.resolve().parent / "depth")
    return next((p / f"{stem}.png" for p in places if (p / f"{stem}.png").exists()), None)


def _stamps_of_images(folder: Path, images: Sequence[Path], fps: float) -> list[int]:
    places = (folder / "times.txt", folder.resolve().parent / "times.txt")
    times = next((path for path in places if path.is_file()), None)
    if times is not None:
        words = _text(times).split()
        try:
            stamps = [round(float(word) * 1e9) for word in words]
        except ValueError:
            raise RecordingError(f"{times} does not hold seconds alone") from None
        if len(stamps) != len(images):
            raise RecordingError(f"{times} has {len(stamps)} times for {len(images)} images")
        return stamps
    named = [_time_of_name(path.stem) for path in images]
    known = [stamp for stamp in named if stamp is not None]
    if len(known) == len(images):
        return known
    return [round(k * 1e9 / fps) for k in range(len(images))]


def _time_of_name(stem: str) -> int | None:
    """Nanoseconds of a name that is a time since 1970; None for other names."""
    if not re.fullmatch(r"\d+(\.\d+)?", stem):
        return None
    value = Decimal(stem)
    if "." in stem and value >= SECONDS_FROM:
        return int((value * 10**9).to_integral_value())
    return int(value) if "." not in stem and value >= NANOSECONDS_FROM else None


def is_image(path: Path) -> bool:
    """Whether a file has the ending of an image, and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """By name, with numbers by their value: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]

    return sorted(paths, key=key)


def _number(text: str) -> int:
    digits = re.search(r"\d+", text)
    if digits is None:
        raise RecordingError(f"{text!r} has no number of its frame")
    return int(digits[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"{path} cannot be read: {reason}") from None
