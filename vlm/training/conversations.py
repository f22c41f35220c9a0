"""What the model learns from: conversations of the flatpack world, each fixed by its kind and number.

A sample holds plain messages and the pictures in them; knows nothing of ids, tensors or towers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm.flatpack.build import stages
from vlm.flatpack.dialogue import (
    Parts,
    Shown,
    Turn,
    change_turn,
    draw_turn,
    guide_turn,
    next_turn,
    outside_turn,
    question_turn,
    talk_turn,
)
from vlm.flatpack.product import Product, sample_product
from vlm.flatpack.prompts import make_prompt
from vlm.flatpack.render import render, visible_stages
from vlm.flatpack.style import HOUSE, Style
from vlm.flatpack.upload import photograph

KINDS = ("guide", "words", "talk", "chat")


@dataclass(frozen=True)
class Sample:
    """messages: as for `StreamProcessor.encode`, with pictures as {"type": "image"}; pixels: (P, H, W, 3) uint8."""

    messages: list[dict[str, Any]]
    pixels: np.ndarray


def conversation_sample(number: int, size: int, seed: int, split: str = "train", kind: str = "guide") -> Sample:
    """Sample `number` of a kind: an illustrated guide, a guide's words without pictures, one turn, or several.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}; got {kind!r}")
    rng = random.Random(f"{seed}:{number}:{split}:{kind}")
    product = sample_product(rng, split)
    if kind == "talk":
        return sample_of([talk(product, rng)], size, rng)
    if kind == "chat":
        return sample_of(chat(product, rng, split), size, rng)
    prompt = make_prompt(product, rng)
    turns = [guide_turn(product, prompt.text, prompt.stated, rng)]
    if rng.random() < (0.3 if kind == "words" else 0.05):
        turns.append(change_turn(product, rng, split, guide=True))
    elif rng.random() < 0.2:
        # A guide is not always followed by more of the same: thanks, and requests from outside this world.
        turns.append(outside_turn(rng, product) if rng.random() < 0.7 else talk_turn(rng, product))
    if kind == "words":
        # Cheap guides: reading prompts, copying and counting are learnt at a fraction of the cost of pictures.
        turns = [replace(turn, answer=tuple(part for part in turn.answer if isinstance(part, str))) for turn in turns]
    return sample_of(turns, size, rng)


def talk(product: Product, rng: random.Random) -> Turn:
    """One turn that is no guide: a picture, a question about an upload, a next step, a pleasantry, a refusal."""
    chance = rng.random()
    if chance < 0.48:
        return draw_turn(product, rng)
    if chance < 0.72:
        step = rng.randrange(len(stages(product)) + 1)
        shown = (Shown(product, step, upload=True),)
        return question_turn(product, step, visible_stages(product, step), rng, shown)
    if chance < 0.92:
        step = rng.randrange(len(stages(product)) + (rng.random() < 0.3))
        return next_turn(product, step, rng, stated=rng.random() < 0.7)
    return outside_turn(rng) if rng.random() < 0.5 else talk_turn(rng)


def chat(product: Product, rng: random.Random, split: str) -> list[Turn]:
    """Several turns about one product: a picture of it, changes, questions about what was drawn, talk between."""
    turns = [talk_turn(rng)] if rng.random() < 0.3 else []
    turns.append(draw_turn(product, rng))
    for _ in range(rng.choice((1, 1, 2, 3))):
        chance = rng.random()
        if chance < 0.6:
            turns.append(change_turn(product, rng, split))
            product = turns[-1].product or product
        elif chance < 0.85:
            step = len(stages(product))
            turns.append(question_turn(product, step, visible_stages(product, step), rng))
        else:
            turns.append(talk_turn(rng, product) if rng.random() < 0.7 else outside_turn(rng, product))
    return turns


def sample_of(turns: Sequence[Turn], size: int, rng: random.Random, style: Style = HOUSE) -> Sample:
    """Turns as messages, their pictures drawn; uploads are disturbed."""
    messages: list[dict[str, Any]] = []
    drawn = [np.zeros((0, size, size, 3), np.uint8)]

    def content(parts: Parts) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, str):
                made.append({"type": "text", "text": part})
                continue
            if part.upload:
                image = photograph(part.product, part.step, size, rng, style)
            else:
                image = render(part.product, part.step, size, style)
            drawn.append(np.asarray(image)[None])
            made.append({"type": "image"})
        return made

    for turn in turns:
        messages.append({"role": "user", "content": content(turn.user)})
        messages.append({"role": "assistant", "content": content(turn.answer)})
    return Sample(messages, np.concatenate(drawn))


def world_text(count: int, seed: int = 0) -> list[str]:
    """Lines of prompts and answers to learn a text vocabulary from."""
    lines = []
    for number in range(count):
        rng = random.Random(f"{seed}:{number}:text")
        product = sample_product(rng)
        prompt = make_prompt(product, rng)
        turns = [guide_turn(product, prompt.text, prompt.stated, rng), draw_turn(product, rng), talk_turn(rng)]
        turns += [change_turn(product, rng, "train"), outside_turn(rng)]
        turns.append(question_turn(product, len(stages(product)), stages(product), rng))
        turns.append(next_turn(product, rng.randrange(len(stages(product)) + 1), rng))
        lines += [part for turn in turns for part in (*turn.user, *turn.answer) if isinstance(part, str)]
    return [*lines, "system", "user", "assistant"]
