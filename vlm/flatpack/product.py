"""Products: a family and its attributes, the space they are drawn from, and what is held out.

Knows nothing of shapes, pictures or wording.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product as cartesian

from vlm.flatpack.style import COLOURS

SIZES = ("small", "medium", "large")
LEGS = ("straight", "tapered", "turned")
SHAPES = ("round", "square")


@dataclass(frozen=True)
class Family:
    """What can be chosen for one kind of furniture.

    attributes: name → allowed values, in the order they are stated; colours: colour slot → the part it is named by
    ("colour" is the main one); counted: the singular of what `count` counts, or "" where nothing is counted.
    """

    name: str
    attributes: dict[str, tuple[str, ...]]
    counts: tuple[int, ...]
    counted: str
    colours: dict[str, str]

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """Every choice of attributes that are not colours or counts."""
        return cartesian(*self.attributes.values())


def _family(
    name: str, counted: str, counts: tuple[int, ...], colours: dict[str, str], **more: tuple[str, ...]
) -> Family:
    return Family(name, {"size": SIZES, **more}, counts, counted, colours)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _family("stool", "leg", (3, 4), {"colour": "seat", "second": "legs"}, shape=SHAPES, leg=LEGS),
        _family(
            "chair",
            "slat",
            (1, 2, 3),
            {"colour": "seat", "second": "legs", "third": "back"},
            back=("slatted", "curved"),
        ),
        _family("table", "", (), {"colour": "top", "second": "legs"}, shape=SHAPES, leg=LEGS),
        _family("bench", "slat", (2, 3, 4), {"colour": "slats", "second": "supports", "third": "beam"}),
        _family("bookcase", "shelf", (2, 3, 4), {"colour": "sides", "second": "shelves", "third": "back"}),
        _family("dresser", "drawer", (2, 3, 4), {"colour": "body", "second": "drawers", "third": "handles"}, leg=LEGS),
        _family(
            "bed",
            "slat",
            (3, 4, 5),
            {"colour": "mattress", "second": "frame", "third": "slats"},
            back=("flat", "curved"),
        ),
        _family(
            "lamp",
            "",
            (),
            {"colour": "shade", "second": "base", "third": "pole"},
            shade=("cone", "drum"),
            pole=("straight", "turned"),
        ),
        _family(
            "coat rack",
            "hook",
            (2, 3, 4),
            {"colour": "pole", "second": "feet", "third": "hooks"},
            pole=("straight", "turned"),
        ),
        _family(
            "plant stand",
            "",
            (),
            {"colour": "pot", "second": "stand", "third": "top"},
            shape=SHAPES,
            pole=("straight", "turned"),
        ),
    )
}


@dataclass(frozen=True)
class Product:
    """One piece of furniture: a family and a value for each of its attributes.

    `attributes` are (name, value) pairs: those of the family, then "count" where something is counted, then the
    colours. Raises ValueError where a name or a value is not the family's.
    """

    family: str
    attributes: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}; expected one of {', '.join(FAMILIES)}")
        allowed = choices(self.family)
        names = tuple(name for name, _ in self.attributes)
        if names != tuple(allowed):
            raise ValueError(f"a {self.family} has the attributes {', '.join(allowed)}; got {', '.join(names)}")
        for name, value in self.attributes:
            if value not in allowed[name]:
                raise ValueError(f"{self.family}: {name} is one of {', '.join(allowed[name])}; got {value!r}")

    def __getitem__(self, name: str) -> str:
        return dict(self.attributes)[name]

    @property
    def count(self) -> int:
        """How many of what the family counts; 0 where nothing is counted or the choice leaves none."""
        values = dict(self.attributes)
        return int(values["count"]) if "count" in values else 0

    def replace(self, **values: str) -> Product:
        """The same product with some attributes changed."""
        merged = {**dict(self.attributes), **values}
        return make_product(self.family, **merged)

    @property
    def held_out(self) -> bool:
        """Whether training must never see it: every product that shares family, count and first two colours is."""
        values = dict(self.attributes)
        key = "|".join((self.family, values.get("count", ""), values["colour"], values["second"]))
        return hashlib.sha256(key.encode()).digest()[0] < 26


def choices(family: str) -> dict[str, tuple[str, ...]]:
    """Attribute name → allowed values, in the order of `Product.attributes`."""
    spec = FAMILIES[family]
    counts = {"count": tuple(str(n) for n in spec.counts)} if spec.counts else {}
    return {**spec.attributes, **counts, **dict.fromkeys(spec.colours, COLOURS)}


def make_product(family: str, **values: str) -> Product:
    """A product from keyword attributes; all must be given. What has no effect takes its first value.

    Raises ValueError for an unknown family, name or value.
    """
    if family in FAMILIES and set(values) != set(choices(family)):
        raise ValueError(f"a {family} has the attributes {', '.join(choices(family))}; got {', '.join(sorted(values))}")
    if family == "chair" and values.get("back") == "curved":
        values["count"] = choices(family)["count"][0]
    names = choices(family) if family in FAMILIES else values
    return Product(family, tuple((name, values[name]) for name in names))


def sample_product(rng: random.Random, split: str = "train", family: str | None = None, **fixed: str) -> Product:
    """A random product of a split ("train", "held_out" or "any"), with some attributes fixed.

    Raises ValueError for an unknown split, or where the fixed attributes leave nothing in it.
    """
    if split not in ("train", "held_out", "any"):
        raise ValueError(f"split is train, held_out or any; got {split!r}")
    for _ in range(10_000):
        name = family or rng.choice(tuple(FAMILIES))
        values = {key: fixed.get(key) or rng.choice(options) for key, options in choices(name).items()}
        made = make_product(name, **values)
        if split == "any" or made.held_out == (split == "held_out"):
            return made
    raise ValueError(f"no product of the {split} split has {fixed}")
