"""What the model learns from: conversations of the flatpack world, each fixed by its number.

A sample holds plain messages and the pictures in them; knows nothing of ids, tensors or towers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm.flatpack.product import Product, sample_product
from vlm.flatpack.prompts import OUTSIDE_ANSWER, Prompt, make_prompt, outside_prompt, sayable
from vlm.flatpack.render import render
from vlm.flatpack.style import HOUSE, Style
from vlm.flatpack.wording import guide_text


@dataclass(frozen=True)
class Sample:
    """messages: as for `StreamProcessor.encode`, with pictures as {"type": "image"}; pixels: (P, H, W, 3) uint8."""

    messages: list[dict[str, Any]]
    pixels: np.ndarray


def guide_sample(
    product: Product, prompt: Prompt, rng: random.Random, size: int, style: Style = HOUSE, pictures: bool = True
) -> Sample:
    """A prompt and the guide that answers it, illustrated unless `pictures` is False."""
    chosen = [name for name in sayable(product) if name not in prompt.stated]
    texts = guide_text(product, rng, chosen)
    content: list[dict[str, Any]] = [{"type": "text", "text": texts[0]}]
    drawn = [np.zeros((0, size, size, 3), np.uint8)]
    for index, text in enumerate(texts[1:]):
        if pictures:
            content.append({"type": "image"})
            drawn.append(np.asarray(render(product, index, size, style))[None])
        content.append({"type": "text", "text": text})
    return Sample(_turns(prompt.text, content), np.concatenate(drawn))


def conversation_sample(
    number: int, size: int, seed: int, split: str = "train", outside: float = 0.06, words_only: float = 0.0
) -> Sample:
    """Sample `number` of a split: mostly guides, and a share of prompts from outside the world.

    words_only: share of guides without their pictures, which cost a fraction of the others to learn from.
    """
    rng = random.Random(f"{seed}:{number}:{split}:conversation")
    if rng.random() < outside:
        return Sample(
            _turns(outside_prompt(rng), [{"type": "text", "text": OUTSIDE_ANSWER}]),
            np.zeros((0, size, size, 3), np.uint8),
        )
    product = sample_product(rng, split)
    prompt = make_prompt(product, rng)
    return guide_sample(product, prompt, rng, size, pictures=rng.random() >= words_only)


def world_text(count: int, seed: int = 0) -> list[str]:
    """Lines of prompts and answers to learn a text vocabulary from."""
    lines = []
    for number in range(count):
        rng = random.Random(f"{seed}:{number}:text")
        product = sample_product(rng)
        prompt = make_prompt(product, rng)
        chosen = [name for name in sayable(product) if name not in prompt.stated]
        lines += [prompt.text, outside_prompt(rng), *guide_text(product, rng, chosen)]
    return [*lines, OUTSIDE_ANSWER, "system", "user", "assistant"]


def _turns(prompt: str, answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
