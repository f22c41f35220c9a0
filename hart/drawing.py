"""Drawing, scale by scale: guidance, codes, the accumulated latent, the residual at the end.

Knows the order of things and the release's quirks of guidance. Does not know who chooses the codes: random
draws (:mod:`hart.choosing`) or a recording (:mod:`hart.verify`). Knows no pictures and no prompts.

Shapes: B pictures, n = p_k² rows of a scale, C latent channels, V codes, p side of the last scale, K scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hart.diffusion import sample_residual
from hart.quantizer import MultiScaleQuantizer
from hart.sampler import Sampler
from hart.transformer import Context, HartTransformer, ScaleSteps


@dataclass(frozen=True)
class Choice:
    """The codes of one scale, (B, n) int64, and the vectors that take their place in the latent, (B, n, C)."""

    codes: Tensor
    embedded: Tensor


class Chooser(Protocol):
    """Where codes and noise come from."""

    def codes(self, scale: int, logits: Tensor) -> Choice:
        """Choose codes of ``scale`` by the guided logits (B, n, V)."""

    def noises(self, rows: int, channels: int) -> Iterable[Tensor]:
        """Gaussian draws of the residual diffusion, the start and one per step, each (B·rows, C)."""


@dataclass(frozen=True)
class DrawnScale:
    """One scale, drawn. latent: (B, C, p, p) float32 after it; after the last it includes the residual."""

    scale: int
    logits: Tensor
    codes: Tensor
    latent: Tensor


def guided_ratio(scale: int, scales: int) -> float:
    """How far a drawing has come, k / (K-1) from 0 towards 1; the last scale keeps the one before's (HART)."""
    return min(scale, scales - 2) / (scales - 1)


@torch.no_grad()
def draw_scales(
    model: HartTransformer,
    quantizer: MultiScaleQuantizer,
    context: Context,
    chooser: Chooser,
    *,
    guidance: float,
    scales: int | None = None,
    residual: bool = True,
    residual_steps: int | None = None,
    sampler: Sampler | None = None,
    one_is_neutral: bool = True,
) -> Iterator[DrawnScale]:
    """Draw the pictures of a batch of prompts; one event per scale, over ``quantizer``'s schedule.

    guidance: g ≥ 0, 0 is neutral (and costs nothing). At scale k, t = g · :func:`guided_ratio` and logits are
    (1 + t) · conditional - t · unconditional; the residual's predicted noise likewise, with the last t.
    scales: stop after so many. residual: draw the continuous part after the last scale. one_is_neutral: the
    release reads a guidance of the residual of exactly 1 as none. Raises ValueError.
    """
    schedule = quantizer.schedule
    count = schedule.count if scales is None else scales
    if not 1 <= count <= schedule.count:
        raise ValueError(f"the number of scales must be in 1..{schedule.count}, got {scales}")
    if guidance < 0:
        raise ValueError(f"guidance must be at least 0 (neutral), got {guidance}")
    batch = len(context)
    steps = ScaleSteps(model, context.with_unconditional() if guidance else context, schedule, count)
    latent = quantizer.zeros(batch)
    for scale in range(count):
        # Both branches see the same picture.
        inputs = None if scale == 0 else quantizer.scale_input(latent, scale)
        if inputs is not None and guidance:
            inputs = torch.cat([inputs, inputs])
        hidden = steps.step(inputs)
        t = guidance * guided_ratio(scale, schedule.count)
        logits = steps.logits(hidden)
        if guidance:
            logits = (1 + t) * logits[:batch] - t * logits[batch:]
        choice = chooser.codes(scale, logits)
        latent = quantizer.accumulate_embedded(latent, choice.embedded, scale)
        if residual and scale == schedule.count - 1:
            strength = 0.0 if one_is_neutral and t == 1.0 else t
            rows = _residual(model, quantizer, hidden, choice, chooser, strength, residual_steps, sampler)
            latent = latent + rows.transpose(1, 2).unflatten(2, (schedule.last, schedule.last))
        yield DrawnScale(scale, logits, choice.codes, latent)


def _residual(
    model: HartTransformer,
    quantizer: MultiScaleQuantizer,
    hidden: Tensor,
    choice: Choice,
    chooser: Chooser,
    guidance: float,
    steps: int | None,
    sampler: Sampler | None,
) -> Tensor:
    """The continuous part of the last scale, (B, n, C) float32 in latent units."""
    batch, rows = choice.codes.shape
    guided = len(hidden) > batch
    # The condition is the sampled code's own embedding, also where the latent takes an average of codes.
    embedded = quantizer.embed(choice.codes)
    condition = model.residual_condition(hidden, torch.cat([embedded, embedded]) if guided else embedded)
    sample = sample_residual(
        model.residual_head,
        condition[:batch],
        noises=chooser.noises(rows, quantizer.channels),
        steps=steps or model.config.residual_steps,
        sampler=sampler,
        unconditional=condition[batch:] if guided else None,
        guidance=guidance,
    )
    return model.config.residual_scale * sample
