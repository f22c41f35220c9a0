"""Who sees whom in a training pass: a table of rows, and the blocks of it that attend together.

Knows kinds, order, spans and scales of rows. Knows no tower. The rule is the table of the design: a row sees

- every row that comes earlier in its conversation's order and is not a draft row (unless it is
guidance-free), and
- the rows of its own span and kind whose scale is not finer than its own, and itself.

So nobody sees a draft row but its own span's. Draft rows are most rows of a batch: a block of all rows of a
conversation would be mostly blocked, and each span's draft rows get a block of their own.

Each text row has an order number of its own, all rows of a span share one. Shapes: N rows, B samples, D drafted
spans of R rows each, G groups of Q queries and K keys.
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
    samples: B. per_span: R.
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
    samples: int
    per_span: int


@dataclass(frozen=True)
class Block:
    """G groups of rows that attend to one another, and nothing else does.

    queries: (G, Q) and keys: (G, K) int64 row numbers, padded where groups differ; mask: (G, 1, Q, K) bool, True where
    the query sees the key; every query, a padded one too, sees one key at least.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Blocks:
    """Every row is a query of one block. places: (N,) where each stands in the flattened queries of all blocks."""

    blocks: tuple[Block, ...]
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
        samples=batch.size,
        per_span=total,
    )


def visible(rows: RowTable, queries: Tensor, keys: Tensor) -> Tensor:
    """Row numbers (…, Q) and (…, K), of any samples → (…, Q, K) bool, True where the query sees the key."""

    def query(values: Tensor) -> Tensor:
        return values[queries][..., :, None]

    def key(values: Tensor) -> Tensor:
        return values[keys][..., None, :]

    earlier = (key(rows.order) < query(rows.order)) & (key(rows.kind) != DRAFT) & ~query(rows.free)
    same_span = (key(rows.span) == query(rows.span)) & (key(rows.kind) == query(rows.kind)) & (query(rows.span) >= 0)
    within = same_span & (key(rows.scale) <= query(rows.scale))
    itself = queries[..., :, None] == keys[..., None, :]
    return (key(rows.sample) == query(rows.sample)) & (earlier | within) | itself


def attention_blocks(rows: RowTable) -> Blocks:
    """One block of the text and picture rows of each sample, and one of each span's draft rows if there are any."""
    device = rows.sample.device
    numbers = torch.arange(len(rows.sample), device=device)
    context = numbers[rows.kind != DRAFT]
    slots, filled, within = _padded(rows.sample[context], rows.samples)
    shown = context[slots]
    # A padded query repeats a row and sees what that sees, so its softmax is finite; a padded key is seen by nobody.
    blocks = [Block(shown, shown, (visible(rows, shown, shown) & filled[:, None, :])[:, None])]
    places = torch.empty_like(numbers)
    places[context] = within
    if rows.draft:
        drafts = numbers[rows.kind == DRAFT].view(-1, rows.per_span)
        sample = rows.sample[drafts[:, 0]]
        keys = torch.cat([shown[sample], drafts], dim=1)
        real = torch.cat([filled[sample], torch.ones_like(drafts, dtype=torch.bool)], dim=1)
        blocks.append(Block(drafts, keys, (visible(rows, drafts, keys) & real[:, None, :])[:, None]))
        places[drafts.flatten()] = shown.numel() + torch.arange(drafts.numel(), device=device)
    return Blocks(tuple(blocks), places)


def _padded(sample: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by sample (M,) → their numbers as (samples, L), which of these are real, and where each row stands (M,).

    Padding repeats the sample's first row. Every sample has one, be it only a text row.
    """
    counts = torch.bincount(sample, minlength=samples)
    length = int(counts.max())
    by_sample = torch.argsort(sample, stable=True)
    starts = counts.cumsum(0) - counts
    within = torch.arange(len(sample), device=sample.device) - starts[sample[by_sample]]
    places = torch.empty_like(sample)
    places[by_sample] = sample[by_sample] * length + within
    slots = by_sample[starts].repeat_interleave(length)
    filled = torch.zeros(samples * length, dtype=torch.bool, device=sample.device)
    slots[places] = torch.arange(len(sample), device=sample.device)
    filled[places] = True
    return slots.view(samples, length), filled.view(samples, length), places
