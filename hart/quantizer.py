"""The multi-scale residual quantiser: a latent as codes on a pyramid of grids, plus a residual.

Knows: the codebook, the residual convolutions, both paths of HART (discrete and hybrid).
Does not know pictures, autoencoders or how it is trained.
Source: VAR (arXiv 2404.02905, algorithms 1 and 2); HART (arXiv 2410.10812, section 3.1).

Shapes: B batch, C latent channels, K scales of side p_k, V codes. All arithmetic is float32, whatever
autocast says: codes must not depend on the precision the autoencoder happens to run in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hart.schedule import ScaleSchedule
from hart.tokens import HybridTokens


@dataclass(frozen=True)
class QuantizerTrace:
    """Everything one quantisation computed, for training; k runs over the scales.

    codes[k]: (B, p_k²). rests[k]: (B, p_k², C), the vectors that were matched with the codebook (no
    gradient). accumulated[k]: (B, C, p, p), the latent after scales 0 … k (gradient to the convolutions).
    residual: (B, p², C), what the hybrid path leaves to the continuous part (no gradient).
    """

    codes: tuple[Tensor, ...]
    rests: tuple[Tensor, ...]
    accumulated: tuple[Tensor, ...]
    residual: Tensor


class ResidualConvolution(nn.Conv2d):
    """φ(h) = h/2 + conv3×3(h)/2, (B, C, p, p) → the same, float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return 0.5 * h + 0.5 * F.conv2d(h, self.weight.float(), bias, padding=1)


def shared_convolution_index(scale: int, scales: int, convolutions: int) -> int:
    """Which of K' shared convolutions serves ``scale``: the nearest tick to k/(K-1), ties to the higher
    index.

    Float64 on purpose: the public release computes it so, and some ties only appear (or vanish) there.
    """
    if convolutions == 1:
        return 0
    inset = 1 / 3 / convolutions if convolutions == 4 else 1 / 2 / convolutions
    ticks = np.linspace(inset, 1 - inset, convolutions)
    distance = np.abs(ticks - scale / max(scales - 1, 1))
    return int(np.flatnonzero(distance == distance.min())[-1])


def area_resize(grid: Tensor, side: int) -> Tensor:
    """(B, C, p, p) → (B, C, side, side): each new cell is the average of those that it touches."""
    if grid.shape[-1] == side:
        return grid
    # Apple's graphics average only where one side divides the other (pytorch issue 96056); a grid is small.
    there = grid.cpu() if grid.device.type == "mps" else grid
    return F.interpolate(there, size=(side, side), mode="area").to(grid.device)


class MultiScaleQuantizer(nn.Module):
    """Codebook V×C shared by all scales, and K' residual convolutions shared among them.

    In the hybrid path the last scale has no residual convolution, so that latent = accumulated codes +
    residual holds exactly; in the discrete path every scale has one.
    """

    def __init__(
        self, vocab_size: int, channels: int, schedule: ScaleSchedule, shared_convs: int = 4
    ) -> None:
        super().__init__()
        if min(vocab_size, channels, shared_convs) < 1:
            raise ValueError(
                "vocab_size, channels and shared_convs must be positive, "
                f"got {vocab_size}, {channels}, {shared_convs}"
            )
        self.schedule = schedule
        self.vocab_size = vocab_size
        self.channels = channels
        self.embedding = nn.Embedding(vocab_size, channels)
        # The codebook follows moving averages of what it is matched with (hart.codebook), not a gradient.
        self.embedding.weight.requires_grad_(False)
        self.convolutions = nn.ModuleList(ResidualConvolution(channels) for _ in range(shared_convs))
        self._conv_of_scale = tuple(
            shared_convolution_index(k, schedule.count, shared_convs) for k in range(schedule.count)
        )

    def with_schedule(self, schedule: ScaleSchedule) -> MultiScaleQuantizer:
        """The same codebook and convolutions, shared and not copied, over other scales: another size."""
        if schedule == self.schedule:
            return self
        with torch.device("meta"):
            other = MultiScaleQuantizer(self.vocab_size, self.channels, schedule, len(self.convolutions))
        other.embedding, other.convolutions = self.embedding, self.convolutions
        return other

    def nearest(self, rows: Tensor) -> Tensor:
        """(…, C) → (…) int64: the code at the smallest squared Euclidean distance."""
        book = self.embedding.weight.detach().float()
        flat = rows.detach().float().reshape(-1, self.channels)
        # |x|² is the same for every code, so it cannot change which is nearest.
        score = torch.addmm(book.square().sum(1), flat, book.t(), alpha=-2)
        return score.argmin(dim=1).view(rows.shape[:-1])

    def closeness(self, rows: Tensor, temperature: float) -> Tensor:
        """(…, C) → (…, V): softmax of minus the squared distances to the codes over `temperature`."""
        book = self.embedding.weight.detach().float()
        # |x|² is the same for every code.
        score = 2 * rows.detach().float() @ book.t() - book.square().sum(1)
        return (score / temperature).softmax(dim=-1)

    def embed(self, codes: Tensor) -> Tensor:
        """(…) int64 → (…, C) float32 embeddings."""
        return F.embedding(codes, self.embedding.weight.float())

    def zeros(self, batch: int) -> Tensor:
        """(B, C, p, p) float32: the accumulated latent before any scale."""
        side = self.schedule.last
        return torch.zeros(batch, self.channels, side, side, device=self.embedding.weight.device)

    def accumulate(self, f_hat: Tensor, codes: Tensor, scale: int, *, hybrid: bool = True) -> Tensor:
        """Add one scale's codes to the accumulated latent.

        f_hat: (B, C, p, p) after scales < ``scale``; codes: (B, p_k²). Returns a new (B, C, p, p) float32.
        ``hybrid`` omits the residual convolution at the last scale.
        """
        self._check_codes(codes, scale)
        return self.accumulate_embedded(f_hat, self.embed(codes), scale, hybrid=hybrid)

    def accumulate_embedded(
        self, f_hat: Tensor, embedded: Tensor, scale: int, *, hybrid: bool = True
    ) -> Tensor:
        """The same for vectors (B, p_k², C) in the place of codes, such as averages of several codes'."""
        with _float32(f_hat):
            h = _to_grid(embedded, self.schedule.sides[scale])
            if self.schedule.sides[scale] != self.schedule.last:
                h = F.interpolate(h, size=(self.schedule.last,) * 2, mode="bicubic")
            if not (hybrid and scale == self.schedule.count - 1):
                h = self.convolutions[self._conv_of_scale[scale]](h)
            return f_hat.float() + h

    def scale_input(self, f_hat: Tensor, scale: int) -> Tensor:
        """(B, C, p, p) → (B, p_k², C) float32: the accumulated latent, area-resized to the grid of ``scale``.
        """
        return _to_rows(area_resize(f_hat.float(), self.schedule.sides[scale]))

    def trace(self, latent: Tensor, *, hybrid: bool = True) -> QuantizerTrace:
        """Quantise (B, C, p, p) and keep every intermediate; :meth:`encode` is the short form."""
        self._check_latent(latent)
        with _float32(latent):
            target = latent.detach().float()
            f_hat = self.zeros(target.shape[0]).to(target.device)
            codes, rests, accumulated = [], [], []
            for scale, side in enumerate(self.schedule.sides):
                rest = _to_rows(area_resize(target - f_hat.detach(), side))
                codes.append(self.nearest(rest))
                rests.append(rest)
                f_hat = self.accumulate(f_hat, codes[-1], scale, hybrid=hybrid)
                accumulated.append(f_hat)
            residual = rests[-1] - self.embed(codes[-1]).detach()
        return QuantizerTrace(tuple(codes), tuple(rests), tuple(accumulated), residual)

    @torch.no_grad()
    def encode(self, latent: Tensor) -> HybridTokens:
        """Hybrid path: (B, C, p, p) → codes of every scale and the float32 residual. Raises ValueError."""
        trace = self.trace(latent)
        return HybridTokens(trace.codes, trace.residual)

    @torch.no_grad()
    def encode_discrete(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Discrete-only path: (B, C, p, p) → codes per scale, a residual convolution at every scale."""
        return self.trace(latent, hybrid=False).codes

    def latent(
        self, tokens: HybridTokens, scales: int | None = None, residual: bool = True, *, hybrid: bool = True
    ) -> Tensor:
        """Tokens → (B, C, p, p) float32.

        scales: how many scales to use, coarsest first (None: all). residual: add the continuous part; it
        belongs to the last scale and is left out whenever fewer scales are asked for. Raises ValueError.
        """
        count = self.schedule.count if scales is None else scales
        if not 1 <= count <= self.schedule.count:
            raise ValueError(f"scales must be in 1..{self.schedule.count}, got {scales}")
        if len(tokens.codes) < count:
            raise ValueError(f"expected codes of {count} scales, got {len(tokens.codes)}")
        f_hat = self.accumulated(tokens.codes[:count], hybrid=hybrid)[-1]
        if residual and count == self.schedule.count:
            f_hat = f_hat + _to_grid(tokens.residual.float(), self.schedule.last)
        return f_hat

    def accumulated(self, codes: tuple[Tensor, ...], *, hybrid: bool = True) -> list[Tensor]:
        """Codes of scales 0 … n-1 → n tensors (B, C, p, p): the latent after each of them."""
        f_hat = self.zeros(codes[0].shape[0])
        steps = []
        for scale, scale_codes in enumerate(codes):
            f_hat = self.accumulate(f_hat, scale_codes, scale, hybrid=hybrid)
            steps.append(f_hat)
        return steps

    @torch.no_grad()
    def rests(self, tokens: HybridTokens) -> Tensor:
        """Tokens of all scales → (B, total, C): the vectors that each scale's codes stand for, scale after scale."""
        latent = self.latent(tokens)
        before = [torch.zeros_like(latent), *self.accumulated(tokens.codes[:-1])]
        grids = zip(before, self.schedule.sides, strict=True)
        return torch.cat([_to_rows(area_resize(latent - f_hat, side)) for f_hat, side in grids], dim=1)

    def teacher_inputs(self, codes: tuple[Tensor, ...]) -> Tensor:
        """Codes of all K scales → (B, total - p_0², C): what scales 1 … K-1 receive, one after another.

        The last scale's codes are an input to nothing and may be left out.
        """
        if len(codes) < self.schedule.count - 1:
            raise ValueError(f"expected codes of {self.schedule.count} scales, got {len(codes)}")
        if self.schedule.count == 1:
            return self.zeros(codes[0].shape[0]).flatten(2)[..., :0].transpose(1, 2)
        steps = self.accumulated(tuple(codes[: self.schedule.count - 1]))
        return torch.cat([self.scale_input(step, scale + 1) for scale, step in enumerate(steps)], dim=1)

    def _check_codes(self, codes: Tensor, scale: int) -> None:
        if not 0 <= scale < self.schedule.count:
            raise ValueError(f"scale must be in 0..{self.schedule.count - 1}, got {scale}")
        if codes.ndim != 2 or codes.shape[1] != self.schedule.areas[scale]:
            raise ValueError(
                f"scale {scale} expects codes (B, {self.schedule.areas[scale]}), got {tuple(codes.shape)}"
            )

    def _check_latent(self, latent: Tensor) -> None:
        expected = (self.channels, self.schedule.last, self.schedule.last)
        if latent.ndim != 4 or tuple(latent.shape[1:]) != expected:
            raise ValueError(
                f"expected a latent (B, {', '.join(map(str, expected))}), got {tuple(latent.shape)}"
            )


def _float32(tensor: Tensor) -> torch.autocast:
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _to_rows(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


def _to_grid(rows: Tensor, side: int) -> Tensor:
    return rows.transpose(1, 2).unflatten(2, (side, side))
