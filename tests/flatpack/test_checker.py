"""The checker's own proof, small, and what its verdicts say."""

import random

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vlm.flatpack.checker import check
from vlm.flatpack.faults import KINDS, LEAST_SHIFT, displaced, faults, without
from vlm.flatpack.product import make_product, sample_product
from vlm.flatpack.proof import ACCEPT_FLOOR, REJECT_FLOOR, prove, tellable
from vlm.flatpack.render import draw, recoloured, render, scene
from vlm.flatpack.style import HOUSE

STOOL = make_product("stool", size="large", shape="round", leg="straight", count="3", colour="blue", second="red")


def test_proof_in_the_house_style() -> None:
    accepted, rejected = prove(products=12, seed=1)
    assert accepted.report()["all"]["rate"] >= ACCEPT_FLOOR, accepted.report()
    assert rejected.report()["all"]["rate"] >= REJECT_FLOOR, rejected.report()
    assert set(KINDS) <= set(rejected.report())


@pytest.mark.parametrize(("size", "house"), [(256, True), (128, False)])
def test_proof_at_another_size_and_in_other_styles(size: int, house: bool) -> None:
    accepted, rejected = prove(products=3, seed=2, size=size, house=house)
    assert accepted.report()["all"]["rate"] >= 0.98, accepted.report()
    assert rejected.report()["all"]["rate"] >= 0.97, rejected.report()


def test_reasons_name_what_is_wrong() -> None:
    true = scene(STOOL, 3)
    seat, leg = 5, 2

    def reasons(shown):
        return " ".join(check(draw(shown), STOOL, 3).reasons)

    assert "leg 2 is missing" in reasons(without(true, leg))
    assert "seat is green, not blue" in reasons(recoloured(true, {seat: "green"}))
    assert "seat is out of place" in reasons(displaced(true, seat, LEAST_SHIFT, 0.0))
    assert "step number" in " ".join(check(render(STOOL, 1), STOOL, 0).reasons)
    four_legs = STOOL.replace(count="4")
    assert "the callout reads 4x, not 3x" in check(render(four_legs, 0), STOOL, 0).reasons


def test_figures_of_a_true_picture() -> None:
    verdict = check(render(STOOL, 3), STOOL, 3)
    assert verdict.ok and verdict.reasons == () and verdict.shift == (0, 0)
    assert {figure.noun for figure in verdict.parts} == {"leg", "footrest", "seat"}
    assert all(figure.iou == 1 and figure.wrong_pixels == 0 for figure in verdict.parts)


def test_overlap_falls_where_a_part_is_missing() -> None:
    verdict = check(draw(without(scene(STOOL, 3), 5)), STOOL, 3)
    seat = next(figure for figure in verdict.parts if figure.noun == "seat")
    assert seat.iou < 0.3 and seat.wrong_pixels > 500


def test_soft_and_noisy_pictures_are_accepted() -> None:
    rng, noise = random.Random(5), np.random.default_rng(5)
    asked = accepted = 0
    for _ in range(6):
        product = sample_product(rng, "any")
        for step in range(3):
            pixels = ndimage.gaussian_filter(np.asarray(render(product, step), float), (0.7, 0.7, 0))
            pixels += noise.normal(0, 6, pixels.shape)
            asked += 1
            accepted += check(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), product, step).ok
    assert accepted / asked >= 0.95


def test_an_empty_page_and_noise_are_rejected() -> None:
    blank = Image.new("RGB", (128, 128), HOUSE.background)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    assert not check(blank, STOOL, 0).ok and not check(noise, STOOL, 0).ok and not check(blank, STOOL, 3).ok


def test_faults_change_what_they_claim() -> None:
    for fault in faults(STOOL, 2, random.Random(0)):
        assert fault.changed_pixels >= 12
        assert draw(fault.scene).tobytes() != render(STOOL, 2).tobytes()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="got 100x128"):
        check(Image.new("RGB", (100, 128)), STOOL, 0)
    with pytest.raises(ValueError, match="steps 0 to 3"):
        check(Image.new("RGB", (128, 128)), STOOL, 9)
    with pytest.raises(ValueError, match="multiple of 128"):
        faults(STOOL, 0, random.Random(0), size=100)


def test_house_colours_can_be_told_apart() -> None:
    assert tellable(HOUSE)
