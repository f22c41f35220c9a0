"""What an adapter learns from, and which of it each step takes.

Knows streams and pictures. Does not know files, models or training. A batch depends on numbers alone, so a run that
goes on takes what it would have taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.errors import UserError
from vlm.stream import Conversation


@dataclass(frozen=True)
class Material:
    """What is learnt from: streams to train on, to test on, and of what the base knows already.

    pictures, held_out_pictures: those of the answers, (3, H, W) float in [-1, 1], for the image tokenizer's decoder;
    known_picture: one that the base knows, by its number, to be rehearsed.
    """

    train: Sequence[Conversation]
    held_out: Sequence[Conversation]
    rehearsal: Sequence[Conversation] = ()
    pictures: Sequence[Tensor] = ()
    held_out_pictures: Sequence[Tensor] = ()
    known_picture: Callable[[int], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.train or not self.held_out:
            raise UserError(
                f"{len(self.train)} examples to learn from and {len(self.held_out)} to test on, expected 1 of each"
            )


@dataclass(frozen=True)
class Batch:
    """What one step learns from. pictures: (B, 3, H, W) float in [-1, 1]; None where the decoder learns nothing."""

    conversations: list[Conversation]
    pictures: Tensor | None = None


def batch_of(
    material: Material, number: int, conversations: int, pictures: int, rehearse: float, seed: int
) -> Batch:
    """Batch `number`: so many conversations, and pictures where there are any.

    Every example comes once before any comes again, but for those that give way to rehearsal, a share of `rehearse`.
    """
    chosen = []
    for index in range(number * conversations, (number + 1) * conversations):
        chance = random.Random(f"{seed}:{index}")
        if material.rehearsal and chance.random() < rehearse:
            chosen.append(material.rehearsal[chance.randrange(len(material.rehearsal))])
        else:
            chosen.append(material.train[_shuffled(index, len(material.train), seed)])
    if not pictures or not material.pictures:
        return Batch(chosen)
    shown = []
    for index in range(number * pictures, (number + 1) * pictures):
        chance = random.Random(f"{seed}:{index}:picture")
        if material.known_picture is not None and chance.random() < rehearse:
            shown.append(material.known_picture(index))
        else:
            shown.append(material.pictures[chance.randrange(len(material.pictures))])
    return Batch(chosen, torch.stack(shown))


def _shuffled(index: int, count: int, seed: int) -> int:
    """The `index`th of an endless list that holds each of `count` once per round, each round in another order."""
    turn, place = divmod(index, count)
    order = list(range(count))
    random.Random(f"{seed}:{turn}:order").shuffle(order)
    return order[place]
