"""Judges the turns that are no guides: pictures asked for, questions about pictures, next steps, changes, chats.

Every answer runs free. What went before a judged turn is true where the turn alone is measured (a question, a next
step, a change), and the model's own where a whole conversation is.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlm.events import Generated, collect
from vlm.flatpack.build import stages
from vlm.flatpack.checker import check
from vlm.flatpack.dialogue import (
    Parts,
    Shown,
    Turn,
    change_turn,
    draw_turn,
    next_turn,
    outside_turn,
    question_turn,
    talk_turn,
)
from vlm.flatpack.product import Product, sample_product
from vlm.flatpack.reading import read_description
from vlm.flatpack.render import render, visible_stages
from vlm.flatpack.upload import disturbed, photograph
from vlm.flatpack.wording import step_variants
from vlm.generate import generate
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions
from vlm.stream import Conversation

ASKED_BLIND = 1000
"""Questions from which it is counted how often their commonest answer is right."""


@dataclass(frozen=True)
class Answer:
    """A generated answer: its text, its pictures, and the stream up to its end."""

    text: str
    pictures: tuple[Image.Image, ...]
    conversation: Conversation


def turn_figures(
    model: HartVLM, processor: StreamProcessor, *, limit: int, seed: int, options: GenerationOptions
) -> dict[str, float]:
    """reading.accuracy, reading.accuracy_augmented, reading.chance, next.truth, edit.truth, chat.truth."""
    size = processor.resolution
    sums = dict.fromkeys(("reading.accuracy", "reading.accuracy_augmented", "next.truth", "edit.truth"), 0.0)
    for number in range(limit):
        rng = random.Random(f"{seed}:{number}:turns")
        product, step, asked = held_out_question(rng)
        for key, image in (
            ("reading.accuracy", render(product, step, size)),
            ("reading.accuracy_augmented", disturbed(product, step, size, rng)),
        ):
            got = reply(model, processor, asked.user, [image], options)
            sums[key] += not wrong_turn(asked, got)
        step = rng.randrange(len(stages(product)) - 1)
        following = next_turn(product, step, rng)
        got = reply(model, processor, following.user, [photograph(product, step, size, rng)], options)
        sums["next.truth"] += not wrong_turn(following, got)
        first = draw_turn(product, rng)
        change = change_turn(product, rng, "held_out")
        before = processor.encode(_messages([first], size), model.image_tokenizer)
        sums["edit.truth"] += not wrong_turn(change, reply(model, processor, change.user, [], options, before))
    chats = max(1, limit // 2)
    right = sum(not chat_faults(model, processor, seed, number, options) for number in range(chats))
    figures = {key: value / limit for key, value in sums.items()}
    return figures | {"reading.chance": blind_share(seed), "chat.truth": right / chats}


def held_out_question(rng: random.Random) -> tuple[Product, int, Turn]:
    """A question about an uploaded picture of a held-out product: the product, the step that it shows, the question."""
    product = sample_product(rng, "held_out")
    step = rng.randrange(len(stages(product)) + 1)
    shown = (Shown(product, step, upload=True),)
    return product, step, question_turn(product, step, visible_stages(product, step), rng, shown)


def blind_share(seed: int) -> float:
    """The share of questions that the commonest answer to each is right on, without a look at the picture.

    Counted on the very questions it is judged by, so nobody who does not look does better.
    """
    rng = random.Random(f"{seed}:blind")
    answers: dict[tuple[str, str], Counter[str]] = {}
    for _ in range(ASKED_BLIND):
        _, _, asked = held_out_question(rng)
        (answer,) = asked.answer
        assert isinstance(answer, str)
        # What a question names stands in its answer: "The legs are blue.", "There are four legs."
        named = {"colour": answer.rsplit(" ", 1)[0], "count": answer.rsplit(" ", 1)[-1]}.get(asked.topic, "")
        answers.setdefault((asked.topic, named), Counter())[answer] += 1
    return sum(max(counted.values()) for counted in answers.values()) / ASKED_BLIND


def chat_faults(
    model: HartVLM, processor: StreamProcessor, seed: int, number: int, options: GenerationOptions
) -> list[str]:
    """A five-turn conversation, every answer the model's own: what is wrong with it, empty where all is right."""
    rng = random.Random(f"{seed}:{number}:chat")
    product = sample_product(rng, "held_out")
    history: Conversation | None = None
    faults: list[str] = []

    def take(turn: Turn) -> Answer:
        nonlocal history
        got = reply(model, processor, turn.user, [], options, history)
        history = got.conversation
        faults.extend(f"{turn.kind}: {fault}" for fault in wrong_turn(turn, got))
        return got

    take(talk_turn(rng, product))
    product = read_description(take(draw_turn(product, rng)).text) or product
    change = unseen_change(product, rng)
    take(change)
    product = change.product or product
    take(question_turn(product, len(stages(product)), visible_stages(product, len(stages(product))), rng))
    take(outside_turn(rng, split="held_out") if rng.random() < 0.5 else talk_turn(rng, product))
    return faults


def unseen_change(product: Product, rng: random.Random, guide: bool = False) -> Turn:
    """A change of a product that the model made up where the user left it open, to a held-out one if there is any."""
    try:
        return change_turn(product, rng, "held_out", guide)
    except ValueError:
        return change_turn(product, rng, "any", guide)


def wrong_turn(turn: Turn, answer: Answer) -> list[str]:
    """What is wrong with the answer to a turn; empty where words and pictures are right."""
    faults = wrong_said(turn, answer)
    if turn.kind == "draw":
        described = read_description(answer.text)
        true = [Shown(described, len(stages(described)))] if described is not None else []
    else:
        true = [part for part in turn.answer if isinstance(part, Shown)]
    for picture, shown in zip(answer.pictures, true, strict=False):
        faults += check(picture, shown.product, shown.step).reasons
    return faults


def wrong_said(turn: Turn, answer: Answer) -> list[str]:
    """What is wrong with the words of an answer and the number of its pictures; what these show is not looked at."""
    expected = sum(isinstance(part, Shown) for part in turn.answer)
    if turn.kind == "draw":
        # A drawn product may be any that has what was asked for.
        assert turn.product is not None
        expected = 1
        described = read_description(answer.text)
        if described is None or described.family != turn.product.family:
            return [f"said {answer.text.strip()!r}"]
        faults = [f"{name} is {described[name]}" for name in turn.asked if described[name] != turn.product[name]]
    else:
        allowed = {"".join(part for part in turn.answer if isinstance(part, str)).strip()}
        if turn.kind == "next" and expected:
            # A step may be said in any of the true ways.
            shown = next(part for part in turn.answer if isinstance(part, Shown))
            allowed = {f"{shown.step + 1}. {said}" for said in step_variants(stages(shown.product)[shown.step])}
        faults = [] if answer.text.strip() in allowed else [f"said {answer.text.strip()!r}"]
    if len(answer.pictures) != expected:
        faults.append(f"{len(answer.pictures)} pictures, expected {expected}")
    return faults


def reply(
    model: HartVLM,
    processor: StreamProcessor,
    user: Parts,
    images: Sequence[Image.Image],
    options: GenerationOptions,
    history: Conversation | None = None,
) -> Answer:
    """The model's answer to one message, its pictures given in order."""
    queue = iter(images)
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": next(queue)}
        for part in user
    ]
    stream = processor.encode(
        [{"role": "user", "content": content}], model.image_tokenizer, add_generation_prompt=True, history=history
    )
    got: Generated = collect(generate(model, processor, stream, options))
    return Answer(got.text, tuple(image.image for image in got.images), got.conversation)


def _messages(turns: Sequence[Turn], size: int) -> list[dict[str, Any]]:
    """True turns as messages, pictures rendered."""

    def content(parts: Parts) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": render(part.product, part.step, size)}
            for part in parts
        ]

    roles = [("user", turn.user) if i == 0 else ("assistant", turn.answer) for turn in turns for i in (0, 1)]
    return [{"role": role, "content": content(parts)} for role, parts in roles]
