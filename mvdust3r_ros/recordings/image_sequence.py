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

"""Read frames from image files on disk, the common form of all folder layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import (
    CameraModel,
    FloatArray,
    Frame,
    FrameError,
    ImageArray,
    Trajectory,
)
from mvdust3r_ros.encoded_image import (
    EncodedImageError,
    decode_image,
    orientation_tag,
    size_within,
)
from mvdust3r_ros.recordings.camera_forms import Size
from mvdust3r_ros.recordings.recording import Notes, OnBad, RecordingError
from mvdust3r_ros.tones import Tones
from mvdust3r_ros.window.preprocess import registered_depth

MAX_PIXELS = 100_000_000
"""Bounds memory against hostile headers: three times a frame of 8K video (33 megapixels)."""
SIZES_LOOKED_AT = 25
"""Enough headers to find the size of most images; each costs time on a slow disk."""
JPEG_HEAD_BYTES = 1 << 18
"""The size follows EXIF and colour profile: four segments of at most 64 KiB each (ITU-T T.81,
B.1.1.4)."""
ORIENTATION = (
    "orientation tags (EXIF) are ignored, as intrinsics and depth are of the pixels as they are "
    "stored; turn the files themselves if they have to be upright"
)
INVALID_STEPS = 65535
"""7-Scenes marks pixels without depth this way; elsewhere it is beyond the sensor's range."""


@dataclass(frozen=True)
class SequenceImage:
    """One image.

    Attributes:
        stamp_ns: acquisition time.
        image: file with 8-bit colour or grey values.
        depth: 16-bit PNG, or None.
    """

    stamp_ns: int
    image: Path
    depth: Path | None = None


@dataclass(frozen=True)
class ImageSequence:
    """A recording made of files.

    Attributes:
        kind: name of the layout.
        images: images in order of time.
        camera: intrinsics of the images, or None.
        unit_m: metres of one step of a depth image.
        K_depth: (3, 3) pinhole matrix of the depth images if their pixels differ from those of the
            images but the viewpoint is the same; None if they agree.
        truth: true camera poses if the layout has one for each image, or None.
        truth_source: folder of those poses, or a file of true poses to read; None for none.
        size_wh: size of the images; images of another size are left out. None if unknown.
        notes: remarks on the recording.
    """

    kind: str
    images: tuple[SequenceImage, ...]
    camera: CameraModel | None = None
    unit_m: float = 0.001
    K_depth: FloatArray | None = None
    truth: Trajectory | None = None
    truth_source: Path | None = None
    size_wh: Size | None = None
    notes: Notes = field(default_factory=Notes)

    @property
    def depth_source(self) -> str:
        """Folder of the depth images; empty for none."""
        return next((str(s.depth.parent) for s in self.images if s.depth is not None), "")

    def frames(self, on_bad: OnBad) -> Iterator[Frame]:
        """Yield all frames in order; unusable images go to `on_bad` and are skipped.

        Errors of one kind share a message, which names the first image.
        """
        tones, first = Tones(self.notes.add), dict[str, Path]()
        for item in self.images:
            try:
                rgb = self._image(item.image, tones)
            except EncodedImageError as error:
                kind = str(error)
                place = first.setdefault(kind, item.image)
                on_bad(RecordingError(f"image {kind}; the first is {place}"))
                continue
            yield Frame(item.stamp_ns, rgb, self.camera, depth_m=self._depth(item, rgb))

    def _image(self, path: Path, tones: Tones) -> ImageArray:
        data = read_file(path)
        if orientation_tag(data) != 1:
            self.notes.add(ORIENTATION, path.name)
        rgb = rgb_of(data, tones)
        if self.size_wh is not None and rgb.shape[:2] != self.size_wh[::-1]:
            width, height = self.size_wh
            raise EncodedImageError("size", f"is not of {width}x{height} pixels as the others are")
        return rgb

    def _depth(self, item: SequenceImage, rgb: ImageArray) -> FloatArray | None:
        """Return (H, W) float32 depth in the image's pixels; None if missing or bad."""
        if item.depth is None or not item.depth.exists():
            if self.depth_source:
                self.notes.add("no depth image belongs to", item.image.name)
            return None
        try:
            depth = read_depth(item.depth, self.unit_m)
            size_wh = rgb.shape[1], rgb.shape[0]
            if self.K_depth is not None and self.camera is not None:
                # With a common viewpoint, pixels map from one camera to the other without depth.
                to_depth = (self.K_depth @ np.linalg.inv(self.camera.K))[:2]
                flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
                moved = cv2.warpAffine(depth, to_depth, size_wh, flags=flags)
                return np.asarray(moved, np.float32)
            return registered_depth(depth, size_wh)
        except (EncodedImageError, FrameError) as error:
            self.notes.add(f"depth image {error} and is not used", item.depth.name)
        return None


def common_size(images: Sequence[Path]) -> Size | None:
    """Return width and height of most images, from some headers; None if none can be read."""
    sizes: Counter[Size] = Counter()
    for path in images[:: len(images) // SIZES_LOOKED_AT + 1]:
        try:
            with path.open("rb") as file:
                height, width = size_within(file.read(JPEG_HEAD_BYTES), MAX_PIXELS)
        except (OSError, EncodedImageError):
            continue
        sizes[width, height] += 1
    return sizes.most_common(1)[0][0] if sizes else None


def rgb_of(data: bytes, tones: Tones) -> ImageArray:
    """Decode a PNG, JPEG, BMP or PNM to (H, W, 3) uint8 RGB.

    Raises:
        EncodedImageError: it is of another kind, damaged, or larger than 100 megapixels.
    """
    bgr = decode_image(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, MAX_PIXELS)
    if bgr.dtype != np.uint8:
        is_grey = np.array_equal(bgr[..., 0], bgr[..., 1])
        bgr = tones.to_8_bits(bgr, is_grey=is_grey)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def read_depth(path: Path, unit_m: float) -> FloatArray:
    """Read a 16-bit PNG as (H, W) float32 depth in metres, 0 where there is none.

    Raises:
        EncodedImageError: as for images, or it is not a 16-bit grey image.
    """
    steps = read_steps(path)
    return np.where(steps == INVALID_STEPS, np.float32(0), steps * np.float32(unit_m))


def read_steps(path: Path) -> npt.NDArray[np.uint16]:
    """Read the (H, W) values of a 16-bit depth PNG.

    Raises:
        EncodedImageError: as for images, or it is not a 16-bit grey image.
    """
    values = decode_image(read_file(path), cv2.IMREAD_UNCHANGED, MAX_PIXELS)
    if values.dtype != np.uint16 or values.ndim != 2:
        raise EncodedImageError("depth", "is not a 16-bit grey PNG")
    return np.asarray(values, np.uint16)


def read_file(path: Path) -> bytes:
    """Read the content of an image file.

    Raises:
        EncodedImageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise EncodedImageError("file", f"cannot be read: {error.strerror or error}") from None
