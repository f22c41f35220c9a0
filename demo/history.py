"""The conversations of each visitor, as folders; listed, bounded, deleted.

Knows names and folders (their form is `vlm.conversations`'). A visitor is a random token that only the browser holds;
on disk stands its hash, so a look at the folder gives nobody another's conversations.
"""

from __future__ import annotations

import glob
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError
from vlm.saved import CONVERSATION_FILE, read_saved

TITLE_LENGTH = 48
_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Entry:
    """A conversation in a list. name: of its folder; title: how it began."""

    name: str
    title: str


def new_token() -> str:
    """A name that nobody can guess: for a visitor, or a conversation."""
    return secrets.token_hex(16)


def is_token(text: object) -> bool:
    """Is this a name that `new_token` could have made?"""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


def browser_key(root: Path) -> str:
    """The key under which browsers store who they are, kept in a file; the same after a restart."""
    path = root / "secret"
    # One that a kill left empty is no key.
    if not (path.is_file() and is_token(path.read_text(encoding="ascii", errors="replace"))):
        path.touch(mode=0o600)
        path.write_text(new_token(), encoding="ascii")
    return path.read_text(encoding="ascii")


class History:
    """root: holds a folder a visitor. most: conversations that a visitor keeps; the longest unused go first.

    age: seconds after which an unused conversation is forgotten.
    """

    def __init__(self, root: Path, most: int = 30, age: float = 90 * 24 * 3600) -> None:
        self.root = root
        self.most = most
        self.age = age
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder(self, visitor: str, name: str) -> Path:
        """Where a conversation lies, or would. Raises `UserError` unless both are tokens."""
        if not (is_token(visitor) and is_token(name)):
            raise UserError("this is no name of a conversation; reload the page")
        return self._of(visitor) / name

    def entries(self, visitor: str) -> list[Entry]:
        """The conversations of a visitor, the last used first; damaged and empty ones are left out."""
        found = []
        for name in self._names(visitor):
            try:
                saved = read_saved(self.folder(visitor, name) / CONVERSATION_FILE)
            except UserError:
                continue
            if not saved.turns:
                continue
            words = " ".join(part.text for turn in saved.turns[:1] for part in turn.message if part.text)
            title = " ".join(words.split()) or "A picture"
            short = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1].rstrip() + "…"
            found.append(Entry(name, short))
        return found

    def delete(self, visitor: str, name: str) -> None:
        """Forget a conversation, its pictures too; nothing happens if there is none."""
        shutil.rmtree(self.folder(visitor, name), ignore_errors=True)

    def trim(self, visitor: str, spare: Collection[str] = ()) -> None:
        """Forget what goes beyond `most`. spare: names of conversations that stay, as they are being answered."""
        for name in self._names(visitor)[self.most :]:
            if name not in spare:
                self.delete(visitor, name)

    def clean(self) -> None:
        """Forget every visitor's conversations that were not used for `age`."""
        limit = time.time() - self.age
        for file, used in _used(self.root, f"*/*/{CONVERSATION_FILE}"):
            if used < limit:
                shutil.rmtree(file.parent, ignore_errors=True)
                with suppress(OSError):  # Others of this visitor are in it.
                    file.parent.parent.rmdir()

    def _of(self, visitor: str) -> Path:
        return self.root / hashlib.sha256(visitor.encode()).hexdigest()[:32]

    def _names(self, visitor: str) -> list[str]:
        if not is_token(visitor):
            return []
        files = sorted(_used(self._of(visitor), f"*/{CONVERSATION_FILE}"), key=lambda found: found[1], reverse=True)
        return [file.parent.name for file, _ in files if is_token(file.parent.name)]


def _used(folder: Path, pattern: str) -> list[tuple[Path, float]]:
    """Files below a folder and when each was changed, in seconds since 1970; those that others remove meanwhile are
    left out."""
    found = []
    # Unlike `Path.glob`, it passes over folders that go while it looks.
    for name in glob.glob(pattern, root_dir=folder):
        with suppress(OSError):
            found.append((folder / name, (folder / name).stat().st_mtime))
    return found
