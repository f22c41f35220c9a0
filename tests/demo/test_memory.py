"""Freed memory goes back to the system, where the system's library can."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from demo import memory

GLIBC = hasattr(ctypes.CDLL(None), "malloc_trim")
GROWN = """
import threading
from demo.memory import few_arenas, give_back

few_arenas()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

def work():
    # Small pieces, every hundredth of which stays: what lies between is free, but the heap does not end there.
    made = [bytearray(1000) for _ in range(100_000)]
    kept.append(made[::100])

kept = []
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not GLIBC, reason="no glibc here")
def test_what_many_threads_freed_goes_back_to_the_system():
    done = subprocess.run(
        [sys.executable, "-c", GROWN], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert float(done.stdout) > 30, "MB of the hundred and more that were freed"


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    class Other:
        def __init__(self, _name: object) -> None:
            pass

    memory._libc.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("demo.memory.ctypes.CDLL", Other)
            memory.few_arenas()
            memory.give_back()
    finally:
        memory._libc.cache_clear()
