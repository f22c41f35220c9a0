"""A saved conversation read by another model than the one that wrote it: from its texts and pictures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm.chat import ChatSession, Turn
from vlm.events import LoadedFromMessages
from vlm.message import SentPicture
from vlm.record import options_of
from vlm.saved import SavedConversation, read_message
from vlm.stream import Conversation


def read_anew(session: ChatSession, saved: SavedConversation, folder: Path) -> None:
    """Give a new session the turns of a saved conversation, every picture encoded by the session's own model.

    Each turn says which model its answer came from, so that nobody takes it for one that can be drawn again. Pictures
    are still shown, and saved again, as they were drawn; the model sees what its own image tokenizer makes of them.
    Raises `UserError` on a picture that is missing or damaged.
    """
    for number, turn in enumerate(saved.turns):
        message, answer = read_message(turn.message, folder), read_message(turn.answer, folder)
        pictures = [part for part in answer if isinstance(part, SentPicture)]
        session.add_turn(
            Turn(
                message=message,
                asked=session.encode(message),
                answer=_answer(session, answer),
                options=options_of(turn.options),
                reason=turn.reason,
                context=tuple(range(number)),
                origin=turn.origin or saved.model,
                shown=dict(enumerate(pictures)),
            )
        )
    session.notices.append(LoadedFromMessages(saved.model, session.backbone.fingerprint))


def _answer(session: ChatSession, parts: tuple[str | SentPicture, ...]) -> Conversation:
    """An assistant's parts as the stream that ends its turn."""
    model, processor = session.backbone.model, session.backbone.processor
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "tokens": processor.encode_image(part.image, model.image_tokenizer)}
        for part in parts
    ]
    whole = processor.encode([{"role": "assistant", "content": content}])
    # Before the content: the beginning of the stream, of the turn, and its role; after it: the newline between turns.
    start = 2 + len(processor.encode_text("assistant\n"))
    stop = len(whole.ids) - len(processor.encode_text("\n"))
    return Conversation(whole.ids[start:stop], whole.residuals, whole.assistant[start:stop])
