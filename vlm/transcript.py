"""A conversation to read: Markdown that shows what was said as it was, pictures by their files."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vlm.saved import SavedConversation, SavedPart

ENDINGS = {"length": "*(cut off: no room was left)*", "cancelled": "*(stopped)*"}


def transcript(saved: SavedConversation) -> str:
    """The whole conversation, with a newline at its end. What was written is shown, never read as HTML."""
    return "\n".join(_lines(saved)) + "\n"


def _lines(saved: SavedConversation) -> Iterator[str]:
    yield "# Conversation"
    yield ""
    yield f"Model {saved.model}, seed {saved.seed}."
    if saved.system is not None:
        yield from ("", "**System**", "", *_quoted(saved.system))
    for number, turn in enumerate(saved.turns, start=1):
        yield from ("", f"## {number}", "", "**You**", "", *_parts(turn.message))
        yield from ("", f"**Answer** (seed {turn.options.get('seed')})", "", *_parts(turn.answer))
        if turn.reason in ENDINGS:
            yield from ("", ENDINGS[turn.reason])


def _parts(parts: tuple[SavedPart, ...]) -> Iterator[str]:
    for part in parts:
        if part.picture is not None:
            yield f"> ![picture](pictures/{part.picture})"
        else:
            yield from _quoted(part.text or "")


def _quoted(text: str) -> Iterator[str]:
    yield from (f"> {escape(line, quote=False)}".rstrip() for line in text.split("\n"))
