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

"""Frames of a drive carry exact depth and pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mvdust3r_ros.geometry import backproject
from mvdust3r_ros.synthetic.sequence import (
    SequenceConfig,
    make_sequence,
    sequence_frames,
    synthetic_frames,
)


def test_points_of_all_frames_lie_inside_the_room() -> None:
    sequence = make_sequence(SequenceConfig(seed=4, frames=6, hw=(48, 64)))
    x0, y0, x1, y1 = sequence.scene.bounds
    low, high = np.array([x0, y0, 0.0]) - 1e-3, np.array([x1, y1, sequence.scene.height]) + 1e-3
    for frame in sequence_frames(sequence):
        assert frame.camera is not None
        assert frame.depth_m is not None
        assert frame.T_odom_cam is not None
        points = backproject(frame.depth_m, frame.camera.K).reshape(-1, 3)
        world = points @ frame.T_odom_cam[:3, :3].T + frame.T_odom_cam[:3, 3]
        assert (world > low).all()
        assert (world < high).all()


def test_same_seed_same_frames() -> None:
    a, b = (list(synthetic_frames(9, 3, (24, 32))) for _ in range(2))
    assert [f.stamp_ns for f in a] == [f.stamp_ns for f in b]
    assert all(np.array_equal(x.image_rgb, y.image_rgb) for x, y in zip(a, b, strict=True))
    assert np.diff([f.stamp_ns for f in a]).tolist() == [100_000_000] * 2


def test_a_walker_moves_in_front_of_the_still_scene() -> None:
    closer = 0
    for seed in range(4):
        config = SequenceConfig(seed=seed, frames=41, hw=(48, 64), noise=0.0)
        still, walked = make_sequence(config), make_sequence(replace(config, walker=True))
        assert np.array_equal(still.truth.T_world_cam, walked.truth.T_world_cam)
        for k in range(0, 41, 10):
            a, b = still.rendering(k).depth_m, walked.rendering(k).depth_m
            assert (b <= a + 1e-5).all()
            closer += int((b < a - 0.01).sum())
    assert closer > 50
