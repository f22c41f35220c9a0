"""Hybrid tokens: what a picture is, to everything downstream of the tokenizer.

Knows: codes per scale, the residual, their shapes. Does not know the codebook or the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart.schedule import ScaleSchedule


@dataclass(frozen=True)
class HybridTokens:
    """A batch of B pictures as codes and residual.

    codes: one (B, p_k²) int64 tensor per scale, row-major over the grid, values in [0, V).
    residual: (B, p_{K-1}², C) float: the last scale's latent minus its codes' embeddings, in latent units.
    """

    codes: tuple[Tensor, ...]
    residual: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", tuple(self.codes))
        batches = {codes.shape[0] for codes in self.codes} | {self.residual.shape[0]}
        rows = self.codes[-1].shape[1] if self.codes else None
        if len(batches) != 1 or self.residual.ndim != 3 or self.residual.shape[1] != rows:
            raise ValueError(
                f"expected codes (B, p_k²) and residual (B, {rows}, C), "
                f"got {[tuple(c.shape) for c in self.codes]} and {tuple(self.residual.shape)}"
            )

    def __len__(self) -> int:
        return self.residual.shape[0]

    def __getitem__(self, pictures: slice | Sequence[int] | Tensor) -> HybridTokens:
        """The chosen pictures of the batch (a slice or a list of indices, so the batch axis stays)."""
        if isinstance(pictures, int):
            raise ValueError(f"index with a slice or a list of indices, got the int {pictures}")
        return HybridTokens(tuple(codes[pictures] for codes in self.codes), self.residual[pictures])

    def flat_codes(self) -> Tensor:
        """(B, total) int64: all scales one after another, coarsest first."""
        return torch.cat(self.codes, dim=1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> HybridTokens:
        """Moved to ``device``; ``dtype`` applies to the residual only."""
        residual = self.residual.to(device=device, dtype=dtype)
        return HybridTokens(tuple(codes.to(device=device) for codes in self.codes), residual)

    @staticmethod
    def from_flat(flat: Tensor, residual: Tensor, schedule: ScaleSchedule) -> HybridTokens:
        """Inverse of :meth:`flat_codes`. Raises ValueError when (B, total) does not fit the schedule."""
        if flat.ndim != 2 or flat.shape[1] != schedule.total:
            raise ValueError(f"expected flat codes (B, {schedule.total}), got {tuple(flat.shape)}")
        return HybridTokens(tuple(flat.split(schedule.areas, dim=1)), residual)

    @staticmethod
    def cat(batches: Sequence[HybridTokens]) -> HybridTokens:
        """Batches of pictures of one schedule, joined along the batch axis."""
        if not batches:
            raise ValueError("expected at least one batch of tokens, got none")
        codes = zip(*(batch.codes for batch in batches), strict=True)
        return HybridTokens(
            tuple(torch.cat(scale) for scale in codes), torch.cat([batch.residual for batch in batches])
        )
