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

"""Short runs of the soak benchmark: images under way, no crash, every image accounted for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture
def soak(new_domain: Callable[[], int], tmp_path: Path) -> Callable[..., str]:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    pytest.importorskip("mvdust3r_ros.msg", reason="the messages are not built: make build")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, str(SOAK), *words], capture_output=True, text=True, timeout=600,
            cwd=tmp_path, env={**os.environ, "ROS_DOMAIN_ID": str(new_domain())},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_a_live_node_accounts_for_every_image_and_keeps_its_threads(
    soak: Callable[..., str],
) -> None:
    said = soak("--minutes", "0.1", "--rate", "15", "--size", "320x240")
    assert "nothing wrong" in said
    assert "callbacks: p99" in said and "memory after warm-up" in said


@pytest.mark.slow
def test_restarts_under_images_leave_nothing_behind(soak: Callable[..., str]) -> None:
    said = soak("--restarts", "2", "--rate", "15", "--size", "320x240")
    assert "2 restarts" in said and "nothing wrong" in said
