"""A training batch: the rows of several conversations, packed without padding.

Knows which spans train their draft rows and which of those train without context. Knows no model.
Shapes: B samples, T text rows of all samples together, S spans, D drafted spans, total codes per span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vlm.config import HartVLMConfig
from vlm.stream import Conversation, Rows, parse


@dataclass(frozen=True)
class StreamBatch:
    """Rows of B conversations, one sample after another.

    text_ids, text_positions, text_order, text_sample, labels: (T,) int64; labels are -100 where nothing
    is learnt.
    codes: (S, total) int64. residuals: (S, p², C) float16.
    span_sample, span_positions, span_order: (S,) int64.
    drafted: (D,) int64, indices of the spans whose draft rows take part. free: (D,) bool, those that see
    nothing before their ``<|boi|>``. Every span contributes picture rows.
    """

    size: int
    text_ids: Tensor
    text_positions: Tensor
    text_order: Tensor
    text_sample: Tensor
    labels: Tensor
    codes: Tensor
    residuals: Tensor
    span_sample: Tensor
    span_positions: Tensor
    span_order: Tensor
    drafted: Tensor
    free: Tensor

    def to(self, device: torch.device | str) -> StreamBatch:
        """The same batch on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "size"}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


def collate(
    conversations: Sequence[Conversation],
    config: HartVLMConfig,
    *,
    generator: torch.Generator,
    max_draft_spans: int | None = None,
    unconditional_probability: float | None = None,
    draft_uploads: bool = False,
) -> StreamBatch:
    """Conversations → one batch.

    max_draft_spans: at most so many spans per conversation train their draft rows, chosen at random; the
        others only contribute picture rows. None: all spans that the assistant drew.
    unconditional_probability: share of drafted spans trained without context; None: the config's.
    draft_uploads: let pictures that the assistant did not draw train draft rows too.
    Raises ValueError on an empty list or a torn stream.
    """
    if not conversations:
        raise ValueError("expected at least one conversation, got none")
    if max_draft_spans is not None and max_draft_spans < 0:
        raise ValueError(f"max_draft_spans must be at least 0, got {max_draft_spans}")
    probability = (
        config.unconditional_probability if unconditional_probability is None else unconditional_probability
    )
    parsed = [parse(conversation, config) for conversation in conversations]
    drafted, first = [], 0
    for rows in parsed:
        drafted.append(first + _choose(rows, max_draft_spans, draft_uploads, generator))
        first += len(rows.codes)
    chosen = torch.cat(drafted)
    # Streams keep residuals in half precision, which autocast on a CPU cannot join.
    with torch.autocast("cpu", enabled=False):
        residuals = torch.cat([conversation.residuals for conversation in conversations])
    return StreamBatch(
        size=len(parsed),
        text_ids=torch.cat([rows.text_ids for rows in parsed]),
        text_positions=torch.cat([rows.text_positions for rows in parsed]),
        text_order=torch.cat([rows.text_order for rows in parsed]),
        text_sample=_sample([len(rows.text_ids) for rows in parsed]),
        labels=torch.cat([rows.labels for rows in parsed]),
        codes=torch.cat([rows.codes for rows in parsed]),
        residuals=residuals,
        span_sample=_sample([len(rows.codes) for rows in parsed]),
        span_positions=torch.cat([rows.span_positions for rows in parsed]),
        span_order=torch.cat([rows.span_order for rows in parsed]),
        drafted=chosen,
        free=torch.rand(len(chosen), generator=generator) < probability,
    )


def _choose(rows: Rows, limit: int | None, uploads: bool, generator: torch.Generator) -> Tensor:
    candidates = torch.arange(len(rows.codes)) if uploads else rows.drawn.nonzero().flatten()
    if limit is None or len(candidates) <= limit:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=generator)[:limit]].sort().values


def _sample(counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
