"""The public release's real sizes, with random weights: for benchmarks, and to try a machine before a download.

Knows configs and how to fill them at random. A model made here draws noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hart.checkpoint import HartModels
from hart.config import TokenizerConfig, TransformerConfig
from hart.precision import weight_dtype
from hart.prompts import EncodedPrompts
from hart.tokenizer import HybridTokenizer
from hart.transformer import Context, HartTransformer

# Pixels a side at stride 16 → sides of the scales: the schedules that HART was trained on.
SCHEDULES: dict[int, tuple[int, ...]] = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    1024: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
STRIDE = 16


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters: the transformer without its residual head, that head, the tokenizer."""

    transformer: int
    residual_head: int
    tokenizer: int


def hart_0_7b(size: int = 1024) -> tuple[TransformerConfig, TokenizerConfig]:
    """The configs of HART-0.7B for 256, 512 or 1024 px: 700M parameters, 37M of them more in the residual head.

    Raises ValueError on another size.
    """
    if size not in SCHEDULES:
        raise ValueError(f"HART-0.7B has schedules for {', '.join(map(str, SCHEDULES))} px, got {size}")
    tokenizer = TokenizerConfig(
        resolution=size,
        autoencoder="convolutional",
        channels=32,
        vocab_size=4096,
        sides=SCHEDULES[size],
        shared_convs=4,
        normalise_latent=False,
        patch=1,
        encoder_widths=(160, 160, 320, 320, 640),
        encoder_blocks=(2,) * 5,
        decoder_widths=(160, 160, 320, 320, 640),
        decoder_blocks=(3,) * 5,
        groups=32,
    )
    return TransformerConfig(sides=SCHEDULES[size]), tokenizer


def random_models(
    transformer: TransformerConfig,
    tokenizer: TokenizerConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HartModels:
    """Both models with random weights, ready for inference; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        models = HartModels(HartTransformer(transformer), HybridTokenizer(tokenizer))
    for model in (models.transformer, models.tokenizer):
        _randomise(model, generator, torch.device(device), dtype)
    return models


def random_prompts(config: TransformerConfig, count: int = 1, *, seed: int = 0) -> EncodedPrompts:
    """Hidden states at random in the place of encoded prompts, half of the context padding."""
    generator = torch.Generator().manual_seed(seed)
    length = config.context_tokens
    mask = (torch.arange(length) < max(1, length // 2)).long().expand(count, -1)
    hidden = torch.randn(count, length, config.context_width, generator=generator)
    return EncodedPrompts(("random",) * count, Context(hidden, mask, mask.cumsum(1) - 1), (0,) * count)


def count_parameters(models: HartModels) -> ParameterCounts:
    """How many parameters each part has."""
    head = _count(models.transformer.residual_head)
    return ParameterCounts(_count(models.transformer) - head, head, _count(models.tokenizer))


def _randomise(model: nn.Module, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> None:
    """Weights of norms one, vectors zero, all else normal and scaled by the inputs of a row."""
    state = {}
    kinds = (nn.RMSNorm, nn.GroupNorm, nn.LayerNorm)
    norms = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    for name, parameter in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if parameter.ndim == 1:
            value = torch.full(parameter.shape, float(owner in norms and leaf == "weight"))
        else:
            spread = parameter[0].numel() ** -0.5
            value = torch.empty(parameter.shape).normal_(0, spread, generator=generator)
        state[name] = value.to(device=device, dtype=weight_dtype(name, dtype))
    model.load_state_dict(state, assign=True)
    model.eval().requires_grad_(False)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
