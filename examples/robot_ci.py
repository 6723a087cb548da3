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

"""A robot's CI: map a recording with known poses and fail if the map misses a limit.

Writes `report.html` and `report.json`; exits with status 1 if a limit is not met.

python examples/robot_ci.py demo/room/bag report --require "ate_m<0.1,mapped_share>0.9"
"""

import argparse
import sys
from pathlib import Path

from mvdust3r_ros.commands.evaluate_one import EvaluateJob, evaluate_recording
from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.evaluation.report.report_files import explain_no_images
from mvdust3r_ros.evaluation.report.requirements import failures, parse_requirements


def main() -> int:
    """Evaluate the recording and check the limits."""
    parser = argparse.ArgumentParser(description="Fail when a map is too bad")
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", default="", help="engine folder, or oracle")
    parser.add_argument("--require", default="ate_m<0.1,mapped_share>0.9")
    args = parser.parse_args()
    try:
        required = parse_requirements(args.require)
        report = evaluate_recording(EvaluateJob(args.recording, args.out, args.engine)).report
    except MvDust3rError as error:
        sys.exit(f"FAILED {error}")
    failed = failures(required, report)
    if nothing := explain_no_images(report):
        failed.append(nothing)
    if not report["complete"]:
        failed.append(f"partial report: {report['stopped']}")
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
