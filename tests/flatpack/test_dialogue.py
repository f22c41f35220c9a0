"""Turns other than guides: what is said is true of what is shown, and can be read back."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from vlm.flatpack.build import stages
from vlm.flatpack.dialogue import (
    FINISHED,
    LAST_STEP,
    NO_PICTURE,
    NO_PRODUCT,
    Shown,
    change_turn,
    describe,
    draw_turn,
    next_turn,
    question_turn,
    talk_turn,
)
from vlm.flatpack.product import FAMILIES, sample_product
from vlm.flatpack.reading import read_description
from vlm.flatpack.render import render, visible_stages
from vlm.flatpack.upload import disturbed, photograph
from vlm.flatpack.wording import number_word
from vlm.training.conversations import KINDS, conversation_sample

CASES = [(family, seed) for family in FAMILIES for seed in range(8)]


def product_of(family, seed, split="any"):
    return sample_product(random.Random(seed), split, family=family)


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_description_states_the_whole_product(family, seed):
    product = product_of(family, seed)
    line = describe(product)
    assert read_description(line) == product
    assert read_description(line.replace("Here is", "Here was")) is None
    assert read_description(line.replace(product["colour"], "pink")) is None
    assert read_description(line.replace(".", " and nothing.")) is None


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_change_changes_what_was_asked_for_and_nothing_else(family, seed):
    product = product_of(family, seed, "train")
    turn = change_turn(product, random.Random(seed), "train")
    before, after = dict(product.attributes), dict(turn.product.attributes)
    assert before[turn.asked[0]] != after[turn.asked[0]]
    others = {name for name in before if before[name] != after[name]} - {*turn.asked}
    assert others <= ({"count"} if family == "chair" else set())  # a curved back has no slats to count
    assert not turn.product.held_out
    value = after[turn.asked[0]]
    said = turn.user[0].lower()
    assert value in said or (turn.asked[0] == "count" and number_word(int(value)) in said) or len(said) > 8
    assert read_description(turn.answer[0]) == turn.product
    assert turn.answer[1] == Shown(turn.product, len(stages(turn.product)))


def test_a_change_of_a_guide_is_a_whole_guide():
    product = product_of("stool", 0, "train")
    turn = change_turn(product, random.Random(0), "train", guide=True)
    pictures = [part for part in turn.answer if isinstance(part, Shown)]
    assert [part.step for part in pictures] == list(range(len(stages(turn.product))))
    assert turn.answer[0].startswith("# ")


def test_questions_have_one_true_answer_about_what_can_be_seen():
    topics = Counter()
    for number in range(300):
        rng = random.Random(number)
        product = sample_product(rng, "any")
        plan = stages(product)
        step = rng.randrange(len(plan) + 1)
        seen = visible_stages(product, step)
        turn = question_turn(product, step, seen, rng, (Shown(product, step, upload=True),))
        topics[turn.topic] += 1
        (answer,) = turn.answer
        if turn.topic == "step":
            assert answer == ("It is finished." if step == len(plan) else f"This is step {step + 1}.")
        elif turn.topic == "family":
            assert answer.endswith(f" {product.family}.") and step >= len(plan) - 1
        elif turn.topic == "colour":
            assert any(answer.split()[-1] == f"{stage.colour}." for stage in seen)
        else:
            assert any(f" {number_word(len(stage.parts))} {stage.plural}." in answer for stage in seen)
        assert sum(isinstance(part, Shown) for part in turn.user) == 1
    assert set(topics) == {"step", "family", "colour", "count"} and min(topics.values()) > 20


def test_hidden_parts_are_not_asked_about():
    product = sample_product(random.Random(0), "any", family="bed")
    nouns = {stage.noun for stage in visible_stages(product, len(stages(product)))}
    assert "slat" not in nouns and "mattress" in nouns  # the mattress lies on the slats
    assert "slat" in {stage.noun for stage in visible_stages(product, 2)}


def test_what_comes_next_is_the_next_step_and_after_the_last_nothing():
    for family in FAMILIES:
        product = product_of(family, 1)
        plan = stages(product)
        for step in range(len(plan) + 1):
            turn = next_turn(product, step, random.Random(step))
            shown = [part for part in turn.user if isinstance(part, Shown)]
            assert shown == [Shown(product, step, upload=True)]
            if step + 1 < len(plan):
                assert turn.answer[0].startswith(f"{step + 2}. ")
                assert turn.answer[1] == Shown(product, step + 1)
            else:
                assert turn.answer == (LAST_STEP if step + 1 == len(plan) else FINISHED,)


def test_questions_without_their_object_are_answered_as_such():
    answers = {talk_turn(random.Random(n)).answer[0] for n in range(200)}
    assert {NO_PICTURE, NO_PRODUCT} <= answers and len(answers) >= 7
    product = product_of("lamp", 0)
    later = {talk_turn(random.Random(n), product).answer[0] for n in range(200)}
    assert not {NO_PICTURE, NO_PRODUCT} & later


def test_a_prompt_for_a_picture_states_some_attributes():
    shares = []
    for number in range(100):
        product = sample_product(random.Random(number), "any")
        turn = draw_turn(product, random.Random(number))
        shares.append(len(turn.asked) / len(product.attributes))
    assert 0.4 < float(np.mean(shares)) < 0.9


def test_uploads_are_disturbed_and_fixed_by_their_seed():
    product = product_of("chair", 3)
    clean = np.asarray(render(product, 1), dtype=float)
    distances = []
    for seed in range(12):
        one, again = (disturbed(product, 1, 128, random.Random(seed)) for _ in range(2))
        assert one.tobytes() == again.tobytes() and one.size == (128, 128) and one.mode == "RGB"
        distances.append(np.abs(np.asarray(one, dtype=float) - clean).mean())
    assert np.median(distances) > 2 and max(distances) < 80
    same = [photograph(product, 1, 128, random.Random(seed)).tobytes() for seed in range(40)]
    assert 2 <= same.count(render(product, 1).tobytes()) <= 20


def test_samples_are_fixed_by_kind_and_number_and_hold_their_pictures():
    for kind in KINDS:
        for number in range(30):
            one, again = (conversation_sample(number, 128, 0, kind=kind) for _ in range(2))
            assert one.messages == again.messages and (one.pixels == again.pixels).all()
            parts = [part for message in one.messages for part in message["content"]]
            assert sum(part["type"] == "image" for part in parts) == len(one.pixels)
            assert [m["role"] for m in one.messages] == ["user", "assistant"] * (len(one.messages) // 2)
            if kind == "words":
                assert len(one.pixels) == 0
    with pytest.raises(ValueError, match="kind is one of"):
        conversation_sample(0, 128, 0, kind="poem")
