"""What generation says while it runs: small frozen events, and the result they add up to.

Knows no model. Command line, demo and server consume these and nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from hart.tokens import HybridTokens
from vlm.stream import Conversation

Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TextDelta:
    """New text, never a part of a character."""

    text: str


@dataclass(frozen=True)
class ImageStarted:
    """Picture `index` (from 0, of this answer) begins; it will report `scales` scales."""

    index: int
    scales: int


@dataclass(frozen=True)
class ImagePreview:
    """Scale `scale` (from 0) of `scales` is drawn. `image` is its coarse picture, None without previews."""

    index: int
    scale: int
    scales: int
    image: Image.Image | None


@dataclass(frozen=True)
class ImageDone:
    """A finished picture, decoded from its own codes and residual; `tokens` is a batch of one."""

    index: int
    image: Image.Image
    tokens: HybridTokens


@dataclass(frozen=True)
class Finished:
    """The last event. `conversation` is prompt and answer, as far as they came; it can be replayed."""

    reason: Reason
    conversation: Conversation


@dataclass(frozen=True)
class ContextTrimmed:
    """First of an answer's events where the conversation has grown too long: the model no longer sees these turns.

    left: numbers of the turns (from 0) that leave with this answer, oldest first. They stay in the conversation and in
    what is saved of it.
    """

    left: tuple[int, ...]


@dataclass(frozen=True)
class LoadedFromMessages:
    """First of the events after a conversation was loaded that another model had: its texts and pictures were read
    anew, so it goes on, but does not replay to the bit.

    saved, model: fingerprints of the model that wrote it and of the one that reads it.
    """

    saved: str
    model: str


Event = TextDelta | ImageStarted | ImagePreview | ImageDone | Finished | ContextTrimmed | LoadedFromMessages

Events = Generator[Event, None, None]
"""A running answer. Close it (`contextlib.closing`) where it may not be read to its end."""


@dataclass(frozen=True)
class Generated:
    """A collected answer: `parts` in stream order (text as str, pictures as ImageDone)."""

    parts: tuple[str | ImageDone, ...]
    reason: Reason
    conversation: Conversation

    @property
    def text(self) -> str:
        """The text alone."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImageDone, ...]:
        """The pictures alone."""
        return tuple(part for part in self.parts if isinstance(part, ImageDone))


def collect(events: Iterable[Event]) -> Generated:
    """Run a stream of events to its end. Raises RuntimeError if it ends without `Finished`."""
    parts: list[str | ImageDone] = []
    for event in events:
        match event:
            case TextDelta(text):
                if parts and isinstance(parts[-1], str):
                    parts[-1] += text
                else:
                    parts.append(text)
            case ImageDone():
                parts.append(event)
            case Finished(reason, conversation):
                return Generated(tuple(parts), reason, conversation)
    raise RuntimeError("the stream of events ended without Finished")
