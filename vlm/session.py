"""One stream at inference: cache, next position, ids and residuals so far, and the single steps over them.

Knows how rows of each kind enter and leave the cache. Does not know when to stop, events or messages.

A forward pass is of one kind. Text passes no mask (causal); draft and picture rows pass a 2-D mask of ones
over past and new rows, since their tower attends both ways. Positions are always explicit: after a picture
the defaults are wrong. Draft rows leave the cache when their span is done; its picture rows stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from hart.diffusion import sample_residual
from hart.tokens import HybridTokens
from vlm.config import guidance_weights
from vlm.model import HartVLM
from vlm.sampling import GenerationOptions, draw
from vlm.stream import Conversation, parse, round_residual, span_ids, span_tokens, written


@dataclass(frozen=True)
class Mark:
    """A place in a session to come back to: rows in the cache, next position, pieces of stream so far."""

    rows: int
    position: int
    pieces: int


@dataclass(frozen=True)
class DrawnScale:
    """One scale of a span. codes: (1, p_k²) on the CPU. latent: (1, C, p, p), accumulated up to it."""

    scale: int
    codes: Tensor
    latent: Tensor


class StreamSession:
    """One conversation over one cache. Not shared between threads; the model may be.

    Feed a conversation, then call `text` for each id, and `draw_scales` where the id is ``<|boi|>``.
    """

    def __init__(self, model: HartVLM) -> None:
        self.model = model
        self._cache: DynamicCache | None = self._new_cache()
        self.position = 0
        self._pieces: list[Conversation] = []

    @property
    def device(self) -> torch.device:
        """Where the model's rows live."""
        return self.model.code_head.weight.device

    @property
    def cache(self) -> DynamicCache:
        """The rows seen so far. Raises RuntimeError once the session is closed."""
        if self._cache is None:
            raise RuntimeError("the session is closed, its cache is gone")
        return self._cache

    @property
    def length(self) -> int:
        """Rows in the cache."""
        return int(self.cache.get_seq_length())

    def close(self) -> None:
        """Let go of the cache; the session cannot go on."""
        self._cache = None

    def conversation(self) -> Conversation:
        """All that was fed and generated, whole spans only."""
        return Conversation.cat(self._pieces)

    def pieces_since(self, mark: Mark) -> tuple[Conversation, ...]:
        """What was fed or generated after `mark`, whole spans only; may be empty."""
        return tuple(self._pieces[mark.pieces :])

    def mark(self) -> Mark:
        """The present place, for `rewind`."""
        return Mark(self.length, self.position, len(self._pieces))

    def rewind(self, mark: Mark) -> None:
        """Forget all rows after `mark`, those of a span that was never finished included."""
        if mark.rows == 0:
            self._cache = self._new_cache()
        else:
            # A negative count: crop removes that many rows.
            self.cache.crop(mark.rows - self.length)
        self.position = mark.position
        del self._pieces[mark.pieces :]

    def feed(self, conversation: Conversation) -> Tensor:
        """Run a whole conversation → the logits (1, text vocab) after its last id. Raises ValueError."""
        rows = parse(conversation, self.model.config)
        pictures = span_tokens(conversation, rows, self.model.config)
        logits, done = None, 0
        for start, tokens in zip([*rows.span_index.tolist(), None], [*pictures, None], strict=True):
            upto = len(rows.text_ids) if start is None else int((rows.text_index < start).sum())
            if upto > done:
                logits = self._text_rows(rows.text_ids[done:upto])
                done = upto
            if tokens is not None:
                self._picture_rows(tokens)
        if logits is None:
            raise ValueError("expected at least one id of text")
        self._pieces.append(conversation)
        return logits

    def text(self, index: int) -> Tensor:
        """One generated id of text → the logits (1, text vocab) after it."""
        logits = self._text_rows(torch.tensor([index]))
        self._record(torch.tensor([index]))
        return logits

    def end_turn(self, index: int) -> None:
        """Record the id that ends the turn; nothing follows, so nothing is computed."""
        self._record(torch.tensor([index]))

    def draw_scales(self, options: GenerationOptions, generator: torch.Generator) -> Iterator[DrawnScale]:
        """Open a span and draw its scales one by one; then draw the residual and close the span.

        Yields each scale as soon as its codes are known. When exhausted, the span is in the cache as picture
        rows, its tokens are `last_tokens`, and the logits after ``<|eoi|>`` are `last_logits`.
        """
        config, quantizer = self.model.config, self.model.image_tokenizer.quantizer
        count = len(config.scales)
        guidance = config.guidance if options.guidance is None else options.guidance
        weights = guidance_weights(guidance, count)
        caches = [self.cache] + ([self._new_cache()] if guidance > 0 else [])
        latent = quantizer.zeros(1)
        codes: list[Tensor] = []
        for scale in range(count):
            hidden, logits = self._draft_step(scale, latent, caches, weights[scale])
            chosen = draw(logits[0], options.code_warpers(scale), generator)[None]
            codes.append(chosen)
            with torch.no_grad():
                latent = quantizer.accumulate(latent, chosen.to(self.device), scale)
            yield DrawnScale(scale, chosen, latent)
        tokens = HybridTokens(tuple(codes), self.residual(hidden, codes[-1], options, generator))
        # A negative count: crop removes that many rows.
        self.cache.crop(-config.codes_per_picture)
        self._picture_rows(tokens)
        self._record(span_ids(tokens, config), tokens.residual)
        self.last_tokens = tokens
        self.last_logits = self._text_rows(torch.tensor([config.eoi_id]))

    @torch.no_grad()
    def _text_rows(self, ids: Tensor) -> Tensor:
        ids = ids.to(self.device)[None]
        positions = torch.arange(self.position, self.position + ids.shape[1], device=self.device)[None]
        output = self.model.text(
            input_ids=ids,
            position_ids=positions,
            attention_mask=None,
            cache=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.position += ids.shape[1]
        return output.logits[:, -1]

    @torch.no_grad()
    def _picture_rows(self, tokens: HybridTokens) -> None:
        tokens = tokens.to(self.device)
        latent = self.model.image_tokenizer.quantizer.latent(tokens)
        count = len(self.model.config.scales)
        self._image_rows(self.model.picture_rows(latent), self.position + count, self.cache)
        self.position += count + 1

    @torch.no_grad()
    def _draft_step(
        self, scale: int, latent: Tensor, caches: list[DynamicCache], weight: float
    ) -> tuple[Tensor, Tensor]:
        """Conditional hidden states (1, p_k², W') and guided logits (1, p_k², V) of one scale."""
        if scale == 0:
            rows = self.model.boi_rows(1)
        else:
            inputs = self.model.image_tokenizer.quantizer.scale_input(latent, scale)
            rows = self.model.draft_rows(inputs, slice(scale, scale + 1))
        hidden, *free = (self._image_rows(rows, self.position + scale, cache) for cache in caches)
        logits = self.model.code_head(hidden)
        if free:
            logits = (1 + weight) * logits - weight * self.model.code_head(free[0])
        return hidden, logits

    def _image_rows(self, rows: Tensor, position: int, cache: DynamicCache) -> Tensor:
        count = rows.shape[1]
        seen = int(cache.get_seq_length()) + count
        return self.model.image(
            inputs_embeds=rows,
            position_ids=torch.full((1, count), position, device=rows.device),
            attention_mask=torch.ones(1, seen, dtype=torch.long, device=rows.device),
            cache=cache,
            use_cache=True,
        ).last_hidden_state

    @torch.no_grad()
    def residual(
        self, hidden: Tensor, codes: Tensor, options: GenerationOptions, generator: torch.Generator
    ) -> Tensor:
        """Hidden states (1, p², W') and codes (1, p²) of the last scale → (1, p², C), a drawn residual in latent units,
        rounded to the stored dtype, on the CPU."""
        config = self.model.config
        sample = sample_residual(
            self.model.residual_head,
            self.model.residual_condition(hidden, codes.to(self.device)),
            generator=generator,
            steps=config.residual_steps if options.residual_steps is None else options.residual_steps,
            temperature=options.residual_temperature,
        )
        return round_residual(sample * config.residual_scale)

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config.text_tower)

    def _record(self, ids: Tensor, residual: Tensor | None = None) -> None:
        # One append for ids and residual together, so that an interrupt never leaves one without the other.
        self._pieces.append(written(ids, residual, self.model.config))
