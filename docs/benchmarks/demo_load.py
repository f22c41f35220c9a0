"""Visitors of the demo at once, and many conversations after another: times, strangers' pictures, memory.

    python docs/benchmarks/demo_load.py --visitors 8 --conversations 100

Runs the rooms of the demo in this process, each visitor in a thread of their own, without a browser.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

from demo.history import new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.messages import Picture, Words
from demo.room import Settings
from demo.rooms import Rooms
from vlm.agent import load_agent

ASK = "How do I assemble a {} stool with three legs?"
COLOURS = ("blue", "red", "green", "yellow", "white", "black", "grey", "orange")


def visit(rooms: Rooms, colour: str, told: list[dict]) -> None:
    """One visitor asks for one guide."""
    room = rooms.room(new_token(), new_token())
    started = time.monotonic()
    first = None
    for _ in room.say(ASK.format(colour), [], Settings()):
        if first is None and any(isinstance(part, Words) for part in room.turns[-1].parts):
            first = time.monotonic() - started
    paths = {part.path for turn in room.turns for part in turn.parts if isinstance(part, Picture)}
    told.append({"first": first, "whole": time.monotonic() - started, "paths": paths, "note": room.note})


def resident() -> float:
    """Megabytes of memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rooms = Rooms(Path(folder), ModelMenu.of(load_agent()), Line(asked.at_once, asked.visitors))
        told: list[dict] = []
        visits = [
            threading.Thread(target=visit, args=(rooms, COLOURS[number % len(COLOURS)], told))
            for number in range(asked.visitors)
        ]
        for thread in visits:
            thread.start()
        for thread in visits:
            thread.join()
        paths = [path for one in told for path in one["paths"]]
        failed = [one["note"] for one in told if one["note"] or one["first"] is None]
        print(f"{len(told)} visitors, {len(failed)} failed, {len(paths) - len(set(paths))} pictures shared")
        for name in ("first", "whole"):
            times = sorted(one[name] for one in told if one[name] is not None)
            print(f"  {name:5}: {times[0]:.1f} to {times[-1]:.1f} s, median {times[len(times) // 2]:.1f}")
        for number in range(asked.conversations + 1):
            if number % max(1, asked.conversations // 4) == 0:
                print(f"  after {number:3} more conversations: {resident():.0f} MB")
            if number < asked.conversations:
                visit(rooms, COLOURS[number % len(COLOURS)], told)


if __name__ == "__main__":
    main()
