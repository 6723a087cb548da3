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

"""`--require "ate_m<0.1,grid_iou>0.6"`: limits that a report must meet."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.evaluation.report.metric_catalogue import METRICS

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
TERM = re.compile(r"\s*(\w+)\s*(<=|>=|==|<|>)\s*(\S+)\s*")


class RequirementError(MvDust3rError):
    """A requirement cannot be parsed."""


@dataclass(frozen=True)
class Requirement:
    """A number of a report and its limit.

    Attributes:
        name: one of `METRICS`.
        comparison: one of `COMPARISONS`.
        limit: in the unit of the report; fractions are from 0 to 1.
    """

    name: str
    comparison: str
    limit: float

    def failure(self, report: dict[str, Any]) -> str:
        """Describe in one line how a report fails; empty if it passes."""
        value = {**report["numbers"], **report["timing"]["numbers"]}.get(self.name)
        wanted = f"{self.name}{self.comparison}{self.limit:g}"
        if value is None:
            why = f" ({report['notes'][0]})" if report["notes"] else ""
            return f"{wanted}: there is no {self.name}{why}"
        if COMPARISONS[self.comparison](value, self.limit):
            return ""
        return f"{wanted}: it is {value:.6g}"


def parse_requirements(text: str) -> list[Requirement]:
    """Parse requirements separated by commas; an empty text gives none.

    Raises:
        RequirementError: a term is not a comparison, or names no number.
    """
    found = []
    for term in filter(str.strip, text.split(",")):
        match = TERM.fullmatch(term)
        try:
            if match is None:
                raise ValueError
            name, comparison, limit = match.groups()
            found.append(Requirement(name, comparison, float(limit)))
        except ValueError:
            raise RequirementError(
                f"requirement {term.strip()!r} is not NAME<LIMIT or NAME>LIMIT, "
                'for example "ate_m<0.1,grid_iou>0.6"'
            ) from None
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(close)}?" if close else ""
            raise RequirementError(
                f"requirement {term.strip()!r}: no number is called {name}; "
                f"{hint or 'known: ' + ', '.join(METRICS)}"
            )
    return found


def failures(requirements: list[Requirement], report: dict[str, Any]) -> list[str]:
    """Return one line for each requirement that a report fails."""
    return [line for line in (r.failure(report) for r in requirements) if line]
