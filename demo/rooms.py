"""All rooms of the server: opened when somebody enters, few kept in memory, all of them found again on disk.

Knows visitors by their tokens. Rooms of different visitors share the models and the waiting line, and nothing else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from demo.files import ServedFiles
from demo.history import Entry, History, new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.room import Room
from vlm.errors import UserError

SERVED, KEPT = "served", "conversations"


class Rooms:
    """root: where everything lies, conversations and served files apart. most_open: rooms kept in memory while idle."""

    def __init__(self, root: Path, menu: ModelMenu, line: Line, most_open: int = 8, most_kept: int = 30) -> None:
        self.menu = menu
        self.line = line
        self.most_open = most_open
        self.files = ServedFiles(root / SERVED)
        self.history = History(root / KEPT, most_kept)
        self._open: OrderedDict[tuple[str, str], Room] = OrderedDict()
        self._lock = threading.Lock()

    def room(self, visitor: str, name: str, model: str | None = None) -> Room:
        """The room of a conversation, new or as it was left. model: to open it with, if it is not open.

        Raises `UserError` if names are no tokens, or model or conversation cannot be loaded.
        """
        folder = self.history.folder(visitor, name)
        with self._lock:
            found = self._open.get((visitor, name))
            if found is None:
                found = Room(folder, self.files, self.menu, self.line, model)
                self._open[visitor, name] = found
            self._open.move_to_end((visitor, name))
            idle = [key for key, room in self._open.items() if not room.busy and key != (visitor, name)]
            for key in idle[: max(0, len(self._open) - self.most_open)]:
                del self._open[key]
        return found

    def enter(self, visitor: str) -> str:
        """The conversation that a visitor is having answered, or left last, or a new one. Cleans up a little."""
        self.files.clean()
        self.history.clean()
        self.history.trim(visitor)
        with self._lock:
            # Not on disk before its first answer has ended.
            busy = [name for (whose, name), room in self._open.items() if whose == visitor and room.busy]
        entries = self.history.entries(visitor)
        return busy[-1] if busy else entries[0].name if entries else new_token()

    def entries(self, visitor: str) -> list[Entry]:
        """What the visitor can come back to, the last first."""
        return self.history.entries(visitor)

    def delete(self, visitor: str, name: str) -> None:
        """Forget a conversation. Raises `UserError` while it is being answered."""
        with self._lock:
            room = self._open.get((visitor, name))
            if room is not None:
                if room.busy:
                    raise UserError("this conversation is being answered; stop it first")
                room.deleted = True
                del self._open[visitor, name]
        self.history.delete(visitor, name)
