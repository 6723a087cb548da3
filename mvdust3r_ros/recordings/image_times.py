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

"""Timestamps of images, from their file names or from a list next to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np

from mvdust3r_ros.recordings.recording import RecordingError
from mvdust3r_ros.recordings.tables import (
    DATE,
    LONGEST_NS,
    TIMES_FILES,
    TableError,
    date_stamp,
    read_times,
    stamp_of,
    unit_since_1970,
)

NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
OWN_CLOCK = re.compile(r"[^0-9]*([0-9]{1,9}\.[0-9]{3,9})[^0-9]*")
"""Seconds of a clock with an origin other than 1970: simulated, or since the start."""
STEP_S = (1e-3, 10.0)
"""Median time between two images, from a camera at 1 kHz to time lapse: others are just
numbers."""
COUNTER_DIGITS = 2
"""A one-digit fraction that increments by one each time may also be tenths of seconds."""
MOST = 0.5
"""Names are times if more than this share of them is: the majority decides."""
FRACTION_UNITS = {3: "milliseconds", 6: "microseconds", 9: "nanoseconds"}
Stamps = list[int | None]


@dataclass(frozen=True)
class ImageTimes:
    """Times of images.

    Attributes:
        stamps_ns: stamp of each image; None if its name is not a time while those of others are.
        note: source of the times.
    """

    stamps_ns: Stamps
    note: str


def times_of_images(folder: Path, images: Sequence[Path], fps: float) -> ImageTimes:
    """Return times of images in natural order, from `times.txt`, their names or `fps`.

    Raises:
        RecordingError: times.txt does not match, or the names are times in several units.
    """
    folders = (folder, folder.resolve().parent)
    places = [place / name for place in folders for name in TIMES_FILES]
    listed = next((path for path in places if path.is_file()), None)
    if listed is not None:
        try:
            stamps = read_times(listed)
        except TableError as error:
            raise RecordingError(str(error)) from None
        if len(stamps) != len(images):
            raise RecordingError(f"{listed} has {len(stamps)} times for {len(images)} images")
        return ImageTimes(list(stamps), "")
    named = times_of_names([path.stem for path in images])
    if named is not None:
        return named
    regular = [round(k * 1e9 / fps) for k in range(len(images))]
    return ImageTimes(list(regular), f"names are no times: {fps:g} images a second taken (--fps)")


def times_of_names(stems: Sequence[str]) -> ImageTimes | None:
    """Return the times in names; None if they hold none.

    Supported are seconds with or without a fraction, milli-, micro- and nanoseconds since 1970,
    alone or among other words; seconds and their fraction separated; dates with a time; and
    seconds with three decimals or more of another clock.

    Raises:
        RecordingError: they are in several units.
    """
    dates = _without_counters([date_stamp(stem) for stem in stems], stems)
    if _most(dates):
        known = [date for date in dates if date is not None]
        return _described(dates, "dates (UTC)") if len(set(known)) > MOST * len(known) else None
    numbers = [NUMBER.findall(stem) for stem in stems]
    for place in range(max((len(found) for found in numbers), default=0)):
        values = [Decimal(f[place]) if place < len(f) else Decimal(0) for f in numbers]
        units = [unit_since_1970(value) for value in values]
        if not _most(units):
            continue
        several = sorted({unit for unit in units if unit is not None})
        if len(several) > 1:
            raise RecordingError(
                f"names are times in {' and '.join(several)}: rename them, or put the times into "
                "times.txt, one a line"
            )
        stamps = [
            stamp_of(value, unit) if unit is not None else None
            for value, unit in zip(values, units, strict=True)
        ]
        if several == ["seconds"]:
            stamps = _with_fraction(stamps, numbers, place)
        known = [stamp for stamp in stamps if stamp is not None]
        if max(known) - min(known) > LONGEST_NS:
            return None
        return _described(stamps, f"{several[0]} since 1970")
    return _of_own_clock(stems)


def _without_counters(dates: Stamps, stems: Sequence[str]) -> Stamps:
    """Return the dates without a trailing image counter, which is not a fraction."""
    parts = [
        DATE.search(stem) for stem, date in zip(stems, dates, strict=True) if date is not None
    ]
    fractions = [part[7] or "" for part in parts if part is not None]
    counts = len(fractions) > 2 and all(len(f) >= COUNTER_DIGITS for f in fractions)
    if not counts or any(int(b) - int(a) != 1 for a, b in pairwise(fractions)):
        return dates
    return [None if date is None else date - date % 10**9 for date in dates]


def _most(found: Sequence[object]) -> bool:
    return sum(one is not None for one in found) > MOST * len(found)


def _with_fraction(stamps: Stamps, numbers: Sequence[list[str]], place: int) -> Stamps:
    """Add the number after the seconds if it is their fraction: 1700000000_012345678."""
    nexts = [f[place + 1] if place + 1 < len(f) else "" for f in numbers]
    known = [n for n, stamp in zip(nexts, stamps, strict=True) if stamp is not None]
    width = max(map(len, known))
    whole = all(n.isdecimal() for n in known) and all(
        "." not in f[place] for f, s in zip(numbers, stamps, strict=True) if s is not None
    )
    if not whole or width not in FRACTION_UNITS:
        return stamps
    counts = [int(n) for n in known]
    if all(b - a == 1 for a, b in pairwise(counts)):
        return stamps  # a counter
    unit = FRACTION_UNITS[width]
    return [
        None if stamp is None else stamp + stamp_of(Decimal(n), unit)
        for stamp, n in zip(stamps, nexts, strict=True)
    ]


def _of_own_clock(stems: Sequence[str]) -> ImageTimes | None:
    found = [OWN_CLOCK.fullmatch(stem) for stem in stems]
    if not _most(found):
        return None
    stamps = [None if m is None else stamp_of(Decimal(m[1]), "seconds") for m in found]
    steps = np.diff(sorted(stamp for stamp in stamps if stamp is not None)) / 1e9
    if len(steps) and STEP_S[0] <= float(np.median(steps)) <= STEP_S[1]:
        return _described(stamps, "seconds")
    return None


def _described(stamps: Stamps, kind: str) -> ImageTimes:
    known = sorted(stamp for stamp in stamps if stamp is not None)
    begin = datetime.fromtimestamp(known[0] / 1e9, timezone.utc)
    since = f", from {begin:%Y-%m-%d %H:%M:%S} UTC" if known[0] >= 10**17 else ""
    step_s = float(np.median(np.diff(known))) / 1e9 if len(known) > 1 else 0.0
    rate = f", {1 / step_s:.3g} images a second" if step_s > 0 else ""
    return ImageTimes(stamps, f"times are those of the names: {kind}{since}{rate}")
