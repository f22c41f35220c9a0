"""The worked example of docs/adapters.md: manuals that the bundled model has never seen, and a judge of what it learnt.

    python docs/examples/manuals.py make pedestal my-pedestals --guides 200
    python docs/examples/manuals.py make drafting my-drafts --guides 200
    python docs/examples/manuals.py judge pedestal my-adapter --limit 20 --sheet before-after.png
    python docs/examples/manuals.py ceiling drafting --limit 10
    python docs/examples/manuals.py paper my-adapter --limit 24

`pedestal` is a family of furniture that is no part of the package, in the house style; `drafting` draws the families
that the model knows on blue drafting paper, where the prompt asks for it. The data are JSON lines and PNGs, as anyone
might bring them; judging uses the package's checker, told of the family or of the style. `ceiling` is what the image
tokenizer keeps of true pictures; `paper` counts the guides that begin on drafting paper with an adapter, of those asked
for on it and of those that are not. `worked_example.py` makes, trains and judges.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm.flatpack import build, prompts
from vlm.flatpack.build import DOWN, Part, Stage, stages
from vlm.flatpack.checker import check
from vlm.flatpack.geometry import Prism, box, cone
from vlm.flatpack.product import FAMILIES, SHAPES, SIZES, Family, Product, sample_product
from vlm.flatpack.prompts import Prompt, make_prompt
from vlm.flatpack.render import render
from vlm.flatpack.style import HOUSE, Style
from vlm.flatpack.wording import guide_text

KINDS = ("pedestal", "drafting")
SHOWN = 4
PEDESTAL = Family(
    "pedestal",
    {"size": SIZES, "shape": SHAPES},
    (),
    "",
    {"colour": "top", "second": "base", "third": "column"},
)
# Not white on dark blue: thin light lines on dark paper were lost in the image tokenizer when this style was chosen.
DRAFTING = Style(background=(205, 222, 246))


def register_pedestal() -> None:
    """Tell the package's world of the family, for this process: wording, drawing and checking then know it.

    Only where pedestals are made or judged: a product of any family may then be one.
    """
    FAMILIES["pedestal"] = PEDESTAL
    build.FIT["pedestal"] = 0.95
    build._BUILDERS["pedestal"] = _pedestal
    prompts.MENTIONS["pedestal"] = {
        "base": (("second",), False),
        "column": (("third",), False),
        "top": (("shape",), False),
    }


@contextmanager
def pedestals_known() -> Iterator[None]:
    """The family is part of the world for a while, see `register_pedestal`; then the base is judged as it ever was."""
    register_pedestal()
    try:
        yield
    finally:
        for known in (FAMILIES, build.FIT, build._BUILDERS, prompts.MENTIONS):
            del known["pedestal"]  # type: ignore[attr-defined]


def _stage(
    noun: str, colour: str, shape: Prism, target: str, fastener: str = "", each: int = 0, kind: str = ""
) -> Stage:
    return Stage(noun, noun + "s", kind, (Part(noun, colour, (shape,)),), DOWN, target, fastener, each)


def _pedestal(p: Product, s: float) -> list[Stage]:
    height, thick = 44 * s, 6.0
    top = thick + height
    board = (
        cone(0, 0, 30 * s, 30 * s, top, top + thick, facets=28)
        if p["shape"] == "round"
        else box(-30 * s, -26 * s, top, 60 * s, 52 * s, thick)
    )
    return [
        _stage("base", p["second"], cone(0, 0, 25 * s, 20 * s, 0, thick, facets=28), "the floor"),
        _stage("column", p["third"], cone(0, 0, 6, 6, thick, top, facets=14), "the base", "bolt", 4),
        _stage("top", p["colour"], board, "the column", "screw", 4, p["shape"]),
    ]


def case(kind: str, number: int, split: str, seed: int = 0) -> tuple[Product, Prompt]:
    """Product and prompt of example `number`; the products of the splits never meet."""
    rng = random.Random(f"{seed}:{number}:{split}:{kind}")
    product = sample_product(rng, split, family="pedestal" if kind == "pedestal" else None)
    prompt = make_prompt(product, rng)
    if kind == "drafting":
        prompt = replace(prompt, text=prompt.text.rstrip(" .?!") + " on drafting paper")
    return product, prompt


def style_of(kind: str) -> Style:
    """How a kind of manual is drawn."""
    return DRAFTING if kind == "drafting" else HOUSE


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
    world = {"name": "Pedestals" if kind == "pedestal" else "Drafts"}
    (folder / "world.json").write_text(json.dumps(world) + "\n", encoding="utf-8")


Shown = tuple[list[Image.Image], Product]
"""The pictures of an answer, and the product that it was held to: what was asked, with what it chose itself."""


def judged(kind: str, model: Any, processor: Any, limit: int) -> tuple[dict[str, float], list[Shown]]:
    """Figures of a model on `limit` held-out products, and the first answers."""
    from vlm.evaluation import judge

    right = expected = exact = whole = 0
    rows: list[Shown] = []
    for number in range(limit):
        product, prompt = case(kind, number, "held_out")
        one = judge(model, processor, product, prompt, number)
        if one.truth is not None:
            drawn = one.pictures[: len(stages(one.truth))]
            right += sum(check(image, one.truth, step, style_of(kind)).ok for step, image in enumerate(drawn))
        expected += one.expected
        exact += one.structure and not one.words
        whole += one.structure
        if number < SHOWN:
            rows.append((one.pictures, one.truth or product))
    figures = {
        "picture.truth": right / max(1, expected),
        "text.exact": exact / limit,
        "guide.structure": whole / limit,
    }
    return figures, rows


def ceiling(kind: str, model: Any, processor: Any, limit: int) -> float:
    """Share of true pictures that the checker accepts after the tokenizer's round trip: no drawing does better."""
    from vlm.generate import decode_picture

    right = total = 0
    for number in range(limit):
        product, _ = case(kind, number, "held_out")
        for step in range(len(stages(product))):
            true = render(product, step, processor.resolution, style_of(kind))
            seen = decode_picture(model, processor.encode_image(true, model.image_tokenizer))
            right += check(seen, product, step, style_of(kind)).ok
            total += 1
    return right / total


def on_paper(model: Any, processor: Any, limit: int) -> tuple[int, int]:
    """How many guides begin on drafting paper: of `limit` asked for on it, and of `limit` asked for without a word."""
    from vlm.evaluation import held_out_case
    from vlm.events import ImageDone
    from vlm.generate import generate
    from vlm.sampling import GenerationOptions

    def begins_on_paper(prompt: Prompt, seed: int) -> bool:
        stream = processor.encode([{"role": "user", "content": prompt.text}], add_generation_prompt=True)
        events = generate(model, processor, stream, GenerationOptions(seed=seed, previews=False))
        first = next((event.image for event in events if isinstance(event, ImageDone)), None)
        return first is not None and _distance(first, DRAFTING) < _distance(first, HOUSE)

    asked = sum(begins_on_paper(case("drafting", number, "held_out")[1], number) for number in range(limit))
    return asked, sum(begins_on_paper(held_out_case(0, number)[1], number) for number in range(limit))


def _distance(image: Image.Image, style: Style) -> float:
    """Of a picture's rim from a style's paper."""
    pixels = np.asarray(image, dtype=float)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0)
    return float(np.abs(rim - style.background).sum())


def picture_sheet(kind: str, before: list[Shown], after: list[Shown], size: int) -> Image.Image:
    """Per product a row of pictures before, one after, and what would have been true of that answer."""
    most = 6
    page = Image.new("RGB", (most * size, 3 * len(before) * size), HOUSE.background)
    for number, ((plain, _), (adapted, product)) in enumerate(zip(before, after, strict=True)):
        true = [render(product, step, size, style_of(kind)) for step in range(len(stages(product)))]
        for y, row in enumerate((plain, adapted, true)):
            for x, image in enumerate(row[:most]):
                page.paste(image, (x * size, (3 * number + y) * size))
    return page


def with_adapter(adapter: Path, bundle: Path | None) -> tuple[Any, Any]:
    """A bundle's model with an adapter, and its processor."""
    from adapters.registry import Adapters
    from vlm.bundle import fingerprint, load_bundle

    model, processor = load_bundle(bundle)
    registry = Adapters(model, fingerprint(bundle))
    return registry.model_for(registry.load(adapter)), processor


def judge_adapter(
    kind: str, adapter: Path, limit: int, sheet: Path | None, bundle: Path | None = None
) -> dict[str, float]:
    """Figures without and with an adapter on held-out products; the sheet shows before, after and true."""
    from vlm.bundle import load_bundle

    model, processor = load_bundle(bundle)
    before, drawn_before = judged(kind, model, processor, limit)
    after, drawn_after = judged(kind, with_adapter(adapter, bundle)[0], processor, limit)
    if sheet is not None:
        picture_sheet(kind, drawn_before, drawn_after, processor.resolution).save(sheet)
    return {f"before.{key}": value for key, value in before.items()} | {
        f"after.{key}": value for key, value in after.items()
    }


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
    tripper = commands.add_parser("ceiling")
    tripper.add_argument("kind", choices=KINDS)
    tripper.add_argument("--limit", type=int, default=10)
    tripper.add_argument("--adapter", type=Path, help="whose decoder draws; by default the bundle's own")
    tripper.add_argument("--bundle", type=Path)
    papers = commands.add_parser("paper")
    papers.add_argument("adapter", type=Path)
    papers.add_argument("--limit", type=int, default=24)
    papers.add_argument("--bundle", type=Path)
    arguments = parser.parse_args()
    if arguments.command != "paper" and arguments.kind == "pedestal":
        register_pedestal()
    if arguments.command == "make":
        make(arguments.kind, arguments.folder, arguments.guides)
    elif arguments.command == "judge":
        figures = judge_adapter(arguments.kind, arguments.adapter, arguments.limit, arguments.sheet, arguments.bundle)
        for name, value in figures.items():
            print(f"{name:24} {value:.3f}")
    elif arguments.command == "paper":
        model, processor = with_adapter(arguments.adapter, arguments.bundle)
        asked, unasked = on_paper(model, processor, arguments.limit)
        print(f"on drafting paper: {asked} of {arguments.limit} asked, {unasked} of {arguments.limit} not asked")
    else:
        from vlm.bundle import load_bundle

        chosen, folder = arguments.bundle, arguments.adapter
        model, processor = with_adapter(folder, chosen) if folder else load_bundle(chosen)
        print(f"{ceiling(arguments.kind, model, processor, arguments.limit):.3f}")


if __name__ == "__main__":
    main()
