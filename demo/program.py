"""The conversation for programs: a message in, words and pictures out while they come, as plain JSON values.

Knows rooms. Does not know how the call arrives. A conversation is named by a token that only its caller has.
"""

from __future__ import annotations

import base64
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from demo.history import is_token, new_token
from demo.messages import Picture, Words
from demo.room import Room
from demo.rooms import Rooms
from demo.settings import Settings
from demo.shown import ShownTurn
from vlm.errors import UserError

State = dict[str, Any]
"""conversation: its name; seed: None until the answer is whole; text: the words, pictures left out; pictures: the
finished ones, each {"alt", "png" in base64}; note: what a visitor would be told, "" for nothing."""


def answer(rooms: Rooms, message: str, picture: str, conversation: str, seed: int) -> Generator[State, None, None]:
    """Send a message; the answer as it grows, at last as it stays. Closed before its end, it stops the drawing.

    picture: a file's bytes in base64, "" for none. conversation: what an earlier answer returned under this key, ""
    begins one. seed: -1 leaves it to the conversation. Raises `UserError` on bad input.
    """
    visitor, _, name = conversation.partition(".") if conversation else (new_token(), ".", new_token())
    if not (is_token(visitor) and is_token(name)):
        raise UserError("the conversation is none that this server named; pass an empty text to begin one")
    try:
        files = [base64.b64decode(picture, validate=True)] if picture else []
    except ValueError as error:
        raise UserError(f"the picture is no base64 ({error}); encode the bytes of its file") from error
    room = rooms.room(visitor, name)
    before = len(room.session.turns)
    state = _State(f"{visitor}.{name}")
    with closing(room.say(message, files, Settings(seed=None if seed < 0 else seed))) as running:
        for _ in running:
            if room.busy and len(room.turns) > before:
                yield state.of(room, room.turns[before])
    if len(room.session.turns) == before:
        raise UserError(room.note.removeprefix("Not done: ") or "the message was not answered; send it again")
    yield state.of(room, room.turns[before], seed=room.last_seed)


class _State:
    """Makes the states of one answer; a picture is encoded once."""

    def __init__(self, conversation: str) -> None:
        self._conversation = conversation
        self._encoded: dict[str, str] = {}

    def of(self, room: Room, turn: ShownTurn, seed: int | None = None) -> State:
        pictures = [part for part in turn.parts if isinstance(part, Picture)]
        drawn = [part.caption for part in pictures if part.unfinished]
        return {
            "conversation": self._conversation,
            "seed": seed,
            "text": "".join(part.text for part in turn.parts if isinstance(part, Words)).strip(),
            "pictures": [{"alt": part.alt, "png": self._png(part.path)} for part in pictures if not part.unfinished],
            "note": " ".join(note for note in (turn.note, room.note, *drawn) if note),
        }

    def _png(self, path: str) -> str:
        if path not in self._encoded:
            self._encoded[path] = base64.b64encode(Path(path).read_bytes()).decode("ascii")
        return self._encoded[path]
