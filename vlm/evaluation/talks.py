"""Judges talks around a guide: each answer must be of the right kind and say the right words, whatever went before;
and requests that are to be refused.

Every answer is the model's own. What its pictures show is judged elsewhere: here they are only counted.
"""

from __future__ import annotations

import random

from vlm.evaluation.guides import judge
from vlm.evaluation.turns import reply, unseen_change, wrong_said
from vlm.flatpack.dialogue import Turn, draw_turn, outside_turn, talk_turn
from vlm.flatpack.product import Product, sample_product
from vlm.flatpack.prompts import Prompt, make_prompt, sayable
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions
from vlm.stream import Conversation

TURNS = 5


def talk_words(
    model: HartVLM, processor: StreamProcessor, *, talks: int, seed: int, options: GenerationOptions
) -> float:
    """talk.words: the share of the turns of `talks` talks whose words are right."""
    faulty = sum(len(talk_faults(model, processor, seed, number, options)) for number in range(talks))
    return 1 - faulty / (TURNS * talks)


def outside_truth(
    model: HartVLM, processor: StreamProcessor, *, requests: int, seed: int, options: GenerationOptions
) -> float:
    """outside.truth: the share of requests outside this world that are refused in the right words, each alone and of
    things and questions that no training has."""
    right = 0
    for number in range(requests):
        asked = outside_turn(random.Random(f"{seed}:{number}:outside"), split="held_out")
        right += not wrong_said(asked, reply(model, processor, asked.user, [], options))
    return right / requests


def talk_faults(
    model: HartVLM, processor: StreamProcessor, seed: int, number: int, options: GenerationOptions
) -> dict[str, list[str]]:
    """A talk of five turns: which of them were answered wrongly, and what is wrong.

    A pleasantry; a guide and the same with one change, a picture of another product before or after the two; a request
    that this world has no answer to.
    """
    rng = random.Random(f"{seed}:{number}:long")
    history: Conversation | None = None
    faults: dict[str, list[str]] = {}

    def take(name: str, turn: Turn) -> None:
        nonlocal history
        got = reply(model, processor, turn.user, [], options, history)
        history = got.conversation
        if wrong := wrong_said(turn, got):
            faults[name] = wrong

    def guide(name: str, product: Product, prompt: Prompt) -> Product:
        """Let a guide be written; the product that it is of, or the one asked for where its words state none."""
        nonlocal history
        one = judge(model, processor, product, prompt, number, options, history)
        history = one.conversation
        if one.words or not one.structure:
            faults[name] = one.words or [f"{len(one.pictures)} pictures"]
        return one.truth or product

    take("talk", talk_turn(rng, sample_product(rng)))
    other = draw_turn(sample_product(rng, "held_out"), rng)
    first = rng.random() < 0.5
    if first:
        take("picture", other)
    product = sample_product(rng, "held_out")
    product = guide("guide", product, make_prompt(product, rng))
    change = unseen_change(product, rng, guide=True)
    assert change.product is not None and isinstance(change.user[0], str)
    guide("change", change.product, Prompt(change.user[0], tuple(sayable(change.product))))
    if not first:
        take("picture", other)
    take("outside", outside_turn(rng, split="held_out"))
    return faults
