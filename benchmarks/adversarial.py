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

"""Maps drives that fool stereo and prints the errors of the map: python benchmarks/adversarial.py.

Prints the table "Scenes that fool stereo" of docs/real_rooms.md.
"""

from __future__ import annotations

import argparse
from collections import Counter

from mvdust3r_ros.engines.create import EngineOptions, create_engine
from mvdust3r_ros.evaluation.trials.adversarial import score_adversarial_drive
from mvdust3r_ros.synthetic.adversarial import DRIVES


def main() -> None:
    """Map the drives and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="", help="default: the default engine")
    parser.add_argument("--seed", type=int, default=41, help="of the room")
    parser.add_argument("--only", choices=DRIVES, action="append", help="this drive alone")
    parser.add_argument("--notes", action="store_true", help="what was said of each window")
    given = parser.parse_args()
    engine = create_engine(given.engine, EngineOptions(threads=1))
    print("| drive | windows in the map | points off | free cells, right | of the wrong ones "
          "solid, outside | obstacles, ghosts | path, odometry |\n|" + " --- |" * 7)  # fmt: skip
    for name in given.only or DRIVES:
        s = score_adversarial_drive(DRIVES[name](given.seed), engine)
        print(f"| {name} | {s.committed} of {len(s.updates)} | {s.points_off:.1%} | {s.free}, "
              f"{s.free_right:.1%} | {s.free_solid}, {s.free_beyond} | {s.obstacles}, {s.ghosts} "
              f"| {100 * s.path_m:.1f}, {100 * s.odometry_m:.1f} cm |", flush=True)  # fmt: skip
        if given.notes:
            for line, count in Counter(_describe(u) for u in s.updates).items():
                print(f"    {count} x {line}")


def _describe(update: object) -> str:
    verdict, message, note = (getattr(update, k) for k in ("verdict", "message", "note"))
    return f"{verdict.name} {message} | {note}"


if __name__ == "__main__":
    main()
