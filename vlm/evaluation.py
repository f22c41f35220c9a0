"""How true the model is, on products it has never seen; generation runs free, nothing is teacher-forced.

A guide is judged against what its prompt stated and, where the prompt left a choice, against what its own words state.
Knows the world and the agent; the figures' names are those of the README.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader
from PIL import Image

from vlm.agent import read_guide
from vlm.errors import GuideError, OutOfWorld
from vlm.flatpack.build import stages
from vlm.flatpack.checker import check
from vlm.flatpack.product import Product, sample_product
from vlm.flatpack.prompts import Prompt, make_prompt
from vlm.flatpack.reading import read_product, wrong_words
from vlm.flatpack.render import render
from vlm.flatpack.style import HOUSE
from vlm.generate import generate
from vlm.guide import Guide
from vlm.model import HartVLM
from vlm.pictures import psnr, to_images, to_tensor
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions

ROUND_TRIPS_PER_GUIDE = 4


@dataclass
class Judged:
    """One evaluated guide: what was asked, what came, what is wrong with it."""

    prompt: str
    guide: Guide | None
    pictures: list[Image.Image]
    truth: Product | None
    structure: bool = False
    words: list[str] = field(default_factory=list)
    faults: list[tuple[str, ...]] = field(default_factory=list)
    expected: int = 0

    @property
    def right_pictures(self) -> int:
        """Pictures that the checker accepts."""
        return sum(not reasons for reasons in self.faults)

    @property
    def right(self) -> bool:
        """Whether every word and every picture is right."""
        return self.structure and not self.words and self.right_pictures == self.expected


def evaluate(
    model: HartVLM,
    processor: StreamProcessor,
    *,
    limit: int,
    seed: int,
    page: Path | None = None,
    options: GenerationOptions | None = None,
) -> dict[str, float]:
    """Figures of a model on `limit` held-out products; `page` receives index.html with drawn beside true.

    Keys: tokenizer.psnr_hybrid, tokenizer.psnr_discrete (median dB), tokenizer.part_iou, ceiling.truth,
    baseline.truth, picture.truth, guide.truth, guide.structure, text.exact.
    """
    figures = tokenizer_figures(model, limit * ROUND_TRIPS_PER_GUIDE, seed)
    judged = [judge(model, processor, *held_out_case(seed, number), number, options) for number in range(limit)]
    count = len(judged)
    figures |= {
        "guide.structure": sum(one.structure for one in judged) / count,
        "text.exact": sum(one.structure and not one.words for one in judged) / count,
        "picture.truth": sum(one.right_pictures for one in judged) / max(1, sum(one.expected for one in judged)),
        "guide.truth": sum(one.right for one in judged) / count,
    }
    if page is not None:
        write_page(judged, figures, page)
    return figures


def held_out_case(seed: int, number: int) -> tuple[Product, Prompt]:
    """The product and the prompt of evaluation case `number`."""
    rng = random.Random(f"{seed}:{number}:evaluation")
    product = sample_product(rng, "held_out")
    return product, make_prompt(product, rng)


@torch.no_grad()
def tokenizer_figures(model: HartVLM, count: int, seed: int) -> dict[str, float]:
    """What the image tokenizer alone loses, on `count` held-out renders in the house style."""
    tokenizer = model.image_tokenizer
    size = tokenizer.config.resolution
    rng = random.Random(f"{seed}:tokenizer")
    cases = []
    for _ in range(count):
        product = sample_product(rng, "held_out")
        cases.append((product, rng.randrange(len(stages(product)))))
    hybrid, discrete, ious, accepted, others = [], [], [], 0, 0
    for start in range(0, count, 16):
        part = cases[start : start + 16]
        images = [render(product, step, size) for product, step in part]
        pixels = to_tensor(images).to(model.device)
        tokens = tokenizer.encode(pixels)
        decoded = tokenizer.decode(tokens)
        hybrid += psnr(decoded, pixels).tolist()
        discrete += psnr(tokenizer.decode(tokens, residual=False), pixels).tolist()
        for (product, step), image in zip(part, to_images(decoded), strict=True):
            verdict = check(image, product, step)
            accepted += verdict.ok
            ious += [figure.iou for figure in verdict.parts]
            other = sample_product(rng, "held_out")
            while other == product:
                other = sample_product(rng, "held_out")
            others += check(render(other, min(step, len(stages(other)) - 1), size), product, step).ok
    return {
        "tokenizer.psnr_hybrid": float(torch.tensor(hybrid).median()),
        "tokenizer.psnr_discrete": float(torch.tensor(discrete).median()),
        "tokenizer.part_iou": sum(ious) / len(ious),
        "ceiling.truth": accepted / count,
        "baseline.truth": others / count,
    }


def judge(
    model: HartVLM,
    processor: StreamProcessor,
    product: Product,
    prompt: Prompt,
    seed: int,
    options: GenerationOptions | None = None,
) -> Judged:
    """Let the model answer one prompt and judge the answer."""
    options = options or GenerationOptions(seed=seed, previews=False)
    asked = {name: product[name] for name in prompt.stated}
    stream = processor.encode([{"role": "user", "content": prompt.text}], add_generation_prompt=True)
    try:
        drawn = read_guide(generate(model, processor, stream, options), prompt=prompt.text, seed=seed, fingerprint="-")
    except (GuideError, OutOfWorld) as error:
        return Judged(prompt.text, None, [], None, words=[str(error)], expected=len(stages(product)))
    guide, pictures = drawn.guide, list(drawn.pictures)
    one = Judged(prompt.text, guide, pictures, None, structure=len(pictures) == len(guide.steps))
    parts = [f"{part.count} x {part.name}" for part in guide.parts]
    tools = [tool.name if tool.count is None else f"{tool.count} x {tool.name}" for tool in guide.tools]
    one.words = wrong_words(guide.title, parts, tools, [step.text for step in guide.steps], asked, product.family)
    stated = read_product(guide.title, parts)
    if stated is not None and stated.family == product.family:
        # Where the words contradict the prompt, the picture is held to the prompt.
        one.truth = stated.replace(**asked)
        plan = stages(one.truth)
        one.expected = max(len(plan), len(pictures))
        for step, picture in enumerate(pictures):
            one.faults.append(check(picture, one.truth, step).reasons if step < len(plan) else ("a step too many",))
    else:
        one.expected = max(len(stages(product)), len(pictures))
        one.faults = [("the words state no such product",)] * len(pictures)
    return one


def compare_guides(
    model: HartVLM, processor: StreamProcessor, count: int, seed: int
) -> tuple[Image.Image, dict[str, float]]:
    """A sheet of guides (drawn above, true below) and quick figures, for a look during training."""
    size = processor.resolution
    rows: list[list[Image.Image]] = []
    right = wanted = exact = 0
    for number in range(count):
        product, prompt = held_out_case(seed, number)
        one = judge(model, processor, product, prompt, number)
        right, wanted, exact = (
            right + one.right_pictures,
            wanted + one.expected,
            exact + (one.structure and not one.words),
        )
        truth = one.truth or product
        rows += [one.pictures[:6], [render(truth, step, size) for step in range(len(stages(truth)))]]
    sheet = Image.new("RGB", (6 * size, len(rows) * size), HOUSE.background)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * size, y * size))
    return sheet, {"picture_truth": right / max(1, wanted), "text_exact": exact / count}


def write_page(judged: list[Judged], figures: dict[str, float], folder: Path) -> None:
    """index.html and PNGs: each guide's pictures, drawn above true, worst first."""
    guides = []
    for number, one in enumerate(sorted(judged, key=lambda one: one.right_pictures / max(1, one.expected))):
        plan = stages(one.truth) if one.truth else ()
        steps = []
        for step, picture in enumerate(one.pictures):
            drawn, true = f"{number:03d}-{step + 1}.png", f"{number:03d}-{step + 1}-true.png"
            picture.save(folder / drawn)
            known = one.truth is not None and step < len(plan)
            if one.truth is not None and known:
                render(one.truth, step, picture.width).save(folder / true)
            steps.append({"drawn": drawn, "true": true if known else None, "faults": one.faults[step]})
        words = "words right" if one.structure and not one.words else "; ".join(one.words)
        title = one.guide.title if one.guide else "no guide"
        guides.append({"prompt": one.prompt, "title": title, "words": words, "steps": steps})
    environment = Environment(loader=PackageLoader("vlm"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("evaluation.html").render(guides=guides, figures=sorted(figures.items()))
    (folder / "index.html").write_text(page, encoding="utf-8")
