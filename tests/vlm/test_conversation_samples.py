"""What the model learns from: which answer may follow which, so that none is learnt as the end of all others."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from vlm.flatpack.outside import OUTSIDE_ANSWER
from vlm.training.conversations import KINDS, conversation_sample


def answers(kind: str, number: int) -> list[str]:
    """The answers of a sample, each as what it is."""
    found = []
    for message in conversation_sample(number, 32, 3, kind=kind).messages:
        if message["role"] == "user":
            continue
        text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
        if text.startswith("# "):
            found.append("guide")
        elif any(part["type"] == "image" for part in message["content"]):
            found.append("picture")
        else:
            found.append("outside" if text == OUTSIDE_ANSWER else "words")
    return found


@pytest.mark.parametrize(
    ("kind", "follows"),
    [
        (
            "guide",
            {("guide", "guide"), ("guide", "outside"), ("guide", "picture"), ("words", "guide"), ("outside", "guide")},
        ),
        (
            "words",
            {("guide", "guide"), ("guide", "outside"), ("guide", "words"), ("words", "guide"), ("outside", "guide")},
        ),
        (
            "chat",
            {
                ("picture", "guide"),
                ("picture", "picture"),
                ("picture", "words"),
                ("picture", "outside"),
                ("words", "picture"),
                ("outside", "picture"),
            },
        ),
    ],
)
def test_every_kind_of_answer_may_follow(kind: str, follows: set[tuple[str, str]]):
    seen = Counter(pair for number in range(300) for pair in pairwise(answers(kind, number)))
    # A rarity would be taken for noise: at least one conversation in a hundred.
    assert {pair for pair in follows if seen[pair] < 3} == set(), seen


def test_after_a_guide_another_one_is_likelier_than_a_refusal():
    seen = Counter(pair for number in range(300) for pair in pairwise(answers("words", number)))
    assert seen["guide", "guide"] > seen["guide", "outside"]


def test_two_guides_may_be_followed_by_a_picture_by_words_and_by_a_refusal():
    last = Counter(
        found[-1] for found in (answers("guide", number) for number in range(600)) if found[-3:-1] == ["guide"] * 2
    )
    assert {"picture", "words", "outside"} <= set(last)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_fixed_by_its_number(kind: str):
    first, again = (conversation_sample(7, 32, 3, kind=kind) for _ in range(2))
    assert first.messages == again.messages and (first.pixels == again.pixels).all()
    assert conversation_sample(8, 32, 3, kind=kind).messages != first.messages
    shown = sum(part["type"] == "image" for message in first.messages for part in message["content"])
    assert shown == len(first.pixels)
