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

"""Configure the C library's heap to limit memory."""

from __future__ import annotations

import ctypes
import os
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""From glibc's malloc.h."""
LARGE_B = 1 << 20
"""Blocks of this size and more are allocated outside the heap, as images and clouds are."""
FREE_AT_THE_END_B = 32 << 20
"""Free memory allowed at the end of the heap until `give_back_memory`, as a system call for each
allocation is slow."""


def large_blocks_apart() -> bool:
    """Allocate large blocks directly from the system and return them at once.

    glibc does so only until the first such block is freed. From then on it puts blocks up to that
    size into the heap, where blocks between them keep the heap from shrinking.

    Returns:
        False if the environment sets it otherwise, and with other C libraries.
    """
    mallopt = _function("mallopt")
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or mallopt is None:
        return False
    done = [mallopt(M_MMAP_THRESHOLD, LARGE_B), mallopt(M_TRIM_THRESHOLD, FREE_AT_THE_END_B)]
    return all(done)


def share_one_heap() -> bool:
    """Let all threads of this process allocate from one heap; call it before there are any.

    glibc gives each thread its own heap, and other threads cannot use what is freed there: a node
    that ran for days, with new threads at each configuration, grew by a third.

    Returns:
        False if the environment sets it otherwise, and with other C libraries.
    """
    mallopt = _function("mallopt")
    if "MALLOC_ARENA_MAX" in os.environ or mallopt is None:
        return False
    return bool(mallopt(M_ARENA_MAX, 1))


def give_back_memory() -> bool:
    """Return free pages between used ones to the system.

    glibc by itself does so only at the end of the heap: memory of images that once had to wait
    would otherwise stay with the process.

    Returns:
        Whether there were any; False with other C libraries.
    """
    malloc_trim = _function("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def _function(name: str) -> Any | None:
    """Return a function of the C library, or None if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None)
