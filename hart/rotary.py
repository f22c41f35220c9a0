"""Rotary positions: one-dimensional for the prompt, two-dimensional over scales for the picture.

Knows angles and how they turn queries and keys. Does not know attention. Source: RoPE (arXiv 2104.09864); HART
(arXiv 2410.10812, section 3.3), laid out as its public release does.

Shapes: B batch, N rows, d width of a head, p_k side of scale k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hart.schedule import ScaleSchedule

BASE = 10000.0


def context_angles(positions: Tensor, width: int) -> Tensor:
    """(B, N) positions → (B, N, d) float32 angles: d/2 frequencies, twice."""
    return (positions.float()[..., None] * _frequencies(width, 2, positions.device)).repeat(1, 1, 2)


def image_angles(schedule: ScaleSchedule, scale: int, offset: Tensor, width: int) -> Tensor:
    """Angles of one scale's rows, (B, p_k², d) float32: row, row, column, column, a quarter of d each.

    Cells of all scales share the coordinates of the largest grid. offset: (B,), the context's last position.
    """
    side = schedule.sides[scale]
    cells = torch.arange(side, device=offset.device) / side * schedule.last
    grid = torch.stack(torch.meshgrid(cells, cells, indexing="ij"), dim=-1).view(1, -1, 2)
    coordinates = grid + offset.float()[:, None, None]
    angles = coordinates[..., None] * _frequencies(width, 4, offset.device)
    return angles.repeat(1, 1, 1, 2).flatten(2)


def rotation(angles: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, d) angles → their cosines and sines, (B, 1, N, d), ready for heads."""
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn (B, H, N, d) by a :func:`rotation`; the first half of d is paired with the second. Float32."""
    cos, sin = turn
    first, second = x.float().chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _frequencies(width: int, stride: int, device: torch.device) -> Tensor:
    exponents = torch.arange(0, width, stride, device=device, dtype=torch.float32) / width
    return 1.0 / BASE**exponents
