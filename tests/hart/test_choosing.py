"""Codes by chance: frequencies, top-k, top-p, the release's smoothing."""

from __future__ import annotations

import pytest
import torch

from hart.choosing import ChoosingOptions, RandomChooser

LOGITS = torch.tensor([3.0, 1.0, 0.0, 2.0, -1.0])
BOOK = torch.eye(5)


def chooser(seeds: tuple[int, ...] = (0,), **options) -> RandomChooser:
    return RandomChooser(ChoosingOptions(**options), seeds, BOOK, scales=4)


def frequencies(scale: int = 1, rows: int = 20000, **options) -> torch.Tensor:
    codes = chooser(smooth=False, **options).codes(scale, LOGITS.expand(1, rows, 5)).codes
    return torch.bincount(codes.flatten(), minlength=5) / rows


def test_codes_come_as_often_as_their_probability():
    torch.testing.assert_close(frequencies(), LOGITS.softmax(0), atol=0.015, rtol=0)
    warm = frequencies(temperature=2.0)
    torch.testing.assert_close(warm, (LOGITS / 2).softmax(0), atol=0.015, rtol=0)


def test_top_k_and_top_p_cut_the_tail():
    expected = LOGITS.clone()
    expected[[1, 2, 4]] = -torch.inf
    torch.testing.assert_close(frequencies(top_k=2), expected.softmax(0), atol=0.015, rtol=0)
    # Probabilities .64 .24 .09 .03 .01: two reach 0.8, one reaches 0.6.
    torch.testing.assert_close(frequencies(top_p=0.8), expected.softmax(0), atol=0.015, rtol=0)
    assert frequencies(top_p=0.6).tolist() == [1, 0, 0, 0, 0]
    assert frequencies(temperature=0).tolist() == [1, 0, 0, 0, 0]


def test_top_k_per_scale_and_the_release_values():
    options = ChoosingOptions()
    assert [options.top_k_at(k, 4096) for k in (0, 6, 7, 13)] == [600, 600, 300, 300]
    assert options.top_k_at(0, 100) == 100 and ChoosingOptions(top_k=0).top_k_at(9, 4096) == 4096
    assert ChoosingOptions(top_k=(1, 2)).top_k_at(1, 4096) == 2


def test_smoothing_is_an_average_of_the_kept_codes():
    choice = chooser(top_k=3).codes(1, LOGITS.expand(1, 200, 5))
    weights = choice.embedded[0]
    torch.testing.assert_close(weights.sum(1), torch.ones(200))
    assert bool((weights >= 0).all()) and not weights[:, [2, 4]].any()
    # Between codes at the coarse scales, nearly one code at the fine ones.
    sharp = [chooser().codes(k, LOGITS.expand(1, 500, 5)).embedded.amax(-1).mean().item() for k in range(4)]
    assert sharp[0] < sharp[2] and sharp[2] > 0.9


def test_smoothing_follows_its_formula():
    generator = torch.Generator().manual_seed(0)
    torch.rand(3, 1, generator=generator)
    gumbel = -torch.empty(3, 5).exponential_(generator=generator).log()
    scores, order = LOGITS.sort(descending=True)
    ratio = 1 / 3
    weights = ((scores * (1 + ratio) + gumbel) / (0.27 * (1 - 0.95 * ratio))).softmax(-1)
    ours = chooser().codes(1, LOGITS.expand(1, 3, 5)).embedded[0]
    torch.testing.assert_close(ours[:, order], weights)


def test_every_picture_has_its_own_generator():
    logits = torch.randn(2, 50, 5, generator=torch.Generator().manual_seed(1))
    both = chooser((3, 4))
    alone = chooser((4,))
    assert torch.equal(both.codes(0, logits).codes[1:], alone.codes(0, logits[1:]).codes)
    assert torch.equal(next(both.noises(6, 2))[6:], next(alone.noises(6, 2)))


def test_one_value_of_top_k_per_scale():
    with pytest.raises(ValueError, match="4 values of top_k"):
        chooser(top_k=(1, 2, 3))
