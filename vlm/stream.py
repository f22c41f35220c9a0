"""The stream: one list of ids for text and pictures, and how rows, positions and order follow from it.

Knows ids, spans and residuals. Does not know how text becomes ids, nor any model.

A span in the stream is ``<|boi|>``, the codes of every scale (code c has the id ``text_vocab_size + c``) and
``<|eoi|>``. Positions: ``<|boi|>`` at n, scale k (from 1) at n+k-1, picture rows at n+K, ``<|eoi|>`` at
n+K+1; an uploaded picture, which has no draft rows, skips the same K.

Shapes: N ids, T text rows, S spans, K scales, p side of the last, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hart.schedule import ScaleSchedule
from hart.tokens import HybridTokens
from vlm.config import HartVLMConfig

RESIDUAL_DTYPE = torch.float16
"""Residuals are rounded to this before their first use, so that a saved stream replays exactly."""

NO_LABEL = -100


@dataclass(frozen=True)
class Conversation:
    """ids: (N,) int64. residuals: (S, p², C) float16, one per span. assistant: (N,) bool, what is learnt."""

    ids: Tensor
    residuals: Tensor
    assistant: Tensor

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.assistant.shape != self.ids.shape or self.residuals.ndim != 3:
            raise ValueError(
                "expected ids (N,), assistant (N,) and residuals (S, p², C), got "
                f"{tuple(self.ids.shape)}, {tuple(self.assistant.shape)}, {tuple(self.residuals.shape)}"
            )
        if self.residuals.dtype != RESIDUAL_DTYPE:
            raise ValueError(f"residuals must be rounded to {RESIDUAL_DTYPE}, got {self.residuals.dtype}")

    def fingerprint(self) -> str:
        """SHA-256 over ids and residuals, hexadecimal."""
        digest = hashlib.sha256(self.ids.numpy().tobytes())
        digest.update(self.residuals.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @staticmethod
    def cat(pieces: Sequence[Conversation]) -> Conversation:
        """Pieces of stream, one after another. Raises ValueError when there is none."""
        if not pieces:
            raise ValueError("expected at least one piece of stream, got none")
        return Conversation(
            torch.cat([piece.ids for piece in pieces]),
            torch.cat([piece.residuals for piece in pieces]),
            torch.cat([piece.assistant for piece in pieces]),
        )

    def save(self, path: str | Path) -> None:
        """Write as safetensors."""
        save_file(
            {"ids": self.ids, "residuals": self.residuals.contiguous(), "assistant": self.assistant}, path
        )

    @staticmethod
    def load(path: str | Path) -> Conversation:
        """Read what `save` wrote. Raises ValueError when tensors are missing."""
        tensors = load_file(path)
        if set(tensors) != {"ids", "residuals", "assistant"}:
            raise ValueError(f"{path}: expected ids, residuals and assistant, got {sorted(tensors)}")
        return Conversation(**tensors)


@dataclass(frozen=True)
class Rows:
    """What a conversation means to the towers.

    text_ids, text_positions, text_order, text_index, labels: (T,) int64. text_index is the place in `ids`;
    labels are the next id where the assistant wrote it (``<|boi|>`` included), else -100.
    codes: (S, total); span_positions, span_order, span_index: (S,) int64; drawn: (S,) bool, written by the
    assistant.
    length: the position after the last row.
    """

    text_ids: Tensor
    text_positions: Tensor
    text_order: Tensor
    text_index: Tensor
    labels: Tensor
    codes: Tensor
    span_positions: Tensor
    span_order: Tensor
    span_index: Tensor
    drawn: Tensor
    length: int


def parse(conversation: Conversation, config: HartVLMConfig) -> Rows:
    """Read a stream. Raises ValueError on a torn span, an id out of range, or residuals that do not match."""
    ids = conversation.ids
    total, scales = config.codes_per_picture, len(config.scales)
    spans = _span_starts(ids, config)
    residual_shape = (len(spans), config.scales[-1] ** 2, config.latent_channels)
    if tuple(conversation.residuals.shape) != residual_shape:
        raise ValueError(f"expected residuals {residual_shape}, got {tuple(conversation.residuals.shape)}")

    is_code = ids >= config.text_vocab_size
    is_boi = ids == config.boi_id
    steps = torch.where(is_boi, scales + 1, 1).masked_fill(is_code, 0)
    positions = steps.cumsum(0) - steps
    turns = (~is_code).long()
    order = turns.cumsum(0) - turns

    following = torch.full_like(ids, NO_LABEL)
    following[:-1] = torch.where(conversation.assistant[1:], ids[1:], NO_LABEL)
    text_index = (~is_code & ~is_boi).nonzero().flatten()
    code_index = spans[:, None] + 1 + torch.arange(total)
    return Rows(
        text_ids=ids[text_index],
        text_positions=positions[text_index],
        text_order=order[text_index],
        text_index=text_index,
        labels=following[text_index],
        codes=ids[code_index] - config.text_vocab_size,
        span_positions=positions[spans],
        span_order=order[spans],
        span_index=spans,
        drawn=conversation.assistant[spans],
        length=int(steps.sum()),
    )


def written(ids: Tensor, residual: Tensor | None, config: HartVLMConfig, learnt: bool = True) -> Conversation:
    """Ids (N,) as a piece of stream: text, or one whole span with its residual (1, p², C)."""
    if residual is None:
        residual = torch.zeros(0, config.scales[-1] ** 2, config.latent_channels, dtype=RESIDUAL_DTYPE)
    return Conversation(ids, residual, torch.full((len(ids),), learnt))


def span_ids(tokens: HybridTokens, config: HartVLMConfig) -> Tensor:
    """One picture (a batch of one) as the ids of its span, ``<|boi|>`` and ``<|eoi|>`` included."""
    codes = tokens.flat_codes()[0].cpu() + config.text_vocab_size
    return torch.cat([torch.tensor([config.boi_id]), codes, torch.tensor([config.eoi_id])])


def span_tokens(conversation: Conversation, rows: Rows, config: HartVLMConfig) -> list[HybridTokens]:
    """The pictures of a conversation, each a batch of one."""
    schedule = ScaleSchedule(config.scales)
    pairs = zip(rows.codes, conversation.residuals, strict=True)
    return [HybridTokens.from_flat(codes[None], residual[None], schedule) for codes, residual in pairs]


def blank_picture(config: HartVLMConfig) -> HybridTokens:
    """A picture, a batch of one, that only holds the place of one that is yet to be encoded."""
    schedule = ScaleSchedule(config.scales)
    codes = torch.zeros(1, config.codes_per_picture, dtype=torch.long)
    return HybridTokens.from_flat(codes, torch.zeros(1, schedule.last**2, config.latent_channels), schedule)


def round_residual(residual: Tensor) -> Tensor:
    """Any float residual → the stored dtype, on the CPU."""
    return residual.detach().to(device="cpu", dtype=RESIDUAL_DTYPE)


def _span_starts(ids: Tensor, config: HartVLMConfig) -> Tensor:
    limit = config.text_vocab_size + config.code_vocab_size
    if ids.numel() == 0 or int(ids.min()) < 0 or int(ids.max()) >= limit:
        raise ValueError(f"expected at least one id, all in [0, {limit}), got {ids.numel()} ids")
    total = config.codes_per_picture
    spans = (ids == config.boi_id).nonzero().flatten()
    if len(spans) == 0:
        whole = not bool((ids >= config.text_vocab_size).any() or (ids == config.eoi_id).any())
    else:
        whole = int(spans[-1]) + total + 1 < len(ids)
        if whole:
            inside = ids[spans[:, None] + 1 + torch.arange(total)] >= config.text_vocab_size
            closed = ids[spans + total + 1] == config.eoi_id
            codes = int((ids >= config.text_vocab_size).sum())
            ends = int((ids == config.eoi_id).sum())
            whole = bool(inside.all() and closed.all()) and codes == total * len(spans) and ends == len(spans)
    if not whole:
        raise ValueError(f"torn span: expected <|boi|>, {total} codes, <|eoi|> for each picture")
    return spans
