"""A tokenizer small enough for tests: 16 px, two levels, 4×4 latent."""

from __future__ import annotations

import pytest
import torch

from hart.config import TokenizerConfig
from hart.tokenizer import HybridTokenizer


@pytest.fixture
def tiny_config() -> TokenizerConfig:
    return TokenizerConfig(
        resolution=16, channels=6, vocab_size=32, sides=(1, 2, 4), shared_convs=2, patch=2, groups=4,
        encoder_widths=(8, 16), encoder_blocks=(1, 1), decoder_widths=(8, 16), decoder_blocks=(1, 1),
    )


@pytest.fixture
def tiny(tiny_config: TokenizerConfig) -> HybridTokenizer:
    torch.manual_seed(0)
    return HybridTokenizer(tiny_config)


@pytest.fixture
def pictures() -> torch.Tensor:
    """(6, 3, 16, 16): coloured squares on grey, in [-1, 1]."""
    generator = torch.Generator().manual_seed(3)
    image = torch.full((6, 3, 16, 16), 0.8)
    for i in range(6):
        row, column = torch.randint(0, 9, (2,), generator=generator).tolist()
        image[i, :, row : row + 6, column : column + 5] = torch.rand(3, 1, 1, generator=generator) * 2 - 1
    return image
