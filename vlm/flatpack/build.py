"""From a product to its parts and its ordered steps: shapes, places, motions and fasteners.

Each family is a function from a product to stages; a stage is one assembly step and adds one kind of part. Prisms of
one product are disjoint (they may touch), so they can be drawn from back to front.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt

from vlm.flatpack.geometry import Prism, arc, bar, box, cone, tapered, turned
from vlm.flatpack.product import Product

Vector = tuple[float, float, float]
DOWN, BACK = (0.0, 0.0, -1.0), (0.0, -1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Part:
    """One physical part in its final place. Compared and hashed by identity."""

    noun: str
    colour: str
    prisms: tuple[Prism, ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """One assembly step: `parts` of one kind arrive along `motion` and are fixed to `target`.

    adjective: a word that tells this kind from its likes ("turned", "round"), or ""; fastener: what fixes each part,
    `per_part` of them.
    """

    noun: str
    plural: str
    adjective: str
    parts: tuple[Part, ...]
    motion: Vector
    target: str
    fastener: str
    per_part: int

    @property
    def colour(self) -> str:
        """The palette name that all parts of the stage share."""
        return self.parts[0].colour


TOOLS = {"screw": "screwdriver", "bolt": "hex key", "dowel": "mallet", "cam lock": "screwdriver", "": ""}

SCALE = {"small": 0.76, "medium": 0.88, "large": 1.0}
FIT = {  # what makes the large size of each family fill the page
    "stool": 1.03,
    "chair": 0.85,
    "table": 0.97,
    "bench": 1.08,
    "bookcase": 0.9,
    "dresser": 0.95,
    "bed": 1.1,
    "lamp": 0.84,
    "coat rack": 0.95,
    "plant stand": 0.98,
}


def _stage(
    noun: str,
    colour: str,
    shapes: list[list[Prism]],
    motion: Vector,
    target: str,
    fastener: str = "",
    per_part: int = 0,
    adjective: str = "",
    plural: str = "",
) -> Stage:
    parts = tuple(Part(noun, colour, tuple(prisms)) for prisms in shapes)
    return Stage(noun, plural or noun + "s", adjective, parts, motion, target, fastener, per_part)


def _post(form: str, x: float, y: float, width: float, z0: float, z1: float) -> list[Prism]:
    """A leg or a pole in one of the forms "straight", "tapered" and "turned"."""
    if form == "straight":
        return [tapered(x, y, width, width, z0, z1)]
    if form == "tapered":
        return [tapered(x, y, 0.62 * width, 1.3 * width, z0, z1)]
    return turned(x, y, 1.15 * width, z0, z1)


def _corners(width: float, depth: float, inset: float) -> list[tuple[float, float]]:
    """Leg centres under a rectangle centred on the origin, the rear ones first."""
    x, y = width / 2 - inset, depth / 2 - inset
    return [(-x, -y), (x, -y), (-x, y), (x, y)]


def _slab(shape: str, width: float, depth: float, z: float, thick: float) -> Prism:
    """A round or rectangular board centred on the origin."""
    if shape == "round":
        return cone(0, 0, width / 2, width / 2, z, z + thick, facets=28)
    return box(-width / 2, -depth / 2, z, width, depth, thick)


def _stool(p: Product, s: float) -> list[Stage]:
    height, ring, wide = 58 * s, 21 * s, 7.0
    if p.count == 3:
        places = [(ring * cos(a), ring * sin(a)) for a in (pi / 3, pi, pi * 5 / 3)]
    else:
        places = _corners(2 * ring, 2 * ring, 3 * s)
    legs = [_post(p["leg"], x, y, wide, 0, height) for x, y in places]
    clear = wide * (0.92 if p["leg"] == "tapered" else 0.75)  # three tapered legs lean their corners towards the middle
    reach = ring - 3 * s - wide * 0.75 if p.count == 4 else ring - clear
    seat = _slab(p["shape"], 60 * s if p["shape"] == "round" else 52 * s, 52 * s, height, 7)
    return [
        _stage("leg", p["second"], legs, DOWN, "the floor", "", 0, p["leg"]),
        _stage(
            "footrest",
            p["second"],
            [[cone(0, 0, reach, reach, 0.30 * height, 0.30 * height + 5)]],
            DOWN,
            "the legs",
            "screw",
            3,
        ),
        _stage("seat", p["colour"], [[seat]], DOWN, "the legs", "bolt", p.count, p["shape"]),
    ]


def _chair(p: Product, s: float) -> list[Stage]:
    width, depth, height, rise, wide = 46 * s, 42 * s, 38 * s, 50 * s, 6.0
    legs = [_post("straight", x, y, wide, 0, height) for x, y in _corners(width, depth, wide / 2 + 0.5)]
    seat = [box(-width / 2, -depth / 2, height, width, depth, 6)]
    top = height + 6
    stages = [
        _stage("leg", p["second"], legs, DOWN, "the floor"),
        _stage("seat", p["colour"], [seat], DOWN, "the legs", "bolt", 4),
    ]
    y = -depth / 2 + 0.5
    if p["back"] == "curved":
        radius = width / 2
        panel = arc(0, y + radius * 0.62, radius * 1.08, 5, 212, 328, top, rise * 0.8)
        return [*stages, _stage("backrest", p["third"], [panel], DOWN, "the seat", "screw", 4, "curved")]
    posts = [[box(x, y, top, wide, wide, rise)] for x in (-width / 2, width / 2 - wide)]
    gap = (rise - 4) / p.count
    high = min(gap - 3, 13 * s)
    slats = [
        [box(-width / 2 + wide, y + 1, top + rise - 2 - gap * i - high, width - 2 * wide, 4, high)]
        for i in range(p.count)
    ]
    return [
        *stages,
        _stage("back post", p["second"], posts, DOWN, "the seat", "bolt", 2),
        _stage("back slat", p["third"], slats, BACK, "the back posts", "screw", 2),
    ]


def _table(p: Product, s: float) -> list[Stage]:
    width, depth, height, wide = 74 * s, 54 * s, 50 * s, 7.5
    if p["shape"] == "round":
        width = depth = 70 * s
    inset = 13 * s if p["shape"] == "round" else 7 * s
    legs = [_post(p["leg"], x, y, wide, 0, height) for x, y in _corners(width, depth, inset)]
    frame = box(-width / 2 + inset - 4, -depth / 2 + inset - 4, height, width - 2 * inset + 8, depth - 2 * inset + 8, 8)
    return [
        _stage("leg", p["second"], legs, DOWN, "the floor", "", 0, p["leg"]),
        _stage("frame", p["second"], [[frame]], DOWN, "the legs", "bolt", 4),
        _stage(
            "top",
            p["colour"],
            [[_slab(p["shape"], width, depth, height + 8, 6)]],
            DOWN,
            "the frame",
            "screw",
            6,
            p["shape"],
        ),
    ]


def _bench(p: Product, s: float) -> list[Stage]:
    width, depth, height, thick = 84 * s, 42 * s, 36 * s, 7.0
    supports = [[box(x, -depth / 2, 0, thick, depth, height)] for x in (-width / 2 + 6, width / 2 - 6 - thick)]
    beam = box(-width / 2 + 6 + thick, -4, height * 0.35, width - 12 - 2 * thick, 8, 9)
    gap = 3.0
    deep = (depth - gap * (p.count - 1)) / p.count
    slats = [[box(-width / 2, -depth / 2 + i * (deep + gap), height, width, deep, 5)] for i in range(p.count)]
    return [
        _stage("support", p["second"], supports, DOWN, "the floor"),
        _stage("beam", p["third"], [[beam]], BACK, "the supports", "bolt", 4),
        _stage("slat", p["colour"], slats, DOWN, "the supports", "screw", 4),
    ]


def _bookcase(p: Product, s: float) -> list[Stage]:
    width, depth, height, thick = 54 * s, 26 * s, 84 * s, 5.0
    back = box(-width / 2, -depth / 2, 0, width, 3, height)
    sides = [[box(x, -depth / 2 + 3, 0, thick, depth - 3, height)] for x in (-width / 2, width / 2 - thick)]
    gap = (height - 8) / p.count
    shelves = [
        [box(-width / 2 + thick, -depth / 2 + 3, 5 + i * gap, width - 2 * thick, depth - 4, 5)] for i in range(p.count)
    ]
    top = box(-width / 2 - 2, -depth / 2 - 1, height, width + 4, depth + 3, 5)
    return [
        _stage("back panel", p["third"], [[back]], DOWN, "the floor"),
        _stage("side panel", p["colour"], sides, BACK, "the back panel", "cam lock", 3),
        _stage("shelf", p["second"], shelves, BACK, "the side panels", "dowel", 4, plural="shelves"),
        _stage("top board", p["colour"], [[top]], DOWN, "the side panels", "screw", 4),
    ]


def _dresser(p: Product, s: float) -> list[Stage]:
    width, depth, height, low = 62 * s, 34 * s, 60 * s, 13 * s
    legs = [_post(p["leg"], x, y, 7.5, 0, low) for x, y in _corners(width, depth, 6)]
    case = box(-width / 2, -depth / 2, low, width, depth - 4, height)
    gap = (height - 3) / p.count
    front = depth / 2 - 4
    drawers = [[box(-width / 2 + 3, front, low + 3 + i * gap, width - 6, 4, gap - 3)] for i in range(p.count)]
    handles = [[box(-8 * s, front + 4, low + 3 + i * gap + (gap - 3) / 2 - 2.5, 16 * s, 4, 5)] for i in range(p.count)]
    top = box(-width / 2 - 2, -depth / 2 - 2, low + height, width + 4, depth + 4, 5)
    return [
        _stage("leg", p["colour"], legs, DOWN, "the floor", "", 0, p["leg"]),
        _stage("case", p["colour"], [[case]], DOWN, "the legs", "bolt", 4),
        _stage("drawer", p["second"], drawers, BACK, "the case", "dowel", 2),
        _stage("handle", p["third"], handles, BACK, "the drawers", "screw", 2),
        _stage("top board", p["colour"], [[top]], DOWN, "the case", "cam lock", 4),
    ]


def _bed(p: Product, s: float) -> list[Stage]:
    width, length, low, thick = 50 * s, 74 * s, 12 * s, 5.0
    head = -length / 2
    if p["back"] == "curved":
        radius = width * 1.2
        board = arc(0, head + radius, radius + 1, 5, 244, 296, 0, 40 * s)
    else:
        board = [box(-width / 2, head - thick, 0, width, thick, 40 * s)]
    start = head
    if p["back"] == "curved":  # rails and mattress begin where the board's ends come forward to
        start += radius - sqrt((radius - 4) ** 2 - (width / 2) ** 2) + 0.5
    rails = [[box(x, start, low - 6, 6, length / 2 - start, 11)] for x in (-width / 2, width / 2 - 6)]
    run = length / 2 - start
    gap = run / p.count
    slats = [[box(-width / 2 + 6, start + (i + 0.5) * gap - 4, low - 1, width - 12, 8, 4)] for i in range(p.count)]
    foot = box(-width / 2, length / 2, 0, width, thick, 20 * s)
    mattress = box(-width / 2 + 1, start, low + 5, width - 2, run - 0.5, 11)
    return [
        _stage("headboard", p["second"], [board], DOWN, "the floor", "", 0, p["back"]),
        _stage("side rail", p["second"], rails, BACK, "the headboard", "bolt", 2),
        _stage("slat", p["third"], slats, DOWN, "the side rails", "screw", 2),
        _stage("footboard", p["second"], [[foot]], BACK, "the side rails", "bolt", 4),
        _stage("mattress", p["colour"], [[mattress]], DOWN, "the slats", plural="mattresses"),
    ]


def _lamp(p: Product, s: float) -> list[Stage]:
    height = 62 * s
    pole = turned(0, 0, 10, 6, 6 + height) if p["pole"] == "turned" else [cone(0, 0, 3.2, 3.2, 6, 6 + height, 12)]
    top = 16 * s if p["shade"] == "cone" else 26 * s
    shade = cone(0, 0, 28 * s, top, 6 + height, 6 + height + 30 * s, facets=28)
    return [
        _stage("base", p["second"], [[cone(0, 0, 24 * s, 21 * s, 0, 6, facets=28)]], DOWN, "the floor"),
        _stage("pole", p["third"], [pole], DOWN, "the base", "bolt", 1, p["pole"]),
        _stage("shade", p["colour"], [[shade]], DOWN, "the pole", "screw", 3, p["shade"]),
    ]


def _coat_rack(p: Product, s: float) -> list[Stage]:
    height, reach, half = 88 * s, 28 * s, 5.0
    ends = [(-1, 0), (0, -1), (1, 0), (0, 1)]
    feet = [[bar(x * half, y * half, x * reach, y * reach, 7, 0, 6)] for x, y in ends]
    pole = turned(0, 0, 11, 0, height) if p["pole"] == "turned" else [cone(0, 0, 4, 4, 0, height, 12)]
    places = [(1, 0), (-1, 0), (0, 1), (0.6, -0.8)][: p.count]  # straight back would hide behind a turned pole
    levels = [0.86, 0.86, 0.70, 0.70]
    hooks = [
        [bar(x * 7, y * 7, x * 20 * s, y * 20 * s, 5, height * z, 5)] for (x, y), z in zip(places, levels, strict=False)
    ]
    cap = cone(0, 0, 7, 5, height, height + 6, facets=16)
    return [
        _stage("foot", p["second"], feet, DOWN, "the floor", plural="feet"),
        _stage("pole", p["colour"], [pole], DOWN, "the feet", "bolt", 4, p["pole"]),
        _stage("hook", p["third"], hooks, DOWN, "the pole", "screw", 2),
        _stage("cap", p["second"], [[cap]], DOWN, "the pole", "dowel", 1),
    ]


def _plant_stand(p: Product, s: float) -> list[Stage]:
    height = 44 * s
    pole = turned(0, 0, 13, 6, 6 + height) if p["pole"] == "turned" else [cone(0, 0, 4.5, 4.5, 6, 6 + height, 14)]
    top = _slab(p["shape"], 52 * s, 46 * s, 6 + height, 5)
    pot = [
        cone(0, 0, 12 * s, 18 * s, 11 + height, 11 + height + 22 * s, facets=24),
        cone(0, 0, 20 * s, 20 * s, 11 + height + 22 * s, 11 + height + 27 * s, facets=24),
    ]
    return [
        _stage("base", p["second"], [[cone(0, 0, 25 * s, 20 * s, 0, 6, facets=28)]], DOWN, "the floor"),
        _stage("pole", p["second"], [pole], DOWN, "the base", "bolt", 1, p["pole"]),
        _stage("top", p["third"], [[top]], DOWN, "the pole", "screw", 4, p["shape"]),
        _stage("pot", p["colour"], [pot], DOWN, "the top"),
    ]


_BUILDERS = {
    "stool": _stool,
    "chair": _chair,
    "table": _table,
    "bench": _bench,
    "bookcase": _bookcase,
    "dresser": _dresser,
    "bed": _bed,
    "lamp": _lamp,
    "coat rack": _coat_rack,
    "plant stand": _plant_stand,
}


@lru_cache(maxsize=512)
def stages(product: Product) -> tuple[Stage, ...]:
    """The assembly steps of a product, in order."""
    return tuple(_BUILDERS[product.family](product, SCALE[product["size"]] * FIT[product.family]))
