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

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdust3r_ros.config import KeyframeSettings
from mvdust3r_ros.datatypes import FloatArray, Frame, ImageArray, Keyframe, View, Window
from mvdust3r_ros.geometry import make_se3
from mvdust3r_ros.window.keyframes import (
    MAX_CORNERS,
    KeyframeError,
    KeyframeWindow,
    MotionGauge,
    thin_evenly,
)

SECOND = 1_000_000_000
RNG = np.random.default_rng(0)
WIDE = np.kron(RNG.integers(0, 255, (32, 160, 1)), np.ones((4, 4, 3))).astype(np.uint8)
FLAT = np.full((128, 128, 3), 90, np.uint8)
EVERY_FRAME = {"max_translation_m": 0.01, "min_sharpness": 0.0}


def scene(shift: int) -> ImageArray:
    """128x128 pixels of a long wall, seen `shift` pixels to the right."""
    return np.ascontiguousarray(WIDE[:, shift : shift + 128])


def at(x: float, turn_deg: float = 0.0) -> FloatArray:
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    return make_se3(np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]), np.array([x, 0, 0]))


class MappedWindow(KeyframeWindow):
    """With a map that holds what it is told."""

    def __init__(self, settings: KeyframeSettings) -> None:
        self.in_map: tuple[Keyframe, ...] = ()
        super().__init__(settings, lambda: self.in_map)

    def commit(self, keyframes: Sequence[Keyframe], window: Sequence[Keyframe] = ()) -> None:
        self.in_map = tuple(keyframes)
        self.committed(window)


def show(
    window: MappedWindow,
    stamp_ns: int,
    T: FloatArray | None = None,
    image: ImageArray = FLAT,
    camera: str = "left",
) -> Window | None:
    frame = Frame(stamp_ns, image, T_odom_cam=T, camera_name=camera)
    window.check(frame)
    return window.add(frame, View(image, T_odom_cam=T))


def drive(window: MappedWindow, count: int, start: int = 0) -> list[Window]:
    """Each frame 10 cm farther, so each becomes a keyframe; the windows that came."""
    found = [show(window, (start + i + 1) * SECOND, at(0.1 * (start + i))) for i in range(count)]
    return [w for w in found if w is not None]


def waiting(window: MappedWindow) -> tuple[Keyframe, ...]:
    """All keyframes that have filled no window, of an empty map; afterwards none waits."""
    window.settings = replace(window.settings, window_size=64, busy_window_size=64)
    flushed = window.flush()
    return () if flushed is None else flushed.keyframes


def ids(window: Window | None) -> list[int]:
    assert window is not None
    return [k.id for k in window.keyframes]


def keyframes(count: int) -> list[Keyframe]:
    return [Keyframe(i, i, View(FLAT), "left") for i in range(count)]


# Thinning out


def test_thinning_by_hand() -> None:
    assert [k.id for k in thin_evenly(keyframes(10), 5)] == [1, 3, 5, 7, 9]
    assert [k.id for k in thin_evenly(keyframes(9), 4)] == [1, 3, 5, 8]
    assert [k.id for k in thin_evenly(keyframes(5), 1)] == [4]
    few = keyframes(3)
    assert thin_evenly(few, 3) == thin_evenly(few, 5) == few
    assert thin_evenly([], 2) == []


@given(st.integers(1, 80), st.integers(1, 80))
def test_thinning_keeps_order_count_and_the_newest(have: int, want: int) -> None:
    chosen = [k.id for k in thin_evenly(keyframes(have), want)]
    assert len(chosen) == min(have, want)
    assert chosen[-1] == have - 1
    assert chosen == sorted(set(chosen))
    gaps = np.diff([-1, *chosen])
    assert gaps.max() - gaps.min() <= 1 or len(chosen) == 1


# Image motion


def test_overlap_is_the_share_still_in_view() -> None:
    gauge = MotionGauge()
    gauge.restart(scene(0)[..., 0])
    for shift in range(0, 65, 4):
        overlap = gauge.overlap(scene(shift)[..., 0])
        assert overlap == pytest.approx(1 - shift / 128, abs=0.12)


def test_overlap_of_the_same_image_is_complete_and_of_another_one_small() -> None:
    gauge = MotionGauge()
    gauge.restart(scene(0)[..., 0])
    assert gauge.overlap(scene(0)[..., 0]) == 1.0
    assert gauge.overlap(scene(300)[..., 0]) < 0.2
    gauge.restart(scene(4)[..., 0])
    assert gauge.overlap(scene(4)[..., 0]) == 1.0


def test_overlap_without_a_reference_or_of_another_size_is_none() -> None:
    gauge = MotionGauge()
    assert gauge.overlap(FLAT[..., 0]) == 0.0
    gauge.restart(scene(0)[..., 0])
    assert gauge.overlap(scene(0)[:100, :, 0]) == 0.0


def test_without_texture_nothing_seems_to_move_until_there_is_some() -> None:
    gauge = MotionGauge()
    gauge.restart(FLAT[..., 0])
    assert gauge.blind
    assert gauge.overlap(FLAT[..., 0]) == 1.0
    assert gauge.overlap(scene(0)[..., 0]) == 0.0


def test_an_image_that_shows_nothing_changes_nothing() -> None:
    gauge = MotionGauge()
    gauge.restart(scene(0)[..., 0])
    before = gauge.overlap(scene(20)[..., 0])
    for nothing in (FLAT[..., 0], np.zeros_like(FLAT[..., 0])):
        assert gauge.overlap(nothing) == before
    assert gauge.overlap(scene(20)[..., 0]) == pytest.approx(before, abs=0.05)
    assert gauge.overlap(scene(300)[..., 0]) < 0.2


def test_the_number_of_corners_is_bounded() -> None:
    gauge = MotionGauge()
    noise = RNG.integers(0, 255, (256, 256), dtype=np.uint8)
    gauge.restart(noise)
    share = Fraction(gauge.overlap(np.roll(noise, 8, 1))).limit_denominator(10**6)
    assert 2 < share.denominator <= MAX_CORNERS, "a share of so many corners"


# Which frames are kept


def kept(
    rule: dict[str, float], frames: list[tuple[int, FloatArray | None, ImageArray]]
) -> list[int]:
    """Indices of the frames that became keyframes."""
    window = MappedWindow(KeyframeSettings(**{"min_sharpness": 0.0, **rule}))
    found = []
    for index, (stamp_ns, T, image) in enumerate(frames):
        before = window.keyframe_count
        show(window, stamp_ns, T, image)
        if window.keyframe_count > before:
            found.append(index)
    return found


def test_the_first_frame_is_kept_and_a_still_camera_adds_none() -> None:
    assert kept({}, [(i * SECOND, at(0), scene(0)) for i in range(5)]) == [0]
    assert kept({}, [(i * SECOND, None, scene(0)) for i in range(5)]) == [0]


def test_odometry_motion_counts_from_the_last_keyframe() -> None:
    frames = [(i * SECOND, at(x), FLAT) for i, x in enumerate([0, 0.4, 0.6, 1.0, 1.05, 1.2, 0.75])]
    assert kept({"max_translation_m": 0.5}, frames) == [0, 2, 5]


def test_odometry_rotation_counts_both_ways() -> None:
    turns = [0.0, 15, 25, 40, 46, 30, 25]
    frames = [(i * SECOND, at(0, turn), FLAT) for i, turn in enumerate(turns)]
    assert kept({"max_rotation_deg": 20.0}, frames) == [0, 2, 4, 6]


def test_image_motion_counts_without_odometry() -> None:
    frames = [(i * SECOND, None, scene(4 * i)) for i in range(33)]
    few, many = kept({"min_overlap": 0.5}, frames), kept({"min_overlap": 0.8}, frames)
    assert len(few) == pytest.approx(128 / 64, abs=1)
    assert len(many) == pytest.approx(128 / 25.6, abs=1)


def blank(rng: np.random.Generator, sigma: float = 3.0, level: float = 150.0) -> ImageArray:
    """A plain wall as a sensor sees it: a little shading, and noise that is new each time."""
    shade = level + np.linspace(0, 30, 128)[None, :, None]
    return np.clip(rng.normal(shade, sigma, (128, 128, 3)), 0, 255).astype(np.uint8)


def seen(images: list[ImageArray], period_ns: int = SECOND // 5) -> list[int]:
    return kept({}, [((i + 1) * period_ns, None, image) for i, image in enumerate(images)])


@pytest.mark.parametrize("plain", ["flat", "noisy"])
def test_after_a_view_without_texture_mapping_goes_on(plain: str) -> None:
    rng = np.random.default_rng(3)
    walls = [FLAT if plain == "flat" else blank(rng) for _ in range(6)]
    drive_on = [scene(shift) for shift in range(0, 320, 8)]
    found = seen([*walls, *drive_on])
    assert found[0] == 0
    assert found[1] == 6  # what can be seen first
    assert len(found) >= 6
    assert max(np.diff(found[1:])) <= 10


def spots(shift: int, rng: np.random.Generator) -> ImageArray:
    """A wall with little on it: 8 to 12 corners a view."""
    wall = np.full((128, 448, 3), 150, np.uint8)
    places = np.random.default_rng(7)
    for x in range(8, 448, 13):
        wall[(y := int(places.integers(8, 116))) : y + 5, x : x + 5] = 60
    noise = rng.normal(0, 1, (128, 128, 3))
    return np.clip(wall[:, shift : shift + 128] + noise, 0, 255).astype(np.uint8)


def test_after_a_view_without_texture_little_texture_is_enough_to_go_on() -> None:
    rng = np.random.default_rng(3)
    way = [spots(shift, rng) for shift in range(0, 320, 8)]
    undisturbed, found = seen(way), seen([FLAT, *way])
    assert len(undisturbed) >= 5
    assert found[1] <= 4
    assert len(found) >= len(undisturbed)


def test_one_view_without_texture_on_the_way_costs_nothing() -> None:
    way = [scene(shift) for shift in range(0, 320, 8)]
    undisturbed = seen(way)
    with_wall = seen([*way[:20], FLAT, FLAT, *way[20:]])
    assert abs(len(with_wall) - len(undisturbed)) <= 1


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
def test_standing_before_a_plain_wall_adds_no_keyframes(sigma: float) -> None:
    rng = np.random.default_rng(4)
    assert seen([blank(rng, sigma) for _ in range(60)], SECOND) == [0]


def test_the_dark_a_covered_lens_and_the_light_again_are_no_motion() -> None:
    rng = np.random.default_rng(5)
    dark = [np.abs(rng.normal(0, 1, (128, 128, 3))).astype(np.uint8) for _ in range(20)]
    assert seen([*[scene(40)] * 5, *dark, *[scene(40)] * 5, *dark, scene(40)], SECOND) == [0]
    moved = seen([*[scene(0)] * 5, *dark, *[scene(200)] * 5], SECOND)
    assert moved == [0, 25]


def test_a_keyframe_without_texture_waits_before_it_takes_another() -> None:
    assert seen([FLAT, *[scene(0)] * 9], SECOND // 10) == [0, 5]


def test_each_camera_finds_its_own_way_out_of_the_dark() -> None:
    window = MappedWindow(KeyframeSettings(min_sharpness=0.0))
    for k in range(20):
        left = FLAT if k < 5 else scene(8 * k)
        show(window, (k + 1) * SECOND, None, left, "left")
        show(window, (k + 1) * SECOND, None, FLAT, "right")
    cameras = [key.camera_name for key in waiting(window)]
    assert cameras.count("right") == 1
    assert cameras.count("left") >= 3


def test_time_counts_when_asked() -> None:
    frames = [(i * SECOND // 2, None, FLAT) for i in range(7)]
    assert kept({"max_interval_s": 1.0}, frames) == [0, 2, 4, 6]
    assert kept({"max_interval_s": 0.0}, frames) == [0]


def test_frames_too_close_in_time_are_skipped() -> None:
    frames = [(i * SECOND // 2, at(i), FLAT) for i in range(7)]
    assert kept({"min_interval_s": 1.0}, frames) == [0, 2, 4, 6]
    assert kept({"min_interval_s": 0.5}, frames) == list(range(7))


def test_blurred_frames_are_skipped_and_counted() -> None:
    blurred = np.asarray(np.round(scene(0) * 0.1 + 100), np.uint8)
    window = MappedWindow(KeyframeSettings(max_translation_m=0.01, min_sharpness=0.35))
    images = [scene(0)] * 5 + [blurred] + [scene(0)] + [blurred] * 2
    for i, image in enumerate(images):
        show(window, i * SECOND, at(i), image)
    assert window.blurred_count == 3
    assert window.keyframe_count == 6


def test_the_first_frames_are_never_blurred_and_a_dull_place_becomes_usual() -> None:
    dull = np.asarray(np.round(scene(0) * 0.1 + 100), np.uint8)
    window = MappedWindow(KeyframeSettings(max_translation_m=0.01, min_sharpness=0.35))
    for i, image in enumerate([scene(0)] * 4 + [dull] + [scene(0)] * 10 + [dull] * 40):
        show(window, i * SECOND, at(i), image)
    assert window.blurred_count == 14  # until most of the last 30 are dull
    assert window.keyframe_count == 55 - 14


# Stamps and sizes


def test_stamps_that_do_not_grow_are_refused() -> None:
    window = MappedWindow(KeyframeSettings())
    show(window, 5 * SECOND)
    for stamp_ns in (5 * SECOND, 4 * SECOND + 1):
        with pytest.raises(
            KeyframeError, match=f"left: stamp {stamp_ns} ns is not newer than 5000"
        ):
            show(window, stamp_ns)
    assert window.epoch == 0
    show(window, 5 * SECOND + 1)


def test_cameras_have_clocks_of_their_own() -> None:
    window = MappedWindow(KeyframeSettings())
    show(window, 5 * SECOND)
    show(window, 2 * SECOND, camera="right")
    assert (window.epoch, window.keyframe_count) == (0, 2)


def test_a_jump_back_starts_an_epoch_without_old_keyframes() -> None:
    window = MappedWindow(KeyframeSettings(window_size=4, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 4, start=10)
    window.commit(window.take(first).keyframes)
    drive(window, 1, start=14)
    show(window, 14 * SECOND, at(0))  # one second back from the last
    assert window.epoch == 1
    (fresh,) = drive(window, 3, start=14)
    assert ids(fresh) == [5, 6, 7, 8]
    assert (fresh.epoch, fresh.index) == (1, 1)
    assert first.epoch == 0


def test_a_change_of_size_costs_one_frame() -> None:
    window = MappedWindow(KeyframeSettings())
    show(window, 1 * SECOND)
    wide = np.zeros((128, 160, 3), np.uint8)
    with pytest.raises(KeyframeError, match="left: image size changed from 128x128 to 160x128"):
        show(window, 2 * SECOND, image=wide)
    with pytest.raises(KeyframeError, match="not newer"):
        show(window, 2 * SECOND, image=wide)
    show(window, 3 * SECOND, image=wide)
    assert window.keyframe_count == 2


# Windows


def test_the_first_window_is_full_and_oldest_first() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (found,) = drive(window, 5)
    assert ids(found) == [0, 1, 2, 3, 4]
    assert (found.index, found.epoch) == (0, 0)
    assert [k.stamp_ns for k in found.keyframes] == [i * SECOND for i in range(1, 6)]
    assert found.keyframes[3].view.T_odom_cam[0, 3] == pytest.approx(0.3)
    assert {k.camera_name for k in found.keyframes} == {"left"}


def test_windows_overlap_with_the_last_committed_one() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    seen = []
    for i in range(14):
        for found in drive(window, 1, start=i):
            window.commit(window.take(found).keyframes)
            seen.append(ids(found))
    assert seen == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10], [9, 10, 11, 12, 13]]


def test_a_rejected_window_leaves_the_overlap_with_the_map() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    (second,) = drive(window, 3, start=5)
    window.take(second)  # and no commit
    (third,) = drive(window, 3, start=8)
    assert ids(third) == [3, 4, 8, 9, 10]


def test_after_two_windows_that_do_not_fit_one_begins_anew() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    for start in (5, 8):
        (found,) = drive(window, 3, start=start)
        assert ids(window.take(found))[:2] == [3, 4]
        window.record_mismatch()
    (fresh,) = drive(window, 5, start=11)
    assert ids(fresh) == [11, 12, 13, 14, 15]
    window.commit(window.take(fresh).keyframes)
    (after,) = drive(window, 3, start=16)
    window.take(after)
    window.record_mismatch()  # the count began anew, too
    (last,) = drive(window, 3, start=19)
    assert ids(last)[:2] == [14, 15]


def test_windows_that_contradict_themselves_count_half() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    for start in (5, 8, 11, 14):
        (found,) = drive(window, 3, start=start)
        assert ids(window.take(found))[:2] == [3, 4]
        window.record_mismatch(0.5)
    (fresh,) = drive(window, 5, start=17)
    assert ids(fresh) == [17, 18, 19, 20, 21]


def test_the_keyframes_of_a_rejected_window_help_to_bridge_the_gap() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    (second,) = drive(window, 3, start=5)
    window.give_back(window.take(second))
    assert drive(window, 2, start=8) == []  # as many new ones as ever
    (third,) = drive(window, 1, start=10)
    assert ids(third) == [3, 4, 6, 8, 10]
    window.give_back(window.take(third))
    (fourth,) = drive(window, 3, start=11)  # and none older than two windows
    assert ids(fourth) == [3, 4, 8, 11, 13]


def test_windows_slide_until_the_first_one_is_in_the_map() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.give_back(window.take(first), engine_failed=True)
    (second,) = drive(window, 3, start=5)
    assert ids(second) == [3, 4, 5, 6, 7]  # none is left out: there is no gap to bridge


def test_a_view_that_the_engine_fails_on_comes_back_once() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    (second,) = drive(window, 3, start=5)
    window.give_back(window.take(second), engine_failed=True)
    (third,) = drive(window, 3, start=8)
    assert ids(third) == [3, 4, 6, 8, 10]
    window.give_back(window.take(third), engine_failed=True)
    assert ids(window.flush())[-2:] == [8, 10]  # 6, in both, is given up
    assert 6 not in ids(window.flush())


def test_only_keyframes_that_are_in_the_map_are_shared() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes[:3])
    (second,) = drive(window, 3, start=5)
    assert ids(second) == [1, 2, 5, 6, 7]


def test_views_at_the_end_of_a_window_that_have_no_place_come_again() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    taken = window.take(first).keyframes
    window.commit((taken[0], taken[2]), taken)
    (second,) = drive(window, 1, start=5)
    assert ids(second) == [0, 2, 3, 4, 5]


def test_a_sudden_turn_keeps_the_frame_before_it() -> None:
    window = MappedWindow(KeyframeSettings(min_sharpness=0.0, min_overlap=0.75))
    for i, shift in enumerate((0, 4, 8, 12, 20, 90, 94)):
        show(window, (i + 1) * SECOND, image=scene(shift) if shift < 90 else scene(32)[:, ::-1])
    assert [k.stamp_ns // SECOND for k in waiting(window)] == [1, 5, 6]


def test_while_nobody_takes_windows_newer_ones_replace_older_ones() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    waiting = drive(window, 9, start=5)
    assert [w.index for w in waiting] == list(range(1, 8))
    assert ids(waiting[0]) == [3, 4, 5, 6, 7]
    assert ids(waiting[-1]) == [3, 4, 7, 10, 13]


def test_while_nobody_takes_windows_they_grow_before_keyframes_are_left_out() -> None:
    rule = KeyframeSettings(window_size=5, window_overlap=2, busy_window_size=8, **EVERY_FRAME)
    window = MappedWindow(rule)
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    waiting = drive(window, 8, start=5)
    assert ids(waiting[0]) == [3, 4, 5, 6, 7]
    assert ids(waiting[3]) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert ids(waiting[-1]) == [3, 4, 5, 6, 8, 9, 10, 12]
    window.commit(window.take(waiting[-1]).keyframes)
    (quiet,) = drive(window, 3, start=13)
    assert ids(quiet) == [10, 12, 13, 14, 15]


def test_a_window_made_before_a_commit_is_renewed_when_taken() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    running = window.take(first)
    late = drive(window, 6, start=5)[-1]  # made while the network is busy with the first
    assert ids(late) == [5, 6, 7, 8, 10]
    window.commit(running.keyframes)
    taken = window.take(late)
    assert ids(taken) == [3, 4, 6, 8, 10]
    assert taken.index == late.index
    assert window.flush() is None


def test_keyframes_newer_than_a_taken_window_still_wait() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    windows = drive(window, 7)
    window.commit(window.take(windows[0]).keyframes)
    (after,) = drive(window, 1, start=7)
    assert ids(after) == [3, 4, 5, 6, 7]


def test_waiting_keyframes_are_bounded() -> None:
    for count in (40, 41, 60, 61, 200):
        window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
        drive(window, count)
        held = waiting(window)
        low, high = (count, count) if count <= 40 else (20, 40)
        assert low <= len(held) <= high
        assert held[-1].id == count - 1


def test_flush_gives_what_is_pending_filled_up_with_committed_keyframes() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    assert window.flush() is not None
    window.commit(window.take(first).keyframes)
    assert window.flush() is None
    drive(window, 1, start=5)
    last = window.flush()
    assert ids(last) == [1, 2, 3, 4, 5]
    assert last.index == 2
    assert window.take(last) == last
    assert window.flush() is None


def test_flush_never_gives_more_than_a_window() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    (first,) = drive(window, 5)
    window.commit(window.take(first).keyframes)
    drive(window, 9, start=5)
    assert ids(window.flush()) == [3, 4, 7, 10, 13]


def test_flush_needs_three_keyframes() -> None:
    window = MappedWindow(KeyframeSettings(window_size=5, window_overlap=2, **EVERY_FRAME))
    drive(window, 2)
    assert window.flush() is None
    drive(window, 1, start=2)
    assert ids(window.flush()) == [0, 1, 2]


def test_thinning_keeps_every_camera_and_the_count() -> None:
    view = View(np.zeros((4, 4, 3), np.uint8))
    names = ["front", "left"] * 4 + ["front"]
    keyframes = [Keyframe(i, i, view, name) for i, name in enumerate(names)]
    for count in range(2, 9):
        chosen = thin_evenly(keyframes, count)
        assert len(chosen) == count
        assert {k.camera_name for k in chosen} == {"front", "left"}
        assert chosen[-1].id == 8
        assert [k.id for k in chosen] == sorted({k.id for k in chosen})
