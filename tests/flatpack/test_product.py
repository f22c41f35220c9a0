"""Products: what may be chosen, what is held out, and the plan that follows."""

import random

import pytest

from vlm.flatpack.build import TOOLS, stages
from vlm.flatpack.product import FAMILIES, Product, choices, make_product, sample_product


def test_at_least_eight_families_of_at_least_three_steps() -> None:
    assert len(FAMILIES) >= 8
    rng = random.Random(0)
    for family in FAMILIES:
        for _ in range(20):
            product = sample_product(rng, "any", family)
            plan = stages(product)
            assert len(plan) >= 3, product
            for stage in plan:
                assert stage.parts and len({part.colour for part in stage.parts}) == 1
                assert stage.fastener in TOOLS
                assert (stage.per_part > 0) == bool(stage.fastener), (product, stage.noun)


def test_the_count_is_that_of_the_counted_parts() -> None:
    rng = random.Random(1)
    for family, spec in FAMILIES.items():
        for _ in range(20):
            product = sample_product(rng, "any", family)
            if not spec.counted or product.family == "chair" and product["back"] == "curved":
                continue
            counted = [s for s in stages(product) if spec.counted in s.noun]
            assert [len(s.parts) for s in counted] == [product.count], product


def test_splits_are_disjoint_and_both_are_filled() -> None:
    rng = random.Random(2)
    train = {sample_product(rng, "train") for _ in range(500)}
    held_out = {sample_product(rng, "held_out") for _ in range(500)}
    assert not train & held_out
    assert {p.family for p in train} == {p.family for p in held_out} == set(FAMILIES)
    share = sum(sample_product(rng, "any").held_out for _ in range(2000)) / 2000
    assert 0.05 < share < 0.2


def test_whole_combinations_are_held_out() -> None:
    rng = random.Random(3)
    for _ in range(50):
        product = sample_product(rng, "held_out")
        size = rng.choice([s for s in choices(product.family)["size"] if s != product["size"]])
        assert product.replace(size=size).held_out


def test_replace_changes_only_what_is_named() -> None:
    product = make_product("lamp", size="small", shade="cone", pole="turned", colour="red", second="blue", third="teal")
    other = product.replace(colour="green")
    assert other["colour"] == "green" and other.replace(colour="red") == product
    with pytest.raises(ValueError, match="colour is one of"):
        product.replace(colour="pink")


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("throne", {}, "unknown family"),
        ("stool", {"colour": "pink"}, "colour is one of"),
        ("stool", {"count": "7"}, "count is one of"),
        ("stool", {"drawers": "2"}, "has the attributes"),
    ],
)
def test_bad_products_are_refused(family: str, change: dict[str, str], message: str) -> None:
    values = {"size": "small", "shape": "round", "leg": "turned", "count": "3", "colour": "red", "second": "blue"}
    with pytest.raises(ValueError, match=message):
        Product(family, tuple({**values, **change}.items()))


def test_bad_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="split is"):
        sample_product(random.Random(0), "test")
    with pytest.raises(ValueError, match="is one of"):
        sample_product(random.Random(0), "any", "stool", colour="pink")


def test_sampling_is_determined_by_its_generator() -> None:
    assert sample_product(random.Random(9)) == sample_product(random.Random(9))


def test_unknown_names_are_refused() -> None:
    lamp = sample_product(random.Random(0), "any", "lamp")
    with pytest.raises(ValueError, match="a lamp has the attributes size, shade, pole"):
        lamp.replace(legs="turned")
    with pytest.raises(ValueError, match="pole is one of straight, turned"):
        lamp.replace(pole="bent")
    with pytest.raises(ValueError, match="unknown family 'sofa'"):
        make_product("sofa", size="small")
