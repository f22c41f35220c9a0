"""Generation without cache and without tricks: each step runs the whole stream through the training pass."""

from __future__ import annotations

import torch
from transformers import LogitsProcessorList

from hart.diffusion import sample_residual
from hart.tokens import HybridTokens
from vlm.batch import collate
from vlm.config import guidance_weights
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions, draw
from vlm.stream import Conversation, round_residual, span_ids
from vlm.structure import StructureProcessor


def run(built: HartVLM, conversation: Conversation, free: float):
    batch = collate(
        [conversation],
        built.config,
        generator=torch.Generator(),
        unconditional_probability=free,
        draft_uploads=True,
    )
    with torch.no_grad():
        return built.stream_pass(batch)


def append(
    conversation: Conversation, ids: torch.Tensor, residual: torch.Tensor | None = None
) -> Conversation:
    residuals = [conversation.residuals] + ([residual] if residual is not None else [])
    written = torch.ones(len(ids), dtype=torch.bool)
    return Conversation(
        torch.cat([conversation.ids, ids]), torch.cat(residuals), torch.cat([conversation.assistant, written])
    )


def naive_generate(
    built: HartVLM, processor: StreamProcessor, prompt: Conversation, options: GenerationOptions
) -> Conversation:
    config = built.config
    generator = torch.Generator().manual_seed(options.seed)
    structure = LogitsProcessorList([StructureProcessor(processor.tokenizer, config)])
    stream, answer, texts = prompt, [], 0
    while texts < options.max_new_tokens:
        logits = run(built, stream, 0.0).text_logits[-1:]
        index = int(draw(structure(torch.tensor([answer]).long(), logits), options.text_warpers(), generator))
        if index == config.boi_id:
            tokens = naive_picture(built, stream, options, generator)
            stream = append(stream, span_ids(tokens, config), tokens.residual)
            answer += [config.boi_id, config.eoi_id]
            texts += 1
            continue
        stream = append(stream, torch.tensor([index]))
        if index == config.turn_end_id:
            break
        answer.append(index)
        texts += 1
    return stream


def naive_picture(
    built: HartVLM, stream: Conversation, options: GenerationOptions, generator: torch.Generator
) -> HybridTokens:
    config = built.config
    guidance = config.guidance if options.guidance is None else options.guidance
    codes = [torch.zeros(1, side * side, dtype=torch.long) for side in config.scales]
    blank = torch.zeros(1, config.scales[-1] ** 2, config.latent_channels, dtype=torch.float16)
    at = [0, *torch.tensor([side * side for side in config.scales]).cumsum(0).tolist()]
    for scale, weight in enumerate(guidance_weights(guidance, len(config.scales))):
        # Codes not yet drawn are zeros; nothing of this scale may depend on them.
        whole = append(stream, span_ids(HybridTokens(tuple(codes), blank), config), blank)
        output = run(built, whole, 0.0)
        rows = slice(at[scale], at[scale + 1])
        logits = (1 + weight) * output.code_logits[-1, rows] - weight * run(built, whole, 1.0).code_logits[
            -1, rows
        ]
        codes[scale] = draw(logits, options.code_warpers(scale), generator)[None]
    condition = built.residual_condition(output.last_hidden[-1:], codes[-1])
    sample = sample_residual(
        built.residual_head,
        condition,
        generator=generator,
        steps=options.residual_steps or config.residual_steps,
        temperature=options.residual_temperature,
    )
    return HybridTokens(tuple(codes), round_residual(sample * config.residual_scale))
