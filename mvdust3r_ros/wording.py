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

"""Numbers in text: plurals, digits and signs of zeros, in one place."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 window", "2 windows", "0 images", "2 depth maps".

    Args:
        count: the count.
        noun: in the singular; of several words, the last one changes.
    """
    return f"{count} {noun if count == 1 else many(noun)}"


def many(noun: str) -> str:
    """Return the plural of a noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def decimal(value: float, digits: int) -> str:
    """Format a number with a fixed number of digits; zeros after rounding have no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def percent(share: float, digits: int = 0) -> str:
    """Format a share in per cent. Only all of it reads as 100 %, and only none as 0 %."""
    text = decimal(100 * share, digits)
    if share < 1 and float(text) == 100:
        return f"{100 - 10.0**-digits:.{digits}f} %"
    if share > 0 and float(text) == 0:
        return f"{10.0**-digits:.{digits}f} %"
    return f"{text} %"
