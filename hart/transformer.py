"""HART's transformer: from a prompt's hidden states to the codes of a picture, all rows of a scale at once.

Knows: input rows, what each row sees, one pass with or without a cache. Does not know: where hidden states come
from, how codes are chosen, files. Source: HART (arXiv 2410.10812), every switch as in its public release.

Shapes: B batch, L context rows, N new rows, D width, C latent channels, V codes, p_k side
of scale k. Scale 0 is predicted by the last context row, so a picture's first rows are those of scale 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from hart.config import TransformerConfig
from hart.diffusion import ResidualHead, TimeEmbedding
from hart.layers import Block, HeadNorm, LayerCache, Modulation
from hart.rotary import context_angles, image_angles, rotation
from hart.schedule import ScaleSchedule

BACKENDS = ("sdpa", "eager")


@dataclass(frozen=True)
class Context:
    """A batch of prompts as the transformer takes them.

    hidden: (B, L, W) hidden states of the language model. mask: (B, L) int64, 1 for a real token; it is used
    for averages only, padding is seen like any row. positions: (B, L) int64.
    """

    hidden: Tensor
    mask: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        if self.hidden.ndim != 3 or {self.mask.shape, self.positions.shape} != {self.hidden.shape[:2]}:
            raise ValueError(
                "expected hidden states (B, L, W), a mask (B, L) and positions (B, L), got "
                f"{tuple(self.hidden.shape)}, {tuple(self.mask.shape)} and {tuple(self.positions.shape)}"
            )

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def to(self, device: torch.device | str) -> Context:
        """The same on another device."""
        return Context(self.hidden.to(device), self.mask.to(device), self.positions.to(device))

    def with_unconditional(self) -> Context:
        """Twice the batch: these prompts, then as many empty ones (zeros; only position 0 is in the mask)."""
        nothing = torch.zeros_like(self.mask)
        nothing[:, 0] = 1
        return Context(
            torch.cat([self.hidden, torch.zeros_like(self.hidden)]),
            torch.cat([self.mask, nothing]),
            torch.cat([self.positions, torch.zeros_like(self.positions)]),
        )


@dataclass(frozen=True)
class Conditioning:
    """All that a prompt fixes before the first scale.

    rows: (B, L, D) context rows with their level. turn: their rotation. offset: (B,) position at which the
    picture begins. layers: one modulation per layer, or None. head: scale and shift, (B, 1, D), of the head.
    """

    rows: Tensor
    turn: tuple[Tensor, Tensor]
    offset: Tensor
    layers: tuple[Modulation | None, ...]
    head: tuple[Tensor, Tensor]


class HartTransformer(nn.Module):
    """Next-scale prediction from a prompt. :meth:`condition` once, then :meth:`run` per scale or in one pass.

    Module names are the public release's where it has a plain one; ``hart.release`` maps the rest.
    """

    def __init__(self, config: TransformerConfig, backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.schedule = ScaleSchedule(config.sides)
        self.word_embed = nn.Linear(config.channels, config.width)
        self.context_norm: nn.Module = nn.Identity()
        if config.context_norm:
            self.context_norm = nn.RMSNorm(config.context_width, eps=config.norm_eps)
        self.context_embed = nn.Linear(config.context_width, config.width)
        self.level_embedding: nn.Module = TimeEmbedding(config.width)
        if config.level_embedding == "table":
            self.level_embedding = nn.Embedding(len(config.sides), config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_norm = HeadNorm(config)
        self.head = nn.Linear(config.width, config.vocab_size)
        self.residual_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.residual_head = ResidualHead(
            config.channels, config.width, config.residual_width, config.residual_depth
        )
        self.set_backend(backend)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, in which rows are computed."""
        return self.head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def set_backend(self, backend: str) -> None:
        """Compute attention with "sdpa" (torch's own) or "eager" (plain products). Raises ValueError."""
        if backend not in BACKENDS:
            raise ValueError(f"the attention backend must be one of {BACKENDS}, got {backend!r}")
        for layer in self._layers:
            layer.attn.backend = backend

    def condition(self, context: Context) -> Conditioning:
        """Embed a batch of prompts, wherever they are. Raises ValueError when their shape is not the model's."""
        config = self.config
        context = context.to(self.device)
        if context.hidden.shape[1:] != (config.context_tokens, config.context_width):
            raise ValueError(
                f"expected a context (B, {config.context_tokens}, {config.context_width}), "
                f"got {tuple(context.hidden.shape)}"
            )
        embedded = self.context_embed(self.context_norm(context.hidden.to(self.dtype)))
        highest = embedded.amax(dim=1)
        pooled = None
        if config.modulation == "per_layer" and config.pooling == "max":
            pooled = highest
        elif config.modulation != "none":
            pooled = _masked_mean(embedded, context.mask)
        return Conditioning(
            rows=embedded + self._level(0),
            turn=rotation(context_angles(context.positions, config.head_width)),
            offset=context.positions[:, -1],
            layers=tuple(layer.modulation(pooled) for layer in self._layers),
            head=self.head_norm.modulation(highest),
        )

    def image_rows(self, inputs: Tensor, scale: int) -> Tensor:
        """The accumulated latent at the grid of ``scale``, (B, p_k², C), as input rows (B, p_k², D)."""
        return self.word_embed(inputs.to(self.dtype)) + self._level(scale)

    def image_turn(
        self, given: Conditioning, scale: int, schedule: ScaleSchedule | None = None
    ) -> tuple[Tensor, Tensor]:
        """The rotation of the rows of ``scale``; another schedule draws another size."""
        angles = image_angles(schedule or self.schedule, scale, given.offset, self.config.head_width)
        return rotation(angles)

    def run(
        self,
        rows: Tensor,
        turn: tuple[Tensor, Tensor],
        given: Conditioning,
        caches: Sequence[LayerCache] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """All layers over (B, N, D) rows. With caches, rows see all that is in them and one another.

        mask: (N, N) bool, True where row (first axis) sees row (second); None: all.
        """
        for i, layer in enumerate(self._layers):
            rows = layer(rows, given.layers[i], turn, None if caches is None else caches[i], mask)
        return rows

    def logits(self, hidden: Tensor, given: Conditioning) -> Tensor:
        """(B, N, D) of the last layer → (B, N, V) float32."""
        return self.head(self.head_norm(hidden, given.head)).float()

    def residual_condition(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """The last scale's rows (B, N, D) and their codes' embeddings (B, N, C) → the residual head's input."""
        return self.residual_norm(hidden + self.word_embed(embedded.to(self.dtype)))

    def forward(self, context: Context, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """One full pass over known codes, with the block-causal mask.

        inputs: (B, total - 1, C), :meth:`hart.quantizer.MultiScaleQuantizer.teacher_inputs`. Returns logits
        (B, total, V) of every scale, and the last scale's hidden rows (B, p_{K-1}², D).
        """
        given = self.condition(context)
        schedule, length = self.schedule, self.config.context_tokens
        parts = inputs.split(schedule.areas[1:], dim=1)
        rows = [given.rows, *(self.image_rows(part, k) for k, part in enumerate(parts, 1))]
        turns = [given.turn, *(self.image_turn(given, k) for k in range(1, schedule.count))]
        turn = (torch.cat([t[0] for t in turns], dim=2), torch.cat([t[1] for t in turns], dim=2))
        level = schedule.scale_of_row(inputs.device)[schedule.areas[0] :]
        level = torch.cat([level.new_zeros(length), level])
        hidden = self.run(torch.cat(rows, dim=1), turn, given, mask=level[:, None] >= level)
        hidden = hidden[:, length - 1 :]
        return self.logits(hidden, given), hidden[:, -schedule.areas[-1] :]

    @property
    def _layers(self) -> Iterable[Block]:
        return cast("Iterable[Block]", self.blocks)

    def _level(self, scale: int) -> Tensor:
        return self.level_embedding(torch.tensor([scale], device=self.device))


class ScaleSteps:
    """A batch of pictures in progress: one :meth:`step` per scale over caches of their own.

    ``scales``: how many will be run at most (None: all), which sizes the caches.
    """

    def __init__(
        self,
        model: HartTransformer,
        context: Context,
        schedule: ScaleSchedule | None = None,
        scales: int | None = None,
    ) -> None:
        self.model = model
        self.schedule = schedule or model.schedule
        self.given = model.condition(context)
        config = model.config
        count = self.schedule.count if scales is None else scales
        rows = config.context_tokens + sum(self.schedule.areas[1:count])
        self.caches = [
            LayerCache(len(context), config.heads, rows, config.head_width, self.given.rows)
            for _ in range(config.depth)
        ]
        self.scale = 0

    def step(self, inputs: Tensor | None = None) -> Tensor:
        """Run the next scale; inputs (B, p_k², C), none for scale 0. Returns hidden rows (B, p_k², D)."""
        scale, self.scale = self.scale, self.scale + 1
        if scale == 0:
            return self.model.run(self.given.rows, self.given.turn, self.given, self.caches)[:, -1:]
        if inputs is None:
            raise ValueError(f"scale {scale} needs the accumulated latent, got none")
        turn = self.model.image_turn(self.given, scale, self.schedule)
        return self.model.run(self.model.image_rows(inputs, scale), turn, self.given, self.caches)

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, N, V) float32 code logits of hidden rows."""
        return self.model.logits(hidden, self.given)


def _masked_mean(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) averaged over the rows in the mask (B, L) → (B, D)."""
    weight = mask[..., None].to(rows.dtype)
    return (rows * weight).sum(1) / weight.sum(1).clamp_min(1)
