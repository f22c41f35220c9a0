"""How a manual is drawn, as a value: palette, paper, lines, shading, camera.

The house style is the bundled model's; random styles train the tokenizer so that adapters can teach new ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import MappingProxyType

from vlm.flatpack.geometry import View

RGB = tuple[int, int, int]

COLOURS = ("red", "yellow", "green", "teal", "blue", "purple", "brown", "black")

HOUSE_PALETTE: dict[str, RGB] = {
    "red": (214, 44, 44),
    "yellow": (250, 208, 50),
    "green": (62, 160, 66),
    "teal": (48, 186, 192),
    "blue": (40, 88, 206),
    "purple": (136, 74, 190),
    "brown": (150, 100, 60),
    "black": (64, 64, 72),
}


@dataclass(frozen=True, eq=False)
class Style:
    """Everything that decides how the same product looks on paper.

    Colours are RGB in [0, 255]; `line_width` is in pixels of a 128-pixel picture; `shading` in [0, 1] is how much
    darker than its colour the darkest face is drawn; `paper` is "plain", "gradient", "grid" or "speckle".
    Compared and hashed by identity.
    """

    palette: MappingProxyType[str, RGB] = field(default_factory=lambda: MappingProxyType(HOUSE_PALETTE))
    background: RGB = (247, 245, 240)
    paper: str = "plain"
    paper_colour: RGB = (230, 228, 222)
    line: RGB = (34, 36, 44)
    line_width: float = 1.0
    accent: RGB = (240, 20, 150)
    shading: float = 0.34
    view: View = field(default_factory=View)

    def shade(self, colour: str, bright: float) -> RGB:
        """The colour of a face of the given brightness in [0, 1]."""
        weight = 1.0 - self.shading * (1.0 - min(1.0, bright / 0.82))
        r, g, b = self.palette[colour]
        return int(r * weight), int(g * weight), int(b * weight)


HOUSE = Style()


def _colour(rng: random.Random, low: int = 0, high: int = 255) -> RGB:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def random_style(rng: random.Random) -> Style:
    """A style unlike the house's in every respect: random palette, paper, lines, shading and camera."""
    dark = rng.random() < 0.35
    background = _colour(rng, 0, 90) if dark else _colour(rng, 190, 255)
    return Style(
        palette=MappingProxyType({name: _colour(rng, 20, 245) for name in COLOURS}),
        background=background,
        paper=rng.choice(("plain", "plain", "gradient", "grid", "speckle")),
        paper_colour=_colour(rng, 0, 110) if dark else _colour(rng, 170, 255),
        line=_colour(rng, 160, 255) if dark else _colour(rng, 0, 110),
        line_width=rng.choice((0.7, 1.0, 1.0, 1.4, 2.0)),
        accent=_colour(rng),
        shading=rng.uniform(0.0, 0.6),
        view=View(rng.uniform(22, 40), rng.uniform(25, 36), rng.random() < 0.5),
    )
