"""The checker's proof of itself: how often it accepts true pictures and rejects wrong ones.

    python -m vlm.flatpack.proof --products 300 --json proof.json

Half of the products are held-out ones. Knows the renderer, the faults and the checker, and nothing of models.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from vlm.flatpack.build import stages
from vlm.flatpack.checker import check
from vlm.flatpack.faults import faults
from vlm.flatpack.product import Product, sample_product
from vlm.flatpack.render import CANVAS, draw, render, scene
from vlm.flatpack.style import HOUSE, Style, random_style

ACCEPT_FLOOR, REJECT_FLOOR = 0.995, 0.99
SHIFTS = [(right, down) for right in (-1, 0, 1) for down in (-1, 0, 1) if (right, down) != (0, 0)]
TELLABLE = 70.0  # RGB distance below which two colours of a random style are too alike to ask who is who


@dataclass
class Tally:
    """Counts of right answers by kind: true pictures accepted, wrong ones rejected."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str, right: bool) -> None:
        self.asked[kind] += 1
        self.right[kind] += right

    def report(self) -> dict[str, dict[str, float]]:
        """Kind → asked, right and rate, and the same over all kinds."""
        rows = {kind: (self.asked[kind], self.right[kind]) for kind in self.asked}
        rows["all"] = (self.asked.total(), self.right.total())
        return {kind: {"asked": n, "right": k, "rate": k / n if n else 1.0} for kind, (n, k) in rows.items()}


def jpeg(image: Image.Image, quality: int = 80) -> Image.Image:
    """The picture after a round trip through JPEG, chroma at half resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def shifted(image: Image.Image, right: int, down: int) -> Image.Image:
    """The picture moved by at most one pixel either way, its border repeated."""
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
    return Image.fromarray(padded[1 - down : 1 - down + image.height, 1 - right : 1 - right + image.width].copy())


def true_pictures(product: Product, step: int, rng: random.Random, size: int, style: Style) -> dict[str, Image.Image]:
    """Pictures of the step that the checker must accept, by what was done to them."""
    image = render(product, step, size, style)
    right, down = rng.choice(SHIFTS)
    return {
        "render": image,
        "jpeg": jpeg(image),
        "shift": shifted(image, right, down),
        "jpeg, shift": shifted(jpeg(image), right, down),
        "shift, jpeg": jpeg(shifted(image, right, down)),
    }


def wrong_pictures(product: Product, step: int, rng: random.Random, size: int, style: Style) -> dict[str, Image.Image]:
    """Pictures that the checker must reject, by what is wrong with them."""
    true = scene(product, step)
    wrong = {f.kind: draw(f.scene, size, style) for f in faults(product, step, rng, size, style)}
    if true.number is not None and true.count is not None:
        number = rng.choice([n for n in range(1, 6) if n != true.number])
        count = rng.choice([n for n in range(1, 6) if n != true.count])
        wrong["step number"] = draw(replace(true, number=number), size, style)
        wrong["callout"] = draw(replace(true, count=count), size, style)
        plain = tuple(replace(p, added=False) for p in true.placed)
        wrong["no highlight"] = draw(replace(true, placed=plain), size, style)
    other_step = rng.choice([s for s in range(len(stages(product)) + 1) if s != step])
    wrong["another step"] = render(product, other_step, size, style)
    other = sample_product(rng, "any")
    picture = render(other, min(step, len(stages(other))), size, style)
    if picture.tobytes() != render(product, step, size, style).tobytes():  # early steps of two products can be alike
        wrong["another product"] = picture
    return wrong


def tellable(style: Style) -> bool:
    """Whether palette, accent and paper of a style can be told from each other."""
    inks = [np.array(c, float) for c in (*style.palette.values(), style.accent)]
    papers = [np.array(c, float) for c in (style.background, style.paper_colour)]
    pairs = [*combinations(inks, 2), *((ink, paper) for ink in inks for paper in papers)]
    return min(float(np.linalg.norm(one - other)) for one, other in pairs) >= TELLABLE


def tellable_style(rng: random.Random) -> Style:
    """A random style whose colours can be told apart; most random ones are not."""
    while True:
        style = random_style(rng)
        if tellable(style):
            return style


def prove(products: int, seed: int = 0, size: int = CANVAS, house: bool = True) -> tuple[Tally, Tally]:
    """(accepted, rejected) over every step of random products, half of them held out, in the house or random styles."""
    rng = random.Random(seed)
    accepted, rejected = Tally(), Tally()
    for index in range(products):
        product = sample_product(rng, "held_out" if index % 2 else "train")
        style = HOUSE if house else tellable_style(rng)
        for step in range(len(stages(product)) + 1):
            for kind, image in true_pictures(product, step, rng, size, style).items():
                accepted.count(kind, check(image, product, step, style).ok)
            for kind, image in wrong_pictures(product, step, rng, size, style).items():
                rejected.count(kind, not check(image, product, step, style).ok)
    return accepted, rejected


def main(
    products: Annotated[int, typer.Option(min=1, help="In the house style; a tenth as many in others.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write the figures.")] = None,
) -> None:
    """Measures the checker and fails where it is below its floors in the house style at 128 px."""
    few = max(1, products // 10)
    settings = {
        "house, 128 px": (products, CANVAS, True),
        "house, 256 px": (few, 2 * CANVAS, True),
        "other styles, 128 px": (few, CANVAS, False),
        "other styles, 256 px": (few, 2 * CANVAS, False),
    }
    figures: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name, (count, size, house) in settings.items():
        accepted, rejected = prove(count, seed, size, house)
        figures[name] = {"accepted": accepted.report(), "rejected": rejected.report()}
    table = Table("setting", "picture", "asked", "right", "rate")
    for name, report in figures.items():
        for side in ("accepted", "rejected"):
            for kind, row in report[side].items():
                table.add_row(name, f"{side}: {kind}", str(row["asked"]), str(row["right"]), f"{row['rate']:.4f}")
    Console().print(table)
    if json_file is not None:
        asked = {name: row[0] for name, row in settings.items()}
        whole = {"seed": seed, "products": asked, "settings": figures}
        json_file.write_text(json.dumps(whole, indent=1) + "\n")
    house_report = figures["house, 128 px"]
    low = [
        f"{side} {kind}"
        for side, floor in (("accepted", ACCEPT_FLOOR), ("rejected", REJECT_FLOOR))
        for kind, row in house_report[side].items()
        if row["rate"] < floor
    ]
    if low:
        Console(stderr=True).print(f"below the floor in the house style: {', '.join(low)}")
        raise typer.Exit(code=1)


if __name__ == "__main__":
    typer.run(main)
