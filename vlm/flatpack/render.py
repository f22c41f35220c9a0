"""Draws a step of a manual, and the map of which part each pixel shows.

A `Scene` is what one picture shows; the pictures of a product, and the faults that the checker must find, are scenes.
Pictures are drawn at three times their size and averaged down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm.flatpack.build import Part, Stage, Vector, stages
from vlm.flatpack.geometry import View, depth_order, project
from vlm.flatpack.product import Product
from vlm.flatpack.style import HOUSE, Style

OVERSAMPLING = 3
CANVAS = 128
MIDDLE = (64.0, 72.0)
HALO = 1.2  # pixels of accent colour around a part that the step adds
ARROW_ID, CALLOUT_ID, NUMBER_ID = 253, 254, 255
VISIBLE = 20


@dataclass(frozen=True)
class Placed:
    """A part in a picture: its colour, whether this step adds it, and its shift from the right place (world units)."""

    part: Part
    ident: int
    colour: str
    added: bool = False
    shift: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """One picture: the parts in it, and all parts of the product, which decide order and centring.

    number, count: the step's number and its callout; motion: of the parts it adds. None leaves the mark out.
    """


    placed: tuple[Placed, ...]
    whole: tuple[Part, ...]
    number: int | None
    count: int | None
    motion: Vector | None
    strays: tuple[Part, ...] = ()


def scene(product: Product, step: int) -> Scene:
    """The picture of step `step` (from 0), or of the finished product for `step` == number of steps.

    Raises ValueError for a step that the product lacks.
    """
    plan = stages(product)
    if not 0 <= step <= len(plan):
        raise ValueError(f"a {product.family} has steps 0 to {len(plan)} (the finished picture); got {step}")
    whole = tuple(part for stage in plan for part in stage.parts)
    placed: list[Placed] = []
    for index, earlier in enumerate(plan[: step + 1]):
        for part in earlier.parts:
            placed.append(Placed(part, len(placed) + 1, part.colour, added=index == step))
    if step == len(plan):
        return Scene(tuple(placed), whole, None, None, None)
    stage = plan[step]
    return Scene(tuple(placed), whole, step + 1, len(stage.parts), stage.motion)


def render(product: Product, step: int, size: int = CANVAS, style: Style = HOUSE) -> Image.Image:
    """The RGB picture of a step (see `scene`), `size` × `size`."""
    return draw(scene(product, step), size, style)


def id_map(product: Product, step: int, size: int = CANVAS, style: Style = HOUSE) -> np.ndarray:
    """(size, size) uint8: 0 paper, 1… the parts in order of assembly, 253–255 arrow, callout and step number."""
    return draw_ids(scene(product, step), size, style)


def visible_stages(product: Product, step: int) -> list[Stage]:
    """The stages whose every part is well seen (`VISIBLE` pixels at 128 px) in the picture of `step`."""
    counts = np.bincount(id_map(product, step).ravel(), minlength=256)
    seen, first = [], 1
    for stage in stages(product)[: step + 1]:
        if (counts[first : first + len(stage.parts)] >= VISIBLE).all():
            seen.append(stage)
        first += len(stage.parts)
    return seen


@lru_cache(maxsize=512)
def _order(parts: tuple[Part, ...], view: View) -> dict[int, int]:
    """Rank of every prism (by identity) from back to front."""
    prisms = [prism for part in parts for prism in part.prisms]
    return {id(prisms[index]): rank for rank, index in enumerate(depth_order(prisms, view))}


@lru_cache(maxsize=512)
def _offset(parts: tuple[Part, ...], view: View) -> np.ndarray:
    """What centres the whole product in the picture."""
    outlines = np.concatenate([project(prism, view).outline for part in parts for prism in part.prisms])
    return np.array(MIDDLE) - (outlines.min(axis=0) + outlines.max(axis=0)) / 2


def _sequence(shown: Scene, view: View) -> list[tuple[Placed, int]]:
    """(placed part, index of its prism) from back to front."""
    rank = _order((*shown.whole, *shown.strays), view)
    pairs = [(placed, i) for placed in shown.placed for i in range(len(placed.part.prisms))]
    return sorted(pairs, key=lambda pair: rank[id(pair[0].part.prisms[pair[1]])])


def _points(polygon: np.ndarray, offset: np.ndarray, scale: float) -> list[float]:
    return ((polygon + offset) * scale).ravel().tolist()


def _ring(polygon: np.ndarray, offset: np.ndarray, scale: float) -> list[float]:
    return _points(np.concatenate([polygon, polygon[:2]]), offset, scale)


def _arrow(shown: Scene, style: Style) -> tuple[np.ndarray, np.ndarray] | None:
    """Tail and tip of the arrow of motion on the 128-pixel canvas, beside the parts that this step adds."""
    added = [placed for placed in shown.placed if placed.added]
    if shown.motion is None or not added:
        return None
    offset = _offset(shown.whole, style.view)
    points = np.concatenate([project(prism, style.view).outline for placed in added for prism in placed.part.prisms])
    points = points + offset
    direction = np.array(shown.motion) @ style.view.screen
    direction /= np.linalg.norm(direction)
    along = points @ direction
    side = np.array([-direction[1], direction[0]])
    across = points @ side
    tip = direction * (along.min() - 3) + side * (across.min() + across.max()) / 2
    tip = np.clip(tip, [8, 8], [CANVAS - 8, CANVAS - 8])
    tail = tip - direction * 13
    return tail, tip


def draw(shown: Scene, size: int = CANVAS, style: Style = HOUSE) -> Image.Image:
    """The RGB picture of a scene."""
    big = size * OVERSAMPLING
    scale = big / CANVAS
    image = _paper(style, big).copy()
    pen = ImageDraw.Draw(image)
    offset = _offset(shown.whole, style.view)
    thin, thick = max(1, round(style.line_width * scale)), round((style.line_width + 2 * HALO) * scale)
    haloed: set[int] = set()
    for placed, index in _sequence(shown, style.view):
        place = offset + np.array(placed.shift) @ style.view.screen
        if placed.added and placed.ident not in haloed:
            haloed.add(placed.ident)
            for prism in placed.part.prisms:
                pen.line(_ring(project(prism, style.view).outline, place, scale), fill=style.accent, width=thick)
        seen = project(placed.part.prisms[index], style.view)
        for polygon, bright in seen.faces:
            pen.polygon(_points(polygon, place, scale), fill=style.shade(placed.colour, bright))
        for edge in seen.edges:
            pen.line(_points(edge, place, scale), fill=style.line, width=thin)
        pen.line(_ring(seen.outline, place, scale), fill=style.line, width=thin)
    arrow = _arrow(shown, style)
    if arrow:
        for polygon in _arrow_shape(*arrow):
            pen.polygon((polygon * scale).ravel().tolist(), fill=style.accent)
    if shown.number is not None:
        pen.ellipse([4 * scale, 4 * scale, 24 * scale, 24 * scale], fill=style.line)
        _write(pen, str(shown.number), (14, 14), scale, style.background)
    if shown.count is not None:
        _write(pen, f"{shown.count}x", (111, 14), scale, style.line)
    return image.reduce(OVERSAMPLING)


def draw_ids(shown: Scene, size: int = CANVAS, style: Style = HOUSE) -> np.ndarray:
    """(size, size) uint8 map of what each pixel's centre shows; see `id_map`."""
    big = size * OVERSAMPLING
    scale = big / CANVAS
    image = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(image)
    offset = _offset(shown.whole, style.view)
    for placed, index in _sequence(shown, style.view):
        place = offset + np.array(placed.shift) @ style.view.screen
        pen.polygon(_points(project(placed.part.prisms[index], style.view).outline, place, scale), fill=placed.ident)
    arrow = _arrow(shown, style)
    if arrow:
        for polygon in _arrow_shape(*arrow):
            pen.polygon((polygon * scale).ravel().tolist(), fill=ARROW_ID)
    if shown.number is not None:
        pen.ellipse([4 * scale, 4 * scale, 24 * scale, 24 * scale], fill=NUMBER_ID)
    if shown.count is not None:
        pen.rectangle([100 * scale, 6 * scale, 122 * scale, 22 * scale], fill=CALLOUT_ID)
    return np.asarray(image)[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING].copy()


def _arrow_shape(tail: np.ndarray, tip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shaft and head polygons, on the 128-pixel canvas."""
    direction = (tip - tail) / np.linalg.norm(tip - tail)
    side = np.array([-direction[1], direction[0]])
    neck = tip - direction * 7
    shaft = np.stack([tail + side * 1.8, neck + side * 1.8, neck - side * 1.8, tail - side * 1.8])
    return shaft, np.stack([tip, neck + side * 5, neck - side * 5])


@lru_cache(maxsize=8)
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def _write(
    pen: ImageDraw.ImageDraw, text: str, centre: tuple[float, float], scale: float, fill: tuple[int, int, int]
) -> None:
    pen.text(
        (centre[0] * scale, centre[1] * scale),
        text,
        fill=fill,
        font=_font(round(17 * scale)),
        anchor="mm",
        stroke_width=round(0.35 * scale),
        stroke_fill=fill,
    )


@lru_cache(maxsize=4)
def _paper(style: Style, size: int) -> Image.Image:
    """The empty page."""
    page = Image.new("RGB", (size, size), style.background)
    if style.paper != "plain":
        page.paste(style.paper_colour, (0, 0, size, size), _paper_weight(style.paper, size))
    return page


@lru_cache(maxsize=8)
def _paper_weight(paper: str, size: int) -> Image.Image:
    """How much of the paper's second colour each pixel has, of 255."""
    y, x = np.mgrid[0:size, 0:size] / size
    if paper == "gradient":
        weight = (x + y) / 2
    elif paper == "grid":
        weight = ((x * 16 % 1 < 0.08) | (y * 16 % 1 < 0.08)).astype(float)
    else:
        weight = np.random.default_rng(0).random((size // 6, size // 6)).repeat(6, 0).repeat(6, 1) * 0.5
        weight = np.pad(weight, (0, size - len(weight)), mode="edge")
    return Image.fromarray((255 * weight).round().astype(np.uint8))


def recoloured(shown: Scene, changes: dict[int, str]) -> Scene:
    """The scene with some parts (by id) in other colours."""
    return replace(shown, placed=tuple(replace(p, colour=changes.get(p.ident, p.colour)) for p in shown.placed))
