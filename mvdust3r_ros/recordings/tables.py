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

"""Parse text tables of numbers in any encoding, separator and time unit."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.safe_files import FileError, read_limited

TIMES_FILES = ("times.txt", "timestamps.txt")
"""Lists of times, one line for each image or pose."""
MAX_TEXT_BYTES = 1 << 29
"""A bound against hostile files: an hour of poses at 1 kHz, in lines of 110 bytes, has 400 MB."""
UNITS = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
"""Nanoseconds of each unit."""
YEAR_1990_NS, YEAR_2100_NS = 631_152_000 * 10**9, 4_102_444_800 * 10**9
"""Outside this range the same numbers are in another unit, or of clocks that start at 0."""
LONGEST_NS = 30 * 86_400 * 10**9
"""30 days. No recording is longer: such numbers are not times since 1970."""
MAX_STAMP_NS = 1 << 62
"""Half the range of 64 bits, so that two stamps can be added and subtracted."""
MOST_DIGITS = 19
"""Digits of 2**63: no stamp has more before the point, and 1e999999 would exhaust memory as an
integer."""
FEW_TWINS = 0.1
"""If a larger share of entries repeats a time, times are too coarse, or are not times."""
COMMENT = re.compile(r"\s*(?:#|%|//)")
DECIMAL_COMMA = re.compile(r"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")
NO_NUMBER = re.compile(
    r"|[-+]?nan\(.*\)|[-+]?1\.#(?:IND|QNAN|INF).*|null|none|n/?a", re.IGNORECASE
)
"""Spellings of a missing number."""
DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[T_ -]{0,3}"
    r"(\d\d)[:_.-]?(\d\d)[:_.-]?(\d\d)(?:[._,:-]?(\d{1,9}))?(?!\d)"
)
"""2023-11-14T22:13:20.123, 20231114_221320_123 and the like; UTC is assumed."""


class TableError(MvDust3rError):
    """A file of numbers cannot be read; the message names file and line."""


@dataclass(frozen=True)
class Row:
    """A line that is not a comment.

    Attributes:
        line: its line number, from 1.
        fields: the texts between separators.
    """

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A text file of numbers.

    Attributes:
        rows: the lines of numbers.
        header: names of the columns: the last line above the numbers with as many words, otherwise
            the last one; empty for none.
        has_separators: whether commas or semicolons separate the numbers.
    """

    rows: tuple[Row, ...]
    header: tuple[str, ...] = ()
    has_separators: bool = False


def read_text(path: Path) -> str:
    """Read a file in UTF-8, UTF-16 or Windows-1252, without its byte order mark.

    Raises:
        TableError: it cannot be read, or is not text.
    """
    try:
        data = read_limited(path, MAX_TEXT_BYTES)
    except (OSError, FileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TableError(f"{path} cannot be read: {reason}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    if data[1:2] == b"\0" and len(data) % 2 == 0:
        return data.decode("utf-16-le", "replace")
    if data[:1] == b"\0" and len(data) % 2 == 0:
        return data.decode("utf-16-be", "replace")
    if b"\0" in data:
        raise TableError(f"{path} cannot be read: it is no text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def read_table(path: Path) -> Table:
    """Read the rows of a text file; comments begin with #, % or //.

    Raises:
        TableError: it cannot be read.
    """
    headers: list[tuple[str, ...]] = []
    rows: list[Row] = []
    separated = False
    for number, line in enumerate(read_text(path).splitlines(), 1):
        bare = COMMENT.sub("", line, count=1) if COMMENT.match(line) else ""
        if bare and not rows:
            headers.append(split_fields(bare))
        text = "" if COMMENT.match(line) else line.split("#")[0]
        fields = split_fields(text)
        if not fields:
            continue
        if not rows and not is_number(fields[0]) and not DATE.search(fields[0]):
            headers.append(fields)
            continue
        separated |= "," in text or ";" in text
        rows.append(Row(number, fields))
    width = len(rows[0].fields) if rows else 0
    fitting = [header for header in headers if len(header) == width]
    header = next(reversed(fitting or headers), ())
    return Table(tuple(rows), header, separated)


def split_fields(line: str) -> tuple[str, ...]:
    """Split at semicolons, commas or white space; a decimal comma becomes a point."""
    bare = line.split()
    if ";" in line:
        fields = [word.strip().strip("\"'").replace(",", ".") for word in line.split(";")]
    elif len(bare) > 1 and "," in line and all(map(DECIMAL_COMMA.fullmatch, bare)):
        fields = [word.replace(",", ".") for word in bare]
    elif "," in line:
        fields = [word.strip().strip("\"'") for word in line.split(",")]
    else:
        fields = bare
    while fields and not fields[-1]:
        fields.pop()
    return tuple(fields)


def is_number(word: str) -> bool:
    """Whether a word is a number, including NaN and infinity."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def number(word: str) -> float:
    """Parse a number, including NaN in all its spellings.

    Raises:
        ValueError: it is not a number.
    """
    return float("nan") if NO_NUMBER.fullmatch(word) else float(word)


def decimal(word: str) -> Decimal:
    """Parse a finite number exactly.

    Raises:
        ValueError: it is not a finite number, or out of range.
    """
    try:
        value = Decimal(word)
    except ArithmeticError:
        raise ValueError(f"{word!r} is not a number") from None
    if not value.is_finite() or value.adjusted() > MOST_DIGITS:
        raise ValueError(f"{word!r} is out of range")
    return value


def unit_since_1970(value: Decimal) -> str | None:
    """Return the unit in which a number is a time from 1990 to 2100; None for others.

    The ranges of seconds, milli-, micro- and nanoseconds are far apart.
    """
    return next(
        (name for name, ns in UNITS.items() if YEAR_1990_NS <= value * ns <= YEAR_2100_NS), None
    )


def common_unit(values: Sequence[Decimal]) -> str | None:
    """Return the unit in which all numbers are times from 1990 to 2100 of one recording, or None.

    Raises:
        ValueError: each is such a time, but in several units.
    """
    units = {unit_since_1970(value) for value in values}
    if not units or None in units:
        return None
    if len(units) > 1:
        raise ValueError(f"times in {' and '.join(u for u in UNITS if u in units)}")
    (unit,) = units
    spans = unit is not None and (max(values) - min(values)) * UNITS[unit] <= LONGEST_NS
    return unit if spans else None


def stamp_of(value: Decimal, unit: str) -> int:
    """Convert a time to nanoseconds.

    Raises:
        ValueError: out of the range of a stamp.
    """
    stamp = int((value * UNITS[unit]).to_integral_value())
    if abs(stamp) > MAX_STAMP_NS:
        raise ValueError(f"{value} {unit} are out of range")
    return stamp


def date_stamp(text: str) -> int | None:
    """Return the nanoseconds since 1970 of a date and time in a text; None without any."""
    found = DATE.search(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(found[k]) for k in range(1, 7))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return since // timedelta(seconds=1) * 10**9 + int((found[7] or "0").ljust(9, "0"))


def read_times(path: Path) -> list[int]:
    """Read times in nanoseconds, one a line: seconds, other units since 1970, or dates.

    Raises:
        TableError: a line is none of these.
    """
    rows = [
        Row(n, (line.strip(),))
        for n, line in enumerate(read_text(path).splitlines(), 1)
        if line.strip() and not COMMENT.match(line)
    ]
    dates = [date_stamp(row.fields[0]) for row in rows]
    if rows and all(date is not None for date in dates):
        return [date for date in dates if date is not None]
    return stamps_of(path, rows)


def stamps_of(path: Path, rows: Sequence[Row], default: str = "seconds") -> list[int]:
    """Return the first column in nanoseconds.

    Raises:
        TableError: a line has no number there, or the units differ.
    """
    values = []
    for row in rows:
        try:
            values.append(decimal(row.fields[0]))
        except ValueError as error:
            raise TableError(f"{path}, line {row.line}: expected a time ({error})") from None
    try:
        unit = common_unit(values) or default
        return [stamp_of(value, unit) for value in values]
    except ValueError as error:
        raise TableError(f"{path}: {error}; give all of them in one unit") from None
