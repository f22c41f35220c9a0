"""What this world has no answer to, as people ask for it: other things and questions, made-up words, no words at all.

Knows what training may name and what only evaluation may.
"""

from __future__ import annotations

import difflib
import random

from vlm.flatpack.product import FAMILIES
from vlm.flatpack.prompts import DRAW, QUESTIONS
from vlm.flatpack.wording import article, join

OUTSIDE_THINGS = tuple(
    """
    bicycle piano rocket computer tent kite boat house car drone guitar clock greenhouse robot swing fence door
    window toaster violin skateboard birdhouse wardrobe sofa mirror trampoline hammock ladder cradle aquarium
    printer radio bridge train telescope fountain chandelier stove sled barbecue canoe pergola dragon elephant cat
    dog horse cow sheep pig goat duck chicken lion tiger bear wolf fox rabbit mouse snake spider whale shark dolphin
    fish penguin owl eagle parrot butterfly bee frog turtle dinosaur unicorn monster ghost wizard knight king queen
    baby man woman face hand foot heart star sun moon cloud mountain river beach forest tree flower rose leaf
    mushroom apple banana pear lemon cherry grape carrot potato tomato pizza burger sandwich cake cookie bread
    cheese egg pancake soup cup mug plate bowl fork spoon knife bottle kettle teapot pan oven fridge dishwasher
    microwave blender bus truck tractor motorcycle airplane ship sailboat tram taxi ambulance spaceship balloon
    parachute wheel engine hammer saw drill wrench screwdriver shovel rake broom bucket hose pump castle tower
    church school hospital lighthouse pyramid igloo barn shed garage kitchen bathroom pool playground sandbox slide
    seesaw gate wall roof chimney staircase elevator phone laptop keyboard camera television speaker battery cable
    lightbulb antenna satellite flute drum harp saxophone accordion trombone cello banjo hat shoe boot sock glove
    scarf shirt dress jacket trousers belt watch ring necklace crown sword shield bow cannon anchor compass book
    letter pencil brush painting statue vase candle pillow blanket curtain rug mattress couch armchair cabinet
    """.split()
)
OUTSIDE_QUESTIONS = (
    "What is the capital of France?",
    "How do I bake a cake?",
    "Tell me a joke.",
    "What is two plus two?",
    "Who wrote Hamlet?",
    "Translate hello into German.",
    "What is the weather like today?",
    "Write a poem about rain.",
    "How far is the moon?",
    "What should I cook tonight?",
    "Can you book me a flight?",
    "Solve x + 3 = 7.",
    "Recommend a film.",
    "How do I tie a tie?",
    "What time is it?",
    "Sing me a song.",
    "How do I learn to swim?",
    "Why is the sky blue?",
    "How do I make coffee?",
    "What does love mean?",
    "How do I change a tyre?",
    "Give me a recipe for soup.",
    "Play some music.",
    "How old is the universe?",
    "What is the tallest mountain?",
    "Who is the president?",
    "How many days has a year?",
    "Tell me something funny.",
    "Tell me about dinosaurs.",
    "Tell me the news.",
    "What is your favourite colour?",
    "Do you like music?",
    "Write a letter to my mother.",
    "Write a song about summer.",
    "Write code that sorts a list.",
    "Explain gravity to me.",
    "Translate good morning into Spanish.",
    "Translate thank you into Italian.",
    "How do you say cheese in French?",
    "What does hello mean in Latin?",
    "What is five times eight?",
    "What is one hundred minus one?",
    "How much is nine plus ten?",
    "Count to ten.",
    "When did the war end?",
    "Where is Berlin?",
    "Where can I buy milk?",
    "How do I plant tomatoes?",
    "How do I grow roses?",
    "How do I fry fish?",
    "How do I boil rice?",
    "How do I clean a window?",
    "How do I repair a tap?",
    "How do I draw a horse?",
    "How do I make a website?",
    "How do I lose weight?",
    "Why do birds sing?",
    "Why is the sea salty?",
    "What is a black hole?",
    "Which film should I watch?",
    "Which month is it?",
    "Who won the game?",
    "Who painted the Night Watch?",
    "Who invented the telephone?",
    "Is it raining?",
    "Are you a human?",
    "Can you sing?",
    "Open the door.",
    "Call my brother.",
    "Set an alarm for seven.",
    "Turn off the light.",
    "Give me an idea for a present.",
    "Give me a name for my cat.",
    "Recommend a book.",
    "What should I wear today?",
    "Summarise this article.",
    "Correct my spelling.",
)
UNSEEN_THINGS = (
    "trumpet",
    "helicopter",
    "umbrella",
    "lantern",
    "wheelbarrow",
    "scooter",
    "doghouse",
    "cupboard",
    "microscope",
    "carpet",
    "windmill",
    "submarine",
)
UNSEEN_QUESTIONS = (
    "What is the largest ocean?",
    "How do I plant a tree?",
    "Who painted the Mona Lisa?",
    "Tell me a story.",
    "How do I boil an egg?",
    "Which day is today?",
    "What is seven times six?",
    "Translate goodbye into French.",
)
"""Things and questions that no training has: on them it shows whether the model knows where its world ends."""
OUTSIDE_ANSWER = (
    "I cannot help with that. I am a small model that knows flat-pack furniture only: "
    + join(f"{name}es" if name.endswith("ch") else f"{name}s" for name in FAMILIES)
    + ". Ask me, for example: How do I assemble a blue stool with three legs? "
    "A larger model in the same form is loaded with --bundle and its folder."
)


def outside_prompt(rng: random.Random, split: str = "train") -> str:
    """A prompt that the flatpack world has no answer to: a question, a guide to or a picture of some other thing, or no
    words at all. split: "held_out" for what no training has."""
    unseen, kind = split == "held_out", rng.random()
    if kind < 0.1:
        return nonsense(rng)
    if kind < 0.4:
        return rng.choice(UNSEEN_QUESTIONS if unseen else OUTSIDE_QUESTIONS)
    if unseen:
        thing = rng.choice(UNSEEN_THINGS)
    else:
        # Words that nobody has ever read teach that not the known things alone are unknown.
        thing = made_up(rng) if rng.random() < 0.3 else rng.choice(OUTSIDE_THINGS)
    colour = rng.choice(("", "", "red ", "blue ", "small ", "green "))
    text = rng.choice(QUESTIONS if rng.random() < 0.6 else DRAW).format(a=article(colour + thing))
    return text.lower() if rng.random() < 0.2 else text


def nonsense(rng: random.Random) -> str:
    """What a cat types: one to four words of letters, digits or signs, none of them a word of this world."""
    while True:
        keys = rng.choice(("abcdefghijklmnopqrstuvwxyz", "asdfghjkl", "qwertyuiop", "0123456789", "?!.,-:;"))
        words = ["".join(rng.choices(keys, k=rng.randint(1, 7))) for _ in range(rng.randint(1, 4))]
        if not set(words) & set(FAMILIES):
            return " ".join(words)


def made_up(rng: random.Random) -> str:
    """A word of two or three syllables that means nothing, and is no slip of the finger in a family's name."""
    while True:
        syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
        word = "".join(syllables) + rng.choice(("", "", "n", "k", "r", "st", "lt"))
        known = {part for family in FAMILIES for part in family.split()} | {"bookshelf", "drawers"}
        if not difflib.get_close_matches(word, known, n=1, cutoff=0.6):
            return word
