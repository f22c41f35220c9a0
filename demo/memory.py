"""Freed memory goes back to the system: a server that has answered a thousand times is no larger than after ten.

Knows the C library's allocator, where it is glibc's; elsewhere nothing happens. Left alone it keeps what is freed, in
an arena for each of many threads, and so grows for as long as answers come in new threads.
"""

from __future__ import annotations

import ctypes
import functools
import logging

log = logging.getLogger(__name__)

ARENAS = 2
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


@functools.cache
def _libc() -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL(None)
        found.malloc_trim, found.mallopt  # noqa: B018 - raises where the library is another.
    except (AttributeError, OSError, TypeError) as error:
        log.info("freed memory stays with this process: %s", error)
        return None
    return found


def few_arenas() -> None:
    """From now on threads share a few arenas. To be called before they are many."""
    if libc := _libc():
        libc.mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return what is free to the system."""
    if libc := _libc():
        libc.malloc_trim(0)
