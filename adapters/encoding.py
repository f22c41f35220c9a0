"""Examples as the model sees them: how long each is, whether it fits, and its stream, kept on disk.

Knows processors and streams. Does not know where examples come from or how they are learnt.

A picture is put whole on a square of the model's paper colour (see `vlm.processor`), so any size and aspect fits.
Streams are computed once per example and base; each is a file of its own, so that an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from adapters.disk import writing
from adapters.examples import Example, Fault, opened
from vlm.errors import GuideError, UserError
from vlm.generate import decode_picture
from vlm.guide import PICTURE, parse_guide
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.stream import Conversation, blank_picture, parse, span_tokens
from vlm.training.cache import ConversationCache, weights_hash
from vlm.training.conversations import conversation_sample

REHEARSED = ("guide", "talk", "guide", "words", "guide", "chat")
"""Kinds of the conversations that are rehearsed, in turn, see `vlm.training.conversations`."""


@dataclass(frozen=True)
class Size:
    """What an example takes. text: ids of text; positions: of the context, pictures included."""

    text: int
    pictures: int
    positions: int


def measure(example: Example, processor: StreamProcessor) -> Size:
    """The size of an example, without opening its pictures."""
    config = processor.config
    blank = blank_picture(config)
    messages = [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "tokens": blank} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in example.messages
    ]
    rows = parse(processor.encode(messages), config)
    return Size(len(rows.text_ids), len(rows.codes), rows.length)


def misfits(examples: Sequence[Example], processor: StreamProcessor) -> Iterator[Fault]:
    """The examples that are longer than the model's context."""
    limit = processor.config.text_tower.max_position_embeddings
    for example in examples:
        size = measure(example, processor)
        if size.positions > limit:
            yield Fault(
                example.place,
                f"takes {size.positions:,} positions ({size.text:,} of text, {size.pictures} pictures), the model has "
                f"{limit:,}; shorten it",
            )


def oddities(example: Example) -> Iterator[str]:
    """What is allowed and yet will not come out as it went in: answers that look like guides and are none."""
    for message in example.messages:
        if message["role"] != "assistant":
            continue
        text = "".join(part["text"] if part["type"] == "text" else f"\n{PICTURE}\n" for part in message["content"])
        if not text.startswith("# "):
            continue
        try:
            parse_guide(text)
        except GuideError as error:
            yield f"the answer begins like a guide and is none ({error}); the model only writes whole guides"


def open_cache(root: Path, model: HartVLM, processor: StreamProcessor) -> ConversationCache:
    """A cache of streams for this base: another tokenizer, vocabulary or paper has another folder."""
    parts = {name: weights_hash(getattr(model.image_tokenizer, name)) for name in ("encoder", "quantizer")}
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    return ConversationCache(root, {**parts, "vocabulary": vocabulary, "paper": processor.background, "version": 1})


def encode_examples(
    examples: Sequence[Example],
    model: HartVLM,
    processor: StreamProcessor,
    cache: ConversationCache,
    on_done: Callable[[int], None] | None = None,
) -> list[Conversation]:
    """The streams of examples, from the cache where it has them. on_done: told how many are done.

    Raises `UserError`, naming the place, for a picture that cannot be opened.
    """
    done = []
    for number, example in enumerate(examples, start=1):
        try:
            name = f"example-{example.name()}"
            kept = cache.load(name)
            if kept is None:
                kept = [processor.encode(opened(example, processor.background), model.image_tokenizer)]
                _keep(cache, name, kept)
        except UserError as error:
            raise UserError(f"{example.place}: {error}") from error
        done += kept
        if on_done is not None:
            on_done(number)
    return done


def rehearsal(
    count: int, seed: int, model: HartVLM, processor: StreamProcessor, cache: ConversationCache
) -> list[Conversation]:
    """Conversations of the flatpack world, which the bundled model knows, to keep it from forgetting them.

    Half of them are illustrated guides: where few of those are rehearsed, guides take the adapter's style unasked.
    """
    found = []
    for number in range(count):
        kind = REHEARSED[number % len(REHEARSED)]
        name = f"rehearsal-{seed}-{number}-{kind}"
        kept = cache.load(name)
        if kept is None:
            kept = [_world_conversation(number, seed, kind, model, processor)]
            _keep(cache, name, kept)
        found += kept
    return found


def shown(conversation: Conversation, processor: StreamProcessor) -> str:
    """A stream in words, special tokens by name, each picture as one mark; what is learnt stands between ⟦ and ⟧."""
    config = processor.config
    rows = parse(conversation, config)
    place = dict(zip(rows.text_index.tolist(), rows.text_ids.tolist(), strict=True))
    pieces: list[str] = []
    pending: list[int] = []
    learnt = False

    def flush() -> None:
        if pending:
            pieces.append(str(processor.tokenizer.decode(pending, skip_special_tokens=False)))
            pending.clear()

    for index, value in enumerate(conversation.ids.tolist()):
        if bool(conversation.assistant[index]) != learnt:
            flush()
            learnt = not learnt
            pieces.append("⟦" if learnt else "⟧")
        if value == config.boi_id:
            flush()
            pieces.append(f"<|boi|>[picture of {config.codes_per_picture} codes]")
        elif index in place:
            pending.append(value)
    flush()
    return "".join(pieces) + ("⟧" if learnt else "")


def picture_sheet(
    conversation: Conversation, example: Example, model: HartVLM, processor: StreamProcessor
) -> Image.Image:
    """The example's pictures as they are fitted (above) and as the model's tokens give them back (below)."""
    fitted = [
        processor.fit(part["image"])
        for message in opened(example, processor.background)
        for part in message["content"]
        if part["type"] == "image"
    ]
    tokens = span_tokens(conversation, parse(conversation, model.config), model.config)
    return sheet([fitted, [decode_picture(model, one) for one in tokens]], processor)


def sheet(rows: Sequence[Sequence[Image.Image]], processor: StreamProcessor) -> Image.Image:
    """Rows of pictures at the model's resolution as one picture."""
    size = processor.resolution
    page = Image.new("RGB", (max([1, *map(len, rows)]) * size, max(1, len(rows)) * size), processor.background)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            page.paste(image, (x * size, y * size))
    return page


def _keep(cache: ConversationCache, name: str, streams: Sequence[Conversation]) -> None:
    advice = "what is encoded so far is kept; make room, and the same command goes on"
    with writing(cache.folder, advice):
        cache.save(name, streams)


def _world_conversation(
    number: int, seed: int, kind: str, model: HartVLM, processor: StreamProcessor
) -> Conversation:
    sample = conversation_sample(number, processor.resolution, seed, kind=kind)
    pictures = iter(sample.pixels)
    messages = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [
                {"type": "image", "image": Image.fromarray(next(pictures))} if part["type"] == "image" else part
                for part in content
            ]
        messages.append({"role": message["role"], "content": content})
    return processor.encode(messages, model.image_tokenizer)
