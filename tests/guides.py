"""A small guide and its pieces, for the tests of everything that handles guides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from vlm.events import Event, Finished, ImageDone, ImagePreview, ImageStarted, TextDelta
from vlm.guide import PICTURE, Guide, parse_guide

COLOURS = ("blue", "red")
STOOL = f"""# Blue stool
A small stool.

## Parts
- 1 x round blue seat
- 3 x turned red leg

## Tools
- screwdriver
- 6 x screw

## Steps
1. Lay the seat on a cloth.
{PICTURE}
2. Fit 2 turned red legs.
Warning: Mind your fingers.
{PICTURE}
3. Fit the last leg.
{PICTURE}
Your stool is ready.
"""


def stool(**changes: Any) -> Guide:
    """The guide of `STOOL`, with some fields changed."""
    guide = parse_guide(STOOL, COLOURS).complete(prompt="a blue stool?", seed=7, model="0123456789abcdef")
    return Guide.model_validate(guide.model_dump() | changes)


def pictures(count: int = 3) -> list[Image.Image]:
    """One plain picture a step, each of another colour."""
    return [Image.new("RGB", (24, 24), (60 * number, 90, 200)) for number in range(count)]


def events(text: str = STOOL, reason: str = "stop", scales: int = 2) -> Iterator[Event]:
    """What generation would say for `text`, in deltas of three characters, with a picture at each mark."""
    for index, piece in enumerate(text.split(PICTURE)):
        if index:
            yield ImageStarted(index - 1, scales)
            for scale in range(scales):
                yield ImagePreview(index - 1, scale, scales, None)
            yield ImageDone(index - 1, Image.new("RGB", (24, 24), (50 * index, 9, 9)), None)  # type: ignore[arg-type]
        for start in range(0, len(piece), 3):
            yield TextDelta(piece[start : start + 3])
    yield Finished(reason, None)  # type: ignore[arg-type]
