"""Visitors of the demo at once, and many conversations after another: times, strangers' pictures, memory.

    python docs/benchmarks/demo_load.py --visitors 8 --conversations 100 --json out/load.json

Starts `vlm demo` as a process of its own and speaks to it as programs do, over HTTP, through its /chat endpoint: each
visitor a thread, each asking for another product. --samples: how often the memory is told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradio_client import Client

from vlm.flatpack.style import COLOURS

FAMILIES = ("stool", "bench", "table", "bookcase", "dresser", "chair")
STARTING = 600.0
"""Seconds that the server may take to load its model."""


@dataclass(frozen=True)
class Visit:
    """One guide. seconds: until it was whole; first: until its first word, 0 for none; fault: what was wrong with it,
    "" for nothing; pictures: digests of their bytes."""

    seconds: float
    first: float
    fault: str
    pictures: tuple[str, ...]


def product(number: int) -> tuple[str, str]:
    """A colour and a kind of furniture, another for each number up to 24."""
    return COLOURS[number % len(COLOURS)], FAMILIES[number % len(FAMILIES)]


@contextmanager
def server(at_once: int) -> Iterator[tuple[str, int]]:
    """A demo with nothing in it: its address, and the number of its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vlm", "demo", "--port", str(port), "--at-once", str(at_once)]
        process = subprocess.Popen([*command, "--data", folder], stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + STARTING
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server does not answer at {address} (exit code {process.poll()})")
                time.sleep(0.5)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


def visit(address: str, number: int) -> Visit:
    """Ask for a guide, and see whether it is the one that was asked for."""
    colour, family = product(number)
    client = Client(address, verbose=False)
    started, first = time.monotonic(), 0.0
    try:
        job = client.submit(message=f"How do I assemble a {colour} {family}?", api_name="/chat")
        while not job.done():
            if not first and any(state["text"] for state in job.outputs()):
                first = time.monotonic() - started
            time.sleep(0.02)
        found = job.result()
    except Exception as error:  # Whatever went wrong, this visitor's guide failed; the others go on.
        return Visit(time.monotonic() - started, first, f"{type(error).__name__}: {error}", ())
    seconds = time.monotonic() - started
    pictures = tuple(hashlib.sha256(one["png"].encode()).hexdigest() for one in found["pictures"])
    title = found["text"].strip().split("\n")[0].lower()
    fault = "" if colour in title and family in title else f"{colour} {family}: {title}"
    return Visit(seconds, first, fault if pictures else f"no guide: {found['text'][:80]}", pictures)


def at_once(count: int, act: Callable[[int], None]) -> None:
    """Run `act` for each number below `count`, each in a thread."""
    threads = [threading.Thread(target=act, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def shared(visits: list[Visit]) -> int:
    """How many pictures two visitors have in common."""
    return sum(len(visit.pictures) for visit in visits) - len(
        {picture for visit in visits for picture in visit.pictures}
    )


def resident(process: int) -> float:
    """Megabytes of memory of a process now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures: dict[str, object] = {"visitors": asked.visitors, "conversations": asked.conversations}

    def told(name: str, value: object) -> None:
        figures[name] = value
        print(f"{name}: {value}", flush=True)

    with server(asked.at_once) as (address, process):
        told("memory at the start, MB", round(resident(process)))
        visits: list[Visit] = []
        at_once(asked.visitors, lambda number: visits.append(visit(address, number)))
        told("failed", [one.fault for one in visits if one.fault])
        told("pictures that two visitors share", shared(visits))
        _times(told, "first text", [one.first for one in visits])
        _times(told, "whole guide", [one.seconds for one in visits])
        told("memory after the visitors, MB", round(resident(process)))
        more: list[Visit] = []
        for number in range(asked.conversations):
            more.append(visit(address, number))
            if (number + 1) % max(1, asked.conversations // asked.samples) == 0:
                told(f"memory after {number + 1} more conversations, MB", round(resident(process)))
        told("failed of these", [one.fault for one in more if one.fault])
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _times(told: Callable[[str, object], None], name: str, seconds: list[float]) -> None:
    told(f"{name}, first to last visitor, s", [round(min(seconds), 1), round(max(seconds), 1)])
    told(f"{name}, median, s", round(statistics.median(seconds), 1))


if __name__ == "__main__":
    main()
