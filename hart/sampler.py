"""The arithmetic of the residual diffusion: noise schedule, posterior, one reverse step.

Knows: numbers of a cosine schedule and of its shortened form. Does not know the network or the loop around
it. Source: improved diffusion (arXiv 2102.09672, equations 8, 10, 11, 15, 17), as the public HART release
uses it.

Shapes: N tokens, C channels; T kept steps, numbered from 0 (nearly clean) to T-1 (nearly noise).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

TRAINING_STEPS = 1000


@dataclass(frozen=True)
class NoiseSchedule:
    """Tables over T steps, float64: ``numbers`` are the steps' numbers among the 1000 of training.

    alphas_bar: ᾱ. betas: β. log_posterior: log posterior variance, its first entry clipped to the second's
    (it is -∞).
    """

    numbers: tuple[int, ...]
    alphas_bar: np.ndarray
    betas: np.ndarray
    log_posterior: np.ndarray

    @staticmethod
    @lru_cache(maxsize=8)
    def full() -> NoiseSchedule:
        """All 1000 steps: β_i = min(1 - f((i+1)/1000) / f(i/1000), 0.999), f(t) = cos²(π/2 ·
        (t+0.008)/1.008).
        """
        edges = np.arange(TRAINING_STEPS + 1) / TRAINING_STEPS
        f = np.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
        return NoiseSchedule._from_alphas_bar(tuple(range(TRAINING_STEPS)), np.cumprod(1 - betas))

    @staticmethod
    @lru_cache(maxsize=8)
    def shortened(steps: int) -> NoiseSchedule:
        """``steps`` of the 1000, evenly spaced with both ends; β derived anew from the kept ᾱ. Raises
        ValueError.
        """
        if not 2 <= steps <= TRAINING_STEPS:
            raise ValueError(f"diffusion steps must be in 2..{TRAINING_STEPS}, got {steps}")
        numbers = tuple(round(i * (TRAINING_STEPS - 1) / (steps - 1)) for i in range(steps))
        return NoiseSchedule._from_alphas_bar(numbers, NoiseSchedule.full().alphas_bar[list(numbers)])

    @staticmethod
    def _from_alphas_bar(numbers: tuple[int, ...], alphas_bar: np.ndarray) -> NoiseSchedule:
        previous = np.append(1.0, alphas_bar[:-1])
        betas = 1 - alphas_bar / previous
        variance = betas * (1 - previous) / (1 - alphas_bar)
        return NoiseSchedule(numbers, alphas_bar, betas, np.log(np.append(variance[1], variance[1:])))

    def corrupt(self, clean: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """(N, C) at step (N,): √ᾱ · clean + √(1-ᾱ) · noise."""
        keep = _rows(self.alphas_bar, steps)
        return keep.sqrt() * clean + (1 - keep).sqrt() * noise

    def clean(self, noisy: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """Inverse of :meth:`corrupt`, clamped to [-1, 1]."""
        inverse = 1 / self.alphas_bar
        value = _rows(np.sqrt(inverse), steps) * noisy - _rows(np.sqrt(inverse - 1), steps) * noise
        return value.clamp(-1, 1)

    def posterior_mean(self, clean: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """Mean of the step before, given the clean residual and the noisy one; (N, C)."""
        previous = np.append(1.0, self.alphas_bar[:-1])
        of_clean = self.betas * np.sqrt(previous) / (1 - self.alphas_bar)
        of_noisy = (1 - previous) * np.sqrt(1 - self.betas) / (1 - self.alphas_bar)
        return _rows(of_clean, steps) * clean + _rows(of_noisy, steps) * noisy

    def log_variance(self, steps: Tensor, fraction: Tensor) -> Tensor:
        """v · log β + (1-v) · log posterior variance with v = (fraction + 1)/2; (N, C)."""
        v = (fraction + 1) / 2
        return v * _rows(np.log(self.betas), steps) + (1 - v) * _rows(self.log_posterior, steps)

    def variational_bound(
        self, clean: Tensor, noisy: Tensor, steps: Tensor, noise: Tensor, fraction: Tensor
    ) -> Tensor:
        """(N, C) in bits: divergence of the predicted reverse step from the true posterior.

        Step 0 is treated like the others, with the clipped posterior variance, in place of a likelihood of
        the data.
        """
        mean = self.posterior_mean(self.clean(noisy, steps, noise), noisy, steps)
        log_variance = self.log_variance(steps, fraction)
        true_mean = self.posterior_mean(clean, noisy, steps)
        true_log = _rows(self.log_posterior, steps)
        divergence = 0.5 * (
            log_variance - true_log - 1 + (true_log - log_variance).exp()
            + (true_mean - mean).square() * (-log_variance).exp()
        )
        return divergence / math.log(2)


class Sampler(Protocol):
    """What a reverse diffusion must offer to run in the loop of :func:`hart.diffusion.sample_residual`."""

    def prior(self, noise: Tensor) -> Tensor:
        """The start, from (N, C) standard normal noise."""

    def timesteps(self) -> Iterable[int]:
        """Steps in the order of sampling."""

    def network_step(self, step: int) -> int:
        """The number, among the 1000 of training, that the network is told at ``step``."""

    def step(self, x: Tensor, step: int, noise: Tensor, fraction: Tensor, draw: Tensor) -> Tensor:
        """From ``step`` to the next: state, predicted noise, variance fraction, a fresh draw, all (N, C)."""


class ResidualSampler:
    """Prior, timesteps, step: one reverse diffusion over ``steps`` kept steps. Raises ValueError below 2
    steps.
    """

    def __init__(self, steps: int = 8) -> None:
        self.schedule = NoiseSchedule.shortened(steps)

    def prior(self, noise: Tensor) -> Tensor:
        """The start: (N, C) standard normal noise, float32."""
        return noise.float()

    def timesteps(self) -> range:
        """Kept steps in the order of sampling, T-1 … 0."""
        return range(len(self.schedule.numbers) - 1, -1, -1)

    def network_step(self, step: int) -> int:
        """The number, among the 1000 of training, that the network is told."""
        return self.schedule.numbers[step]

    def step(self, x: Tensor, step: int, noise: Tensor, fraction: Tensor, draw: Tensor) -> Tensor:
        """From step to step-1: x, predicted noise, variance fraction and a fresh draw, all (N, C). The last
        is not used at step 0, whose mean is the result.
        """
        steps = torch.full(x.shape[:1], step, device=x.device)
        mean = self.schedule.posterior_mean(self.schedule.clean(x, steps, noise), x, steps)
        if step == 0:
            return mean
        return mean + (0.5 * self.schedule.log_variance(steps, fraction)).exp() * draw


def _rows(table: np.ndarray, steps: Tensor) -> Tensor:
    """Entries of a float64 table at (N,) steps → (N, 1) float32."""
    return torch.from_numpy(table).float().to(steps.device)[steps][:, None]
