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

"""Encoded images as cameras write them: whole ones are read alike, cut ones refused."""

from __future__ import annotations

import os
import struct

import cv2
import numpy as np
import pytest

from mvdust3r_ros import encoded_image
from mvdust3r_ros.encoded_image import EncodedImageError, decode_image, orientation_tag

HW = (48, 64)
MAX_PIXELS = 10_000


def picture(seed: int = 0) -> np.ndarray:
    """A picture with detail everywhere, but for its lower third, which is all alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    rgb = cv2.resize(small, HW[::-1], interpolation=cv2.INTER_CUBIC)
    rgb[32:] = (90, 120, 70)
    return rgb


def jpeg(*options: int, image: np.ndarray | None = None) -> bytes:
    done, data = cv2.imencode(
        ".jpg", picture() if image is None else image, [cv2.IMWRITE_JPEG_QUALITY, 92, *options]
    )
    assert done
    return data.tobytes()


def encoded(suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, picture()[..., 0] if suffix == ".pgm" else picture())
    assert done
    return data.tobytes()


def decoded(data: bytes) -> np.ndarray:
    return decode_image(memoryview(data), cv2.IMREAD_COLOR, MAX_PIXELS)


PLAIN = jpeg()
RESTARTS = jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
PROGRESSIVE = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
FINE_CHROMA = jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
OTHER = jpeg(image=picture(1))


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def without_huffman_tables(data: bytes) -> bytes:
    """As MJPEG of UVC cameras and AVI files has it: the tables of the standard are meant."""
    kept, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xC4:
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]


EXIF_WITH_THUMBNAIL = segment(0xE1, b"Exif\0\0" + bytes(40) + jpeg(image=picture(2)[:16, :16]))
ENTROPY = PLAIN[-400:-300].replace(b"\xff", b"\x7f")

WHOLE = {
    "crlf behind": PLAIN + b"\r\n",
    "boundary of multipart behind": PLAIN + b"\r\n--boundary\r\nContent-Type: image/jpeg\r\n",
    "old content behind": PLAIN + ENTROPY,
    "old content with markers behind": PLAIN + OTHER[-300:-2],
    "much of an older frame behind": PLAIN + OTHER[200:] + OTHER[200:-2],
    "second picture behind": PLAIN + OTHER,
    "half a picture behind": PLAIN + OTHER[: len(OTHER) // 2],
    "checksum behind": PLAIN + b"\x12\x34\xab\xcd",
    "zeros behind": PLAIN + bytes(9000),
    "ff behind": PLAIN + b"\xff" * 900,
    "end marker twice": PLAIN + b"\xff\xd9",
    "end marker behind fill bytes": PLAIN[:-2] + b"\xff\xff\xff\xd9" + b"\r\n",
    "no end marker": PLAIN[:-2],
    "half an end marker": PLAIN[:-1],
    "no end marker, zeros": PLAIN[:-2] + bytes(5000),
    "no end marker, ff": PLAIN[:-2] + b"\xff" * 50,
    "no end marker, second picture": PLAIN[:-2] + OTHER,
    "no end marker, old content": PLAIN[:-2] + ENTROPY,
    "no end marker, crlf": PLAIN[:-2] + b"\r\n",
    "no end marker, colour of each pixel": FINE_CHROMA[:-2],
    "no end marker, restarts": RESTARTS[:-2],
    "restarts, crlf": RESTARTS + b"\r\n",
    "progressive, old content": PROGRESSIVE + ENTROPY,
    "garbage in front": b"\0\x01garbage" + PLAIN,
    "header of multipart in front": b"--b\r\nContent-Length: 9\r\n\r\n" + PLAIN + b"\r\n",
    "start marker twice": b"\xff\xd8" + PLAIN,
    "thumbnail in a segment": with_segments(PLAIN, EXIF_WITH_THUMBNAIL) + b"\r\n",
    "thumbnail, no end marker": with_segments(PLAIN, EXIF_WITH_THUMBNAIL)[:-2],
    "many segments": with_segments(PLAIN, *[segment(0xE2, bytes(60_000))] * 4) + b"\n",
    "comment with an end marker": with_segments(PLAIN, segment(0xFE, b"a\xff\xd9b"))[:-2],
    "fill bytes before a segment": PLAIN[:2] + b"\xff\xff" + PLAIN[2:] + b"\n",
    "no huffman tables": without_huffman_tables(PLAIN),
    "no huffman tables, no end marker": without_huffman_tables(PLAIN)[:-2],
}
REFERENCE = {"colour of each pixel": FINE_CHROMA, "restarts": RESTARTS, "progressive": PROGRESSIVE}


@pytest.mark.parametrize("name", WHOLE)
def test_a_jpeg_with_all_its_pixels_is_read_exactly(name: str) -> None:
    plain = next((data for word, data in REFERENCE.items() if word in name), PLAIN)
    expected = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded(WHOLE[name]), expected)


@pytest.mark.parametrize(
    "source",
    [PLAIN, RESTARTS, PROGRESSIVE, FINE_CHROMA],
    ids=["plain", "restarts", "progressive", "colour"],
)
@pytest.mark.parametrize(
    "tail", [b"", bytes(6000), b"\xff" * 600, b"\r\n"], ids=["", "zeros", "ff", "crlf"]
)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.98])
def test_a_jpeg_that_lacks_pixels_is_refused(source: bytes, tail: bytes, share: float) -> None:
    """Also where only the plain part at the bottom is missing, which decodes to plain grey."""
    begin = source.index(b"\xff\xda")
    cut = source[: begin + round((len(source) - begin) * share)]
    with pytest.raises(EncodedImageError, match="cut off") as caught:
        decoded(cut.rstrip(b"\0\xff") + tail)
    assert caught.value.reason == "undecodable"
    assert not any(c.isdigit() for c in str(caught.value)), "one line for all images"


@pytest.mark.parametrize(
    "source", [PLAIN, RESTARTS, FINE_CHROMA], ids=["plain", "restarts", "colour"]
)
@pytest.mark.parametrize("behind", [b"", b"\r\n"], ids=["nothing", "crlf"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_end_marker_does_not_hide_that_pixels_are_missing(
    source: bytes, behind: bytes, share: float
) -> None:
    """Cameras close what was cut off by an end marker, or begin the next picture right behind."""
    begin = source.index(b"\xff\xda")
    cut = source[: begin + round((len(source) - begin) * share)].rstrip(b"\xff")
    for data in (cut + b"\xff\xd9" + behind, cut + source + behind):
        with pytest.raises(EncodedImageError, match="cut off"):
            decoded(data)


def test_a_picture_that_is_plain_grey_is_whole() -> None:
    grey = jpeg(image=np.full((*HW, 3), 128, np.uint8))
    progressive = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1, image=np.full((*HW, 3), 128, np.uint8))
    for data in (grey, grey + b"\r\n", grey[:-2], progressive):
        assert np.ptp(decoded(data)) == 0


def test_libjpeg_says_nothing_of_its_own_while_others_are_heard(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with encoded_image.without_jpeg_warnings():
        os.write(2, b"Corrupt JPEG data: 5 extraneous bytes\nheard\n")
    decoded(PLAIN[:-2])
    with pytest.raises(EncodedImageError):
        decoded(PLAIN[: len(PLAIN) // 2])
    assert capfd.readouterr().err == "heard\n"


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".pgm"])
def test_other_kinds_are_cut_off_or_whole(suffix: str) -> None:
    data = encoded(suffix)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded(data + b"\r\ntrailing"), expected)
    for share in (0.5, 0.95):
        with pytest.raises(EncodedImageError, match="cut off"):
            decoded(data[: round(len(data) * share)])


def test_a_damaged_png_is_named_once(capfd: pytest.CaptureFixture[str]) -> None:
    for place in (0.3, 0.5, 0.9):
        data = bytearray(encoded(".png"))
        data[round(len(data) * place)] ^= 0x55
        with pytest.raises(EncodedImageError, match="is damaged"):
            decoded(bytes(data))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("top", [1023, 65535])
@pytest.mark.parametrize("kind", [5, 6])
def test_a_pnm_of_more_bits_is_cut_off_where_half_of_its_bytes_are_missing(
    kind: int, top: int, capfd: pytest.CaptureFixture[str]
) -> None:
    values = np.arange(HW[0] * HW[1] * (1 if kind == 5 else 3)) % top
    data = f"P{kind}\n# seen\n{HW[1]} {HW[0]}\n{top}\n".encode() + values.astype(">u2").tobytes()
    read = decode_image(data, cv2.IMREAD_UNCHANGED, MAX_PIXELS)
    expected = values.reshape(*HW, -1)[..., ::-1]
    np.testing.assert_array_equal(read.reshape(expected.shape), expected)
    with pytest.raises(EncodedImageError, match="is cut off"):
        decoded(data[: len(data) - 100])
    assert capfd.readouterr().err == ""


def turned(orientation: int) -> bytes:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"MM" + struct.pack(">HIH", 42, 8, 1) + entry + bytes(4)
    return with_segments(PLAIN, segment(0xE1, b"Exif\0\0" + tiff))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_leave_the_pixels_as_they_are_stored(orientation: int) -> None:
    np.testing.assert_array_equal(decoded(turned(orientation)), decoded(PLAIN))
    assert orientation_tag(turned(orientation)) == orientation


@pytest.mark.parametrize(
    "data",
    [b"", PLAIN, turned(0), turned(9), turned(6)[:30], b"Exif\0\0II"],
    ids=["nothing", "none", "zero", "nine", "cut", "empty"],
)
def test_no_orientation_tag_means_as_it_is_stored(data: bytes) -> None:
    assert orientation_tag(data) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_come_out_in_three_channels(channels: int) -> None:
    image = picture() if channels == 3 else picture()[..., 0]
    assert decoded(jpeg(image=image)).shape == (*HW, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"II*\0" + bytes(40), "TIFF"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x0cjP  \r\n" + bytes(40), "JPEG 2000"),
        (b"\0\0\0\x01\x67" + bytes(40), "H.264"),
        (b"<html>404</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (PLAIN.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"), "12-bit JPEG"),
        (PLAIN.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc3\x00\x11\x08"), "lossless"),
        (b"\xff\xd8\xff", "without a frame header"),
        (PLAIN[:300], "frame header|cut off"),
        (b"no image at all", "starts with 6e6f2069"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_named(data: bytes, words: str) -> None:
    with pytest.raises(EncodedImageError, match=words):
        decoded(data)


def test_the_size_is_checked_before_decoding() -> None:
    with pytest.raises(EncodedImageError, match="64x48 pixels is over the limit of 100") as caught:
        decode_image(memoryview(PLAIN), cv2.IMREAD_COLOR, 100)
    assert caught.value.reason == "too_large"
