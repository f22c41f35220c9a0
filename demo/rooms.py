"""All rooms of the server: opened when somebody enters, few kept in memory, all of them found again on disk.

Knows visitors by their tokens. Rooms of different visitors share the models and the waiting line, and nothing else.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from pathlib import Path

from demo.files import ServedFiles
from demo.history import Entry, History, new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.room import Room
from vlm.errors import UserError

SERVED, KEPT = "served", "conversations"
CLEAN_EVERY = 600.0
"""Seconds after which old files are looked for again, when something is saved."""


class Rooms:
    """root: where everything lies, conversations and served files apart. most_open: rooms kept in memory while idle."""

    def __init__(self, root: Path, menu: ModelMenu, line: Line, most_open: int = 8, most_kept: int = 30) -> None:
        self.menu = menu
        self.line = line
        self.most_open = most_open
        self.files = ServedFiles(root / SERVED)
        self.history = History(root / KEPT, most_kept)
        self._open: OrderedDict[tuple[str, str], Room] = OrderedDict()
        self._deleted: deque[tuple[str, str]] = deque(maxlen=1000)
        self._clean_at = 0.0
        self._lock = threading.Lock()

    def room(self, visitor: str, name: str, model: str | None = None) -> Room:
        """The room of a conversation, new or as it was left. model: of a new one; see `Room`.

        Raises `UserError` if names are no tokens, the conversation was deleted, or model or conversation cannot be
        loaded.
        """
        folder = self.history.folder(visitor, name)
        key = visitor, name
        with self._lock:
            self._check_there(key)
            found = self._open.get(key)
        if found is None:
            # A model may have to be loaded, and pictures decoded: nobody else waits for that.
            files = self.files.of(_owner(visitor, name))
            found = Room(folder, files, self.menu, self.line, model, lambda: self._saved(visitor))
        with self._lock:
            self._check_there(key)
            found = self._open.setdefault(key, found)
            self._open.move_to_end(key)
            idle = [other for other, room in self._open.items() if not room.busy and other != key]
            for other in idle[: max(0, len(self._open) - self.most_open)]:
                del self._open[other]
        return found

    def enter(self, visitor: str) -> str:
        """The conversation that a visitor is having answered, or left last, or a new one. Cleans up a little."""
        self._clean()
        busy = self.busy(visitor)  # Not on disk before its first answer has ended.
        self.history.trim(visitor, busy)
        entries = self.history.entries(visitor)
        return busy[-1] if busy else entries[0].name if entries else new_token()

    def entries(self, visitor: str) -> list[Entry]:
        """What the visitor can come back to, the last first."""
        return self.history.entries(visitor)

    def busy(self, visitor: str) -> list[str]:
        """The visitor's conversations that are being answered, the last entered last."""
        with self._lock:
            return [name for (whose, name), room in self._open.items() if whose == visitor and room.busy]

    def delete(self, visitor: str, name: str) -> None:
        """Forget a conversation and its pictures, for good: nothing is saved under its name again.

        Raises `UserError` while it is being answered, or if names are no tokens.
        """
        self.history.folder(visitor, name)
        with self._lock:
            room = self._open.get((visitor, name))
            if room is not None:
                if room.busy:
                    raise UserError("this conversation is being answered; stop it first")
                room.deleted = True
                del self._open[visitor, name]
            self._deleted.append((visitor, name))
        self.history.delete(visitor, name)
        self.files.of(_owner(visitor, name)).drop_all()

    def _check_there(self, key: tuple[str, str]) -> None:
        if key in self._deleted:
            raise UserError("this conversation was deleted; begin a new one")

    def _saved(self, visitor: str) -> None:
        """Keep what is stored bounded: programs never enter, and visitors may stay for days."""
        self.history.trim(visitor, self.busy(visitor))
        with self._lock:
            due = time.monotonic() >= self._clean_at
        if due:
            self._clean()

    def _clean(self) -> None:
        with self._lock:
            self._clean_at = time.monotonic() + CLEAN_EVERY
        self.files.clean()
        self.history.clean()


def _owner(visitor: str, name: str) -> str:
    """What the names of a conversation's served files begin with; tells nobody who or which it is."""
    return hashlib.sha256(f"{visitor}.{name}".encode()).hexdigest()[:16]
