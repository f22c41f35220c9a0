"""Pictures that the image tokenizer's decoder learns to draw: those that answers show, and what the base knows.

Knows picture files, processors and the flatpack world. Does not know models or training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from adapters.examples import Example
from vlm.errors import UserError
from vlm.pictures import open_picture
from vlm.processor import StreamProcessor
from vlm.training.tokenizer import picture

KEPT_BYTES = 256 << 20


def spread(pictures: Sequence[Tensor], most: int) -> Sequence[Tensor]:
    """At most so many pictures, taken at equal distances, so that they are of many examples."""
    return pictures[:: max(1, -(-len(pictures) // most))]


class ShownPictures(Sequence[Tensor]):
    """The pictures in the answers of examples, fitted as the model sees them: (3, H, W) float in [-1, 1] each.

    A picture is opened when it is first asked for, and kept fitted while there is room (`KEPT_BYTES`): photographs take
    longer to open than to learn from. Raises `UserError`, naming the place, for one that cannot be opened any more.
    """

    def __init__(self, examples: Sequence[Example], processor: StreamProcessor) -> None:
        self.processor = processor
        self._found = [
            (part["path"], example.place)
            for example in examples
            for message in example.messages
            if message["role"] == "assistant"
            for part in message["content"]
            if part["type"] == "image"
        ]
        self._kept: dict[Path, Image.Image] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        path, place = self._found[index]
        image = self._kept.get(path)
        if image is None:
            try:
                image = self.processor.fit(open_picture(path, background=self.processor.background))
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            size = 3 * image.width * image.height
            if size <= self._room:
                self._kept[path] = image
                self._room -= size
        return self.processor.pixels(image)[0]


def world_pictures(processor: StreamProcessor, seed: int) -> Callable[[int], Tensor]:
    """Pictures of the flatpack world by number, (3, H, W) float in [-1, 1], for the decoder to rehearse."""
    return lambda number: processor.pixels(picture(number, processor.resolution, 0.0, seed))[0]
