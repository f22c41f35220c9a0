"""How people ask: full, terse, polite, misspelt, with attributes in any order or missing.

Knows which attributes a prompt stated; knows nothing of answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from vlm.flatpack.product import FAMILIES, Product, choices
from vlm.flatpack.wording import article, join, number_word

SYNONYMS = {
    "bookcase": ("bookcase", "bookcase", "bookshelf"),
    "dresser": ("dresser", "dresser", "chest of drawers"),
    "coat rack": ("coat rack", "coat rack", "coat stand"),
    "plant stand": ("plant stand", "plant stand", "flower stand"),
    "lamp": ("lamp", "lamp", "floor lamp"),
}
SIZES = {"small": ("small", "small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")}

# Which attributes are said of which part, and whether that part is named in the plural.
MENTIONS: dict[str, dict[str, tuple[tuple[str, ...], bool]]] = {
    "stool": {"legs": (("count", "second", "leg"), True), "seat": (("shape",), False)},
    "chair": {"legs": (("second",), True), "back": (("third", "back"), False), "slats": (("count",), True)},
    "table": {"legs": (("second", "leg"), True), "top": (("shape",), False)},
    "bench": {"slats": (("count",), True), "supports": (("second",), True), "beam": (("third",), False)},
    "bookcase": {"shelves": (("count", "second"), True), "back": (("third",), False)},
    "dresser": {"drawers": (("count", "second"), True), "handles": (("third",), True), "legs": (("leg",), True)},
    "bed": {"slats": (("count", "third"), True), "frame": (("second",), False), "headboard": (("back",), False)},
    "lamp": {"base": (("second",), False), "pole": (("third", "pole"), False), "shade": (("shade",), False)},
    "coat rack": {"hooks": (("count", "third"), True), "feet": (("second",), True), "pole": (("pole",), False)},
    "plant stand": {"stand": (("second",), False), "top": (("third", "shape"), False), "pole": (("pole",), False)},
}

QUESTIONS = (
    "How do I assemble {a}?",
    "How do I assemble {a}?",
    "How do I build {a}?",
    "How can I put together {a}?",
    "How do you assemble {a}?",
    "Show me how to assemble {a}.",
    "Show me how to build {a}",
    "Please show me how to put {a} together.",
    "Can you help me assemble {a}?",
    "Could you please explain how to build {a}?",
    "I bought {a}. How do I assemble it?",
    "I have {a} to assemble, what are the steps?",
    "Write assembly instructions for {a}.",
    "Give me a guide for {a}.",
    "Make a guide for {a}, please.",
    "assembly steps for {a}",
    "instructions for {a}",
    "how to build {a}",
    "manual for {a}",
)
TERSE = ("{np}", "{np} assembly", "{np} instructions", "build {np}", "assemble {np}", "{np} please", "guide: {np}")
GREETINGS = ("Hi! ", "Hello, ", "Hey, ", "Good morning. ", "Hi there, ")

DRAW = (
    "Draw {a}.",
    "draw {a}",
    "Draw me {a}, please.",
    "Show me {a}.",
    "Show me a picture of {a}.",
    "What does {a} look like?",
    "A picture of {a}, please.",
    "Can you draw {a}?",
    "picture of {a}",
    "sketch {a}",
)


@dataclass(frozen=True)
class Prompt:
    """What somebody typed about a product, and the attributes it states (the others are the answer's to choose)."""

    text: str
    stated: tuple[str, ...]


def noun_phrase(product: Product, stated: set[str], rng: random.Random) -> str:
    """The product in words that state just these attributes, in a random order."""
    before, after = [], []
    if "size" in stated:
        before.append(rng.choice(SIZES[product["size"]]))
    if "colour" in stated:
        owner = FAMILIES[product.family].colours["colour"]
        if rng.random() < 0.2:
            phrase = f"{product['colour']} {owner}"
            after.append(phrase if owner in ("slats", "sides") else article(phrase))
        else:
            before.append(product["colour"])
    mentions = MENTIONS[product.family]
    shape_first = "shape" in stated and product.family in ("stool", "table") and rng.random() < 0.6
    if shape_first:
        before.append(product["shape"])
    rng.shuffle(before)
    for noun, (names, plural) in mentions.items():
        said = [name for name in names if name in stated and not (name == "shape" and shape_first)]
        if not said:
            continue
        words = []
        for name in said:
            value = product[name]
            words.append((number_word(int(value)) if rng.random() < 0.6 else value) if name == "count" else value)
        single = plural and "count" in said and product["count"] == "1"
        phrase = " ".join([*words, noun[:-1] if single else noun])
        after.append(phrase if plural else article(phrase))
    rng.shuffle(after)
    family = rng.choice(SYNONYMS.get(product.family, (product.family,)))
    phrase = " ".join([*before, family])
    return phrase + (f" with {join(after)}" if after else "")


def misspell(text: str, rng: random.Random) -> str:
    """One or two slips of the finger in longer words: a letter dropped, doubled or swapped with the next."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for index in rng.sample(long, min(len(long), rng.choice((1, 1, 2)))):
        word = words[index]
        at = rng.randrange(1, len(word) - 1)
        kind = rng.choice(("drop", "double", "swap"))
        if kind == "drop":
            word = word[:at] + word[at + 1 :]
        elif kind == "double":
            word = word[:at] + word[at] + word[at:]
        else:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        words[index] = word
    return " ".join(words)


def sayable(product: Product) -> tuple[str, ...]:
    """The attributes that a prompt or an answer may name: those with an effect on the product."""
    names = tuple(choices(product.family))
    if product.family == "chair" and product["back"] == "curved":
        return tuple(name for name in names if name != "count")
    return names


def make_prompt(product: Product, rng: random.Random) -> Prompt:
    """A prompt for a guide to this product."""
    names = sayable(product)
    how = rng.random()
    share = 1.0 if how < 0.2 else rng.uniform(0.1, 0.9)
    stated = {name for name in names if rng.random() < share}
    phrase = noun_phrase(product, stated, rng)
    if rng.random() < 0.25:
        terse = phrase
        for word in (" with ", " and ", ", "):
            if rng.random() < 0.5:
                terse = terse.replace(word, " ")
        text = rng.choice(TERSE).format(np=" ".join(word for word in terse.split() if word not in ("a", "an")))
    else:
        text = rng.choice(QUESTIONS).format(a=article(phrase))
        if rng.random() < 0.12:
            text = rng.choice(GREETINGS) + text
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip(".?!")
    if rng.random() < 0.15:
        text = misspell(text, rng)
    return Prompt(text, tuple(name for name in names if name in stated))
