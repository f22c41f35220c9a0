"""The form of a saved conversation's `conversation.json`, and reading it; see `vlm.conversations` for the folder.

Knows no model: what was said stands here as text and file names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlm.errors import UserError
from vlm.guide import describe
from vlm.message import SentPicture
from vlm.png import open_png
from vlm.record import Action

CONVERSATION_FILE = "conversation.json"
VERSION = 1
MAX_JSON_BYTES = 64 << 20
MAX_PICTURE_BYTES = 16 << 20
NAME = r"^[a-z0-9][a-z0-9.-]*$"
"""File names this module writes: nothing that could lead anywhere else."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SavedPart(_Frozen):
    """Text, or a picture's file name in pictures/."""

    text: str | None = None
    picture: str | None = Field(default=None, pattern=NAME)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> SavedPart:
        if (self.text is None) == (self.picture is None):
            raise ValueError("expected a text or a picture")
        return self


class SavedTurn(_Frozen):
    """A turn; asked_ids and the others count its share of the stream's tensors. speaker: see `RecordedTurn`."""

    message: tuple[SavedPart, ...] = Field(min_length=1)
    answer: tuple[SavedPart, ...]
    options: dict[str, Any]
    reason: Literal["stop", "length", "cancelled"]
    context: tuple[int, ...]
    adapter: str | None
    speaker: str | None = None
    origin: str | None
    asked_ids: int = Field(ge=1)
    asked_pictures: int = Field(ge=0)
    answer_ids: int = Field(ge=1)
    answer_pictures: int = Field(ge=0)


class SavedConversation(_Frozen):
    """The whole of conversation.json."""

    format: Literal["hart-vlm conversation"] = "hart-vlm conversation"
    version: Literal[1] = 1
    model: str
    device: str | None = None
    dtype: str | None = None
    system: str | None
    seed: int = Field(ge=0)
    stream: str | None = Field(pattern=NAME)
    turns: tuple[SavedTurn, ...]
    actions: tuple[Action, ...]

    @model_validator(mode="after")
    def _numbers_fit(self) -> SavedConversation:
        for number, turn in enumerate(self.turns):
            ends = (-1, *turn.context, number)
            if any(first >= second for first, second in zip(ends, ends[1:], strict=False)):
                raise ValueError(f"turn {number + 1} has the context {turn.context}, expected earlier turns in order")
        if any(action.turn >= len(self.turns) for action in self.actions):
            raise ValueError(f"an action names a turn beyond the {len(self.turns)} there are")
        if bool(self.turns) != (self.stream is not None):
            raise ValueError("expected a stream where there are turns, and none without")
        return self


def read_saved(path: Path) -> SavedConversation:
    """Read conversation.json. Raises `UserError` if it is missing, damaged or of another version."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} has more than {MAX_JSON_BYTES:,} bytes, expected a conversation")
        content = path.read_bytes()
        raw = json.loads(content)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}), expected a saved conversation's folder") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}), expected a saved conversation") from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path} is a conversation of version {version!r}, this program reads version {VERSION}; "
            "read its transcript.md, or load it with the program that saved it"
        )
    try:
        # Read again by pydantic, which also refuses halves of characters.
        return SavedConversation.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path} is no valid conversation: {describe(error)}") from error


def read_message(parts: tuple[SavedPart, ...], folder: Path) -> tuple[str | SentPicture, ...]:
    """The parts of a saved message, its pictures read from `folder`. Raises `UserError`."""
    return tuple(_sent(folder, part.picture) if part.picture else part.text or "" for part in parts)


def _sent(folder: Path, name: str) -> SentPicture:
    path = folder / "pictures" / name
    open_png(path)
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise UserError(f"{path} has more than {MAX_PICTURE_BYTES:,} bytes, expected a picture; restore the folder")
    return SentPicture(path.read_bytes())
