"""Things of no family, which the image tokenizer trains on beside furniture."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vlm.flatpack.geometry import depth_order
from vlm.flatpack.render import draw, draw_ids
from vlm.flatpack.shapes import random_scene
from vlm.flatpack.style import HOUSE, random_style
from vlm.training.tokenizer import TokenizerSettings, TokenizerTask


def test_scenes_depend_on_their_generator_alone_and_differ():
    drawn = [draw(random_scene(random.Random(seed))).tobytes() for seed in range(12)]
    assert drawn == [draw(random_scene(random.Random(seed))).tobytes() for seed in range(12)]
    assert len({*drawn}) == 12


def test_solids_can_be_drawn_from_back_to_front_in_any_style_and_lie_on_the_page():
    for seed in range(150):
        rng = random.Random(seed)
        shown, style = random_scene(rng), random_style(rng)
        prisms = [prism for part in shown.whole for prism in part.prisms]
        for prism in prisms:
            assert prism.z0 < prism.z1 and np.isfinite(prism.corners).all()
        # An order exists only where nothing stands in anything else.
        assert sorted(depth_order(prisms, style.view)) == list(range(len(prisms)))
        ids = draw_ids(shown, 128, HOUSE)
        parts = (ids > 0) & (ids < 253)
        assert parts.any() and not (parts[0].any() or parts[-1].any() or parts[:, 0].any() or parts[:, -1].any()), seed


def test_steps_add_whole_layers_of_one_colour_or_nothing():
    kinds = set()
    for seed in range(60):
        shown = random_scene(random.Random(seed))
        added = {placed.colour for placed in shown.placed if placed.added}
        assert len(added) <= 1 and shown.whole == tuple(placed.part for placed in shown.placed)
        kinds.add((bool(added), shown.number is None, shown.motion is None))
    assert len(kinds) >= 6


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_tokenizer_sees_its_share_of_them(share, monkeypatch):
    made = []
    monkeypatch.setattr("vlm.training.tokenizer.random_scene", lambda rng: made.append(1) or random_scene(rng))
    settings = TokenizerSettings(other_styles=0.0, other_shapes=share, workers=0)
    seen = next(TokenizerTask(settings).batches(0, 60, 0, 1))
    assert seen.shape == (60, 128, 128, 3)
    assert 60 * share - 15 <= len(made) <= 60 * share + 15 and (share > 0) == bool(made)
