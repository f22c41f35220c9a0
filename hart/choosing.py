"""Choosing codes by chance: top-k, top-p, temperature, and the smoothing of the public release.

Knows logits and random draws. Knows no model. Every picture has a generator of its own, on the CPU: a seed
means the same on any device, and a picture does not depend on those drawn beside it.

Shapes: B pictures, n rows, V codes, C latent channels, K scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.drawing import Choice, guided_ratio

# The release's: the coarse scales draw from more codes.
COARSE_SCALES, COARSE_TOP_K, FINE_TOP_K = 7, 600, 300


@dataclass(frozen=True)
class ChoosingOptions:
    """How codes are drawn. Raises ValueError when made of impossible values.

    top_k: for all scales, or one value per scale, 0 for off; None: the release's, 600 for the first seven
    scales and 300 after. top_p: 1 for off. temperature: 0 takes the likeliest code (and no smoothing).
    smooth: put an average of codes into the latent, weighed by a Gumbel softmax, in the place of one code.
    """

    top_k: int | tuple[int, ...] | None = None
    top_p: float = 1.0
    temperature: float = 1.0
    smooth: bool = True

    def __post_init__(self) -> None:
        values = self.top_k if isinstance(self.top_k, tuple) else (self.top_k or 0,)
        if any(value < 0 for value in values):
            raise ValueError(f"top_k must be at least 0 (off), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0 (the likeliest code), got {self.temperature}")

    def top_k_at(self, scale: int, vocab_size: int) -> int:
        """How many codes ``scale`` draws from, 1 … V."""
        if self.top_k is None:
            value = COARSE_TOP_K if scale < COARSE_SCALES else FINE_TOP_K
        elif isinstance(self.top_k, tuple):
            value = self.top_k[scale]
        else:
            value = self.top_k
        return min(value or vocab_size, vocab_size)


class RandomChooser:
    """A :class:`hart.drawing.Chooser` with one generator per picture.

    codebook: (V, C). scales: K of the schedule, by which smoothing fades from coarse to fine.
    """

    def __init__(
        self, options: ChoosingOptions, seeds: Sequence[int], codebook: Tensor, scales: int
    ) -> None:
        if isinstance(options.top_k, tuple) and len(options.top_k) != scales:
            raise ValueError(f"expected {scales} values of top_k, one per scale, got {len(options.top_k)}")
        self.options = options
        self.codebook = codebook.float()
        self.scales = scales
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def codes(self, scale: int, logits: Tensor) -> Choice:
        """Draw (B, n) codes by logits (B, n, V); see :class:`ChoosingOptions`."""
        chosen = [self._one(scale, rows, g) for rows, g in zip(logits, self.generators, strict=True)]
        return Choice(torch.stack([c for c, _ in chosen]), torch.stack([e for _, e in chosen]))

    def noises(self, rows: int, channels: int) -> Iterator[Tensor]:
        """Standard normal draws (B·rows, C), each picture's from its own generator, without end."""
        while True:
            yield torch.cat([torch.randn(rows, channels, generator=g) for g in self.generators])

    def _one(self, scale: int, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One picture: logits (n, V) → codes (n,) and vectors (n, C)."""
        if self.options.temperature == 0:
            codes = logits.argmax(dim=-1)
            return codes, self.codebook[codes]
        kept = self.options.top_k_at(scale, logits.shape[-1])
        scores, codes = (logits.float() / self.options.temperature).topk(kept, dim=-1)
        probabilities = scores.softmax(dim=-1)
        if self.options.top_p < 1:
            # A code stays as long as those likelier than it leave room below top_p; the first always does.
            before = probabilities.cumsum(dim=-1) - probabilities
            out = before >= self.options.top_p
            out[..., 0] = False
            scores = scores.masked_fill(out, -torch.inf)
            probabilities = scores.softmax(dim=-1)
        # By the inverse of the cumulative distribution: one uniform number per row, whatever V.
        uniform = torch.rand(len(scores), 1, generator=generator).to(scores.device)
        cumulative = probabilities.cumsum(dim=-1)
        place = (cumulative <= uniform * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        # Rounding must not lead past the last code that is possible at all.
        place = torch.minimum(place, (probabilities > 0).sum(dim=-1, keepdim=True) - 1)
        drawn = codes.gather(1, place).squeeze(1)
        if not self.options.smooth:
            return drawn, self.codebook[drawn]
        weights = self._smooth(scale, scores, generator)
        every = torch.zeros(logits.shape, device=logits.device).scatter(1, codes, weights)
        return drawn, every @ self.codebook

    def _smooth(self, scale: int, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Weights (n, k) of the kept codes: a Gumbel softmax, sharper from scale to scale."""
        ratio = guided_ratio(scale, self.scales)
        temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
        gumbel = -torch.empty(scores.shape).exponential_(generator=generator).log()
        return ((scores * (1 + ratio) + gumbel.to(scores.device)) / temperature).softmax(dim=-1)
