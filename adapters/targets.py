"""Which modules an adapter changes, from plain words: "text", "image", "residual", "decoder".

Knows the names of HartVLM's modules. Names are always spelt out, never matched by a pattern, so that no layer is
changed that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vlm.errors import UserError
from vlm.model import HartVLM

PLACES: dict[str, tuple[str, ...]] = {
    # The LM head and the embedding stay out: they are often tied, and merging would part them.
    "text": ("text.model.layers",),
    "image": ("image.layers", "latent_projection", "picture_projection", "code_head"),
    "residual": ("residual_head", "code_projection"),
    # How tokens become pixels. The tokenizer's other half stays: what a code means is the same with every adapter.
    "decoder": ("image_tokenizer.decoder",),
}
"""Word → modules under whose names all linear layers and convolutions are taken."""


def parse_places(words: str | Sequence[str]) -> tuple[str, ...]:
    """ "text, image" → ("text", "image"), in the order of `PLACES`, each once. Raises `UserError` on another word."""
    found = [word.strip() for word in words.split(",")] if isinstance(words, str) else list(words)
    unknown = [word for word in found if word not in PLACES]
    if unknown or not found:
        got = repr(unknown[0]) if unknown else "nothing"
        raise UserError(f"cannot train {got}, expected some of {', '.join(PLACES)}, with commas between")
    return tuple(word for word in PLACES if word in found)


def target_names(model: HartVLM, places: Sequence[str]) -> list[str]:
    """The full names of the layers of these places, in the model's order. Raises `UserError` on another word."""
    prefixes = [prefix for place in parse_places(places) for prefix in PLACES[place]]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        and any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
    ]
