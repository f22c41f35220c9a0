"""From a prompt to an illustrated guide: reads the model's stream of text and pictures as a document.

Knows events and guides. Knows no terminal and writes no file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlm.errors import GuideError, OutOfWorld, UserError
from vlm.events import Event, Finished, ImageDone, TextDelta
from vlm.export import save_guide
from vlm.flatpack.style import COLOURS
from vlm.generate import generate
from vlm.guide import PICTURE, Guide, parse_guide
from vlm.model import HartVLM
from vlm.processor import StreamProcessor
from vlm.prompt import check_prompt
from vlm.sampling import GenerationOptions


@dataclass(frozen=True)
class DrawnGuide:
    """A guide and its steps' pictures (mode "RGB"), in the order of the steps."""

    guide: Guide
    pictures: tuple[Image.Image, ...]

    def save(self, folder: Path, *, force: bool = False) -> Path:
        """Write the folder of the guide, see `vlm.export.save_guide`; return the path of its HTML page."""
        return save_guide(self.guide, self.pictures, folder, force=force)


def make_guide(
    model: HartVLM,
    processor: StreamProcessor,
    prompt: str,
    options: GenerationOptions,
    *,
    fingerprint: str,
    cancel: threading.Event | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> DrawnGuide:
    """Let the model write and draw the guide that `prompt` asks for.

    on_event: sees every event as it comes. Raises `UserError` for a bad prompt, `OutOfWorld` where the model
    answers in words alone, `GuideError` where the answer is cancelled, cut off or not a guide.
    """
    prompt = check_prompt(prompt)
    asked = processor.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)
    try:
        events = generate(model, processor, asked, options, cancel)
    except ValueError as error:
        raise UserError(f"the model cannot take this prompt ({error}); say it shorter") from error
    return read_guide(events, prompt=prompt, seed=options.seed, fingerprint=fingerprint, on_event=on_event)


def read_guide(
    events: Iterable[Event],
    *,
    prompt: str,
    seed: int,
    fingerprint: str,
    on_event: Callable[[Event], None] | None = None,
    colours: Collection[str] = COLOURS,
) -> DrawnGuide:
    """The guide that a stream of events spells. Raises `OutOfWorld` and `GuideError` as `make_guide` does."""
    text: list[str] = []
    pictures: list[Image.Image] = []
    reason = None
    for event in events:
        if on_event is not None:
            on_event(event)
        match event:
            case TextDelta(text=delta):
                # A picture's mark in the text is ours to set, not the model's.
                text.append(delta.replace(PICTURE, "\ufffd"))
            case ImageDone(image=image):
                text.append(f"\n{PICTURE}\n")
                pictures.append(image)
            case Finished():
                reason = event.reason
    if reason != "stop":
        raise GuideError(f"the answer ended early ({reason or 'no end'}), expected a whole guide")
    answer = "".join(text).strip()
    if not pictures and not answer.startswith("#"):
        raise OutOfWorld(answer)
    draft = parse_guide(answer, colours)
    return DrawnGuide(draft.complete(prompt=prompt, seed=seed, model=fingerprint), tuple(pictures))
