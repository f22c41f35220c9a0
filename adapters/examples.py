"""What a user teaches: conversations with pictures, found in a folder or a file, each with the place it came from.

Knows the canonical form and who reads which file. Does not know ids, models or training. Nothing is skipped: whatever
cannot be used is a `Fault` that names its file and line.

The canonical form is JSON lines, one conversation each:

    {"messages": [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content":
                  [{"type": "text", "text": "…"}, {"type": "image", "path": "1.png"}]}]}

A picture's path is relative to the file that names it and stays below that file's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlm.errors import UserError
from vlm.pictures import open_picture
from vlm.processor import ROLES

MAX_LINE_BYTES = 4 << 20
MAX_EXAMPLES = 1_000_000


@dataclass(frozen=True)
class Example:
    """One conversation. messages: contents are lists of parts, {"type": "text", "text": str} or {"type": "image",
    "path": Path}; place: "file" or "file, line n"."""

    messages: tuple[dict[str, Any], ...]
    place: str

    @property
    def pictures(self) -> list[Path]:
        """The pictures in order."""
        return [part["path"] for message in self.messages for part in message["content"] if part["type"] == "image"]

    def name(self) -> str:
        """A name made of the content, pictures included: the same on every machine. Raises OSError."""
        digest = hashlib.sha256()
        for message in self.messages:
            digest.update(f"\0{message['role']}".encode())
            for part in message["content"]:
                content = part["path"].read_bytes() if part["type"] == "image" else part["text"].encode()
                digest.update(f"\0{part['type']}{len(content)}\0".encode() + content)
        return digest.hexdigest()[:20]


@dataclass(frozen=True)
class Fault:
    """Something that cannot be used. place: as in `Example`."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class Found:
    """All that was found. colours: words that the data itself says are colours; title: the data's own name; unread:
    files of no form that is read, other than pictures."""

    examples: list[Example] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    colours: set[str] = field(default_factory=set)
    title: str = ""
    outside: str | None = None
    unread: list[str] = field(default_factory=list)

    def add(self, kind: str, example: Example) -> None:
        """Take an example, unless one of its pictures cannot be opened."""
        broken = False
        for path in dict.fromkeys(example.pictures):
            try:
                open_picture(path)
            except UserError as error:
                self.faults.append(Fault(example.place, str(error)))
                broken = True
        if not broken:
            self.examples.append(example)
            self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def check_whole(self) -> None:
        """Raises `UserError` if anything is broken, or if there is too little to learn from and to test on."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more; `vlm adapt check` shows all)" if len(self.faults) > 1 else ""
            raise UserError(f"{self.faults[0]}{more}; mend the data, nothing is left out silently")
        if len(self.examples) < 2:
            raise UserError(
                f"found {len(self.examples)} example{'s' * (len(self.examples) != 1)}, expected at least 2: one to "
                "learn from and one to test on"
            )


def check_messages(row: Any, place: str, base: Path) -> Example:
    """One row of the canonical form. Raises `UserError`, without the place, on anything else.

    base: the folder that pictures are relative to.
    """
    _only(row, {"messages"}, "a row")
    messages = row["messages"] if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError("messages is empty or no list, expected turns of user and assistant")
    checked = []
    for number, message in enumerate(messages, start=1):
        _only(message, {"role", "content"}, f"message {number}")
        if message["role"] not in ROLES:
            raise UserError(f"message {number} has the role {message['role']!r}, expected one of {', '.join(ROLES)}")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not parts:
            raise UserError(f"message {number} has no content, expected text or a list of parts")
        checked.append({"role": message["role"], "content": [_part(part, number, base) for part in parts]})
    if not any(message["role"] == "assistant" for message in checked):
        raise UserError("no assistant turn, so there is nothing to learn; add the answer")
    if checked[0]["role"] == "assistant" or checked[-1]["role"] != "assistant":
        raise UserError("a conversation begins with the user (or a system message) and ends with the assistant")
    return Example(tuple(checked), place)


def picture_below(base: Path, name: str) -> Path:
    """The file of a picture. Raises `UserError` where the name leads out of `base`."""
    path = base / name
    try:
        below = "\0" not in name and not Path(name).is_absolute() and path.resolve().is_relative_to(base.resolve())
    except (ValueError, RuntimeError, OSError) as error:
        # Half a character in the name, or links that lead round in a circle.
        raise UserError(f"the picture {name!r} is no name of a file ({error}); name another") from error
    if not below:
        raise UserError(f"the picture {name!r} is not below the folder of the file that names it; move it there")
    return path


def json_lines(path: Path) -> Iterator[tuple[int, Any, str]]:
    """(line number, value, reason why it is none) for each line that is not blank. Raises OSError."""
    with path.open("rb") as stream:
        for number in range(1, MAX_EXAMPLES + 1):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                yield number, None, f"the line has more than {MAX_LINE_BYTES:,} bytes"
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
                continue
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")), ""
            except (ValueError, RecursionError) as error:
                yield number, None, f"no JSON ({' '.join(str(error).split())})"
        yield MAX_EXAMPLES + 1, None, f"the file has more than {MAX_EXAMPLES:,} lines"


def image_part(image: Path) -> dict[str, Any]:
    """A picture as a part."""
    return {"type": "image", "path": image}


def opened(example: Example, background: tuple[int, int, int]) -> list[dict[str, Any]]:
    """The messages with PIL pictures, as `StreamProcessor.encode` takes them. Raises `UserError`."""

    def part_of(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return part
        image: Image.Image = open_picture(part["path"], background=background)
        return {"type": "image", "image": image}

    return [
        {"role": message["role"], "content": [part_of(part) for part in message["content"]]}
        for message in example.messages
    ]


def relative(path: Path, root: Path) -> str:
    """A file's name for a message: relative to what the user named."""
    return os.path.relpath(path, root) if root.is_dir() else path.name


def _part(part: Any, number: int, base: Path) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        _only(part, {"type", "text"}, f"a text of message {number}")
        if not isinstance(part["text"], str):
            raise UserError(f"a text of message {number} is a {type(part['text']).__name__}, expected words")
        try:
            part["text"].encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"a text of message {number} holds half a character (a lone surrogate)") from None
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        _only(part, {"type", "path"}, f"a picture of message {number}")
        if not isinstance(part["path"], str) or not part["path"]:
            raise UserError(f"a picture of message {number} has no path, expected the name of a file")
        return image_part(picture_below(base, part["path"]))
    raise UserError(f"a part of message {number} has the type {kind!r}, expected text or image")


def _only(value: Any, keys: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{what} is a {type(value).__name__}, expected an object with {', '.join(sorted(keys))}")
    for key in value:
        if key not in keys:
            raise UserError(f"{what} has the unknown key {key!r}, expected {', '.join(sorted(keys))}")
    for key in sorted(keys):
        if key not in value:
            raise UserError(f"{what} has no {key}, expected {', '.join(sorted(keys))}")
