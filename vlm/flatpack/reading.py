"""Reads a product back from a guide's words, and says whether the words are right.

The title gives family, size and main colour, the parts list the rest. Knows wording; knows nothing of pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vlm.flatpack.build import stages
from vlm.flatpack.dialogue import describe
from vlm.flatpack.product import FAMILIES, Product, choices, make_product
from vlm.flatpack.prompts import sayable
from vlm.flatpack.style import COLOURS
from vlm.flatpack.wording import attribute_phrase, chosen_sentence, parts_lines, step_variants, title, tools_lines

_DESCRIPTION = re.compile(r"Here is an? (?P<size>\w+) (?P<colour>\w+) (?P<family>[a-z ]+): (?P<rest>.+)\.")


def read_product(heading: str, parts: Iterable[str]) -> Product | None:
    """The product that a title and a parts list ("3 x red turned leg") state, or None where they state none.

    Tried by building: the attributes found in the words are kept only if they give back just these words.
    """
    lines = list(parts)
    words = heading.lower().split()
    if len(words) < 3:
        return None
    size, colour, family = words[0], words[1], " ".join(words[2:])
    if family not in FAMILIES or colour not in COLOURS:
        return None
    allowed = choices(family)
    values = {name: options[0] for name, options in allowed.items()} | {"size": size, "colour": colour}
    if size not in allowed["size"]:
        return None
    spoken = [line.split(" x ", 1) for line in lines]
    if any(len(pair) != 2 for pair in spoken):
        return None
    for name, options in allowed.items():
        if name in ("size", "colour"):
            continue
        for option in options:
            trial = make_product(family, **{**values, name: option})
            if _agree(trial, lines) > _agree(make_product(family, **values), lines):
                values[name] = option
    product = make_product(family, **values)
    return product if [line[2:] for line in parts_lines(product)] == lines else None


def read_description(line: str) -> Product | None:
    """The product that `vlm.flatpack.dialogue.describe` would say this of, or None."""
    found = _DESCRIPTION.fullmatch(line.strip())
    if found is None or found["family"] not in FAMILIES:
        return None
    family = found["family"]
    if any(found[name] not in choices(family)[name] for name in ("size", "colour")):
        return None
    said = re.split(", | and ", found["rest"])
    values = {name: options[0] for name, options in choices(family).items()}
    values |= {"size": found["size"], "colour": found["colour"]}
    for name, options in choices(family).items():
        if name not in ("size", "colour"):
            for option in options:
                trial = values | {name: option}
                if attribute_phrase(make_product(family, **trial), name) in said:
                    values = trial
    product = make_product(family, **values)
    return product if describe(product).strip() == line.strip() else None


def _wrong_choices(description: str, product: Product, asked: Iterable[str]) -> list[str]:
    """What is wrong with the sentence that names the attributes a prompt left open."""
    open_names = [name for name in sayable(product) if name not in set(asked)]
    expected = chosen_sentence(product, open_names).strip()
    start = description.find("I chose:")
    found = description[start:].strip() if start >= 0 else ""
    return [] if found == expected else [f"choices: expected {expected!r}, got {found!r}"]


def _agree(product: Product, lines: list[str]) -> int:
    """How many words of the parts list the product shares, line by line."""
    mine = [line[2:].split() for line in parts_lines(product)]
    score = 100 * (len(mine) == len(lines))
    return score + sum(len(set(m) & set(line.split())) for m, line in zip(mine, lines, strict=False))


def wrong_words(
    heading: str,
    parts: list[str],
    tools: list[str],
    steps: list[str],
    asked: dict[str, str] | None = None,
    family: str | None = None,
    description: str | None = None,
) -> list[str]:
    """What is wrong with a guide's words; empty where all is right.

    heading, parts, tools and steps without their Markdown marks; asked and family: what the prompt stated;
    description: the sentences under the title, which must name just the attributes that were not asked for.
    """
    product = read_product(heading, parts)
    if product is None:
        return [f"title and parts list state no product: {heading!r}"]
    faults = []
    if family is not None and product.family != family:
        faults.append(f"family: asked for {family}, got {product.family}")
        return faults
    for name, value in (asked or {}).items():
        if product[name] != value:
            faults.append(f"{name}: asked for {value}, got {product[name]}")
    if heading != title(product):
        faults.append(f"title: expected {title(product)!r}, got {heading!r}")
    if description is not None:
        faults += _wrong_choices(description, product, asked or {})
    expected = [line[2:] for line in tools_lines(product)]
    if tools != expected:
        faults.append(f"tools: expected {expected}, got {tools}")
    plan = stages(product)
    if len(steps) != len(plan):
        faults.append(f"steps: expected {len(plan)}, got {len(steps)}")
    for number, (stage, text) in enumerate(zip(plan, steps, strict=False), start=1):
        if text not in step_variants(stage):
            faults.append(f"step {number}: {text!r} is not one of the ways to say it")
    return faults
