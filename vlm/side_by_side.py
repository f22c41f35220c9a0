"""Several pictures at once: each prompt's words one after another, then all their spans in one batch, scale by scale.

Knows sessions and how their caches are laid side by side. Every picture has a generator of its own, so it does not
depend on its batch mates but for the rounding of larger matrices.

Shapes: B pictures, W' image width, V codes, p side of the last scale.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from hart.tokens import HybridTokens
from vlm.config import guidance_weights
from vlm.events import ImageStarted, TextDelta
from vlm.generate import answer_events
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions, draw
from vlm.session import StreamSession
from vlm.stream import Conversation


def draw_together(
    model: HartVLM, processor: StreamProcessor, prompts: Sequence[Conversation], options: Sequence[GenerationOptions]
) -> list[tuple[str, HybridTokens | None]]:
    """The words before the first picture of each answer, and that picture's tokens; None where none is drawn.

    prompts: encoded with ``add_generation_prompt=True``. options: one a prompt; their guidance must be the same.
    Raises ValueError when they do not match.
    """
    if len(prompts) != len(options) or len({one.guidance for one in options}) > 1:
        raise ValueError(f"expected {len(prompts)} options of one guidance, got {len(options)}")
    texts, opened = [], []
    for prompt, chosen in zip(prompts, options, strict=True):
        session, generator = StreamSession(model), torch.Generator().manual_seed(chosen.seed)
        text, draws = _words(session, processor, session.feed(prompt), chosen, generator)
        texts.append(text)
        opened.append((session, generator, chosen) if draws else None)
    tokens = iter(_spans([one for one in opened if one is not None]))
    return [(text, None if one is None else next(tokens)) for text, one in zip(texts, opened, strict=True)]


def _words(
    session: StreamSession,
    processor: StreamProcessor,
    logits: Tensor,
    options: GenerationOptions,
    generator: torch.Generator,
) -> tuple[str, bool]:
    """Write the answer up to its first picture → its text, and whether a picture follows."""
    text: list[str] = []
    for event in answer_events(session, processor, logits, options, threading.Event(), generator):
        if isinstance(event, ImageStarted):
            # Nothing of the span is run or drawn yet: session and generator stand just before it.
            return "".join(text), True
        if isinstance(event, TextDelta):
            text.append(event.text)
    return "".join(text), False


@torch.no_grad()
def _spans(opened: Sequence[tuple[StreamSession, torch.Generator, GenerationOptions]]) -> list[HybridTokens]:
    """The spans of sessions that stand before one, scale by scale in one batch."""
    if not opened:
        return []
    sessions, generators, options = zip(*opened, strict=True)
    model, device = sessions[0].model, sessions[0].device
    config, quantizer = model.config, model.image_tokenizer.quantizer
    guidance = config.guidance if options[0].guidance is None else options[0].guidance
    weights = guidance_weights(guidance, len(config.scales))
    start = torch.tensor([session.position for session in sessions], device=device)
    cache, seen = _side_by_side([session.cache for session in sessions])
    branches = [(cache, seen)]
    if guidance > 0:
        branches.append((DynamicCache(config=config.text_tower), seen[:, :0]))
    latent = quantizer.zeros(len(sessions))
    codes: list[Tensor] = []
    for scale in range(len(config.scales)):
        if scale == 0:
            rows = model.boi_rows(len(sessions))
        else:
            rows = model.draft_rows(quantizer.scale_input(latent, scale), slice(scale, scale + 1))
        hidden = []
        for number, (cache, seen) in enumerate(branches):
            seen = torch.cat([seen, seen.new_ones(len(sessions), rows.shape[1])], dim=1)
            branches[number] = (cache, seen)
            hidden.append(
                model.image(
                    inputs_embeds=rows,
                    position_ids=(start[:, None] + scale).expand(-1, rows.shape[1]),
                    attention_mask=seen,
                    cache=cache,
                    use_cache=True,
                ).last_hidden_state
            )
        logits = model.code_head(hidden[0])
        if guidance > 0:
            logits = (1 + weights[scale]) * logits - weights[scale] * model.code_head(hidden[1])
        drawn = [
            draw(one, chosen.code_warpers(scale), generator)
            for one, chosen, generator in zip(logits, options, generators, strict=True)
        ]
        codes.append(torch.stack(drawn))
        latent = quantizer.accumulate(latent, codes[-1].to(device), scale)
    result = []
    for index, (session, generator, chosen) in enumerate(opened):
        one = slice(index, index + 1)
        residual = session.residual(hidden[0][one], codes[-1][one], chosen, generator)
        result.append(HybridTokens(tuple(scale[one] for scale in codes), residual))
    return result


def _side_by_side(caches: Sequence[DynamicCache]) -> tuple[DynamicCache, Tensor]:
    """Caches of one stream each → one of all, padded on the left, and the mask (B, rows) of what is no padding."""
    lengths = [int(cache.get_seq_length()) for cache in caches]
    longest = max(lengths)
    joined = DynamicCache()
    for number in range(len(caches[0].layers)):
        keys, values = (
            torch.cat(
                [
                    torch.nn.functional.pad(getattr(cache.layers[number], name), (0, 0, longest - length, 0))
                    for cache, length in zip(caches, lengths, strict=True)
                ]
            )
            for name in ("keys", "values")
        )
        joined.update(keys, values, number)
    columns = torch.arange(longest, device=keys.device)
    padding = torch.tensor([longest - length for length in lengths], device=keys.device)
    return joined, (columns >= padding[:, None]).long()
