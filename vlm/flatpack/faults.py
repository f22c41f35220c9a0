"""Wrong pictures of a step, made on purpose: what the checker of truth has to reject.

A fault is a scene that differs from the true one in a single respect. Knows nothing of how the checker works; the
edits that both use (`without`, `displaced`, `with_extra`) are here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np

from vlm.flatpack.build import Part, Vector, stages
from vlm.flatpack.geometry import Prism
from vlm.flatpack.product import Product
from vlm.flatpack.render import CANVAS, Placed, Scene, draw_ids, recoloured, scene
from vlm.flatpack.style import HOUSE, Style

KINDS = ("missing", "extra", "swapped", "displaced")
LEAST_SHIFT = 0.04 * CANVAS  # a part this far from its place, in pixels of a 128-pixel picture, is a fault
FURTHEST_SHIFT = 0.10 * CANVAS
DOUBLE_SHIFT = 0.08 * CANVAS  # a double nearer than this on the screen would be the same part, drawn thicker
TRIES = 25  # random draws for one fault before giving up on changing enough pixels


@dataclass(frozen=True)
class Fault:
    """A wrong scene of a step. changed_pixels: how many pixels of the id map differ from the truth at 128 px."""

    kind: str
    scene: Scene
    changed_pixels: int


def without(shown: Scene, ident: int) -> Scene:
    """The scene with one part gone."""
    return replace(shown, placed=tuple(p for p in shown.placed if p.ident != ident))


def displaced(shown: Scene, ident: int, right: float, down: float, style: Style = HOUSE) -> Scene:
    """The scene with one part shifted on the screen, in pixels of a 128-pixel picture; who hides whom is kept."""
    shift = world_shift(right, down, style)
    return replace(shown, placed=tuple(replace(p, shift=shift) if p.ident == ident else p for p in shown.placed))


def with_extra(shown: Scene, extra: Placed) -> Scene:
    """The scene with one more part, under an id of its own."""
    return replace(shown, placed=(*shown.placed, replace(extra, ident=len(shown.placed) + 1)))


def later_parts(product: Product, step: int) -> list[Placed]:
    """The parts of the stages after `step`, each as it will look in its place."""
    parts = [part for stage in stages(product)[step + 1 :] for part in stage.parts]
    return [Placed(part, 0, part.colour) for part in parts]


def world_shift(right: float, down: float, style: Style) -> Vector:
    """The horizontal world vector that the camera sees as a shift on the screen."""
    x, y = np.array([right, down]) @ np.linalg.inv(style.view.screen[:2])
    return float(x), float(y), 0.0


def faults(
    product: Product, step: int, rng: random.Random, size: int = CANVAS, style: Style = HOUSE, least_pixels: int = 12
) -> list[Fault]:
    """At most one random fault of each of `KINDS`, each changing at least `least_pixels` of the 128-pixel id map.

    A kind is left out where the step has no such fault (one colour only, nothing visible enough). `size` is the size at
    which the scenes will be drawn: it only has to be a multiple of 128. Raises ValueError if it is not.
    """
    if size <= 0 or size % CANVAS:
        raise ValueError(f"size is a multiple of {CANVAS}; got {size}")
    true = scene(product, step)
    truth = draw_ids(true, CANVAS, style)
    makers = {
        "missing": lambda: without(true, rng.choice(true.placed).ident),
        "extra": lambda: _extra(product, step, true, rng, style),
        "swapped": lambda: _swapped(true, rng),
        "displaced": lambda: _displaced(true, rng, style),
    }
    found = []
    for kind in KINDS:
        for _ in range(TRIES):
            wrong = makers[kind]()
            if wrong is None:
                continue
            changed = _changed(true, wrong, truth, style)
            if changed >= least_pixels:
                found.append(Fault(kind, wrong, changed))
                break
    return found


def _changed(true: Scene, wrong: Scene, truth: np.ndarray, style: Style) -> int:
    """Pixels whose part differs; where colours are swapped, the pixels of the parts that changed colour."""
    colours = {p.ident: p.colour for p in true.placed}
    swapped = [p.ident for p in wrong.placed if colours.get(p.ident, p.colour) != p.colour]
    if swapped:
        return int(np.isin(truth, swapped).sum())
    return int((draw_ids(wrong, CANVAS, style) != truth).sum())


def _extra(product: Product, step: int, true: Scene, rng: random.Random, style: Style) -> Scene | None:
    """A part of a later stage in its place, or a double of a part a little way off, through no other part."""
    later = later_parts(product, step)
    if later and rng.random() < 0.5:
        return with_extra(true, rng.choice(later))
    x, y, _ = _random_shift(rng, 0.0, 0.25 * CANVAS, style)
    shift = np.array([x, y, rng.choice((0.0, rng.uniform(-0.25, 0.25) * CANVAS))])
    placed = rng.choice(true.placed)
    double = Part(placed.part.noun, placed.part.colour, tuple(_moved(prism, shift) for prism in placed.part.prisms))
    if np.linalg.norm(shift @ style.view.screen) < DOUBLE_SHIFT or any(_meet(double, p) for p in true.whole):
        return None
    wrong = with_extra(replace(true, strays=(double,)), replace(placed, part=double))
    try:
        draw_ids(wrong, CANVAS, style)
    except ValueError:  # the double and the rest hide each other in a cycle, so that no picture of them is right
        return None
    return wrong


def _moved(prism: Prism, shift: np.ndarray) -> Prism:
    return Prism(
        prism.bottom_N2 + shift[:2], prism.top_N2 + shift[:2], prism.z0 + shift[2], prism.z1 + shift[2], prism.smooth
    )


def _meet(one: Part, other: Part) -> bool:
    """Whether the bounding boxes of any of their prisms touch in the world."""
    for a in one.prisms:
        low, high = a.corners.min(axis=0), a.corners.max(axis=0)
        for b in other.prisms:
            if (low <= b.corners.max(axis=0)).all() and (high >= b.corners.min(axis=0)).all():
                return True
    return False


def _swapped(true: Scene, rng: random.Random) -> Scene | None:
    """Two colours of the picture change places: all parts of one colour and all of the other."""
    present = sorted({p.colour for p in true.placed})
    if len(present) < 2:
        return None
    one, other = rng.sample(present, 2)
    swap = {one: other, other: one}
    return recoloured(true, {p.ident: swap[p.colour] for p in true.placed if p.colour in swap})


def _displaced(true: Scene, rng: random.Random, style: Style) -> Scene:
    part = rng.choice(true.placed)
    shift = _random_shift(rng, LEAST_SHIFT, FURTHEST_SHIFT, style)
    return replace(true, placed=tuple(replace(p, shift=shift) if p is part else p for p in true.placed))


def _random_shift(rng: random.Random, least: float, most: float, style: Style) -> Vector:
    turn, length = rng.uniform(0, 2 * pi), rng.uniform(least, most)
    return world_shift(length * cos(turn), length * sin(turn), style)
