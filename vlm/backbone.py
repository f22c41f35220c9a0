"""What conversations share: a model with its processor, and hooks by which adapters come in.

Knows who answers with which adapter, and whose decoder shows a picture. Does not know turns (`vlm.chat`) or peft.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from PIL import Image

from hart.tokens import HybridTokens
from vlm.errors import UserError
from vlm.flatpack.style import COLOURS
from vlm.generate import decode_picture
from vlm.model import HartVLM
from vlm.processor import StreamProcessor

UseAdapter = Callable[[HartVLM, str], AbstractContextManager[None]]
"""Switches a model to a named adapter for one answer. Raises `UserError`, when called, for a name it does not know."""


def no_adapters(model: HartVLM, name: str) -> AbstractContextManager[None]:
    """The hook while no adapters are loaded. Raises `UserError`."""
    raise UserError(f"no adapter is loaded, so {name!r} cannot be used; ask without an adapter, or load one first")


@dataclass(frozen=True)
class Speaker:
    """Who writes an answer: the model, or the model with an adapter.

    fingerprint: what it is known by. colours: those that its guides may name. outside: its own words where the model
    says that something is outside what it knows; None: the model's.
    """

    fingerprint: str
    colours: Collection[str] = tuple(COLOURS)
    outside: str | None = None


@dataclass(frozen=True)
class Backbone:
    """What sessions share: a model, its processor and fingerprint, the positions of context used, and hooks for
    adapters: one switches the model to a named adapter; the others tell who then speaks, and which model turns what was
    drawn with it, or without any, into pictures (`UserError` if it is unknown).
    """

    model: HartVLM
    processor: StreamProcessor
    fingerprint: str
    context: int
    use_adapter: UseAdapter = no_adapters
    speaker_of: Callable[[str], Speaker] | None = None
    decoding: Callable[[str | None], HartVLM] | None = None

    def speaker(self, adapter: str | None) -> Speaker:
        """Who writes an answer with an adapter (None: without any). One that is not here, as a conversation that was
        loaded may have used, is known by its name."""
        if adapter is None:
            return Speaker(self.fingerprint)
        try:
            return self.speaker_of(adapter) if self.speaker_of else Speaker(f"{self.fingerprint}+{adapter}")
        except UserError:
            return Speaker(f"{self.fingerprint}+{adapter}")

    def picture(self, tokens: HybridTokens, adapter: str | None) -> Image.Image:
        """A picture that was drawn with an adapter (None: without any), as pixels. One that is not here any more leaves
        it to the model's own image tokenizer."""
        if self.decoding is None:
            return decode_picture(self.model, tokens)
        try:
            drawer = self.decoding(adapter)
        except UserError:
            drawer = self.decoding(None)
        return decode_picture(drawer, tokens)
