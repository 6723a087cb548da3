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

"""Short runs of the fuzzer: every reader and converter; odd drives through the mapper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.mark.slow
def test_damaged_input_is_used_or_refused_and_never_anything_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZER), "--inputs", "20000", "--seed", "5000000"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "20000 inputs, 0 problems" in done.stdout


@pytest.mark.slow
def test_odd_drives_leave_the_default_engine_running_and_the_map_finite(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZER), "--engine", "", "--inputs", "3", "--seed", "204"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 inputs, 0 problems" in done.stdout
