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

"""One heap for all threads, seen in glibc's own account, and memory that goes back."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

COUNT = """
import ctypes, threading
from mvdust3r_ros.ros.health.heap import share_one_heap

if {share}:
    print("shared", share_one_heap())
libc, done, made = ctypes.CDLL(None), threading.Event(), threading.Barrier(7)

def work():
    kept = bytearray(100_000)
    made.wait()
    done.wait()

for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
made.wait()
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""

HOLES = """
import re
from pathlib import Path
from mvdust3r_ros.ros.health.heap import give_back_memory

def resident_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

blocks = [b"x" * 100_000 for _ in range(1000)]
del blocks[::2]
before = resident_mb()
print(give_back_memory(), before - resident_mb())
"""

LARGE = """
import ctypes
from mvdust3r_ros.ros.health.heap import large_blocks_apart

if {apart}:
    print("apart", large_blocks_apart())
first = bytearray(10_000_000)
del first
kept = [bytearray(2_000_000) for _ in range(20)]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""


def said_by(script: str, **variables: str) -> str:
    """What a Python process prints."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def account(share: bool, **variables: str) -> tuple[str, int]:
    """What a process with six threads prints, and the number of its heaps."""
    said = said_by(COUNT.format(share=share), **variables)
    return said, len(re.findall(r"<heap nr=", said))


def large_blocks(apart: bool, **variables: str) -> tuple[str, int]:
    """What a process with twenty large blocks prints, and how many lie apart from the heap."""
    said = said_by(LARGE.format(apart=apart), **variables)
    found = re.search(r'type="mmap" count="(\d+)"', said)
    assert found is not None
    return said, int(found[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_all_threads_share_one_heap() -> None:
    _, heaps = account(share=False)
    assert heaps > 3
    said, heaps = account(share=True)
    assert "shared True" in said
    assert heaps == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_the_environment_has_the_last_word() -> None:
    said, heaps = account(share=True, MALLOC_ARENA_MAX="3")
    assert "shared False" in said
    assert 1 < heaps <= 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_free_memory_between_used_blocks_goes_back() -> None:
    some, gone_mb = said_by(HOLES).split()
    assert some == "True"
    assert float(gone_mb) > 30


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize("apart", [False, True])
def test_large_blocks_lie_apart_from_the_heap(apart: bool) -> None:
    said, count = large_blocks(apart)
    assert ("apart True" in said) == apart
    assert (count >= 20) == apart


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_the_environment_has_the_last_word_on_large_blocks() -> None:
    said, count = large_blocks(True, MALLOC_MMAP_THRESHOLD_="16000000")
    assert "apart False" in said
    assert count == 0
