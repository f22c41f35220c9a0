"""Pictures that the image tokenizer's decoder learns to draw: those that answers show, and what the base knows.

Knows picture files, processors and the flatpack world. Does not know models or training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from adapters.examples import Example
from vlm.errors import UserError
from vlm.pictures import open_picture
from vlm.processor import StreamProcessor
from vlm.training.tokenizer import picture


class ShownPictures(Sequence[Tensor]):
    """The pictures in the answers of examples, fitted as the model sees them: (3, H, W) float in [-1, 1] each.

    A picture is opened whenever it is asked for, so that many of them take no memory. Raises `UserError`, naming the
    place, for one that cannot be opened any more.
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

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        path, place = self._found[index]
        try:
            return self.processor.pixels(open_picture(path, background=self.processor.background))[0]
        except UserError as error:
            raise UserError(f"{place}: {error}") from error

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))


def world_pictures(processor: StreamProcessor, seed: int) -> Callable[[int], Tensor]:
    """Pictures of the flatpack world by number, (3, H, W) float in [-1, 1], for the decoder to rehearse."""
    return lambda number: processor.pixels(picture(number, processor.resolution, 0.0, seed))[0]
