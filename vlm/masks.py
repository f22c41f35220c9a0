"""Who sees whom in a training pass: one table of rows, one boolean mask.

Knows kinds, order, spans and scales of rows. Knows no tower. The rule is the table of the design: a row sees

- every row that comes earlier in its conversation's order and is not a draft row (unless it is
guidance-free), and
- the rows of its own span and kind whose scale is not finer than its own, and itself.

Each text row has an order number of its own, all rows of a span share one. Shapes: N rows, B samples, L rows
of the longest sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm.batch import StreamBatch
from vlm.config import HartVLMConfig

TEXT, DRAFT, PICTURE = 0, 1, 2


@dataclass(frozen=True)
class RowTable:
    """Every row of a batch: text rows first, then draft rows (by span, coarse to fine), then picture rows.

    sample, order, kind, span, scale, position: (N,) int64 (span is -1 and scale 0 for text; scale is 0 for
    picture rows). free: (N,) bool, guidance-free. text, draft, picture: how many rows of each kind.
    slots: (B, L) int64 row numbers, samples padded at their end; filled: (B, L) bool, False for padding.
    places: (N,) int64, where each row stands in the flattened (B·L) layout.
    """

    sample: Tensor
    order: Tensor
    kind: Tensor
    span: Tensor
    scale: Tensor
    position: Tensor
    free: Tensor
    text: int
    draft: int
    picture: int
    slots: Tensor
    filled: Tensor
    places: Tensor


def row_table(batch: StreamBatch, config: HartVLMConfig) -> RowTable:
    """Lay out the rows of a batch."""
    device = batch.text_ids.device
    scales = len(config.scales)
    areas = torch.tensor([side * side for side in config.scales], device=device)
    scale_of_row = torch.repeat_interleave(torch.arange(scales, device=device), areas)
    total, pictures = len(scale_of_row), config.picture_rows
    text, spans, drafted = len(batch.text_ids), len(batch.codes), batch.drafted

    def per_row(of_text: Tensor, of_span: Tensor) -> Tensor:
        return torch.cat(
            [of_text, of_span[drafted].repeat_interleave(total), of_span.repeat_interleave(pictures)]
        )

    def fill(value: int, count: int) -> Tensor:
        return torch.full((count,), value, dtype=torch.long, device=device)

    draft, picture = len(drafted) * total, spans * pictures
    sample = per_row(batch.text_sample, batch.span_sample)
    scale = torch.cat([fill(0, text), scale_of_row.repeat(len(drafted)), fill(0, picture)])
    # Within a span positions advance by scale; the picture rows stand after the last scale.
    offset = torch.cat([fill(0, text), scale_of_row.repeat(len(drafted)), fill(scales, picture)])
    slots, filled, places = _slots(sample, batch.size)
    return RowTable(
        sample=sample,
        order=per_row(batch.text_order, batch.span_order),
        kind=torch.cat([fill(TEXT, text), fill(DRAFT, draft), fill(PICTURE, picture)]),
        span=per_row(fill(-1, text), torch.arange(spans, device=device)),
        scale=scale,
        position=per_row(batch.text_positions, batch.span_positions) + offset,
        free=torch.cat(
            [
                torch.zeros(text, dtype=torch.bool, device=device),
                batch.free.repeat_interleave(total),
                torch.zeros(picture, dtype=torch.bool, device=device),
            ]
        ),
        text=text,
        draft=draft,
        picture=picture,
        slots=slots,
        filled=filled,
        places=places,
    )


def visibility(rows: RowTable) -> Tensor:
    """(B, 1, L, L) bool, True where the query (third axis) sees the key (fourth)."""

    def query(values: Tensor) -> Tensor:
        return values[rows.slots][:, :, None]

    def key(values: Tensor) -> Tensor:
        return values[rows.slots][:, None, :]

    earlier = (key(rows.order) < query(rows.order)) & (key(rows.kind) != DRAFT) & ~query(rows.free)
    same_span = (
        (key(rows.span) == query(rows.span)) & (key(rows.kind) == query(rows.kind)) & (query(rows.span) >= 0)
    )
    within = same_span & (key(rows.scale) <= query(rows.scale))
    visible = (earlier | within) & rows.filled[:, None, :]
    # Every row sees itself; for padding this keeps the softmax finite.
    diagonal = torch.eye(rows.slots.shape[1], dtype=torch.bool, device=visible.device)
    return (visible | diagonal)[:, None]


def _slots(sample: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    counts = torch.bincount(sample, minlength=size)
    length = int(counts.max())
    by_sample = torch.argsort(sample, stable=True)
    starts = counts.cumsum(0) - counts
    within = torch.arange(len(sample), device=sample.device) - starts[sample[by_sample]]
    places = torch.empty_like(sample)
    places[by_sample] = sample[by_sample] * length + within
    slots = torch.zeros(size * length, dtype=torch.long, device=sample.device)
    filled = torch.zeros(size * length, dtype=torch.bool, device=sample.device)
    slots[places] = torch.arange(len(sample), device=sample.device)
    filled[places] = True
    return slots.view(size, length), filled.view(size, length), places
