"""The replay record: what was asked, with which seeds, and which steps were redrawn or edited; plain JSON.

Knows the form of the record. Does not know how an answer is drawn (`vlm.agent` replays one).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm.errors import UserError
from vlm.guide import describe
from vlm.message import Part
from vlm.sampling import GenerationOptions

if TYPE_CHECKING:
    from vlm.chat import ChatSession

RECORD_FILE = "replay.json"
RECORD_VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Action(_Frozen):
    """One thing that was done, in order: a turn answered, or a step of its guide redrawn or edited.

    turn: from 0. step: from 1, seed and text (edited steps only) as they were given; settings: where a step was drawn
    with other ones than its guide.
    """

    do: Literal["answer", "redraw", "edit"]
    turn: int = Field(ge=0)
    step: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    text: str | None = None
    settings: dict[str, Any] | None = None


class RecordedPicture(_Frozen):
    """A picture of the user's, as PNG in base64."""

    png: str


class RecordedTurn(_Frozen):
    """What a turn was asked: its message in parts, its settings (seed included), how it ended, and with which adapter.

    speaker: fingerprint of the model with that adapter, where there is one.
    """

    message: tuple[str | RecordedPicture, ...] = Field(min_length=1, strict=False)
    options: dict[str, Any]
    reason: Literal["stop", "length", "cancelled"]
    adapter: str | None = None
    speaker: str | None = None
    origin: str | None = None


class Record(_Frozen):
    """All that is needed to make a conversation again with the same model, to the byte on the same machine.

    device, dtype: what it was drawn on, "cpu" and "float32"; elsewhere pictures come out nearly the same.
    """

    version: Literal[1] = 1
    model: str
    device: str | None = None
    dtype: str | None = None
    context: int = Field(ge=1)
    system: str | None = None
    seed: int = Field(ge=0)
    turns: tuple[RecordedTurn, ...] = Field(strict=False)
    actions: tuple[Action, ...] = Field(strict=False)

    def to_json(self) -> str:
        """JSON text, with a newline at its end."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Read what `to_json` wrote. Raises `UserError` if it is of another version or no record."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"this is no replay record of version {RECORD_VERSION}: {describe(error)}") from error


def recorded_part(part: Part) -> str | RecordedPicture:
    """A part of a message as it stands in a record."""
    return part if isinstance(part, str) else RecordedPicture(png=base64.b64encode(part.png).decode("ascii"))


def part_of(recorded: str | RecordedPicture) -> str | bytes:
    """The part that `recorded_part` was given, its picture as bytes still to be checked. Raises `UserError`."""
    if isinstance(recorded, str):
        return recorded
    try:
        return base64.b64decode(recorded.png, validate=True)
    except binascii.Error as error:
        raise UserError(f"a picture in the record is no base64 ({error}); record the guide again") from error


def recorded_options(options: GenerationOptions) -> dict[str, Any]:
    """Settings as plain JSON values."""
    return asdict(options)


def options_of(recorded: dict[str, Any]) -> GenerationOptions:
    """The settings that `recorded_options` was given. Raises `UserError` on unknown or impossible ones."""
    try:
        return GenerationOptions(**settings_of(recorded))
    except (TypeError, ValueError) as error:
        raise UserError(f"the recorded settings do not fit this version: {error}") from error


def settings_of(recorded: dict[str, Any]) -> dict[str, Any]:
    """Settings by name as they were before JSON made lists of their tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()}


def drawn_on(session: ChatSession) -> dict[str, Any]:
    """The kind of device and the precision of a session's model."""
    model = session.backbone.model
    return {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch.")}


def record_of(session: ChatSession) -> Record:
    """What a session was asked and what was done in it."""
    turns = tuple(
        RecordedTurn(
            message=tuple(recorded_part(part) for part in turn.message),
            options=recorded_options(turn.options),
            reason=turn.reason,
            adapter=turn.adapter,
            speaker=turn.speaker,
            origin=turn.origin,
        )
        for turn in session.turns
    )
    return Record(
        model=session.backbone.fingerprint,
        **drawn_on(session),
        context=session.backbone.context,
        system=session.system,
        seed=session.seed,
        turns=turns,
        actions=tuple(session.actions),
    )
