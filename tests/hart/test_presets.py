"""The release's real sizes: parameter counts, shapes, random weights that a seed fixes."""

from __future__ import annotations

import pytest
import torch
from hart_fixtures import TINY_TOKENIZER, tiny_transformer

from hart.checkpoint import HartModels
from hart.presets import SCHEDULES, count_parameters, hart_0_7b, random_models, random_prompts
from hart.tokenizer import HybridTokenizer
from hart.transformer import HartTransformer


def test_hart_0_7b_has_the_parameters_of_the_release():
    transformer, tokenizer = hart_0_7b()
    with torch.device("meta"):
        models = HartModels(HartTransformer(transformer), HybridTokenizer(tokenizer))
    counts = count_parameters(models)
    assert abs(counts.transformer - 700e6) < 0.03 * 700e6
    assert abs(counts.residual_head - 37e6) < 0.03 * 37e6
    assert transformer.sides == (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
    assert (transformer.context_tokens, transformer.width, transformer.depth) == (300, 1536, 24)
    assert (transformer.residual_width, transformer.residual_depth) == (1024, 6)


@pytest.mark.parametrize("size", SCHEDULES)
def test_sizes(size):
    transformer, tokenizer = hart_0_7b(size)
    assert transformer.sides == tokenizer.sides and tokenizer.resolution == size and tokenizer.stride == 16


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="256, 512, 1024 px, got 300"):
        hart_0_7b(300)


def test_a_seed_fixes_the_weights():
    made = [random_models(tiny_transformer(), TINY_TOKENIZER, seed=seed) for seed in (0, 0, 1)]
    first, same, other = (models.transformer.head.weight for models in made)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert all(bool(p.isfinite().all()) for p in made[0].transformer.parameters())
    assert not any(p.requires_grad for p in made[0].tokenizer.parameters())


def test_random_prompts_have_the_shape_of_the_model():
    encoded = random_prompts(tiny_transformer(), 3)
    assert encoded.context.hidden.shape == (3, 5, 16) and encoded.cut == (0, 0, 0)
    assert encoded.context.mask.sum(1).tolist() == [2, 2, 2]
