"""Examples that are tested on and never learnt from: which ones, how well a model does on them, its pictures of them.

Knows names of examples, models and streams. Does not know adapters, training or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from adapters.encoding import sheet
from hart.losses import decoder_loss
from vlm.batch import collate
from vlm.errors import UserError
from vlm.generate import decode_picture
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.sampling import GenerationOptions
from vlm.session import StreamSession
from vlm.stream import Conversation, parse, span_tokens

SAMPLES = 4


def split(names: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold out, chosen by the names alone: of each at least one. Raises `UserError`."""
    if not 0 < share < 1:
        raise UserError(f"the held-out share is {share}, expected above 0 and below 1")
    distinct = sorted(set(names))
    if len(distinct) < 2:
        raise UserError(f"found {len(distinct)} different examples, expected at least 2: one to test on")
    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    # An example that is there twice is on one side only.
    kept = set(distinct[:count])
    return (
        [index for index, name in enumerate(names) if name not in kept],
        [index for index, name in enumerate(names) if name in kept],
    )


@torch.no_grad()
def held_out_losses(model: HartVLM, conversations: Sequence[Conversation]) -> dict[str, float]:
    """Mean losses and accuracies, teacher-forced, always with the same noise; weighed as the model's config says."""
    sums: dict[str, float] = {}
    for number, conversation in enumerate(conversations):
        generator = torch.Generator().manual_seed(number)
        rows = collate([conversation], model.config, generator=generator, unconditional_probability=0.0)
        for name, value in model(rows.to(model.device), generator).metrics().items():
            sums[name] = sums.get(name, 0.0) + value / len(conversations)
    return sums


@torch.no_grad()
def held_out_pictures(model: HartVLM, pictures: Sequence[Tensor]) -> dict[str, float]:
    """How well pictures, (3, H, W) in [-1, 1], come back from their tokens: "decoder", the loss that is trained, each
    picture drawn from codes alone and from the whole latent; "psnr" of the second in dB. {} without pictures."""
    if not pictures:
        return {}
    pixels = torch.stack(list(pictures)).to(model.device)
    generator = torch.Generator().manual_seed(0)
    _, parts = decoder_loss(model.image_tokenizer, torch.cat([pixels, pixels]), generator=generator)
    return {"decoder": parts["loss"], "psnr": parts["psnr_hybrid"]}


def held_out_samples(model: HartVLM, processor: StreamProcessor, conversations: Sequence[Conversation]) -> Image.Image:
    """A sheet of pictures: above drawn after what truly stands before them, below the true ones."""
    config = model.config
    options = GenerationOptions(seed=0, previews=False)
    drawn, true = [], []
    for conversation in conversations[:SAMPLES]:
        rows = parse(conversation, config)
        mine = rows.drawn.nonzero().flatten().tolist()
        if not mine:
            continue
        first = mine[-1]
        start = int(rows.span_index[first])
        session = StreamSession(model)
        session.feed(
            Conversation(conversation.ids[:start], conversation.residuals[:first], conversation.assistant[:start])
        )
        for _ in session.draw_scales(options, torch.Generator().manual_seed(0)):
            pass
        drawn.append(decode_picture(model, session.last_tokens))
        true.append(decode_picture(model, span_tokens(conversation, rows, config)[first]))
    return sheet([drawn, true], processor)
