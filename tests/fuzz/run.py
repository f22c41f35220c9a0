"""Runs a target on damaged files and judges it. Knows no target.

A failure is: an exception that is not a `UserError` (or another that the target names), an error of more than
one line, an answer that the target's own assertions call wrong, no answer in time, a file left behind, or
memory that grows.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from vlm.errors import UserError

Mutate = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

SECONDS = 60.0
GROWTH = 256 << 20
"""Bytes by which a process may grow between its first 200 inputs and its last."""


@dataclass(frozen=True)
class Target:
    """A kind of file and the code that reads it.

    file: its path in a folder, or a pattern that one file matches. make: fills an empty folder and returns whole
    contents of the file. read: reads the file in the folder, and
    asserts what it can about the answer. allowed: errors that are an answer, beside `UserError`.
    """

    name: str
    file: str
    make: Callable[[Path], list[bytes]]
    mutate: Mutate
    read: Callable[[Path], None]
    allowed: tuple[type[Exception], ...] = ()


@dataclass
class Result:
    """What became of a target's inputs."""

    name: str
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    grown: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """How many files were tried."""
        return self.read + self.refused + len(self.failures)


class Hang(BaseException):
    """No answer in time. No `Exception`, so that no handler for damaged files takes it for one."""


def fuzz(
    target: Target,
    *,
    count: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    keep: Path | None = None,
    seconds: float = SECONDS,
    most_failures: int = 20,
) -> Result:
    """Try damaged files until `count` of them, `minutes`, or `most_failures` are reached.

    Input number n of a seed is the same file in every run. keep: folder for the files that failed.
    """
    result = Result(target.name)
    started = time.monotonic()
    early = 0
    with tempfile.TemporaryDirectory(prefix="fuzz.") as name:
        folder = Path(name)
        seeds = target.make(folder)
        path = next(folder.glob(target.file), folder / target.file)
        number = 0
        while _goes_on(number, count, minutes, started) and len(result.failures) < most_failures:
            rng = random.Random(f"{seed}:{target.name}:{number}")
            content = target.mutate(rng, rng.choice(seeds), seeds)
            fault = _try(target, folder, path, content, result, seconds)
            if fault:
                result.failures.append(f"input {number} of seed {seed}: {fault}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    name = "".join(character if character.isalnum() else "-" for character in target.name)
                    (keep / f"{name}-{seed}-{number}").write_bytes(content)
            number += 1
            if number == 200:
                early = _resident()
        result.grown = max(0, _resident() - early) if early else 0
    if result.grown > GROWTH:
        result.failures.append(f"memory grew by {result.grown >> 20} MiB in {number - 200} inputs")
    result.seconds = time.monotonic() - started
    return result


def _goes_on(number: int, count: int | None, minutes: float | None, started: float) -> bool:
    if count is not None and number >= count:
        return False
    return minutes is None or time.monotonic() - started < 60 * minutes


def _try(
    target: Target, folder: Path, path: Path, content: bytes, result: Result, seconds: float
) -> str | None:
    """Read one file; the fault, if there is one."""
    path.write_bytes(content)
    before = _names(folder)
    fault, refused = None, False
    try:
        with _time_limit(seconds):
            target.read(folder)
    except (UserError, *target.allowed) as error:
        if "\n" in str(error) or not str(error).strip():
            fault = f"an error of no single line: {str(error)!r}"
        refused = True
    except Hang:
        fault = f"no answer in {seconds:g} s"
    except Exception as error:
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    after = _names(folder)
    if after != before:
        fault = f"left behind {sorted(after ^ before)}" + (f" after {fault}" if fault else "")
        for left in after - before:
            shutil.rmtree(folder / left) if (folder / left).is_dir() else (folder / left).unlink(missing_ok=True)
    if fault is None and refused:
        result.refused += 1
    elif fault is None:
        result.read += 1
    return fault


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _resident() -> int:
    """Bytes of memory the process holds; the most it ever held where the system does not say."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
