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

"""How much of a drive the map covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mvdust3r_ros.datatypes import FloatArray, Trajectory
from mvdust3r_ros.evaluation.run import WindowRecord

NOISE_M = 0.05
"""Shorter movements are noise of the reference, not motion."""
SHORT_DRIVE_M = 0.5
"""Coverage of drives shorter than this (ten of the steps above) is measured by time."""


@dataclass(frozen=True)
class Coverage:
    """A drive, and the part of it between the first and last keyframes of mapped windows.

    Attributes:
        share: fraction of the drive's length, or of its time if it has no length; None without
            images.
        drive_m: length of the whole drive, metres; None if unknown.
    """

    share: float | None = None
    drive_m: float | None = None


def mapped_share(
    in_map: Sequence[WindowRecord],
    reference: Trajectory | None,
    first_ns: int | None,
    last_ns: int | None,
) -> Coverage:
    """Measure the part of a drive that is in the map.

    Args:
        in_map: the windows that make up the map.
        reference: true or odometry trajectory of the camera; None without either.
        first_ns: timestamp of the first image; None without images.
        last_ns: timestamp of the last image.
    """
    if first_ns is None or last_ns is None or last_ns <= first_ns:
        return Coverage()
    stamps = np.array([first_ns, last_ns], np.int64)
    measure, drive_m = np.array([0.0, (last_ns - first_ns) * 1e-9]), None
    if reference is not None:
        during = (reference.stamps_ns >= first_ns) & (reference.stamps_ns <= last_ns)
        distance = distance_along(reference.T_world_cam[during, :3, 3])
        if len(distance) and distance[-1] >= SHORT_DRIVE_M:
            stamps, measure, drive_m = reference.stamps_ns[during], distance, float(distance[-1])
    seconds = (stamps - first_ns) * 1e-9
    mapped = 0.0
    for begin_ns, end_ns in joined([(w.first_ns, w.stamp_ns) for w in in_map]):
        span_s = (np.array([begin_ns, end_ns], np.int64) - first_ns) * 1e-9
        begin, end = np.interp(span_s, seconds, measure)
        mapped += float(end - begin)
    return Coverage(min(1.0, mapped / float(measure[-1])), drive_m)


def distance_along(xyz: FloatArray) -> FloatArray:
    """Return (N,) metres travelled up to each of (N, 3) positions, in steps of at least 5 cm."""
    distance = np.zeros(len(xyz))
    corner = 0
    for k in range(1, len(xyz)):
        step = float(np.linalg.norm(xyz[k] - xyz[corner]))
        distance[k] = distance[k - 1]
        if step >= NOISE_M:
            distance[k] += step
            corner = k
    return distance


def joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge time spans into ordered spans that do not overlap."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def stretch_of(
    stamps_ns: Sequence[int] | npt.NDArray[np.int64], stretches: Sequence[tuple[int, int]]
) -> npt.NDArray[np.int64]:
    """Return (N,) which stretch contains each of N timestamps, or else the stretch before it."""
    begins = np.array([begin for begin, _ in stretches], np.int64)
    return np.searchsorted(begins, np.asarray(stamps_ns, np.int64), side="right")
