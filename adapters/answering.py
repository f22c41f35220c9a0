"""A guide in an adapter's own world: its weights, its colours, its words for what it does not know.

Knows the registry and how a guide is made. Does not know the command line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from adapters.registry import Adapters
from vlm.errors import OutOfWorld, UserError
from vlm.events import Event
from vlm.generate import generate
from vlm.processor import StreamProcessor
from vlm.prompt import check_prompt
from vlm.reading import DrawnGuide, read_guide
from vlm.sampling import GenerationOptions


def adapted_guide(
    adapters: Adapters,
    name: str | None,
    processor: StreamProcessor,
    prompt: str,
    options: GenerationOptions,
    *,
    cancel: threading.Event | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> DrawnGuide:
    """The guide that the model writes with an adapter (None: without), as `vlm.agent.make_guide` does for the base.

    Raises `OutOfWorld` with the adapter's own words, if it brings any, where the model answers in words alone;
    `UserError` for a bad prompt or name, `GuideError` as there.
    """
    prompt = check_prompt(prompt)
    model, world = adapters.model_for(name), adapters.world(name)
    asked = processor.encode([{"role": "user", "content": prompt}], add_generation_prompt=True)
    try:
        events = generate(model, processor, asked, options, cancel)
    except ValueError as error:
        raise UserError(f"the model cannot take this prompt ({error}); say it shorter") from error
    try:
        return read_guide(
            events,
            prompt=prompt,
            seed=options.seed,
            fingerprint=adapters.fingerprint_of(name),
            on_event=on_event,
            colours=world.colours,
        )
    except OutOfWorld as error:
        if world.outside is None:
            raise
        raise OutOfWorld(world.outside) from error
