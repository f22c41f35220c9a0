"""A conversation as it is shown: the turns of a session as words and pictures that a browser may fetch.

Knows sessions, and where pictures are served from. Does not know what a visitor does with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from demo.files import ServedFiles
from demo.messages import ENDINGS, Picture, Shown, Words, described
from vlm.chat import ChatSession, Turn
from vlm.message import Part


@dataclass
class ShownTurn:
    """A turn on the page. note: how it ended, if that is worth a word."""

    sent: list[Shown]
    parts: list[Shown] = field(default_factory=list)
    note: str = ""
    message: tuple[Part, ...] = ()


def shown_turns(session: ChatSession, known: Sequence[ShownTurn], files: ServedFiles) -> list[ShownTurn]:
    """The turns of a session. known: as they were shown before; pictures that are still there stay what they are."""
    found: list[ShownTurn] = []
    for number, turn in enumerate(session.turns):
        before = known[number] if number < len(known) else ShownTurn([])
        if before.message != turn.message or not _there(before.sent):
            before = ShownTurn(sent(turn.message, files), message=turn.message)
        parts = _answer(session, turn, [part for part in before.parts if isinstance(part, Picture)], files)
        found.append(replace(before, parts=parts, note=ENDINGS.get(turn.reason, "")))
    return found


def sent(message: Sequence[Part], files: ServedFiles) -> list[Shown]:
    """A visitor's message, its words first: Gradio offers to edit a message that ends with words, and cannot where it
    holds a picture."""
    words = [Words(part) for part in message if isinstance(part, str)]
    photos = [part for part in message if not isinstance(part, str)]
    return [*words, *(Picture(files.keep_png(part.png), "A picture that you sent") for part in photos)]


def _answer(session: ChatSession, turn: Turn, known: Sequence[Picture], files: ServedFiles) -> list[Shown]:
    parts: list[Shown] = []
    pictures = 0
    for part in session.backbone.processor.decode(turn.stream)[-1]["content"]:
        if part["type"] == "text":
            parts.append(Words(part["text"]))
            continue
        path = known[pictures].path if pictures < len(known) else ""
        if not (path and Path(path).is_file()):
            path = files.keep(session.picture(turn, pictures, part["tokens"]))
        parts.append(described(parts, path))
        pictures += 1
    return parts


def _there(parts: Sequence[Shown]) -> bool:
    return all(Path(part.path).is_file() for part in parts if isinstance(part, Picture))
