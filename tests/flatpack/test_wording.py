"""What manuals say and how people ask: everything said can be read back, and what is wrong is found."""

from __future__ import annotations

import random
import re

import pytest

from vlm.flatpack.build import stages
from vlm.flatpack.outside import OUTSIDE_ANSWER, OUTSIDE_THINGS, UNSEEN_THINGS, made_up, outside_prompt
from vlm.flatpack.product import FAMILIES, choices, make_product, sample_product
from vlm.flatpack.prompts import MENTIONS, make_prompt, misspell, sayable
from vlm.flatpack.reading import read_product, wrong_words
from vlm.flatpack.wording import guide_text, parts_lines, step_variants, title, tools_lines
from vlm.guide import PICTURE, parse_guide

CASES = [(family, seed) for family in FAMILIES for seed in range(12)]


def words_of(product, rng):
    """Title, parts, tools and steps, as a right guide says them."""
    steps = [rng.choice(step_variants(stage)) for stage in stages(product)]
    return title(product), [x[2:] for x in parts_lines(product)], [x[2:] for x in tools_lines(product)], steps


@pytest.mark.parametrize(("family", "seed"), CASES)
def test_a_product_is_read_back_from_its_title_and_parts(family, seed):
    product = sample_product(random.Random(seed), "any", family=family)
    heading, parts, tools, steps = words_of(product, random.Random(seed))
    assert read_product(heading, parts) == product
    assert wrong_words(heading, parts, tools, steps, dict(product.attributes), family) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_words_are_found(family):
    rng = random.Random(family)
    product = sample_product(rng, "any", family=family, size="small")
    heading, parts, tools, steps = words_of(product, rng)
    assert wrong_words(heading.replace("Small", "Large"), parts, tools, steps, {"size": "small"}, family)
    assert wrong_words(heading, parts[:-1], tools, steps)
    assert wrong_words(heading, [parts[0].replace("x", "x x"), *parts[1:]], tools, steps)
    assert wrong_words(heading, parts, tools[1:], steps)
    assert wrong_words(heading, parts, tools, steps[::-1])
    assert wrong_words(heading, parts, tools, [steps[0].replace("the ", "the the ", 1), *steps[1:]])
    other = next(colour for colour in choices(family)["colour"] if colour != product["colour"])
    assert wrong_words(heading, parts, tools, steps, {"colour": other}, family)
    assert wrong_words(heading, parts, tools, steps, {}, "stool" if family != "stool" else "table")


def test_the_words_of_different_products_of_a_family_differ():
    rng = random.Random(0)
    for _ in range(200):
        one = sample_product(rng, "any")
        other = sample_product(rng, "any", family=one.family)
        if one != other:
            assert (title(one), parts_lines(one)) != (title(other), parts_lines(other))


def test_guides_parse_and_name_what_was_left_open():
    rng = random.Random(1)
    for _ in range(100):
        product = sample_product(rng)
        prompt = make_prompt(product, rng)
        chosen = [name for name in sayable(product) if name not in prompt.stated]
        texts = guide_text(product, rng, chosen)
        assert len(texts) == len(stages(product)) + 1
        draft = parse_guide(f"{PICTURE}".join(texts))
        assert len(draft.steps) == len(stages(product))
        assert ("I chose" in draft.description) == bool(chosen)


def test_every_attribute_can_be_asked_for():
    for name, family in FAMILIES.items():
        said = {attribute for names, _ in MENTIONS[name].values() for attribute in names} | {"size", "colour"}
        assert said == set(choices(name)), family


def test_prompts_say_what_they_state_and_nothing_else_of_colour():
    rng = random.Random(2)
    complete = 0
    for _ in range(400):
        product = sample_product(rng)
        prompt = make_prompt(product, rng)
        colours = {product[name] for name in prompt.stated if name in ("colour", "second", "third")}
        found = {word for word in re.findall(r"[a-z]+", prompt.text.lower()) if word in choices("stool")["colour"]}
        assert found <= colours
        complete += found == colours
        assert set(prompt.stated) <= set(sayable(product))
    assert complete > 360  # the rest have a slip of the finger in a colour


def test_a_curved_chair_has_no_slats_to_count():
    chair = sample_product(random.Random(3), "any", family="chair", back="curved", count="3")
    assert chair["count"] == "1"
    assert "count" not in sayable(chair)
    assert make_product("chair", **dict(chair.attributes)) == chair


def test_outside_prompts_name_no_product_and_the_answer_is_no_guide():
    rng = random.Random(4)
    said: dict[str, set[str]] = {"train": set(), "held_out": set()}
    for split, prompts in said.items():
        for _ in range(400):
            prompt = outside_prompt(rng, split).lower()
            assert not any(re.search(rf"\b{family}\b", prompt) for family in FAMILIES)
            prompts.add(prompt)
    assert not OUTSIDE_ANSWER.startswith("#")
    words = {word for prompt in said["train"] for word in re.findall("[a-z]+", prompt)}
    assert len(words - set(OUTSIDE_THINGS)) > 100, "made-up words are among them"
    # What is held out names nothing that training names.
    assert not said["train"] & said["held_out"]
    assert not any(thing in prompt for thing in UNSEEN_THINGS for prompt in said["train"])


def test_a_made_up_word_is_no_slip_of_the_finger():
    rng = random.Random(3)
    words = [made_up(rng) for _ in range(300)]
    assert len(set(words)) > 250
    families = {word for family in FAMILIES for word in family.split()}
    slips = {misspell(family, rng) for family in families for _ in range(300)}
    assert not set(words) & (slips | families)
