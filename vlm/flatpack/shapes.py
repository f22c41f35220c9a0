"""Things of no family: random solids stacked in layers, for the image tokenizer alone.

A tokenizer that saw nothing but ten families draws an eleventh as one of the ten; adapters bring such families.
"""

from __future__ import annotations

import random

from vlm.flatpack.build import BACK, DOWN, Part, Vector
from vlm.flatpack.geometry import Prism, arc, bar, box, cone, tapered, turned
from vlm.flatpack.render import Placed, Scene
from vlm.flatpack.style import COLOURS

MOTIONS: tuple[Vector | None, ...] = (DOWN, DOWN, BACK, (1.0, 0.0, 0.0), None)
WIDEST, HIGHEST = 60.0, 70.0
"""Of a whole scene, in units of the world: what fills the page."""


def random_scene(rng: random.Random) -> Scene:
    """One to five layers of solids, each layer of one colour; the solids of a layer stand in cells of their own."""
    thickness = [rng.uniform(3, 30) for _ in range(rng.randint(1, 5))]
    fit = min(1.0, HIGHEST / sum(thickness))
    parts: list[Part] = []
    layers: list[list[Part]] = []
    floor = 0.0
    for each in thickness:
        top = floor + each * fit
        colour = rng.choice(COLOURS)
        layer = [Part("solid", colour, tuple(shape)) for shape in _layer(rng, floor, top)]
        layers.append(layer)
        parts += layer
        floor = top
    added = rng.choice((*layers, []))
    placed = tuple(
        Placed(part, ident, part.colour, added=part in added) for ident, part in enumerate(parts, start=1)
    )
    number, count = (rng.randint(1, 9), rng.randint(1, 9)) if rng.random() < 0.85 else (None, None)
    return Scene(placed, tuple(parts), number, count, rng.choice(MOTIONS))


def _layer(rng: random.Random, low: float, high: float) -> list[list[Prism]]:
    """Solids between two heights, on a grid of at most three by three cells."""
    across, deep = rng.choice(((1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (3, 3)))
    width, depth = rng.uniform(14, WIDEST), rng.uniform(14, WIDEST)
    cell_x, cell_y = width / across, depth / deep
    share = rng.uniform(0.3, 1.0)
    kind = rng.choice((_box, _round, _round, _tapered, _turned, _curved, _bar))
    found = []
    for column in range(across):
        for row in range(deep):
            x = (column + 0.5) * cell_x - width / 2
            y = (row + 0.5) * cell_y - depth / 2
            found.append((x, y))
    taper = rng.uniform(0.35, 1.0)
    return [kind(x, y, cell_x * share, cell_y * share, low, high, taper) for x, y in found]


def _box(x: float, y: float, dx: float, dy: float, low: float, high: float, taper: float) -> list[Prism]:
    return [box(x - dx / 2, y - dy / 2, low, dx, dy, high - low)]


def _round(x: float, y: float, dx: float, dy: float, low: float, high: float, taper: float) -> list[Prism]:
    radius = min(dx, dy) / 2
    radii = (radius, radius * taper) if taper < 0.7 else (radius, radius)
    return [cone(x, y, *radii, low, high, facets=24)]


def _tapered(x: float, y: float, dx: float, dy: float, low: float, high: float, taper: float) -> list[Prism]:
    side = min(dx, dy)
    return [tapered(x, y, side * taper, side, low, high)]


def _turned(x: float, y: float, dx: float, dy: float, low: float, high: float, taper: float) -> list[Prism]:
    return turned(x, y, min(dx, dy) / 1.3, low, high)


def _curved(x: float, y: float, dx: float, dy: float, low: float, high: float, taper: float) -> list[Prism]:
    radius = min(dx, dy) / 2
    return arc(x, y, radius, radius * (1 - taper) + 0.2 * radius * taper, 180, 360, low, high - low)


def _bar(x: float, y: float, dx: float, dy: float, low: float, high: float, taper: float) -> list[Prism]:
    reach_x, reach_y = dx / 2 * taper, dy / 2 * (1 - taper)
    return [bar(x - reach_x, y - reach_y, x + reach_x, y + reach_y, min(dx, dy) * 0.2, low, high - low)]
