"""Judges illustrated guides against what their prompts stated and, where a choice was left, what their words state."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from PIL import Image

from hart.tokens import HybridTokens
from vlm.errors import GuideError, OutOfWorld
from vlm.events import Event, Finished, ImageDone
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
from vlm.processor import StreamProcessor
from vlm.reading import read_guide
from vlm.sampling import GenerationOptions
from vlm.stream import Conversation


@dataclass
class Judged:
    """One evaluated guide: what was asked, what came, what is wrong with it.

    conversation: the stream up to the end of the answer.
    """

    prompt: str
    guide: Guide | None
    pictures: list[Image.Image]
    truth: Product | None
    tokens: list[HybridTokens] = field(default_factory=list)
    structure: bool = False
    words: list[str] = field(default_factory=list)
    faults: list[tuple[str, ...]] = field(default_factory=list)
    expected: int = 0
    conversation: Conversation | None = None

    @property
    def right_pictures(self) -> int:
        """Pictures that the checker accepts."""
        return sum(not reasons for reasons in self.faults)

    @property
    def right(self) -> bool:
        """Whether every word and every picture is right."""
        return self.structure and not self.words and self.right_pictures == self.expected


def held_out_case(seed: int, number: int) -> tuple[Product, Prompt]:
    """The product and the prompt of evaluation case `number`."""
    rng = random.Random(f"{seed}:{number}:evaluation")
    product = sample_product(rng, "held_out")
    return product, make_prompt(product, rng)


def judge(
    model: HartVLM,
    processor: StreamProcessor,
    product: Product,
    prompt: Prompt,
    seed: int,
    options: GenerationOptions | None = None,
    history: Conversation | None = None,
) -> Judged:
    """Let the model answer one prompt, at the end of `history`, and judge the answer."""
    options = options or GenerationOptions(seed=seed, previews=False)
    asked = {name: product[name] for name in prompt.stated}
    message = {"role": "user", "content": prompt.text}
    stream = processor.encode([message], add_generation_prompt=True, history=history)
    tokens: list[HybridTokens] = []
    conversation = None

    def keep(event: Event) -> None:
        nonlocal conversation
        if isinstance(event, ImageDone):
            tokens.append(event.tokens)
        elif isinstance(event, Finished):
            conversation = event.conversation

    events = generate(model, processor, stream, options)
    try:
        drawn = read_guide(events, prompt=prompt.text, seed=seed, fingerprint="-", on_event=keep)
    except (GuideError, OutOfWorld) as error:
        expected = len(stages(product))
        return Judged(prompt.text, None, [], None, words=[str(error)], expected=expected, conversation=conversation)
    guide, pictures = drawn.guide, list(drawn.pictures)
    structure = len(pictures) == len(guide.steps)
    one = Judged(prompt.text, guide, pictures, None, tokens, structure, conversation=conversation)
    parts = [f"{part.count} x {part.name}" for part in guide.parts]
    tools = [tool.name if tool.count is None else f"{tool.count} x {tool.name}" for tool in guide.tools]
    steps = [step.text for step in guide.steps]
    one.words = wrong_words(guide.title, parts, tools, steps, asked, product.family, guide.description)
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
