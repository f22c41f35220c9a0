"""The conversation for programs: a message in, words and pictures out, as plain JSON values.

Knows rooms. Does not know how the call arrives. A conversation is named by a token that only its caller has.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from demo.history import is_token, new_token
from demo.messages import Picture, Words
from demo.rooms import Rooms
from demo.settings import Settings
from vlm.errors import UserError


def answer(rooms: Rooms, message: str, picture: str, conversation: str, seed: int) -> dict[str, Any]:
    """Send a message and wait for its answer.

    picture: a file's bytes in base64, "" for none. conversation: what an earlier answer returned under this key, ""
    begins one. seed: -1 leaves it to the conversation. Returns conversation, seed, text (pictures left out), pictures
    (each {"alt", "png" in base64}) and note, "" unless something is to be said. Raises `UserError` on bad input.
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
    for _ in room.say(message, files, Settings(seed=None if seed < 0 else seed)):
        pass
    if len(room.session.turns) == before:
        raise UserError(room.note.removeprefix("Not done: ") or "the message was not answered; send it again")
    turn = room.turns[-1]
    return {
        "conversation": f"{visitor}.{name}",
        "seed": room.last_seed,
        "text": "".join(part.text for part in turn.parts if isinstance(part, Words)).strip(),
        "pictures": [
            {"alt": part.alt, "png": base64.b64encode(Path(part.path).read_bytes()).decode("ascii")}
            for part in turn.parts
            if isinstance(part, Picture)
        ],
        "note": " ".join(note for note in (turn.note, room.note) if note),
    }
