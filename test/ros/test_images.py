from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mvdust3r_ros.ros.images import ConversionError, compressed_to_rgb, depth_to_m, image_to_rgb

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
        (image(b"x" * 24, "rgb8", 4, 2, step=6), "undecodable", "step 6"),
        (image(b"x" * 24, "nv12", 4, 2), "encoding", "'nv12' is not one of rgb8"),
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
        (b"GIF89a" + b"x" * 40, "undecodable", "neither JPEG nor PNG"),
        (encode(".jpg", smooth_picture())[:600], "undecodable", "cut off"),
        (b"\xff\xd8\xff\xd9", "undecodable", "no frame header"),
        (encode(".png", smooth_picture())[:60], "undecodable", "damaged"),
    ],
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
