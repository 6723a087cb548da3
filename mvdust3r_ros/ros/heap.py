"""The heap of the C library."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def share_one_heap() -> bool:
    """Let all threads of this process take memory from one heap; call it before there are any.

    glibc gives each thread a heap of its own, and what one thread has freed the others cannot use:
    a node that runs for days, and makes new threads whenever it is configured, grew by a third.

    Returns:
        False where the environment says otherwise, and with other C libraries.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_ARENA_MAX, 1))
