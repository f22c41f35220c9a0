"""What a user sends: text and pictures in any order, checked before a model sees any of it.

Knows what a message may hold. Knows no model and no ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm.errors import UserError
from vlm.pictures import MAX_PIXELS, open_picture
from vlm.prompt import check_prompt

MAX_PICTURES = 16
"""Pictures in one message."""

LONGEST_SIDE = 1024
"""Pixels; larger pictures are shrunk to it when they are sent, and so they are saved."""


Background = tuple[int, int, int]
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class SentPicture:
    """A picture of the user's, RGB, as PNG: small in memory, and the same bytes when it is saved and read again."""

    png: bytes

    @staticmethod
    def of(image: Image.Image, background: Background = WHITE) -> SentPicture:
        """Any PIL picture; transparency shows `background`. Raises `UserError` on one that is too large."""
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width:,} x {image.height:,}"
            raise UserError(f"the picture has {size} pixels, expected at most {MAX_PIXELS:,}; scale it down")
        if image.mode != "RGB":
            image = _plain(image, background)
        if max(image.size) > LONGEST_SIDE:
            image = image.copy()
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        image.save(written, format="PNG")
        return SentPicture(written.getvalue())

    @property
    def image(self) -> Image.Image:
        """The picture, mode "RGB", decoded."""
        with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
            return image.convert("RGB")


_PICTURES = (Image.Image, Path, bytes, SentPicture)
Part = str | SentPicture
Message = str | Sequence[Any]
"""Text, or a list of parts: text as str, a picture as a PIL image, a path, bytes or a `SentPicture`, or a part in the
form of `StreamProcessor.encode` (``{"type": "text", "text": …}``, ``{"type": "image", "image": …}``)."""


def check_message(message: Message, background: Background = WHITE) -> tuple[Part, ...]:
    """The parts of a message in order, text stripped, empty text left out, pictures opened over `background`.

    Raises `UserError` when nothing is left, on unreadable pictures, binary or overlong text, or a part of another kind.
    """
    alone = isinstance(message, str | bytes | Path | Image.Image | SentPicture | Mapping)
    given = [message] if alone or not isinstance(message, Iterable) else list(message)
    check_count(sum(_is_picture(one) for one in given))
    parts: list[Part] = []
    for one in given:
        part = _part(one, background)
        if isinstance(part, SentPicture):
            parts.append(part)
        elif part.strip():
            parts.append(check_prompt(part))
    if not parts:
        raise UserError('the message is empty, expected text such as "How do I assemble a blue stool?" or a picture')
    return tuple(parts)


def check_count(pictures: int) -> None:
    """Raise `UserError` where so many pictures are too many for a message: told before any of them is read."""
    if pictures > MAX_PICTURES:
        raise UserError(f"the message holds {pictures} pictures, expected at most {MAX_PICTURES}; send them apart")


def check_picture(picture: Any, background: Background = WHITE) -> SentPicture:
    """One picture: a PIL image, a path (here as text too), a file's bytes or a `SentPicture`. Raises `UserError`."""
    part = _part(Path(picture) if isinstance(picture, str) else picture, background)
    if isinstance(part, str):
        raise UserError("expected a picture, got text; pass a PIL image, a path or a file's bytes")
    return part


def message_text(parts: Sequence[Part]) -> str:
    """The text of a message alone."""
    return " ".join(part for part in parts if isinstance(part, str))


def _is_picture(one: Any) -> bool:
    return one.get("type") == "image" if isinstance(one, Mapping) else isinstance(one, _PICTURES)


def _part(one: Any, background: Background) -> Part:
    if isinstance(one, Mapping):
        kind = one.get("type")
        if kind == "text" and isinstance(one.get("text"), str):
            return one["text"]
        if kind == "image" and "image" in one:
            return _part(one["image"], background)
        raise UserError(f"a part of the message is of type {kind!r} with keys {sorted(one)}, expected text or image")
    if isinstance(one, str | SentPicture):
        return one
    if isinstance(one, Image.Image):
        return SentPicture.of(one, background)
    if isinstance(one, Path | bytes):
        return SentPicture.of(open_picture(one, background=background))
    raise UserError(f"a part of the message is a {type(one).__name__}, expected text, a picture, its path or its bytes")


def _plain(image: Image.Image, background: Background) -> Image.Image:
    """RGB of a picture in memory, by the rules of `open_picture`."""
    if image.mode == "I":
        # 16-bit grey, as Pillow also names it.
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA")
    if image.mode not in ("1", "L", "LA", "P", "RGBA", "I;16"):
        return image.convert("RGB")
    written = io.BytesIO()
    image.save(written, format="PNG")
    return open_picture(written.getvalue(), background=background)
