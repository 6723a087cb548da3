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

"""The mapper node, which writes down through which functions of the package an image goes.

Run with TRACE_STOPS (a JSON list of [file, function]) and TRACE_OUT (the file to write) set.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import FrameType

import mvdust3r_ros
from mvdust3r_ros.ros.node import main

ROOT = str(Path(mvdust3r_ros.__file__).parent) + os.sep


class Trace:
    """Calls of the stops with the files that lead to each, and every file entered below them."""

    def __init__(self, stops: list[list[str]]) -> None:
        self.stops = {tuple(stop) for stop in stops}
        self.calls: list[tuple[str, str, str, list[str]]] = []
        self.files: set[str] = set()
        self._inside = threading.local()

    def __call__(self, frame: FrameType, event: str, _arg: object) -> None:
        path = frame.f_code.co_filename
        if event not in ("call", "return") or not path.startswith(ROOT):
            return
        stop = (path[len(ROOT) :], frame.f_code.co_qualname)
        depth = getattr(self._inside, "depth", 0)
        if stop in self.stops:
            self._inside.depth = depth + (1 if event == "call" else -1)
            if event == "call":
                self.calls.append((threading.current_thread().name, *stop, leading_to(frame)))
        elif depth:
            self.files.add(stop[0])


def leading_to(frame: FrameType) -> list[str]:
    """Files of the package on the stack, outermost first."""
    files: list[str] = []
    at = frame.f_back
    while at is not None:
        if at.f_code.co_filename.startswith(ROOT):
            files.append(at.f_code.co_filename[len(ROOT) :])
        at = at.f_back
    return files[::-1]


if __name__ == "__main__":
    trace = Trace(json.loads(os.environ["TRACE_STOPS"]))
    threading.setprofile(trace)
    sys.setprofile(trace)
    status = main()
    sys.setprofile(None)
    threading.setprofile(None)
    written = {"calls": trace.calls, "files": sorted(trace.files)}
    Path(os.environ["TRACE_OUT"]).write_text(json.dumps(written))
    sys.exit(status)
