"""The messages of a room as Gradio's chat component takes them.

Knows that component's forms. Does not know how messages come about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradio.components.chatbot import ComponentMessage
from gradio.data_classes import FileData

from demo.room import Room


def shown(room: Room) -> list[dict[str, Any]]:
    """The messages of a room as the chat component takes them."""
    return [
        {
            "role": message["role"],
            "content": [
                _picture(part["path"], part["alt_text"]) if "path" in part else {"type": "text", "text": part["text"]}
                for part in message["content"]
            ],
        }
        for message in room.messages()
    ]


def _picture(path: str, alt: str) -> ComponentMessage:
    """A picture in a message. As a plain file the chat component would show it without its alternative text; made of a
    `gr.Image`, each repaint of a long conversation would make all of them anew."""
    file = FileData(path=path, mime_type="image/png", orig_name=Path(path).name).model_dump()
    return ComponentMessage(component="image", value=file, constructor_args={}, props={"alt_text": alt})
