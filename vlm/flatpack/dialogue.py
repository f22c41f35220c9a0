"""Turns of a conversation other than a guide: a picture of a product, questions about one, what comes next, changes.

A `Turn` says what the user writes and shows and what a true answer is; pictures stand in it as `Shown`, not yet drawn.
Knows products and wording; knows nothing of pixels, messages or ids.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from vlm.flatpack.build import Stage, stages
from vlm.flatpack.outside import OUTSIDE_ANSWER, outside_prompt
from vlm.flatpack.product import FAMILIES, Product, choices
from vlm.flatpack.prompts import DRAW, misspell, noun_phrase, sayable
from vlm.flatpack.wording import article, attribute_phrase, guide_text, join, number_word, step_variants


@dataclass(frozen=True)
class Shown:
    """A picture in a turn: step `step` of a product (its number of steps: the finished one).

    upload: it comes from the user, so it is no clean render.
    """

    product: Product
    step: int
    upload: bool = False


Parts = tuple[str | Shown, ...]


@dataclass(frozen=True)
class Turn:
    """One exchange. kind: "guide", "draw", "ask", "next", "edit" or "talk".

    product: what the conversation is about after it, None where nothing has been said of one; asked: the attributes
    that the user fixed with it; topic: of a question, "step", "family", "colour" or "count".
    """

    kind: str
    user: Parts
    answer: Parts
    product: Product | None = None
    asked: tuple[str, ...] = ()
    topic: str = ""


NEXT = (
    "What comes next?",
    "What is the next step?",
    "I am here. What next?",
    "This is where I am. What comes next?",
    "And now?",
    "what next?",
    "What do I do now?",
)
BUILDING = ("I am building {a}. ", "This is {a}. ", "I have {a} to assemble. ", "My project is {a}. ")
ASK_FAMILY = ("What is this?", "What piece of furniture is this?", "What does this picture show?", "what is it?")
ASK_STEP = ("Which step is this?", "What step is this?", "Which step does this picture show?", "which step am i at?")
ASK_COLOUR = (
    "What colour {is_are} the {noun}?",
    "Which colour {is_are} the {noun}?",
    "what color {is_are} the {noun}?",
)
ASK_COUNT = ("How many {noun} are there?", "How many {noun} does it have?", "how many {noun}?", "Count the {noun}.")
CHANGE = (
    "The same {with_it}.",
    "the same {with_it}",
    "The same, but {with_it}.",
    "Now {with_it}.",
    "And {with_it}?",
    "Please make it {make_it}.",
    "make it {make_it}",
    "Can I have it {with_it}?",
)
ASSEMBLE_IT = (
    "How do I assemble it?",
    "How do I build it?",
    "how do i assemble this?",
    "Show me how to build it.",
    "And how is it assembled?",
    "Please explain how to assemble it.",
)
TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello", "Hi", "Hi!", "Hey", "hello there", "Good morning", "Good evening!", "hi there"),
        "Hello! Ask me how to assemble a piece of furniture, or to draw one.",
    ),
    (
        ("Thanks", "Thank you!", "thanks a lot", "Thank you very much.", "Great, thanks!", "thx", "Perfect, thanks."),
        "You are welcome.",
    ),
    (("Bye", "Goodbye!", "See you", "bye bye"), "Goodbye, and enjoy building."),
    (
        (
            "What can you do?",
            "Help",
            "help me",
            "What do you know?",
            "How does this work?",
            "Who are you?",
            "What are you?",
            "What can I ask?",
        ),
        "I am a small model that knows flat-pack furniture. I write illustrated assembly guides, draw a product, read "
        "a picture of one, say what comes next, and change what I drew: ask for it in green, or with four legs.",
    ),
    (
        (
            "Can I use a larger model?",
            "Is there a bigger model?",
            "How do I load a larger model?",
            "Which model is this?",
        ),
        "I am the small model that comes with vlm. A larger one in the same form is loaded with --bundle and its "
        "folder.",
    ),
)
NO_PICTURE = "I see no picture. Please add one and ask again."
NO_PRODUCT = "There is nothing to change yet. Ask me for a guide or a picture first."
LAST_STEP = "Nothing comes next: that is the last step."
FINISHED = "Nothing comes next: it is finished."


def describe(product: Product) -> str:
    """The line above a drawn product, which states every attribute that can be said of it."""
    rest = [attribute_phrase(product, name) for name in sayable(product) if name not in ("size", "colour")]
    main = f"{product['size']} {product['colour']} {product.family}"
    return f"Here is {article(main)}: {join(rest)}.\n"


def draw_turn(product: Product, rng: random.Random) -> Turn:
    """The user asks for a picture of the finished product and leaves some of its attributes open."""
    names = sayable(product)
    share = 1.0 if rng.random() < 0.3 else rng.uniform(0.2, 0.9)
    stated = {name for name in names if rng.random() < share}
    text = rng.choice(DRAW).format(a=article(noun_phrase(product, stated, rng)))
    asked = tuple(name for name in names if name in stated)
    return Turn("draw", (_typed(text, rng),), _picture(product), product, asked)


def guide_turn(product: Product, text: str, stated: Iterable[str], rng: random.Random) -> Turn:
    """The user asks `text`, which states some attributes; the answer is an illustrated guide."""
    asked = tuple(stated)
    words = guide_text(product, rng, [name for name in sayable(product) if name not in asked])
    answer: list[str | Shown] = [words[0]]
    for step, line in enumerate(words[1:]):
        answer += [Shown(product, step), line]
    return Turn("guide", (text,), tuple(answer), product, asked)


def change_turn(product: Product, rng: random.Random, split: str, guide: bool = False) -> Turn:
    """The user asks for the last product with one attribute changed; a picture answers, or a whole guide.

    split: the changed product's, see `Product.held_out`; "any" for either. Raises ValueError where no change of the
    product is in that split.
    """
    for _ in range(1000):
        name = rng.choice([name for name in choices(product.family) if name in sayable(product)])
        value = rng.choice([value for value in choices(product.family)[name] if value != product[name]])
        changed = product.replace(**{name: value})
        if name in sayable(changed) and (split == "any" or changed.held_out == (split == "held_out")):
            break
    else:
        raise ValueError(f"no change of {product} stays in the {split} split")
    with_it, make_it = _change_phrases(changed, name, rng)
    text = _typed(rng.choice(CHANGE).format(with_it=with_it, make_it=make_it), rng)
    if guide:
        return Turn("edit", (text,), guide_turn(changed, text, sayable(changed), rng).answer, changed, (name,))
    return Turn("edit", (text,), _picture(changed), changed, (name,))


def _change_phrases(product: Product, name: str, rng: random.Random) -> tuple[str, str]:
    """How a changed attribute is asked for after "the same" and after "make it"."""
    value, spec = product[name], FAMILIES[product.family]
    if name == "size":
        return rng.choice((value, f"in {value}")), value
    if name == "colour":
        owned = f"with {'' if spec.colours[name] in ('slats', 'sides') else 'a '}{value} {spec.colours[name]}"
        return rng.choice((f"in {value}", value, owned)), value
    phrase = attribute_phrase(product, name)
    if name == "count":
        if rng.random() < 0.4:
            phrase = phrase.replace(number_word(int(value)), value, 1)
        return f"with {phrase}", f"with {phrase}"
    plural = name in ("second", "third") and phrase.endswith(("s", "feet")) or name == "leg"
    phrase = phrase if plural else article(phrase)
    return f"with {phrase}", f"with {phrase}"


def question_turn(
    product: Product, step: int, visible: Iterable[Stage], rng: random.Random, picture: Parts = ()
) -> Turn:
    """A question about a picture of `step`, and its one true answer.

    visible: the stages whose every part can be seen in it; picture: what the user sends along, empty where the question
    is about the picture drawn last.
    """
    plan, seen = stages(product), list(visible)
    kinds = ["step"]
    if step >= len(plan) - 1:
        kinds += ["family", "family"]
    if seen:
        kinds += ["colour", "colour"]
    counted = [stage for stage in seen if len(stage.parts) > 1]
    if counted:
        kinds += ["count", "count"]
    kind = rng.choice(kinds)
    if kind == "step":
        text = rng.choice(ASK_STEP)
        answer = "It is finished." if step == len(plan) else f"This is step {step + 1}."
    elif kind == "family":
        text, answer = rng.choice(ASK_FAMILY), f"This is {article(product.family)}."
    elif kind == "colour":
        stage = rng.choice(seen)
        several = len(stage.parts) > 1
        noun, verb = (stage.plural, "are") if several else (stage.noun, "is")
        text = rng.choice(ASK_COLOUR).format(is_are=verb, noun=noun)
        answer = f"The {noun} {verb} {stage.colour}."
    else:
        stage = rng.choice(counted)
        text = rng.choice(ASK_COUNT).format(noun=stage.plural)
        answer = f"There are {number_word(len(stage.parts))} {stage.plural}."
    words = (_typed(text, rng, slips=0.05),)
    user = (*picture, *words) if rng.random() < 0.8 else (*words, *picture)
    return Turn("ask", user, (answer,), product, topic=kind)


def next_turn(product: Product, step: int, rng: random.Random, stated: bool = True) -> Turn:
    """The user shows a half-built product, may say which, and asks what comes next."""
    asked = tuple(sayable(product)) if stated else ()
    text = rng.choice(NEXT)
    if stated:
        text = rng.choice(BUILDING).format(a=article(noun_phrase(product, set(asked), rng))) + text
    plan = stages(product)
    answer: Parts
    if step + 1 < len(plan):
        line = f"{step + 2}. {rng.choice(step_variants(plan[step + 1]))}\n"
        answer = (line, Shown(product, step + 1), "\n")
    else:
        answer = (LAST_STEP if step + 1 == len(plan) else FINISHED,)
    user = (Shown(product, step, upload=True), _typed(text, rng, slips=0.05))
    return Turn("next", user if rng.random() < 0.8 else user[::-1], answer, product, asked)


def talk_turn(rng: random.Random, product: Product | None = None) -> Turn:
    """A greeting, thanks, a plea for help; without a product, also a question or a change that lacks its object."""
    if product is None and rng.random() < 0.3:
        if rng.random() < 0.5:
            noun = rng.choice(("legs", "seat", "slats", "back", "shelves"))
            text = rng.choice((*ASK_FAMILY, *ASK_STEP, *NEXT, ASK_COLOUR[0].format(is_are="are", noun=noun)))
            return Turn("talk", (_typed(text, rng),), (NO_PICTURE,))
        colour = rng.choice(("red", "green", "blue", "black", "teal"))
        text = rng.choice(CHANGE).format(with_it=f"in {colour}", make_it=colour)
        return Turn("talk", (_typed(text, rng),), (NO_PRODUCT,))
    said, answer = rng.choice(TALK)
    return Turn("talk", (_typed(rng.choice(said), rng),), (answer,), product)


def outside_turn(rng: random.Random, product: Product | None = None, split: str = "train") -> Turn:
    """A request that this world has no answer to; split: see `outside_prompt`."""
    return Turn("talk", (outside_prompt(rng, split),), (OUTSIDE_ANSWER,), product)


def _picture(product: Product) -> Parts:
    return (describe(product), Shown(product, len(stages(product))), "\n")


def _typed(text: str, rng: random.Random, slips: float = 0.1) -> str:
    """As people type it: sometimes without capitals or with a slip of the finger."""
    if rng.random() < 0.2:
        text = text.lower()
    return misspell(text, rng) if rng.random() < slips else text


