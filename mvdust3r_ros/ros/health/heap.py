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
"""Of glibc's malloc.h."""
LARGE_B = 1 << 20
"""Blocks of this size and more lie apart from the heap, as images and clouds do."""
FREE_AT_THE_END_B = 32 << 20
"""So much may lie free at its end until `give_back_memory`: taking it each time is slow."""


def large_blocks_apart() -> bool:
    """Take large blocks of memory from the system and give them back at once.

    glibc does so until the first one is freed, and from then on puts all that are not larger in
    the heap, where what lies between them keeps it from shrinking.

    Returns:
        False where the environment says otherwise, and with other C libraries.
    """
    mallopt = _function("mallopt")
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or mallopt is None:
        return False
    done = [mallopt(M_MMAP_THRESHOLD, LARGE_B), mallopt(M_TRIM_THRESHOLD, FREE_AT_THE_END_B)]
    return all(done)


def share_one_heap() -> bool:
    """Let all threads of this process take memory from one heap; call it before there are any.

    glibc gives each thread a heap of its own, and what one thread has freed the others cannot use:
    a node that runs for days, and makes new threads whenever it is configured, grew by a third.

    Returns:
        False where the environment says otherwise, and with other C libraries.
    """
    mallopt = _function("mallopt")
    if "MALLOC_ARENA_MAX" in os.environ or mallopt is None:
        return False
    return bool(mallopt(M_ARENA_MAX, 1))


def give_back_memory() -> bool:
    """Give pages that are free but lie between used ones back to the system.

    glibc does so by itself only at the end of the heap: memory of images that once had to wait
    would else stay with the process.

    Returns:
        Whether there were any; False with other C libraries.
    """
    malloc_trim = _function("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def _function(name: str) -> Any | None:
    """A function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None)
