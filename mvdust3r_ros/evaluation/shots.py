"""Images on disk as frames: what every layout of folders comes down to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mvdust3r_ros.datatypes import CameraModel, FloatArray, Frame, ImageArray, Trajectory
from mvdust3r_ros.evaluation.recording import OnBad, RecordingError
from mvdust3r_ros.image_size import ImageSizeError, image_size

MAX_PIXELS = 100_000_000
NO_DEPTH = 65535
"""7-Scenes marks pixels without depth so; elsewhere it is beyond the sensor's reach."""


@dataclass(frozen=True)
class Shot:
    """One image.

    Attributes:
        stamp_ns: acquisition time.
        image: file of 8-bit colours or greys.
        depth: 16-bit PNG, or None.
    """

    stamp_ns: int
    image: Path
    depth: Path | None = None


@dataclass(frozen=True)
class ShotList:
    """A recording as files.

    Attributes:
        kind: name of the layout.
        shots: in order of time.
        camera: intrinsics of the images, or None.
        unit_m: metres of one step of a depth image.
        K_depth: (3, 3) pinhole matrix of the depth images where they are not in the pixels of the
            images but seen from the same place; None where they are.
        truth: true camera poses where the layout has them for each image, or None.
        truth_source: folder of those poses, or a file of true poses to be read; None for none.
    """

    kind: str
    shots: tuple[Shot, ...]
    camera: CameraModel | None = None
    unit_m: float = 0.001
    K_depth: FloatArray | None = None
    truth: Trajectory | None = None
    truth_source: Path | None = None

    @property
    def depth_source(self) -> str:
        """Folder of the depth images; empty for none."""
        return next((str(s.depth.parent) for s in self.shots if s.depth is not None), "")

    def frames(self, on_bad: OnBad) -> Iterator[Frame]:
        """All frames in order; unusable images go to `on_bad` and are left out."""
        for shot in self.shots:
            try:
                rgb = read_image(shot.image)
                yield Frame(shot.stamp_ns, rgb, self.camera, depth_m=self._depth(shot, rgb))
            except RecordingError as error:
                on_bad(error)

    def _depth(self, shot: Shot, rgb: ImageArray) -> FloatArray | None:
        """(H, W) float32 depth in the pixels of the image."""
        if shot.depth is None or not shot.depth.exists():
            return None
        depth = read_depth(shot.depth, self.unit_m)
        size_wh = rgb.shape[1], rgb.shape[0]
        if self.K_depth is not None and self.camera is not None:
            # From the same place no depth is needed to find a pixel of one camera in the other.
            to_depth = (self.K_depth @ np.linalg.inv(self.camera.K))[:2]
            flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            return np.asarray(cv2.warpAffine(depth, to_depth, size_wh, flags=flags), np.float32)
        return fitted_depth(depth, size_wh)


def fitted_depth(depth_m: FloatArray, size_wh: tuple[int, int]) -> FloatArray:
    """(H, W) float32 depth brought to the size of an image; values are never mixed."""
    if depth_m.shape == size_wh[::-1]:
        return depth_m
    return np.asarray(cv2.resize(depth_m, size_wh, interpolation=cv2.INTER_NEAREST_EXACT))


def read_image(path: Path) -> ImageArray:
    """(H, W, 3) uint8 RGB of a PNG, JPEG, BMP or PNM.

    Raises:
        RecordingError: there is none, it is damaged, or larger than 100 megapixels.
    """
    bgr = _decoded(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_depth(path: Path, unit_m: float) -> FloatArray:
    """(H, W) float32 depth of a 16-bit PNG, metres, 0 where there is none.

    Raises:
        RecordingError: as for images, or it is no 16-bit grey image.
    """
    values = _decoded(path, cv2.IMREAD_UNCHANGED)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise RecordingError(f"{path} is not a 16-bit grey PNG")
    return np.where(values == NO_DEPTH, np.float32(0), values * np.float32(unit_m))


def _decoded(path: Path, flags: int) -> ImageArray:
    try:
        data = path.read_bytes()
        height, width = image_size(data)
    except OSError as error:
        raise RecordingError(f"image {path} cannot be read: {error.strerror or error}") from None
    except ImageSizeError as error:
        raise RecordingError(f"image {path} cannot be used: {error}") from None
    if not 0 < height * width <= MAX_PIXELS:
        raise RecordingError(f"image {path} of {width}x{height} pixels is empty or too large")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise RecordingError(f"image {path} cannot be decoded: {error}") from None
    if image is None:
        raise RecordingError(f"image {path} is damaged")
    return image  # type: ignore[return-value]
