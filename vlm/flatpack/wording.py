"""What a manual says: titles, parts, tools and steps, in many variants that can each be checked.

Knows products and their stages; knows nothing of pictures or of how people ask (see `prompts`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from vlm.flatpack.build import TOOLS, Stage, stages
from vlm.flatpack.product import FAMILIES, Product

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

SIZE_TITLES = {"small": "Small", "medium": "Medium", "large": "Large"}

FIRST = (
    "Stand {parts} on the floor.",
    "Start with {parts}: set {them} on the floor.",
    "Begin by placing {parts} on the floor.",
)
FASTENED = (
    "Place {parts} on {target} and fix {them} with {fasteners}.",
    "Set {parts} onto {target}, then tighten {fasteners}.",
    "Now add {parts}: hold {them} against {target} and fasten with {fasteners}.",
    "Join {parts} to {target} using {fasteners}.",
)
LOOSE = (
    "Lay {parts} on {target}.",
    "Place {parts} on {target}.",
    "Finish with {parts}: put {them} on {target}.",
)
OPENINGS = (
    "A {size} {family} in {count} steps.",
    "Here is how to build a {size} {family}, in {count} steps.",
    "This {size} {family} goes together in {count} steps.",
)
CLOSINGS = (
    "Your {family} is ready.",
    "Done: enjoy your {family}.",
    "That was the last step; your {family} is complete.",
)


def number_word(value: int) -> str:
    """A count in letters, up to ten."""
    return NUMBERS[value] if value < len(NUMBERS) else str(value)


def article(phrase: str) -> str:
    """ "a" or "an" before a phrase."""
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def join(phrases: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    words = list(phrases)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def title(product: Product) -> str:
    """For example "Large blue stool"."""
    return f"{SIZE_TITLES[product['size']]} {product['colour']} {product.family}"


def part_name(stage: Stage) -> str:
    """Colour, adjective and noun in the singular, as in the parts list: "red turned leg"."""
    return " ".join(word for word in (stage.colour, stage.adjective, stage.noun) if word)


def parts_lines(product: Product) -> list[str]:
    """The parts list, for example "- 3 x red turned leg"; kinds in order of assembly."""
    return [f"- {len(stage.parts)} x {part_name(stage)}" for stage in stages(product)]


def fasteners(product: Product) -> Counter[str]:
    """How many of each fastener the whole product takes."""
    counted: Counter[str] = Counter()
    for stage in stages(product):
        if stage.fastener:
            counted[stage.fastener] += stage.per_part * len(stage.parts)
    return counted


def tools_lines(product: Product) -> list[str]:
    """Tools, then fasteners with their counts; each once."""
    used = fasteners(product)
    tools = list(dict.fromkeys(TOOLS[name] for name in used))
    return [f"- {tool}" for tool in tools] + [f"- {count} x {name}" for name, count in used.items()]


def _fastener_phrase(stage: Stage) -> str:
    count = stage.per_part * len(stage.parts)
    return f"{count} {stage.fastener}" + ("s" if count > 1 else "")


def step_variants(stage: Stage) -> list[str]:
    """Every sentence that says this step rightly."""
    count = len(stage.parts)
    noun = stage.noun if count == 1 else stage.plural
    number = number_word(count) if count > 1 else ""
    phrase = "the " + " ".join(word for word in (number, stage.colour, stage.adjective, noun) if word)
    templates = FASTENED if stage.fastener else FIRST if stage.target == "the floor" else LOOSE
    return [
        template.format(
            parts=phrase,
            them="it" if count == 1 else "them",
            target=stage.target,
            fasteners=_fastener_phrase(stage) if stage.fastener else "",
        )
        for template in templates
    ]


def attribute_phrase(product: Product, name: str) -> str:
    """One attribute in words: "large size", "turned legs", "three legs", "red legs"."""
    value = product[name]
    spec = FAMILIES[product.family]
    if name in spec.colours:
        return f"{value} {spec.colours[name]}"
    if name == "count":
        counted = spec.counted if value == "1" else {"shelf": "shelves"}.get(spec.counted, spec.counted + "s")
        return f"{number_word(int(value))} {counted}"
    owner = {"size": "size", "shape": "seat" if product.family == "stool" else "top", "leg": "legs"}.get(name, name)
    if name == "back" and product.family == "bed":
        owner = "headboard"
    return f"{value} {owner}"


def chosen_sentence(product: Product, chosen: Iterable[str]) -> str:
    """What the answer says of attributes that the prompt left open; "" where it left none."""
    phrases = [attribute_phrase(product, name) for name in chosen]
    return f" I chose: {join(phrases)}." if phrases else ""


def guide_text(product: Product, rng: random.Random, chosen: Iterable[str] = ()) -> list[str]:
    """The answer's text around its pictures: one string before each picture and one after the last.

    chosen: the attributes that the prompt left open, named in the description.
    """
    plan = stages(product)
    names = {"family": product.family, "size": product["size"], "count": number_word(len(plan))}
    head = [
        f"# {title(product)}",
        rng.choice(OPENINGS).format(**names) + chosen_sentence(product, chosen),
        "",
        "## Parts",
        *parts_lines(product),
        "",
        "## Tools",
        *tools_lines(product),
        "",
        "## Steps",
    ]
    texts = [f"{index + 1}. {rng.choice(step_variants(stage))}\n" for index, stage in enumerate(plan)]
    texts[0] = "\n".join(head) + "\n" + texts[0]
    return [texts[0], *("\n" + text for text in texts[1:]), "\n" + rng.choice(CLOSINGS).format(**names)]
