"""Keeps freed memory with the process, where the C library is glibc; imports nothing heavy.

A training step allocates and frees the same hundreds of megabytes over and over. glibc hands blocks of that size back
to the system at once, which then has to clear every page anew at the next step.
"""

import ctypes
import platform
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP = 1 << 30  # bytes: blocks up to this size come from the heap, and the heap keeps as much when they are freed
_KEEP_OLD = 1 << 25  # the most that older versions take


def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks in place of returning them to the system; returns whether it took the setting.

    Other C libraries are left alone. The peak is what it would have been; the memory in use falls later.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    try:
        libc = ctypes.CDLL(None)
        taken = any(libc.mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in (_KEEP, _KEEP_OLD))
        return taken and libc.mallopt(_M_TRIM_THRESHOLD, _KEEP) == 1
    except (OSError, AttributeError):
        return False
