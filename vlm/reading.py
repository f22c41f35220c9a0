"""An answer read as a document: text with marks where its pictures stand, and the guide that it spells.

Knows events, parts and guides. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlm.errors import GuideError, OutOfWorld
from vlm.events import Event, Finished, ImageDone, TextDelta
from vlm.export import save_guide
from vlm.flatpack.style import COLOURS
from vlm.guide import PICTURE, Guide, parse_guide


@dataclass(frozen=True)
class DrawnGuide:
    """A guide and its steps' pictures (mode "RGB"), in the order of the steps."""

    guide: Guide
    pictures: tuple[Image.Image, ...]

    def save(self, target: Path | str, **options: Any) -> Path:
        """Write the guide, see `vlm.export.save_guide` for `options`; return the path that it returns."""
        return save_guide(self.guide, self.pictures, Path(target), **options)


def read_guide(
    events: Iterable[Event],
    *,
    prompt: str,
    seed: int,
    fingerprint: str,
    on_event: Callable[[Event], None] | None = None,
    colours: Collection[str] = COLOURS,
) -> DrawnGuide:
    """The guide that a stream of events spells.

    on_event: sees every event as it comes. Raises `OutOfWorld` where the model answers in words alone, `GuideError`
    where the answer is cancelled, cut off or not a guide.
    """
    parts: list[dict[str, Any]] = []
    pictures: list[Image.Image] = []
    reason = None
    for event in events:
        if on_event is not None:
            on_event(event)
        match event:
            case TextDelta(text=delta):
                parts.append({"type": "text", "text": delta})
            case ImageDone(image=image):
                parts.append({"type": "image"})
                pictures.append(image)
            case Finished():
                reason = event.reason
    if reason != "stop":
        raise GuideError(f"the answer ended early ({reason or 'no end'}), expected a whole guide")
    guide = guide_from(parts, prompt=prompt, seed=seed, fingerprint=fingerprint, colours=colours)
    return DrawnGuide(guide, tuple(pictures))


def guide_from(
    parts: Sequence[Mapping[str, Any]], *, prompt: str, seed: int, fingerprint: str, colours: Collection[str] = COLOURS
) -> Guide:
    """The guide that the parts of a whole answer spell. Raises `OutOfWorld` and `GuideError` as `read_guide` does."""
    answer = marked_text(parts)
    if PICTURE not in answer and not answer.startswith("#"):
        raise OutOfWorld(answer)
    return parse_guide(answer, colours).complete(prompt=prompt, seed=seed, model=fingerprint)


def marked_text(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of an answer, stripped, with `PICTURE` on a line of its own for each picture."""
    # A picture's mark in the text is ours to set, not the model's.
    marked = (part["text"].replace(PICTURE, "\ufffd") if part["type"] == "text" else f"\n{PICTURE}\n" for part in parts)
    return "".join(marked).strip()


def is_guide(text: str) -> bool:
    """Does the marked text of a whole answer spell a guide?"""
    if not text.startswith("# "):
        return False
    try:
        parse_guide(text)
    except GuideError:
        return False
    return True
