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
    ASSEMBLE_IT,
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
from vlm.flatpack.prompts import make_prompt, sayable
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
    # Refusals are cheap where nothing is drawn, and it takes hundreds to learn that all things but ten are unknown.
    before = rng.choice((0, 1, 1, 2)) if kind == "words" else int(rng.random() < 0.2)
    turns = [opening_turn(rng) for _ in range(before)]
    turns.append(asked_guide(product, rng))
    if kind == "words":
        # Cheap guides: reading prompts, copying, counting and what follows what are learnt at a fraction of the cost.
        for _ in range(rng.choice((0, 1, 1, 2))):
            turns.append(after_guide(turns[-1].product or product, rng, split))
        turns = [replace(turn, answer=tuple(part for part in turn.answer if isinstance(part, str))) for turn in turns]
    elif rng.random() < 0.35:
        drawn = rng.random() < 0.2
        turns.append(draw_turn(sample_product(rng, split), rng) if drawn else after_guide(product, rng, split))
        if rng.random() < 0.35:
            # Two guides can stand before it: what is asked last must still be heard.
            turns.append(closing_turn(turns[-1].product or product, rng, split))
    return sample_of(turns, size, rng)


def opening_turn(rng: random.Random) -> Turn:
    """What may be said before anything is drawn: a request that this world has no answer to, a pleasantry."""
    return outside_turn(rng) if rng.random() < 0.6 else talk_turn(rng)


def asked_guide(product: Product, rng: random.Random) -> Turn:
    """A guide, asked for in a sentence of its own."""
    prompt = make_prompt(product, rng)
    return guide_turn(product, prompt.text, prompt.stated, rng)


def after_guide(product: Product, rng: random.Random, split: str) -> Turn:
    """What may follow a guide: a change of it, another guide, thanks, or what this world has no answer to."""
    chance = rng.random()
    if chance < 0.35:
        return change_turn(product, rng, split, guide=True)
    if chance < 0.65:
        return asked_guide(sample_product(rng, split), rng)
    return talk_turn(rng, product) if chance < 0.8 else outside_turn(rng, product)


def closing_turn(product: Product, rng: random.Random, split: str) -> Turn:
    """What may end a long talk with little to draw: one picture of another product, talk, a refusal."""
    chance = rng.random()
    if chance < 0.4:
        return draw_turn(sample_product(rng, split), rng)
    return talk_turn(rng, product) if chance < 0.65 else outside_turn(rng, product)


def talk(product: Product, rng: random.Random) -> Turn:
    """One turn that is no guide: a picture, a question about an upload, a next step, a pleasantry, a refusal."""
    chance = rng.random()
    if chance < 0.46:
        return draw_turn(product, rng)
    if chance < 0.69:
        step = rng.randrange(len(stages(product)) + 1)
        shown = (Shown(product, step, upload=True),)
        return question_turn(product, step, visible_stages(product, step), rng, shown)
    if chance < 0.88:
        step = rng.randrange(len(stages(product)) + (rng.random() < 0.3))
        return next_turn(product, step, rng, stated=rng.random() < 0.7)
    return outside_turn(rng) if rng.random() < 0.65 else talk_turn(rng)


def chat(product: Product, rng: random.Random, split: str) -> list[Turn]:
    """Several turns: a picture of a product, changes of it, questions about it, talk, another product, a guide."""
    turns = [opening_turn(rng)] if rng.random() < 0.3 else []
    turns.append(draw_turn(product, rng))
    for _ in range(rng.choice((1, 1, 2, 3))):
        chance = rng.random()
        if chance < 0.45:
            turns.append(change_turn(product, rng, split))
        elif chance < 0.65:
            step = len(stages(product))
            turns.append(question_turn(product, step, visible_stages(product, step), rng))
        elif chance < 0.75:
            turns.append(talk_turn(rng, product) if rng.random() < 0.5 else outside_turn(rng, product))
        elif chance < 0.85:
            turns.append(draw_turn(sample_product(rng, split), rng))
        else:
            # A guide ends the talk: its many pictures are what a conversation costs.
            text = rng.choice(ASSEMBLE_IT)
            known = guide_turn(product, text, sayable(product), rng)
            turns.append(known if rng.random() < 0.5 else asked_guide(sample_product(rng, split), rng))
            break
        product = turns[-1].product or product
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
