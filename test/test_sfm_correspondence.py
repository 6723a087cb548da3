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

"""Features, matches, tracks and points: what is the same in several views."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import cv2
import numpy as np
import pytest

from mvdust3r_ros.datatypes import FloatArray, ImageArray, View
from mvdust3r_ros.geometry import invert_se3, rotation_angle_deg
from mvdust3r_ros.sfm.correspondence import link_matches, track_pixels, triangulate
from mvdust3r_ros.sfm.features import match_features, view_features
from mvdust3r_ros.sfm.tracks import MAX_TRACKED_FRAMES, FrameTracks
from mvdust3r_ros.sfm.two_view import (
    epipolar_distance,
    fundamental_of,
    normalised,
    one_plane,
    parallax_px,
    verify_pair,
)
from sfm_world import HW, K, box, drive, pose, poster, project

WAY = drive()
POINTS = box()


def texture(seed: int = 0, side: int = 600) -> ImageArray:
    """(side, side, 3) a picture with detail of all sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.normal(size=(side // s, side // s)), (side, side), interpolation=cv2.INTER_CUBIC
        )
        for s in (6, 12, 24, 48)
    ]
    total = np.sum(layers, axis=0)
    gray = 255 * (total - total.min()) / (total.max() - total.min())
    return np.repeat(gray[..., None], 3, 2).astype(np.uint8)


def window_of(picture: ImageArray, u: float, v: float) -> ImageArray:
    """The part of a picture whose upper left pixel lies at (u, v), between pixels as well."""
    T = np.array([[1, 0, -u], [0, 1, -v]], float)
    return np.asarray(cv2.warpAffine(picture, T, HW[::-1], flags=cv2.INTER_LINEAR), np.uint8)


def seen_in(a: int, b: int, noise_px: float = 0.0, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """(M, 2) pixels of the same points in two views of the drive."""
    uv = np.stack([project(POINTS, WAY[v], K) for v in (a, b)])
    uv = uv[:, ~np.isnan(uv).any((0, 2))]
    uv = uv + np.random.default_rng(seed).normal(0, noise_px, uv.shape)
    return uv[0], uv[1]


def test_features_lie_on_the_pixels_that_they_show() -> None:
    image = np.full((*HW, 3), 60, np.uint8)
    v, u = np.mgrid[: HW[0], : HW[1]]
    blob = 120 * np.exp(-((u - 150.0) ** 2 + (v - 101.0) ** 2) / (2 * 4.0**2))
    features = view_features(View(image + blob[..., None].astype(np.uint8)))
    assert np.linalg.norm(features.uv - (150, 101), axis=1).min() < 0.1


def test_matches_of_a_shifted_picture_are_shifted() -> None:
    picture = texture()
    a, b = (view_features(View(window_of(picture, u, 20.0))) for u in (30.0, 43.5))
    found = match_features(a, b)
    shift = a.uv[found.index[:, 0]] - b.uv[found.index[:, 1]]
    assert found.clear.sum() > 100
    assert np.median(np.linalg.norm(shift[found.clear] - (13.5, 0), axis=1)) < 0.1
    assert len(np.unique(a.uv, axis=0)) == len(a)
    np.testing.assert_allclose(np.linalg.norm(a.descriptors, axis=1), 1, atol=1e-5)


def test_matches_are_remembered_as_long_as_both_views_are_in_use() -> None:
    rng = np.random.default_rng(3)
    a, b = (view_features(View(rng.integers(0, 255, (96, 128, 3), np.uint8))) for _ in range(2))
    first = weakref.ref(match_features(a, b))
    assert match_features(a, b) is first()
    assert match_features(b, a) is not first()
    del b
    gc.collect()
    assert first() is None


def test_an_image_without_texture_has_no_features_and_no_matches() -> None:
    plain = view_features(View(np.full((*HW, 3), 128, np.uint8)))
    assert len(plain) == 0
    assert len(match_features(plain, plain).index) == 0


def test_matches_are_linked_to_tracks_and_contradictions_left_out() -> None:
    pairs = {
        (0, 1): np.array([[0, 5], [1, 6]]),
        (1, 2): np.array([[5, 2], [6, 3]]),
        (0, 2): np.array([[9, 3], [7, 8]]),
    }
    tracks = link_matches([10, 10, 10], pairs)
    assert sorted(map(tuple, tracks.tolist())) == [(-1, 6, 3), (0, 5, 2), (7, -1, 8)]
    pixels = track_pixels(tracks, [np.tile(np.arange(10.0)[:, None], 2)] * 3)
    assert np.array_equal(np.isnan(pixels[..., 0]), tracks < 0)
    assert len(link_matches([10, 10], {(0, 1): np.zeros((0, 2), int)})) == 0


def test_points_are_found_from_their_pixels_and_wild_ones_dropped() -> None:
    pixels = np.stack([project(POINTS, T, K) for T in WAY], 1)
    enough = (~np.isnan(pixels[..., 0])).sum(1) >= 4
    pixels, points = pixels[enough], POINTS[enough]
    view = np.argmax(~np.isnan(pixels[..., 0]), axis=1)
    wild = np.arange(len(points)) % 5 == 0
    pixels[wild, view[wild]] += 25.0
    found = triangulate(WAY, np.repeat(K[None], 8, 0), pixels, 3.0, np.radians(1))
    kept = found.good.any(1)
    assert kept.mean() > 0.9
    assert not found.good[wild, view[wild]].any()
    assert np.median(np.linalg.norm(found.points[kept] - points[kept], axis=1)) < 1e-3


def test_points_behind_a_camera_or_too_far_to_tell_are_none() -> None:
    T = np.stack([pose((0, 0, 0), (x, 0, 0)) for x in (0.0, 0.1)])
    far = np.stack([project(np.array([[0.3, 0.1, 60.0]]), P, K) for P in T], 1)
    swapped = np.stack([project(np.array([[0.3, 0.1, 2.0]]), P, K) for P in T[::-1]], 1)
    for pixels in (far, swapped):
        assert not triangulate(T, np.repeat(K[None], 2, 0), pixels, 3.0, np.radians(1)).good.any()


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_two_views_tell_their_turn_despite_wrong_matches(wrong: float) -> None:
    a, b = seen_in(2, 4, 0.2)
    rng = np.random.default_rng(1)
    bad = rng.random(len(a)) < wrong
    b[bad] = rng.uniform((0, 0), HW[::-1], (int(bad.sum()), 2))
    found = verify_pair(a, b, K, K)
    assert found is not None and found.T_b_a is not None
    assert found.inliers[~bad].mean() > 0.9
    true = invert_se3(WAY[4]) @ WAY[2]
    assert rotation_angle_deg(found.T_b_a[:3, :3].T @ true[:3, :3]) < 0.8
    again = verify_pair(a, b, K, K)
    assert again is not None
    np.testing.assert_array_equal(found.F, again.F)


def test_matches_by_chance_agree_on_nothing() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.uniform((0, 0), HW[::-1], (2, 30, 2))
    assert verify_pair(a, b, K, K) is None
    assert verify_pair(a[:5], b[:5], K, K) is None


def test_a_turn_has_no_parallax_and_a_drive_has() -> None:
    a, b = seen_in(1, 4)
    assert parallax_px(normalised(a, K), normalised(b, K), K[0, 0]) > 2
    turned = WAY[2] @ pose((0, 6, 1), (0, 0, 0))
    uv = np.stack([project(POINTS, T, K) for T in (WAY[2], turned)])
    a, b = uv[:, ~np.isnan(uv).any((0, 2))]
    assert parallax_px(normalised(a, K), normalised(b, K), K[0, 0]) < 0.1


def test_matches_lie_on_their_epipolar_lines() -> None:
    a, b = seen_in(1, 4)
    F = fundamental_of(WAY[1], WAY[4], K, K)
    assert epipolar_distance(F, a, b).max() < 1e-6
    off = epipolar_distance(F, a, b + np.array([0.0, 5.0]))
    assert 1 < np.median(off) < 6


def test_a_poster_is_one_plane_and_a_room_is_not() -> None:
    for points, low, high in ((poster(), 0.99, 1.0), (POINTS, 0.0, 0.8)):
        uv = np.stack([project(points, WAY[v], K) for v in (1, 4)])
        a, b = uv[:, ~np.isnan(uv).any((0, 2))]
        assert low <= one_plane(a, b, 1.0) / len(a) <= high


def test_tracks_follow_a_picture_through_the_frames_between() -> None:
    picture, tracks = texture(1), FrameTracks()
    shift = 5.2
    frames = [window_of(picture, 20 + shift * i, 30 + i)[..., 0] for i in range(13)]
    for i, gray in enumerate(frames):
        tracks.observe(i, "front", gray)
    found = tracks.between([(0, "front"), (6, "front"), (12, "front")]).uv
    ends = found[~np.isnan(found).any((1, 2))]
    assert len(ends) > 80
    off = ends[:, 0] - ends[:, 2] - (12 * shift, 12)
    assert np.median(np.linalg.norm(off, axis=1)) < 0.2
    np.testing.assert_array_equal(
        tracks.between([(6, "front"), (12, "front")]).uv.shape[1:], (2, 2)
    )


def test_tracks_know_cameras_apart_and_only_what_was_observed() -> None:
    picture, tracks = texture(2), FrameTracks()
    for i in range(4):
        for name, u in (("left", 10.0), ("right", 90.0)):
            tracks.observe(i, name, window_of(picture, u + 2 * i, 30.0)[..., 0])
    found = tracks.between([(0, "left"), (0, "right"), (3, "left"), (3, "right"), (9, "left")]).uv
    seen = ~np.isnan(found[..., 0])
    assert (seen.sum(1) == 2).all()
    assert not (seen[:, [0, 2]].any(1) & seen[:, [1, 3]].any(1)).any()
    assert not seen[:, 4].any()
    assert len(FrameTracks().between([(0, "left"), (3, "left")]).uv) == 0


def test_tracks_forget_what_is_old_and_what_was_before_a_jump_back() -> None:
    tracks, gray = FrameTracks(), texture(3)[: HW[0], : HW[1], 0]
    for i in range(MAX_TRACKED_FRAMES + 20):
        tracks.observe(i, "front", gray)
    assert len(tracks.between([(0, "front"), (5, "front")]).uv) == 0
    assert len(tracks.between([(100, "front"), (105, "front")]).uv) > 50
    tracks.observe(50, "front", gray)
    assert len(tracks.between([(100, "front"), (105, "front")]).uv) == 0


def test_tracks_begin_anew_with_views_of_another_size() -> None:
    tracks, gray = FrameTracks(), texture(3)[: HW[0], : HW[1], 0]
    tracks.observe(0, "front", gray)
    assert len(tracks.between([(0, "front")]).uv) == 0
    for i in (1, 2):
        tracks.observe(i, "front", np.ascontiguousarray(gray.T))
    found = tracks.between([(0, "front"), (1, "front"), (2, "front")]).uv
    assert len(found) > 50
    assert np.isnan(found[:, 0]).all()


def test_points_that_were_seen_long_ago_take_no_memory() -> None:
    tracks, gray, peaks = FrameTracks(), texture(3)[: HW[0], : HW[1], 0], []
    for i in range(0, 40, 2):
        gray = np.ascontiguousarray(np.roll(gray, (37, 53), (0, 1))[::-1])  # all points are new
        tracks.observe(i, "front", gray)
        tracks.observe(i + 1, "front", gray)
        tracemalloc.start()
        found = tracks.between([(i, "front"), (i + 1, "front")]).uv
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found) > 50
    assert peaks[-1] < 1.5 * peaks[1]
