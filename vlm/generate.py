"""Generation: a prompt in, typed events out, until the turn ends, the budget is spent or the user cancels.

Knows the order of text and pictures and when to stop. Does not know how rows are computed (`vlm.session`) or
what consumers do with events. One seed, one generator, one result.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessorList

from hart.tokens import HybridTokens
from vlm.events import Event, Finished, ImageDone, ImagePreview, ImageStarted, Reason, TextDelta
from vlm.model import HartVLM
from vlm.processor import StreamProcessor, to_picture
from vlm.sampling import GenerationOptions, draw
from vlm.session import StreamSession
from vlm.stream import Conversation, parse
from vlm.structure import StructureProcessor


def generate(
    model: HartVLM,
    processor: StreamProcessor,
    prompt: Conversation,
    options: GenerationOptions | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Event]:
    """Answer `prompt` (encoded with ``add_generation_prompt=True``) as events, `Finished` the last.

    cancel: when set, the stream ends at the next event or step with reason "cancelled" and its cache is
    freed; closing the iterator frees it as well. Raises ValueError, before any event, on options or a prompt
    that do not fit.
    """
    options = options or GenerationOptions()
    options.check_scales(model.config)
    length = parse(prompt, model.config).length
    limit = model.config.text_tower.max_position_embeddings
    if length >= limit:
        raise ValueError(f"the prompt takes {length} positions, expected fewer than {limit}")
    return _events(model, processor, prompt, options, cancel or threading.Event())


def _events(
    model: HartVLM,
    processor: StreamProcessor,
    prompt: Conversation,
    options: GenerationOptions,
    cancel: threading.Event,
) -> Iterator[Event]:
    session = StreamSession(model)
    try:
        reason = yield from answer_events(session, processor, session.feed(prompt), options, cancel)
        conversation = session.conversation()
    finally:
        session.close()
    yield Finished(reason, conversation)


def answer_events(
    session: StreamSession,
    processor: StreamProcessor,
    logits: torch.Tensor,
    options: GenerationOptions,
    cancel: threading.Event,
    generator: torch.Generator | None = None,
) -> Generator[Event, None, Reason]:
    """Write an answer into a session that was fed its prompt; yields all events but `Finished`, returns its reason.

    logits: (1, text vocab), what `session.feed` returned. generator: of all draws, by default made of the seed. The
    session stays open.
    """
    model = session.model
    config = model.config
    generator = generator or torch.Generator().manual_seed(options.seed)
    structure = LogitsProcessorList([StructureProcessor(processor.tokenizer, config)])
    text = TextAssembler(processor)
    answer: list[int] = []
    pictures = 0
    reason: Reason = "length"
    room = config.text_tower.max_position_embeddings - len(config.scales) - 2
    while len(answer) - pictures < options.max_new_tokens and session.position < room:
        if cancel.is_set():
            reason = "cancelled"
            break
        so_far: Any = torch.tensor([answer], dtype=torch.long)
        scores = structure(so_far, logits.float())
        index = int(draw(scores, options.text_warpers(), generator))
        if index == config.turn_end_id:
            session.end_turn(index)
            reason = "stop"
            break
        if index != config.boi_id:
            answer.append(index)
            # First into the stream, then to the reader: an answer that is cut off holds all that was shown of it.
            logits = session.text(index)
            if delta := text.add(index):
                yield TextDelta(delta)
            continue
        if delta := text.flush():
            yield TextDelta(delta)
        if (yield from picture_events(session, options, generator, cancel, pictures)):
            reason = "cancelled"
            break
        answer += [config.boi_id, config.eoi_id]
        pictures += 1
        logits = session.last_logits
    if delta := text.flush():
        yield TextDelta(delta)
    return reason


def picture_events(
    session: StreamSession,
    options: GenerationOptions,
    generator: torch.Generator,
    cancel: threading.Event,
    index: int,
) -> Generator[Event, None, bool]:
    """Draw one span into a session; yields the events of picture `index`, returns True when cancelled on the way."""
    model = session.model
    scales = len(model.config.scales)
    yield ImageStarted(index, scales)
    if cancel.is_set():
        return True
    for drawn in session.draw_scales(options, generator):
        preview = _decode(model, drawn.latent) if options.previews else None
        yield ImagePreview(index, drawn.scale, scales, preview)
        if cancel.is_set():
            return True
    tokens = session.last_tokens
    yield ImageDone(index, decode_picture(model, tokens), tokens)
    return False


@torch.no_grad()
def decode_picture(model: HartVLM, tokens: HybridTokens) -> Image.Image:
    """The RGB picture of its tokens (a batch of one), the same to the byte each time."""
    return _decode(model, model.image_tokenizer.quantizer.latent(tokens.to(model.code_head.weight.device)))


@torch.no_grad()
def _decode(model: HartVLM, latent: torch.Tensor) -> Image.Image:
    return to_picture(model.image_tokenizer.decode_latent(latent)[0])


class TextAssembler:
    """Ids of text → text, holding back what may still become a character of several bytes."""

    def __init__(self, processor: StreamProcessor) -> None:
        self.processor = processor
        self.pending: list[int] = []

    def add(self, index: int) -> str:
        """The text that is certain with this id; "" while a character is incomplete."""
        self.pending.append(index)
        text = self.processor.decode_text(self.pending)
        # A character has at most four bytes, so four ids cannot be an unfinished one.
        if text.endswith("\ufffd") and len(self.pending) < 4:
            return ""
        self.pending = []
        return text

    def flush(self) -> str:
        """Whatever is held back, incomplete or not."""
        text = self.processor.decode_text(self.pending) if self.pending else ""
        self.pending = []
        return text
