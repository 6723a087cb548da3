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

"""Run nodes as child processes, each with a log, in their own ROS domain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvdust3r_ros.datatypes import MvDust3rError
from mvdust3r_ros.installed import installed

STOP_S = 20.0
"""Matters only if a process hangs: the node waits a second for the network, then saves its map."""
FASTDDS_PROFILES = Path("config") / "fastdds.xml"
FASTDDS_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


class ProcessError(MvDust3rError):
    """A process that should run has ended."""


def isolated_environment(domain: int) -> dict[str, str]:
    """Return variables that keep nodes on this machine and in their own domain."""
    found = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if os.environ.get("ROS_DISTRO") == "humble":
        found["ROS_LOCALHOST_ONLY"] = "1"
    return found


def fastdds_environment() -> dict[str, str]:
    """Return variables that let Fast DDS send large images whole; none if the user set theirs."""
    profiles = installed(FASTDDS_PROFILES)
    if profiles is None or any(os.environ.get(name) for name in FASTDDS_VARIABLES):
        return {}
    files = dict.fromkeys(FASTDDS_VARIABLES, str(profiles))
    return {**files, "RMW_FASTRTPS_USE_QOS_FROM_XML": "1"}


class Processes:
    """Child processes with their logs, in their own ROS domain."""

    def __init__(
        self, logs: Path, domain: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start without processes.

        Args:
            logs: folder for the logs.
            domain: ROS_DOMAIN_ID of the processes.
            environment: more variables for them.
        """
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        own = {**isolated_environment(domain), **(environment or {})}
        self._environment = {**os.environ, **own}

    def start(self, name: str, module: str, words: Sequence[str]) -> None:
        """Run `mvdust3r_ros.ros.<module>` with arguments; its output goes to <name>.log."""
        self.run(name, ["-m", f"mvdust3r_ros.ros.{module}", *words])

    def run(self, name: str, words: Sequence[str]) -> None:
        """Run Python with arguments; its output goes to <name>.log."""
        with (self._logs / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._logs,  # a source tree in the current folder would hide the messages
            )

    def check(self, *, may_end: str = "") -> None:
        """Check that all processes run; `may_end` may also have exited with status 0.

        Raises:
            ProcessError: one has ended; the message quotes the end of its log.
        """
        for name, process in self._running.items():
            if process.poll() is not None and (name != may_end or process.returncode != 0):
                words = self.last_output(name)
                raise ProcessError(f"the {name} ended ({process.returncode}): {words}")

    def last_output(self, name: str) -> str:
        """Return the last line of a log and its path."""
        path = self._logs / f"{name}.log"
        lines = path.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (log: {path})"

    def pid(self, name: str) -> int:
        """Return a process id."""
        return self._running[name].pid

    def ended(self, name: str) -> bool:
        """Whether a process has ended."""
        return self._running[name].poll() is not None

    def stop(self, name: str, how: signal.Signals = signal.SIGINT) -> int:
        """Ask a process to end, kill it after `STOP_S`; return its exit status."""
        process = self._running.pop(name)
        if process.poll() is None:
            process.send_signal(how)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def stop_all(self) -> None:
        """End all processes that still run."""
        for name in list(self._running):
            self.stop(name)
