"""The pyramid of grids on which a picture's codes live.

Knows: sides, sizes and row ranges of the scales. Does not know what a row holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaleSchedule:
    """Sides p_0 < p_1 < … < p_{K-1} of square grids; scale k has p_k² rows, scales follow one another.

    Raises ValueError when the sides are empty, not positive or not strictly growing.
    """

    sides: tuple[int, ...]

    def __init__(self, sides: Sequence[int]) -> None:
        values = tuple(int(side) for side in sides)
        growing = all(a < b for a, b in zip(values, values[1:], strict=False))
        if not values or values[0] < 1 or not growing:
            raise ValueError(f"scale sides must be positive and strictly growing, got {tuple(sides)}")
        object.__setattr__(self, "sides", values)

    @property
    def count(self) -> int:
        """Number of scales K."""
        return len(self.sides)

    @property
    def areas(self) -> tuple[int, ...]:
        """Rows of each scale, p_k²."""
        return tuple(side * side for side in self.sides)

    @property
    def total(self) -> int:
        """Rows of all scales together."""
        return sum(self.areas)

    @property
    def last(self) -> int:
        """Side of the finest grid, p_{K-1}: the side of the latent."""
        return self.sides[-1]

    def slice(self, scale: int) -> slice:
        """Rows of ``scale`` in the concatenation of all scales. Raises ValueError outside 0 … K-1."""
        if not 0 <= scale < self.count:
            raise ValueError(f"scale must be in 0..{self.count - 1}, got {scale}")
        start = sum(self.areas[:scale])
        return slice(start, start + self.areas[scale])

    def scale_of_row(self, device: torch.device | str | None = None) -> Tensor:
        """(total,) int64: the scale each row of the concatenation belongs to."""
        areas = torch.tensor(self.areas, device=device)
        return torch.repeat_interleave(torch.arange(self.count, device=device), areas)
