"""Where a process gets its memory from."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, instead of handing it back at once.

    A training step on a CPU frees and takes the same megabytes again and again. By default glibc
    returns large blocks to the system, which gives them back as fresh pages: some 350 page faults
    per step of the small UNet, and twice as many on a step that measures gradients. Does nothing
    where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc accepts
    libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
    libc.mallopt(M_TOP_PAD, 64 << 20)
