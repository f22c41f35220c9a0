"""Batches of conversations: text and rows are made in the loader's workers, pictures are encoded by the model later.

Knows samples, streams and rows; knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from vlm.batch import StreamBatch, collate
from vlm.processor import StreamProcessor
from vlm.stream import Conversation, blank_picture
from vlm.training.cache import ConversationCache
from vlm.training.conversations import KINDS, Sample, conversation_sample


@dataclass(frozen=True)
class MixSettings:
    """Shares of the batches of each kind, see `conversation_sample`; they need not add up to 1.

    All conversations of a batch are of one kind, and so of like lengths: attention is padded to the longest.
    """

    guide: float = 0.45
    words: float = 0.1
    talk: float = 0.3
    chat: float = 0.15

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares) < 0 or not sum(shares):
            raise ValueError(f"the mix needs shares of at least 0 and one of them above; got {self}")

    def shares(self) -> tuple[float, ...]:
        """In the order of `KINDS`."""
        return tuple(getattr(self, kind) for kind in KINDS)


WIDER = {"guide": 1, "words": 4, "talk": 4, "chat": 2}
"""How many times the batch size a batch of each kind holds: a turn costs a fraction of an illustrated guide."""


@dataclass(frozen=True)
class Batch:
    """Conversations of one kind as rows; pictures are blank where `pixels`, (P, H, W, 3) uint8, are to be encoded.

    streams: the conversations themselves, where they are to be cached.
    """

    kind: str
    name: str
    rows: StreamBatch
    pixels: Tensor | None = None
    streams: tuple[Conversation, ...] = ()


class Batches(IterableDataset):
    """Batches from number `start` on: text and rows are made here, in the workers; the model encodes the pictures."""

    def __init__(
        self,
        mix: MixSettings,
        seed: int,
        draft_spans: int,
        processor: StreamProcessor,
        cache: ConversationCache | None,
        start: int,
        batch_size: int,
        rank: int,
        world: int,
    ) -> None:
        self.mix, self.seed, self.draft_spans, self.processor, self.cache = mix, seed, draft_spans, processor, cache
        self.start, self.batch_size, self.rank, self.world = start, batch_size, rank, world

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        batch = self.start + first
        while True:
            seed = self.seed
            place = batch * self.world + self.rank
            # By the batch's number alone: every process takes the same kind at a time.
            kind = random.Random(f"{seed}:{batch}:kind").choices(KINDS, self.mix.shares())[0]
            count = self.batch_size * WIDER[kind]
            name = f"{kind}-{count}-{place:08d}"
            generator = torch.Generator().manual_seed(random.Random(f"{seed}:{place}:rows").getrandbits(48))
            known = self.cache.load(name) if self.cache else None
            if known:
                config, spans = self.processor.config, self.draft_spans
                yield Batch(kind, name, collate(known, config, generator=generator, max_draft_spans=spans))
            else:
                size = self.processor.resolution
                samples = [conversation_sample(place * count + i, size, seed, kind=kind) for i in range(count)]
                made = unencoded(kind, name, samples, self.processor, generator, self.draft_spans)
                # Tensors cross between processes one file each: only what is needed.
                yield made if self.cache else replace(made, streams=())
            batch += stride


def unencoded(
    kind: str,
    name: str,
    samples: Sequence[Sample],
    processor: StreamProcessor,
    generator: torch.Generator,
    draft_spans: int,
) -> Batch:
    """Samples as a batch whose pictures are yet to be encoded."""
    config = processor.config
    blank = {"type": "image", "tokens": blank_picture(config)}
    streams = []
    for sample in samples:
        messages = []
        for message in sample.messages:
            content = message["content"]
            if not isinstance(content, str):
                content = [part if part["type"] == "text" else blank for part in content]
            messages.append({"role": message["role"], "content": content})
        streams.append(processor.encode(messages))
    rows = collate(streams, config, generator=generator, max_draft_spans=draft_spans)
    pixels = torch.from_numpy(np.concatenate([sample.pixels for sample in samples]))
    return Batch(kind, name, rows, pixels, tuple(streams))


def filled(streams: Sequence[Conversation], rows: StreamBatch, text_vocab_size: int) -> list[Conversation]:
    """Streams with blank pictures, and the codes and residuals of these → the streams themselves."""
    ids = torch.cat([stream.ids for stream in streams])
    ids[ids >= text_vocab_size] = rows.codes.cpu().flatten() + text_vocab_size
    residuals = rows.residuals.cpu().split([len(stream.residuals) for stream in streams])
    parts = ids.split([len(stream.ids) for stream in streams])
    return [Conversation(*one) for one in zip(parts, residuals, (s.assistant for s in streams), strict=True)]
