"""Events → what a chat shows: text and pictures in order, each picture replaced in place while it sharpens.

Pure: knows events and words. Knows no model, no web framework and no files; who keeps a picture is told by a callback.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from vlm.events import (
    ContextTrimmed,
    Event,
    Finished,
    ImageDone,
    ImagePreview,
    ImageStarted,
    LoadedFromMessages,
    Reason,
    TextDelta,
)

Keep = Callable[[Image.Image], str]
"""Takes a picture, returns the path under which it can be shown."""

PAPER = (238, 238, 236)
"""What stands in a picture's place before its first scale."""

ENDINGS: dict[Reason, str] = {
    "length": "Cut off: no room was left in the model's context.",
    "cancelled": "Stopped. What was written so far stays.",
}

_STEP = re.compile(r"(?m)^(\d{1,3})\.\s+(\S.*)$")
_LITERAL = re.compile(
    r"[\[`*_~|\\]|&(?=[#A-Za-z])|<(?=[A-Za-z/!?])|"
    r"(?m:(?:^|(?<=\r))(?:[-+=#> \t]|[0-9]{1,9}[.)](?=\s|\Z)))"
)
"""What Markdown could read; the last character of a match is the one to be written otherwise. Nothing else is, since
the chat shows a message for editing as it was written here."""
_MODEL = re.compile(r"[&<\[`]")


@dataclass(frozen=True)
class Words:
    """Text as the model or the visitor wrote it, not yet made safe to show."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A picture by its path. alt: for those who do not see it; caption: the line below it, "" for none; unfinished:
    it is still being drawn."""

    path: str
    alt: str
    caption: str = ""
    unfinished: bool = False


Shown = Words | Picture


class Answer:
    """An answer as far as it has come. `parts` grow with every event; a picture keeps its place while it changes.

    keep: stores a picture. parts: what is shown already, where a picture of a finished answer is drawn anew.
    """

    def __init__(self, keep: Keep, parts: Iterable[Shown] = ()) -> None:
        self.keep = keep
        self.parts: list[Shown] = list(parts)
        self.notes: list[str] = []
        self.reason: Reason | None = None

    def take(self, event: Event) -> None:
        """Bring the answer up to date. Raises ValueError on a picture out of order."""
        match event:
            case TextDelta(text):
                if self.parts and isinstance(self.parts[-1], Words):
                    self.parts[-1] = Words(self.parts[-1].text + text)
                else:
                    self.parts.append(Words(text))
            case ImageStarted(index, scales):
                self._begin(index, scales)
            case ImagePreview(index, scale, scales, image):
                path = None if image is None else self.keep(image)
                self._change(index, path, f"scale {scale + 1} of {scales}" if scale + 1 < scales else "last details")
            case ImageDone(index, image):
                self._change(index, self.keep(image), None)
            case ContextTrimmed() | LoadedFromMessages():
                self.notes.append(notice(event))
            case Finished(reason):
                self.reason = reason

    def _begin(self, index: int, scales: int) -> None:
        places = self._places()
        if index == len(places):
            self.parts.append(Picture(self.keep(Image.new("RGB", (8, 8), PAPER)), "", unfinished=True))
        elif index > len(places):
            raise ValueError(f"picture {index} begins, expected at most {len(places)}")
        self._change(index, None, f"scale 1 of {scales}")

    def _change(self, index: int, path: str | None, stage: str | None) -> None:
        """Another path (None: the same) and caption for a picture; stage None: it is done."""
        places = self._places()
        if index >= len(places):
            raise ValueError(f"picture {index} changes, but {len(places)} have begun")
        at = places[index]
        shown = self.parts[at]
        assert isinstance(shown, Picture)
        done = described(self.parts[:at], shown.path if path is None else path)
        if stage is not None:
            caption = f"{done.caption or 'Picture'}: {stage}"
            done = replace(done, alt=f"Unfinished: {done.alt}", caption=caption, unfinished=True)
        self.parts[at] = done

    def _places(self) -> list[int]:
        return [at for at, part in enumerate(self.parts) if isinstance(part, Picture)]


def described(before: Iterable[Shown], path: str) -> Picture:
    """A finished picture, its caption and alternative text taken from the words right before it."""
    words = next((part.text for part in reversed(list(before)) if isinstance(part, Words)), "")
    steps = _STEP.findall(words)
    if steps:
        number, text = steps[-1]
        return Picture(path, f"Drawing of step {number}: {text.strip()}", f"Step {number}")
    line = words.strip().split("\n")[-1].strip()
    return Picture(path, f"Drawing: {line}" if line else "Drawing")


def notice(event: ContextTrimmed | LoadedFromMessages) -> str:
    """What the visitor should know, in a sentence."""
    if isinstance(event, LoadedFromMessages):
        return "Another model wrote the earlier part of this conversation; this one has read it anew."
    numbers = ", ".join(str(number + 1) for number in event.left)
    return f"The conversation is long: the model no longer sees message {numbers}."


def literal(text: str) -> str:
    """A visitor's text as Markdown that shows just what was typed; `typed` takes it back.

    No HTML, picture or link comes of it: what Markdown could read is written as character references.
    """
    return _LITERAL.sub(lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", text)


def typed(text: str) -> str:
    """The text that `literal` was given."""
    return html.unescape(text)


def model_words(text: str) -> str:
    """The model's text as Markdown: its headings and lists stay, HTML, links and pictures by address do not."""
    return _MODEL.sub(lambda match: f"&#{ord(match[0])};", text)


def content(parts: Iterable[Shown], escape: Callable[[str], str]) -> list[dict[str, Any]]:
    """Parts as a chat component takes them: {"text"} or {"path", "alt_text"}; captions follow their pictures.

    escape: `literal` or `model_words`. A message without any part is one empty text.
    """
    found: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Picture):
            found.append({"path": part.path, "alt_text": part.alt})
            if part.caption:
                found.append({"text": f"*{escape(part.caption)}*"})
        elif part.text.strip():
            found.append({"text": escape(part.text.strip("\n"))})
    return found or [{"text": ""}]
