"""A short run of the fuzzer over every reader and converter."""

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
