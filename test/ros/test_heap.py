"""One heap for all threads, seen in glibc's own account."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

COUNT = """
import ctypes, threading
from mvdust3r_ros.ros.heap import share_one_heap

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


def account(share: bool, **variables: str) -> tuple[str, int]:
    """What a process with six threads prints, and the number of its heaps."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(share=share)],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout, len(re.findall(r"<heap nr=", done.stdout))


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
