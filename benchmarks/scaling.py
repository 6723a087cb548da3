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

"""Time and peak memory against the number of views: MVD, MVD+, and DUSt3R with global alignment.

    python benchmarks/scaling.py [--model models/room] [--views 4,8,12,24,48,100] [--limit 600]

All three have the same weights: DUSt3R sees the views in pairs. Each window runs in a process of
its own, on one thread; times are processor seconds (on a GPU, seconds). What would exceed the
limit is extrapolated by the parabola, and marked ~.
"""

from __future__ import annotations

import argparse

from mvdust3r_ros.commands.command_line import number_list
from mvdust3r_ros.evaluation.paper.scaling import LIMIT_S, Fits, Growth, Point, Spec, fit, measure

MIB = 1 << 20


def main() -> None:
    """Run, and print a table for each system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/room", metavar="DIR")
    parser.add_argument("--n-ref", type=int, default=4, help="reference paths of MVD+")
    parser.add_argument("--views", type=number_list, default=[4, 8, 12, 24, 48, 100])
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="of a window")
    parser.add_argument("--device", default="", help="torch's, for engines that run on it")
    parser.add_argument("--systems", default="", metavar="NAME,...", help="default: all")
    given = parser.parse_args()
    systems = {
        "MVD": Spec(given.model, 1, given.device),
        "MVD+": Spec(given.model, given.n_ref, given.device),
        "DUSt3R": Spec(f"dust3r:{given.model}", 1, given.device),
    }
    for name in given.systems.split(",") if given.systems else systems:
        spec = systems[name]
        points = measure(spec, given.views, given.limit)
        print(f"\n{name}, {spec.engine}\n\n{table(points)}\n\n{growth(fit(points))}", flush=True)


def table(points: list[Point]) -> str:
    """Format Markdown: a row for each number of views."""
    lines = ["| views | time | peak memory |", "| ---: | ---: | ---: |"]
    for p in points:
        about = "~" if p.extrapolated else ""
        lines.append(
            f"| {p.views} | {about}{p.seconds:.2f} s | {about}{p.peak_bytes / MIB:.0f} MiB |"
        )
    return "\n".join(lines)


def growth(fits: Fits) -> str:
    """Format Markdown: a row each for time and memory."""

    def row(name: str, of: Growth, unit: float) -> str:
        line, parabola = of.line, of.parabola
        return (
            f"| {name} | N^{of.exponent:.2f} | {line.linear / unit:.3g} N | {line.r2:.3f} "
            f"| {parabola.quadratic / unit:.3g} N^2 + {parabola.linear / unit:.3g} N "
            f"| {parabola.r2:.3f} |"
        )

    return "\n".join(
        (
            "| N views | power | line | R^2 | parabola | R^2 |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            row("time, s", fits.seconds, 1),
            row("memory, MiB", fits.peak_bytes, MIB),
        )
    )


if __name__ == "__main__":
    main()
