"""The renderer against oracles: occlusion by a depth buffer, the frame, the palette, determinism."""

import io
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vlm.flatpack.build import stages
from vlm.flatpack.geometry import View, depth_order, project
from vlm.flatpack.product import FAMILIES, Product, choices, make_product, sample_product
from vlm.flatpack.render import CANVAS, HALO, MIDDLE, Scene, draw_ids, id_map, render, scene
from vlm.flatpack.style import HOUSE, HOUSE_PALETTE, Style, random_style

VIEWS = [HOUSE.view, View(40, 36, True), View(24, 27, False)]


def every_shape(family: str) -> list[Product]:
    """One product for each choice of the attributes that are not colours."""
    rest = choices(family)
    colours = FAMILIES[family].colours
    names = [name for name in rest if name not in colours]
    return [
        make_product(family, **dict(zip(names, values, strict=True)), **dict.fromkeys(colours, "red"))
        for values in itertools.product(*(rest[name] for name in names))
    ]


def depth_buffer_ids(shown: Scene, view: View) -> np.ndarray:
    """The id map by brute force: per pixel, the part whose face is nearest to the camera."""
    prisms = [(placed.ident, prism) for placed in shown.placed for prism in placed.part.prisms]
    outlines = np.concatenate([p.corners @ view.screen for part in shown.whole for p in part.prisms])
    offset = np.array(MIDDLE) - (outlines.min(axis=0) + outlines.max(axis=0)) / 2
    depth, ids = np.full((CANVAS, CANVAS), -np.inf), np.zeros((CANVAS, CANVAS), dtype=np.uint8)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] + 0.5
    for ident, prism in prisms:
        count = len(prism.bottom_N2)
        low, high = prism.corners[:count], prism.corners[count:]
        sides = [np.stack([low[i], low[(i + 1) % count], high[(i + 1) % count], high[i]]) for i in range(count)]
        for face in [*sides, low, high]:
            flat = face @ view.screen + offset
            ahead = np.roll(flat, -1, axis=0)
            area = float((flat[:, 0] * ahead[:, 1] - ahead[:, 0] * flat[:, 1]).sum()) / 2
            if abs(area) < 1e-6:
                continue
            (left, top), (right, bottom) = flat.min(axis=0).astype(int), flat.max(axis=0).astype(int) + 1
            box = (slice(top, bottom), slice(left, right))
            inside = np.ones_like(depth[box], dtype=bool)
            for (ax, ay), (bx, by) in zip(flat, ahead, strict=True):
                inside &= ((bx - ax) * (y[box] - ay) - (by - ay) * (x[box] - ax)) * area >= 0
            plane = np.linalg.lstsq(np.column_stack([flat, np.ones(len(flat))]), face @ view.towards, rcond=None)[0]
            here = plane[0] * x[box] + plane[1] * y[box] + plane[2]
            nearer = inside & (here > depth[box] + 1e-6)
            depth[box][nearer], ids[box][nearer] = here[nearer], ident
    return ids


@pytest.mark.parametrize("family", FAMILIES)
def test_occlusion_agrees_with_a_depth_buffer(family: str) -> None:
    rng = random.Random(family)
    for view in VIEWS:
        product = sample_product(rng, "any", family)
        for step in range(len(stages(product)) + 1):
            shown = replace(scene(product, step), number=None, count=None, motion=None)
            expected = depth_buffer_ids(shown, view)
            drawn = draw_ids(shown, CANVAS, Style(view=view))
            flat = ndimage.minimum_filter(expected, 3) == ndimage.maximum_filter(expected, 3)
            assert (drawn != expected)[flat].sum() == 0, (product, step, view)


@pytest.mark.parametrize("family", FAMILIES)
def test_prisms_have_an_order_in_every_view(family: str) -> None:
    rng = random.Random(family)
    for product in every_shape(family):
        prisms = [prism for stage in stages(product) for part in stage.parts for prism in part.prisms]
        for view in (HOUSE.view, random_style(rng).view):
            assert sorted(depth_order(prisms, view)) == list(range(len(prisms)))


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_lie_within_the_frame(family: str) -> None:
    rng = random.Random(family)
    for product in every_shape(family):
        for view in (HOUSE.view, random_style(rng).view):
            points = np.concatenate(
                [project(prism, view).outline for stage in stages(product) for p in stage.parts for prism in p.prisms]
            )
            points = points + np.array(MIDDLE) - (points.min(axis=0) + points.max(axis=0)) / 2
            assert points.min() > 2 * HALO and points.max() < CANVAS - 2 * HALO, (product, view)


@pytest.mark.parametrize("family", FAMILIES)
def test_added_parts_are_seen_and_wide_enough(family: str) -> None:
    for product in every_shape(family):
        for step in range(len(stages(product))):
            shown = scene(product, step)
            ids = draw_ids(shown)
            for placed in shown.placed:
                if placed.added:
                    assert (ids == placed.ident).sum() >= 12, (product, step, placed.part.noun)
                    alone = draw_ids(replace(shown, placed=(placed,), number=None, count=None, motion=None)) > 0
                    across = 2 * ndimage.distance_transform_edt(np.pad(alone, 1)).max()
                    assert across >= 4, (product, step, placed.part.noun, across)


def test_id_maps_agree_between_steps() -> None:
    rng = random.Random(0)
    for family in FAMILIES:
        product = sample_product(rng, "any", family)
        for step in range(1, len(stages(product)) + 1):
            before, now = id_map(product, step - 1), id_map(product, step)
            parts = (before < 250) & (now < 250)
            new = {p.ident for p in scene(product, step).placed} - {p.ident for p in scene(product, step - 1).placed}
            changed = parts & (before != now)
            assert np.isin(now[changed], list(new)).all(), (product, step)


def test_map_and_picture_show_the_same_places() -> None:
    product = make_product("stool", size="large", shape="round", leg="straight", count="3", colour="blue", second="red")
    picture, ids = np.asarray(render(product, 3), dtype=float), id_map(product, 3)
    seat = ndimage.binary_erosion(ids == 5, iterations=3)
    assert np.abs(np.median(picture[seat], axis=0) - HOUSE.palette["blue"]).max() < 6
    assert np.abs(picture[ndimage.binary_erosion(ids == 0, iterations=3)] - HOUSE.background).max() == 0


def test_colours_stay_apart_after_jpeg() -> None:
    means = {}
    for colour in HOUSE_PALETTE:
        product = make_product(
            "stool", size="small", shape="square", leg="straight", count="4", colour="yellow", second=colour
        )
        buffer = io.BytesIO()
        render(product, 3).save(buffer, "JPEG", quality=80)
        picture = np.asarray(Image.open(buffer).convert("RGB"), dtype=float)
        ids = id_map(product, 3)
        leg = ndimage.binary_erosion(ids == 3)
        means[colour] = picture[leg].mean(axis=0)
    for one, other in itertools.combinations(means, 2):
        assert np.linalg.norm(means[one] - means[other]) > 40, (one, other)


def test_same_scene_same_bytes() -> None:
    rng = random.Random(4)
    product, style = sample_product(rng, "any"), random_style(rng)
    assert render(product, 1, 256, style).tobytes() == render(product, 1, 256, style).tobytes()
    assert render(product, 1, 256).size == (256, 256)


def test_unknown_step_is_refused() -> None:
    product = sample_product(random.Random(0), "any", "lamp")
    with pytest.raises(ValueError, match="steps 0 to 3"):
        render(product, 4)
