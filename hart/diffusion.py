"""The residual diffusion head: a small MLP that denoises one token's residual, given what the transformer
knows.

Knows: the network, the diffusion's training loss, the sampling loop. Does not know transformers or latents'
units: residuals come and go in diffusion units, residual / ``residual_scale``, nearly all in [-1, 1]. Source:
MAR (Li et al. 2024, arXiv 2406.11838); improved diffusion (Nichol and Dhariwal 2021, arXiv 2102.09672).

Shapes: N tokens (any leading shape), C latent channels, Z width of the condition, W width of the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hart.sampler import TRAINING_STEPS, NoiseSchedule, ResidualSampler, Sampler

NORM_EPS = 1e-6
FREQUENCIES = 128


class TimeEmbedding(nn.Module):
    """(N,) step numbers → (N, W): 128 cosines then 128 sines of frequencies 10000^(-j/128), and a small MLP.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, steps: Tensor) -> Tensor:
        exponents = torch.arange(FREQUENCIES, device=steps.device, dtype=torch.float32) / FREQUENCIES
        angles = steps.float()[..., None] * torch.exp(-math.log(10000) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(next(self.parameters()).dtype))


class ModulatedBlock(nn.Module):
    """h + gate · MLP(norm(h) · (1 + scale) + shift), the three derived from the condition; (N, W) → (N, W).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _zeroed(nn.Linear(width, 3 * width)))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(condition).chunk(3, dim=-1)
        return h + gate * self.mlp(self.in_ln(h) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """Modulated norm without parameters, then a projection; (N, W) → (N, 2C)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = _zeroed(nn.Linear(width, 2 * channels))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _zeroed(nn.Linear(width, 2 * width)))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        return self.linear(self.norm_final(h) * (1 + scale) + shift)


class ResidualHead(nn.Module):
    """Noisy residual (N, C), step (N,) and condition (N, Z) → noise (N, C) and variance fraction (N, C).

    The variance fraction is raw, -1 … 1 between the smallest and the largest sensible log variance. Module
    names are the public release's. Modulations and output start at zero, so training starts from a plain MLP.
    """

    def __init__(self, channels: int, condition_width: int, width: int, depth: int) -> None:
        super().__init__()
        if min(channels, condition_width, width, depth) < 1:
            raise ValueError(
                "channels, condition_width, width and depth must be positive, "
                f"got {channels}, {condition_width}, {width}, {depth}"
            )
        self.channels = channels
        self.condition_width = condition_width
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(condition_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)

    def forward(self, noisy: Tensor, steps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.input_proj.weight.dtype
        y = self.time_embed(steps) + self.cond_embed(condition.to(dtype))
        h = self.input_proj(noisy.to(dtype))
        for block in self.res_blocks:
            h = block(h, y)
        noise, fraction = self.final_layer(h, y).float().chunk(2, dim=-1)
        return noise, fraction


def residual_loss(
    head: ResidualHead, target: Tensor, condition: Tensor, generator: torch.Generator, *, repeats: int = 1
) -> Tensor:
    """Scalar diffusion loss: squared error of the noise plus the variational bound that trains the variance.

    target: (…, C) clean residuals in diffusion units; condition: (…, Z), gradient flows into it. repeats:
    noise levels drawn per token; more of them lower the variance of the gradient cheaply. Every draw comes
    from ``generator``. Raises ValueError when shapes disagree.
    """
    _check(head, condition)
    if target.shape != (*condition.shape[:-1], head.channels):
        raise ValueError(
            f"expected targets {(*condition.shape[:-1], head.channels)}, got {tuple(target.shape)}"
        )
    clean = target.detach().float().reshape(-1, head.channels).repeat(repeats, 1)
    flat_condition = condition.reshape(-1, head.condition_width).repeat(repeats, 1)
    steps = torch.randint(TRAINING_STEPS, (len(clean),), generator=generator, device=generator.device)
    noise = torch.randn(clean.shape, generator=generator, device=generator.device)
    steps, noise = steps.to(clean.device), noise.to(clean.device)
    schedule = NoiseSchedule.full()
    noisy = schedule.corrupt(clean, steps, noise)
    predicted, fraction = head(noisy, steps, flat_condition)
    # The bound trains the variance only, so the noise prediction is held fixed (Nichol and Dhariwal, 3.1).
    bound = schedule.variational_bound(clean, noisy, steps, predicted.detach(), fraction)
    return F.mse_loss(predicted, noise) + bound.mean()


@torch.no_grad()
def sample_residual(
    head: ResidualHead,
    condition: Tensor,
    *,
    generator: torch.Generator | None = None,
    noises: Iterable[Tensor] | None = None,
    steps: int = 8,
    sampler: Sampler | None = None,
    temperature: float = 1.0,
    unconditional: Tensor | None = None,
    guidance: float = 0.0,
) -> Tensor:
    """Draw residuals, (…, Z) → (…, C) float32 in diffusion units; multiply by ``residual_scale`` for latent
    units.

    Give either ``generator`` (draws on its own device) or ``noises``: recorded draws, first the start, then
    one per step, each with at least N rows of C. sampler: in the place of the release's, which takes ``steps``
    steps. temperature scales every draw but the start. guidance t combines predicted noises as
    (1 + t) · conditional - t · ``unconditional``; its neutral value is 0, which needs no ``unconditional``.
    Both branches see the conditional branch's state, and the variance is the conditional's own (HART).
    Raises ValueError.
    """
    _check(head, condition)
    if (generator is None) == (noises is None):
        raise ValueError("expected exactly one of generator and noises")
    if guidance and unconditional is None:
        raise ValueError(f"guidance {guidance} needs the unconditional condition, got none")
    flat = condition.reshape(-1, head.condition_width)
    shape = (len(flat), head.channels)
    draws = _recorded(noises, shape) if noises is not None else _drawn(generator, shape)
    sampler = sampler or ResidualSampler(steps)
    x = sampler.prior(next(draws).to(flat.device))
    for i in sampler.timesteps():
        number = torch.full(shape[:1], sampler.network_step(i), device=flat.device)
        noise, fraction = head(x, number, flat)
        if guidance and unconditional is not None:
            other, _ = head(x, number, unconditional.reshape(flat.shape))
            noise = (1 + guidance) * noise - guidance * other
        x = sampler.step(x, i, noise, fraction, temperature * next(draws).to(flat.device))
    return x.reshape(*condition.shape[:-1], head.channels)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _check(head: ResidualHead, condition: Tensor) -> None:
    if condition.shape[-1] != head.condition_width:
        raise ValueError(f"expected a condition (…, {head.condition_width}), got {tuple(condition.shape)}")


def _drawn(generator: torch.Generator | None, shape: tuple[int, int]) -> Iterator[Tensor]:
    assert generator is not None
    while True:
        yield torch.randn(shape, generator=generator, device=generator.device)


def _recorded(noises: Iterable[Tensor], shape: tuple[int, int]) -> Iterator[Tensor]:
    for noise in noises:
        if noise.ndim != 2 or noise.shape[0] < shape[0] or noise.shape[1] != shape[1]:
            raise ValueError(f"expected recorded noise of at least {shape}, got {tuple(noise.shape)}")
        yield noise[: shape[0]].float()
    raise ValueError("recorded noises ran out: expected one for the start and one per step")
