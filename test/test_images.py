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

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mvdust3r_ros.messages.images import (
    ConversionError,
    compressed_to_rgb,
    depth_to_m,
    image_to_rgb,
)
from mvdust3r_ros.tones import Tones

RED, GREEN, BLUE = (200, 30, 20), (10, 180, 40), (15, 25, 220)
# Two rows of four pixels, all different.
RGB = np.array(
    [[RED, GREEN, BLUE, (1, 2, 3)], [(255, 255, 255), (0, 0, 0), (90, 80, 70), (7, 130, 250)]],
    np.uint8,
)


def image(data: bytes, encoding: str, width: int, height: int, **changes: Any) -> Any:
    fields = {
        "encoding": encoding, "width": width, "height": height,
        "step": len(data) // max(1, height), "is_bigendian": 0, "data": data,
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", (0, 1, 2)), ("bgr8", (2, 1, 0)), ("8UC3", (2, 1, 0)),
        ("rgba8", (0, 1, 2, 1)), ("bgra8", (2, 1, 0, 1)), ("8UC4", (2, 1, 0, 1)),
    ],
)  # fmt: skip
def test_colour_layouts_are_exact(encoding: str, order: tuple[int, ...]) -> None:
    data = RGB[..., list(order)].tobytes()
    np.testing.assert_array_equal(image_to_rgb(image(data, encoding, 4, 2)), RGB)


def test_mono8_repeats_the_value() -> None:
    gray = np.arange(8, dtype=np.uint8).reshape(2, 4) * 30
    rgb = image_to_rgb(image(gray.tobytes(), "mono8", 4, 2))
    np.testing.assert_array_equal(rgb, np.repeat(gray[..., None], 3, -1))


@pytest.mark.parametrize("encoding", ["RGB8", "BGR8", "Mono8", "YUY2", "NV12", " rgb8", "8uc3"])
def test_letters_of_either_case_are_understood(encoding: str) -> None:
    small = encoding.strip().lower().replace("8uc3", "8UC3")
    data, rows = bytes(range(64)), {"mono8": 16, "yuy2": 8}.get(small, 4)
    other = image_to_rgb(image(data, small, 4, rows, step=0))
    np.testing.assert_array_equal(image_to_rgb(image(data, encoding, 4, rows, step=0)), other)


@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb16", (0, 1, 2)), ("bgr16", (2, 1, 0)), ("16UC3", (2, 1, 0)),
        ("rgba16", (0, 1, 2, 1)), ("bgra16", (2, 1, 0, 1)), ("16UC4", (2, 1, 0, 1)),
    ],
)  # fmt: skip
def test_colours_of_16_bits_keep_their_upper_bytes(
    encoding: str, order: tuple[int, ...], big: int
) -> None:
    values = (RGB[..., list(order)].astype(np.uint16) << 8) + 77
    data = values.astype(">u2" if big else "<u2").tobytes()
    np.testing.assert_array_equal(image_to_rgb(image(data, encoding, 4, 2, is_bigendian=big)), RGB)


def colour_planes(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Studio-swing BT.601: brightness, and both colours of each second pixel and row."""
    h, w = rgb.shape[:2]
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    quarter = h * w // 4
    flat = i420.ravel()[h * w :]
    shape = h // 2, w // 2
    return i420[:h], flat[:quarter].reshape(shape), flat[quarter:].reshape(shape)


def planar(encoding: str, rgb: np.ndarray, padding: int) -> tuple[bytes, int]:
    """Data and step of an image; rows end in bytes that belong to nothing."""
    y, u, v = colour_planes(rgb)
    step = y.shape[1] + padding

    def rows(values: np.ndarray, length: int) -> bytes:
        out = np.full((len(values), length), 0xEE, np.uint8)
        out[:, : values.shape[1]] = values
        return out.tobytes()

    pairs = {"nv12": (u, v), "nv21": (v, u), "nv24": (u, v)}
    if encoding == "nv24":
        u, v = (np.repeat(np.repeat(c, 2, 0), 2, 1) for c in (u, v))
        uv = np.stack([u, v], -1).reshape(len(y), -1)
        return rows(y, step) + rows(uv, 2 * step), step
    if encoding in pairs:
        uv = np.stack(pairs[encoding], -1).reshape(len(u), -1)
        return rows(y, step) + rows(uv, step), step
    first, second = (v, u) if encoding == "yv12" else (u, v)
    return rows(y, step) + rows(first, step // 2) + rows(second, step // 2), step


@pytest.mark.parametrize("padding", [0, 32])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24", "i420", "yuv420p", "yv12"])
def test_planes_of_brightness_and_colour(encoding: str, padding: int) -> None:
    rgb = cv2.GaussianBlur(smooth_picture(), (0, 0), 2)
    data, step = planar(encoding, rgb, padding)
    got = image_to_rgb(image(data, encoding, 64, 48, step=step))
    assert np.abs(got.astype(int) - rgb).mean() < 2.5
    assert np.abs(got.astype(int) - rgb).max() <= 12
    cut = data[: step * 50]
    with pytest.raises(ConversionError, match=f"{len(cut)} bytes"):
        image_to_rgb(image(cut, encoding, 64, 48, step=step))


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24", "i420"])
def test_planes_of_odd_sides_are_refused(encoding: str) -> None:
    with pytest.raises(ConversionError, match="even sides, got 5x4"):
        image_to_rgb(image(bytes(100), encoding, 5, 4, step=5))


def test_yvyu_has_its_colours_the_other_way_round() -> None:
    y, u, v = 82, 90, 240  # red
    rgb = image_to_rgb(image(bytes([y, v, y, u] * 2), "yvyu", 4, 1))
    assert np.all(np.abs(rgb.astype(int) - (255, 0, 0)) <= 3)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("encoding", ["mono{}", "mono16", "bayer_grbg{}", "bayer_grbg16"])
def test_sensors_of_more_bits_keep_their_upper_eight(encoding: str, bits: int) -> None:
    """Values in the lower bits of two bytes, as drivers of machine vision cameras send them."""
    high = np.tile(np.linspace(0, 255, 32).astype(np.uint16), (16, 1))
    data = (high << (bits - 8)).astype("<u2").tobytes()
    name = encoding.format(bits)
    eight = "mono8" if "mono" in name else "bayer_grbg8"
    expected = image_to_rgb(image(high.astype(np.uint8).tobytes(), eight, 32, 16))
    np.testing.assert_array_equal(image_to_rgb(image(data, name, 32, 16)), expected)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("big", [0, 1])
def test_bayer_of_16_bits(pattern: str, big: int) -> None:
    tile = [GREEN["rgb".index(c)] for c in pattern]
    mosaic = np.tile(np.array(tile, np.uint16).reshape(2, 2), (4, 4)) << 8
    data = mosaic.astype(">u2" if big else "<u2").tobytes()
    rgb = image_to_rgb(image(data, f"bayer_{pattern}16", 8, 8, is_bigendian=big))
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to(GREEN, (4, 4, 3)))


def thermal(begin: float, end: float, dtype: str = "<u2") -> bytes:
    """64x48 values of a picture between two ends."""
    grey = smooth_picture()[..., 0] / 255
    return (begin + grey * (end - begin)).astype(dtype).tobytes()


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_thermal_images_are_stretched_said_once_and_do_not_flicker(encoding: str) -> None:
    said: list[str] = []
    tones = Tones(said.append)
    expected = smooth_picture()[..., 0].astype(int)
    before = None
    for k in range(20):  # the sensor drifts by a tenth of what it sees
        drift = 5 * k
        message = image(thermal(7500 + drift, 8500 + drift), encoding, 64, 48)
        got = image_to_rgb(message, tones=tones)[..., 0].astype(int)
        assert np.abs(got - expected).mean() < 16
        if before is not None:
            assert np.abs(got - before).mean() < 3
        before = got
    assert len(said) == 1
    assert "75" in said[0] and "85" in said[0] and "stretched" in said[0]


def test_something_hot_in_view_does_not_darken_the_rest() -> None:
    tones = Tones()
    values = np.frombuffer(thermal(7500, 8500), np.uint16).reshape(48, 64).copy()
    plain = image_to_rgb(image(values.tobytes(), "mono16", 64, 48), tones=tones).astype(int)
    values[:4, :4] = 16_000
    hot = image_to_rgb(image(values.tobytes(), "mono16", 64, 48), tones=tones).astype(int)
    assert np.abs(hot - plain)[4:].max() <= 12


def test_a_scene_of_another_range_is_visible_at_once() -> None:
    tones = Tones()
    for begin in (7500, 12_000):
        message = image(thermal(begin, begin + 400), "mono16", 64, 48)
        got = image_to_rgb(message, tones=tones).astype(int)
        assert got.min() < 20 and got.max() > 235


def test_an_image_of_one_value_is_said_to_be_empty() -> None:
    said: list[str] = []
    message = image(np.full(64 * 48, 9000, "<u2").tobytes(), "mono16", 64, 48)
    assert np.ptp(image_to_rgb(message, tones=Tones(said.append))) == 0
    assert "nothing to see" in said[0]


@pytest.mark.parametrize(
    ("begin", "end"), [(0.001, 1.0), (20.0, 38.0), (293.0, 311.0), (-12.0, 5.0)]
)
def test_greys_of_floats_are_shares_or_temperatures(begin: float, end: float) -> None:
    message = image(thermal(begin, end, "<f4"), "32FC1", 64, 48)
    got = image_to_rgb(message)[..., 0].astype(int)
    assert np.abs(got - smooth_picture()[..., 0]).max() <= 6


@pytest.mark.parametrize(
    ("encoding", "dtype", "unknown"),
    [("16UC1", "<u2", 0), ("32FC1", "<f4", 0), ("32FC1", "<f4", np.nan), ("32FC1", "<f4", -1)],
)
def test_depth_is_not_taken_for_a_picture(encoding: str, dtype: str, unknown: float) -> None:
    depth = np.full((48, 64), 2, dtype)
    depth[:, :10] = unknown
    with pytest.raises(ConversionError, match="is depth, no picture") as caught:
        image_to_rgb(image(depth.tobytes(), encoding, 64, 48))
    assert caught.value.reason == "encoding"


def test_depth_as_a_png_is_not_taken_for_a_picture() -> None:
    depth = np.full((48, 64), 2000, np.uint16)
    depth[:, :10] = 0
    done, data = cv2.imencode(".png", depth)
    assert done
    message = SimpleNamespace(format="16UC1; png compressed ", data=data.tobytes())
    with pytest.raises(ConversionError, match="is depth, no picture"):
        compressed_to_rgb(message)


def test_depth_in_another_unit_is_refused() -> None:
    message = image(np.full((4, 4), 2000, "<f4").tobytes(), "32fc1", 4, 4)
    with pytest.raises(ConversionError, match="2000 m in the middle: 32FC1 has to be in metres"):
        depth_to_m(message)


def test_encoded_images_in_the_wrong_message_are_named() -> None:
    with pytest.raises(ConversionError, match="sensor_msgs/CompressedImage"):
        image_to_rgb(image(bytes(40), "mjpeg", 4, 2))


@pytest.mark.parametrize(("order", "big"), [("<u2", 0), (">u2", 1)])
def test_mono16_keeps_its_upper_byte_in_both_byte_orders(order: str, big: int) -> None:
    values = np.array([[0, 0x1234, 0xABCD, 0xFFFF]], np.uint16)
    rgb = image_to_rgb(image(values.astype(order).tobytes(), "mono16", 4, 1, is_bigendian=big))
    np.testing.assert_array_equal(rgb[0, :, 0], [0x00, 0x12, 0xAB, 0xFF])


@pytest.mark.parametrize(
    ("encoding", "layout"),
    [
        ("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv"),
    ],
)  # fmt: skip
def test_yuv422_follows_bt601(encoding: str, layout: str) -> None:
    # Studio-swing BT.601 of pure grey 126/255-ish and of red: Y, U, V by hand.
    y, u, v = 82, 90, 240  # red
    pair = {"uyvy": [u, y, v, y], "yuyv": [y, u, y, v]}[layout]
    rgb = image_to_rgb(image(bytes(pair * 2), encoding, 4, 1))
    assert np.all(np.abs(rgb.astype(int) - (255, 0, 0)) <= 3)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("color", [RED, GREEN, BLUE])
def test_bayer_of_one_colour_gives_that_colour(pattern: str, color: tuple[int, ...]) -> None:
    tile = [color["rgb".index(c)] for c in pattern]
    mosaic = np.tile(np.array(tile, np.uint8).reshape(2, 2), (4, 4))
    rgb = image_to_rgb(image(mosaic.tobytes(), f"bayer_{pattern}8", 8, 8))
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to(color, (4, 4, 3)))


def test_padding_at_the_end_of_rows_is_left_out() -> None:
    padded = np.full((2, 20), 99, np.uint8)
    padded[:, :12] = RGB.reshape(2, 12)
    np.testing.assert_array_equal(image_to_rgb(image(padded.tobytes(), "rgb8", 4, 2)), RGB)


def test_the_last_row_needs_no_padding() -> None:
    padded = np.full((2, 20), 99, np.uint8)
    padded[:, :12] = RGB.reshape(2, 12)
    message = image(padded.tobytes()[:-8], "rgb8", 4, 2, step=20)
    np.testing.assert_array_equal(image_to_rgb(message), RGB)


def test_a_step_that_is_no_multiple_of_the_pixel_size_works() -> None:
    values = np.array([[1, 2], [3, 0xFF00]], np.uint16)
    data = values[0].tobytes() + b"\x55" + values[1].tobytes()
    message = image(data, "mono16", 2, 2, step=5)
    np.testing.assert_array_equal(image_to_rgb(message)[..., 0], [[0, 0], [0, 0xFF]])


def test_arrays_of_rclpy_work_like_bytes() -> None:
    import array

    message = image(RGB.tobytes(), "rgb8", 4, 2)
    message.data = array.array("B", RGB.tobytes())
    np.testing.assert_array_equal(image_to_rgb(message), RGB)


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (image(b"", "rgb8", 0, 0), "empty", "0x0"),
        (image(b"", "rgb8", 4, 2), "undecodable", "needs 24"),
        (image(b"x" * 23, "rgb8", 4, 2, step=12), "undecodable", "23 bytes"),
        (
            image(b"x" * 24, "rgb8", 4, 2, step=6),
            "undecodable",
            "needs a step of 12 bytes or more",
        ),
        (image(b"x" * 24, "mono8", 4, 2, step=4), "undecodable", "its encoding or its size is"),
        (image(b"x" * 24, "nv16", 4, 2), "encoding", "'nv16' is not one of rgb8"),
        (image(b"x" * 6, "yuv422", 3, 1), "size", "even width"),
        (image(b"", "rgb8", 100_000, 100_000, step=300_000), "too_large", "max_megapixels"),
    ],
)
def test_bad_images_say_what_is_wrong(message: Any, reason: str, words: str) -> None:
    with pytest.raises(ConversionError, match=words) as caught:
        image_to_rgb(message)
    assert caught.value.reason == reason


@pytest.mark.parametrize("big", [0, 1])
def test_depth_in_millimetres_and_metres(big: int) -> None:
    order = ">" if big else "<"
    millimetres = np.array([[0, 1, 1500, 65535]], np.uint16)
    metres = np.array([[np.nan, 0.25, np.inf, -1.0]], np.float32)
    a = image(millimetres.astype(f"{order}u2").tobytes(), "16UC1", 4, 1, is_bigendian=big)
    b = image(metres.astype(f"{order}f4").tobytes(), "32FC1", 4, 1, is_bigendian=big)
    np.testing.assert_allclose(depth_to_m(a), [[0, 0.001, 1.5, 65.535]], rtol=1e-6)
    np.testing.assert_array_equal(depth_to_m(b), np.float32([[0, 0.25, 0, 0]]))


def smooth_picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    return np.stack(
        [np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 60, np.uint8)], -1
    )


def encode(suffix: str, rgb: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    "kind", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"]
)
def test_jpeg_comes_out_in_rgb(kind: str) -> None:
    rgb = smooth_picture()
    decoded = compressed_to_rgb(SimpleNamespace(format=kind, data=encode(".jpg", rgb)))
    assert np.abs(decoded.astype(int) - rgb).max() <= 12


def test_a_format_that_says_so_has_red_and_blue_swapped() -> None:
    rgb = smooth_picture()
    message = SimpleNamespace(
        format="rgb8; jpeg compressed rgb8", data=encode(".jpg", rgb[..., ::-1])
    )
    assert np.abs(compressed_to_rgb(message).astype(int) - rgb).max() <= 12


@pytest.mark.parametrize(
    "kind",
    ["jpeg", "JPEG", "jpg", "", "png", "bgr8; JPEG compressed bgr8", "rgb8; jpeg compressed ",
     "rgb8;jpeg compressed bgr8", "webp", "mono8; jpeg compressed bgr8"],
)  # fmt: skip
def test_the_content_decides_not_what_the_format_calls_it(kind: str) -> None:
    rgb = smooth_picture()
    for suffix in (".jpg", ".png"):
        message = SimpleNamespace(format=kind, data=encode(suffix, rgb))
        assert np.abs(compressed_to_rgb(message).astype(int) - rgb).max() <= 12


@pytest.mark.parametrize("kind", ["RGB8; JPEG compressed RGB8", "rgb8; png compressed rgb8"])
def test_swapped_colours_are_told_by_the_format_in_any_letters(kind: str) -> None:
    rgb = smooth_picture()
    message = SimpleNamespace(format=kind, data=encode(".png", rgb[..., ::-1]))
    np.testing.assert_array_equal(compressed_to_rgb(message), rgb)


@pytest.mark.parametrize("kind", ["bayer_rggb8; jpeg compressed ", "bayer_rggb8; png compressed"])
def test_a_compressed_mosaic_becomes_colour(kind: str) -> None:
    tile = np.array([RED[0], RED[1], RED[1], RED[2]], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (8, 8))
    done, data = cv2.imencode(".png", mosaic)
    assert done
    rgb = compressed_to_rgb(SimpleNamespace(format=kind, data=data.tobytes()))
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to(RED, (12, 12, 3)))


def test_a_compressed_mosaic_that_is_colour_already_stays() -> None:
    rgb = smooth_picture()
    message = SimpleNamespace(format="bayer_rggb8; jpeg compressed bgr8", data=encode(".png", rgb))
    np.testing.assert_array_equal(compressed_to_rgb(message), rgb)


def test_png_of_12_and_16_bits() -> None:
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint16), (48, 1))
    for bits in (12, 16):
        done, data = cv2.imencode(".png", grey << (bits - 8))
        assert done
        message = SimpleNamespace(format="mono16; png compressed ", data=data.tobytes())
        np.testing.assert_array_equal(compressed_to_rgb(message)[..., 0], grey)
    colours = smooth_picture()
    done, data = cv2.imencode(".png", colours[..., ::-1].astype(np.uint16) << 8)
    assert done
    message = SimpleNamespace(format="rgb16; png compressed bgr16", data=data.tobytes())
    np.testing.assert_array_equal(compressed_to_rgb(message), colours)


@pytest.mark.parametrize("kind", ["16UC1; compressedDepth png", "32FC1; compressedDepth rvl"])
def test_compressed_depth_is_not_taken_for_a_picture(kind: str) -> None:
    with pytest.raises(ConversionError, match="is depth, no picture"):
        compressed_to_rgb(SimpleNamespace(format=kind, data=bytes(60)))


@pytest.mark.parametrize("kind", ["png", "bgr8; png compressed bgr8", ""])
def test_png_is_exact(kind: str) -> None:
    rgb = smooth_picture()
    message = SimpleNamespace(format=kind, data=encode(".png", rgb))
    np.testing.assert_array_equal(compressed_to_rgb(message), rgb)


def test_an_orientation_tag_does_not_turn_the_image() -> None:
    jpeg = encode(".jpg", smooth_picture())
    # Exif with one entry: orientation (0x0112) = 6, turn by 90 degrees.
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    tiff = b"MM" + struct.pack(">HIH", 42, 8, 1) + entry + bytes(4)
    exif = b"Exif\x00\x00" + tiff
    tagged = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert compressed_to_rgb(SimpleNamespace(format="jpeg", data=tagged)).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty", "0 bytes"),
        (b"GIF89a" + b"x" * 40, "undecodable", "is GIF: convert it to JPEG or PNG"),
        (b"x" * 40, "undecodable", "neither JPEG, PNG"),
        (b"P5 4 2 255 12345678", "undecodable", "neither JPEG nor PNG"),
        (encode(".jpg", smooth_picture())[:600], "undecodable", "cut off"),
        (b"\xff\xd8\xff\xd9", "undecodable", "without a frame header"),
        (encode(".png", smooth_picture())[:60], "undecodable", "cut off"),
    ],
    ids=["nothing", "gif", "unknown", "pnm", "cut jpeg", "empty jpeg", "cut png"],
)
def test_bad_compressed_images_say_what_is_wrong(data: bytes, reason: str, words: str) -> None:
    with pytest.raises(ConversionError, match=words) as caught:
        compressed_to_rgb(SimpleNamespace(format="jpeg", data=data))
    assert caught.value.reason == reason


def test_the_size_is_checked_before_decoding() -> None:
    png = bytearray(encode(".png", smooth_picture()))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ConversionError, match="60000x60000") as caught:
        compressed_to_rgb(SimpleNamespace(format="png", data=bytes(png)))
    assert caught.value.reason == "too_large"


def test_padding_after_a_jpeg_is_no_fault() -> None:
    data = encode(".jpg", smooth_picture()) + bytes(100)
    assert compressed_to_rgb(SimpleNamespace(format="jpeg", data=data)).shape == (48, 64, 3)
