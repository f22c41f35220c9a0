"""The worked example of docs/adapters.md: manuals that the bundled model has never seen, and a judge of what it learnt.

    python docs/examples/manuals.py make trolley my-trolleys --guides 200
    python docs/examples/manuals.py make blueprint my-blueprints --guides 200
    python docs/examples/manuals.py judge trolley my-adapter --limit 20 --sheet before-after.png

`trolley` is a family of furniture that is no part of the package, in the house style; `blueprint` draws the families
that the model knows as white lines on blue, where the prompt asks for it. The data are JSON lines and PNGs, as anyone
might bring them; judging uses the package's checker, told of the family or of the style.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from vlm.flatpack import build, prompts
from vlm.flatpack.build import BACK, DOWN, Part, Stage, stages
from vlm.flatpack.checker import check
from vlm.flatpack.geometry import Prism, box, cone
from vlm.flatpack.product import FAMILIES, SIZES, Family, Product, sample_product
from vlm.flatpack.prompts import Prompt, make_prompt
from vlm.flatpack.render import render
from vlm.flatpack.style import HOUSE, Style
from vlm.flatpack.wording import guide_text

KINDS = ("trolley", "blueprint")
TROLLEY = Family(
    "trolley",
    {"size": SIZES},
    (2, 3),
    "tray",
    {"colour": "frame", "second": "trays", "third": "casters"},
)
BLUEPRINT = Style(
    palette=MappingProxyType(
        {
            "red": (176, 62, 92),
            "yellow": (206, 190, 84),
            "green": (64, 150, 104),
            "teal": (52, 164, 176),
            "blue": (84, 122, 226),
            "purple": (138, 92, 196),
            "brown": (142, 112, 96),
            "black": (10, 18, 44),
        }
    ),
    background=(22, 52, 122),
    paper="grid",
    paper_colour=(36, 70, 146),
    line=(236, 243, 255),
    line_width=1.0,
    accent=(255, 206, 64),
    shading=0.25,
)


def register_trolley() -> None:
    """Tell the package's world of the family, for this process: wording, drawing and checking then know it."""
    FAMILIES["trolley"] = TROLLEY
    build.FIT["trolley"] = 0.92
    build._BUILDERS["trolley"] = _trolley
    prompts.MENTIONS["trolley"] = {
        "trays": (("count", "second"), True),
        "casters": (("third",), True),
    }


def _stage(
    noun: str, colour: str, shapes: list[Prism], motion: build.Vector, target: str, fastener: str = "", each: int = 0
) -> Stage:
    parts = tuple(Part(noun, colour, (shape,)) for shape in shapes)
    return Stage(noun, noun + "s", "", parts, motion, target, fastener, each)


def _trolley(p: Product, s: float) -> list[Stage]:
    width, depth, height, wide = 66 * s, 42 * s, 66 * s, 6.0
    xs, ys = (-width / 2 + wide / 2, width / 2 - wide / 2), (-depth / 2 + wide / 2, depth / 2 - wide / 2)
    corners = [(x, y) for y in ys for x in xs]
    casters = [cone(x, y, 4.6, 4.6, 0, 7, facets=16) for x, y in corners]
    posts = [box(x - wide / 2, y - wide / 2, 7, wide, wide, height) for x, y in corners]
    gap = (height - 8) / p.count
    trays = [
        box(-width / 2 + wide, -depth / 2 + 1, 7 + 6 + i * gap, width - 2 * wide, depth - 2, 6) for i in range(p.count)
    ]
    handle = box(width / 2 - wide, -depth / 2, 7 + height, wide, depth, 5)
    return [
        _stage("caster", p["third"], casters, DOWN, "the floor"),
        _stage("post", p["colour"], posts, DOWN, "the casters", "bolt", 1),
        _stage("tray", p["second"], trays, BACK, "the posts", "screw", 4),
        _stage("handle", p["colour"], [handle], DOWN, "the posts", "screw", 2),
    ]


def case(kind: str, number: int, split: str, seed: int = 0) -> tuple[Product, Prompt]:
    """Product and prompt of example `number`; the products of the splits never meet."""
    rng = random.Random(f"{seed}:{number}:{split}:{kind}")
    product = sample_product(rng, split, family="trolley" if kind == "trolley" else None)
    prompt = make_prompt(product, rng)
    if kind == "blueprint":
        prompt = replace(prompt, text=prompt.text.rstrip(" .?!") + " as a blueprint")
    return product, prompt


def style_of(kind: str) -> Style:
    """How a kind of manual is drawn."""
    return BLUEPRINT if kind == "blueprint" else HOUSE


def make(kind: str, folder: Path, guides: int, size: int = 128) -> None:
    """Write `guides` manuals: manuals.jsonl, their pictures, and world.json."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(guides):
        product, prompt = case(kind, number, "train")
        rng = random.Random(f"{number}:{kind}:words")
        unsaid = [name for name in prompts.sayable(product) if name not in prompt.stated]
        texts = guide_text(product, rng, unsaid)
        parts: list[dict[str, str]] = [{"type": "text", "text": texts[0]}]
        for step, text in enumerate(texts[1:]):
            name = f"pictures/{number:04d}-{step + 1}.png"
            render(product, step, size, style_of(kind)).save(folder / name)
            parts += [{"type": "image", "path": name}, {"type": "text", "text": text}]
        rows.append({"messages": [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": parts}]})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "manuals.jsonl").write_text("".join(lines), encoding="utf-8")
    world = {"name": "Trolleys" if kind == "trolley" else "Blueprints"}
    (folder / "world.json").write_text(json.dumps(world) + "\n", encoding="utf-8")


def judge_kind(
    kind: str, adapter: Path, limit: int, sheet: Path | None, bundle: Path | None = None
) -> dict[str, float]:
    """Figures without and with the adapter on held-out products; the sheet shows before, after and true."""
    from adapters.registry import Adapters
    from vlm.bundle import fingerprint, load_bundle
    from vlm.evaluation import judge

    model, processor = load_bundle(bundle)
    registry = Adapters(model, fingerprint(bundle))
    name = registry.load(adapter)
    figures: dict[str, float] = {}
    rows: list[list[Image.Image]] = []
    for when, chosen in (("before", None), ("after", name)):
        right = expected = exact = whole = 0
        for number in range(limit):
            product, prompt = case(kind, number, "held_out")
            one = judge(registry.model_for(chosen), processor, product, prompt, number)
            if one.truth is not None:
                drawn = one.pictures[: len(stages(one.truth))]
                right += sum(check(image, one.truth, step, style_of(kind)).ok for step, image in enumerate(drawn))
            expected += one.expected
            exact += one.structure and not one.words
            whole += one.structure
            if number < 4:
                rows.append(one.pictures[:6])
        figures |= {
            f"{when}.picture.truth": right / max(1, expected),
            f"{when}.text.exact": exact / limit,
            f"{when}.guide.structure": whole / limit,
        }
    if sheet is not None:
        shown = min(4, limit)
        size = processor.resolution
        page = Image.new("RGB", (6 * size, 3 * shown * size), HOUSE.background)
        for number in range(shown):
            product, _ = case(kind, number, "held_out")
            true = [render(product, step, size, style_of(kind)) for step in range(len(stages(product)))][:6]
            for y, row in enumerate((rows[number], rows[shown + number], true)):
                for x, image in enumerate(row):
                    page.paste(image, (x * size, (3 * number + y) * size))
        page.save(sheet)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("kind", choices=KINDS)
    maker.add_argument("folder", type=Path)
    maker.add_argument("--guides", type=int, default=200)
    judger = commands.add_parser("judge")
    judger.add_argument("kind", choices=KINDS)
    judger.add_argument("adapter", type=Path)
    judger.add_argument("--limit", type=int, default=20)
    judger.add_argument("--sheet", type=Path)
    judger.add_argument("--bundle", type=Path)
    arguments = parser.parse_args()
    if arguments.kind == "trolley":
        register_trolley()
    if arguments.command == "make":
        make(arguments.kind, arguments.folder, arguments.guides)
        return
    figures = judge_kind(arguments.kind, arguments.adapter, arguments.limit, arguments.sheet, arguments.bundle)
    for name, value in figures.items():
        print(f"{name:24} {value:.3f}")


if __name__ == "__main__":
    main()
