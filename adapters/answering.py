"""Answering with adapters: an agent that switches them by name, and a guide in an adapter's own world.

Knows the registry, agents and how a guide is made. Does not know the command line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.folder import MANIFEST_FILE, load_adapter
from adapters.registry import Adapters
from vlm.agent import ChatAgent, load_agent
from vlm.bundle import fingerprint
from vlm.errors import OutOfWorld, UserError
from vlm.events import Event
from vlm.generate import generate
from vlm.processor import StreamProcessor
from vlm.prompt import check_prompt
from vlm.reading import DrawnGuide, read_guide
from vlm.sampling import GenerationOptions


def load_adapted_agent(
    bundle: Path | str | None, folders: Sequence[Path | str], **options: Any
) -> tuple[ChatAgent, Adapters]:
    """An agent whose answers may name an adapter (`reply(…, adapter=NAME)`), and the adapters of these folders.

    options: of `vlm.agent.load_agent`. One answer at a time may run on such an agent, see `Adapters.use`. Raises
    `UserError` on a bundle or an adapter that cannot be used.
    """
    # Before the model loads: a wrong folder is told at once.
    stored = [(load_adapter(folder), Path(folder).resolve().name) for folder in folders]
    plain = load_agent(bundle, **options)
    adapters = Adapters(plain.model, plain.fingerprint)
    for adapter, name in stored:
        adapters.add(adapter, name)
    return ChatAgent(replace(plain.backbone, use_adapter=adapters.use), seed=plain.seed), adapters


def fitting_adapters(bundle: Path | str | None, places: Sequence[Path]) -> tuple[Path, ...]:
    """The adapters of a bundle among folders and the folders directly in them. A broken one raises `UserError`."""
    base = fingerprint(bundle)
    found: dict[str, Path] = {}
    for place in places:
        inside = sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
        for folder in (place, *inside):
            if (folder / MANIFEST_FILE).is_file() and load_adapter(folder).manifest.base == base:
                found.setdefault(folder.resolve().name, folder)
    return tuple(found.values())


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
    """The guide that the model writes with an adapter (None: without).

    Raises `OutOfWorld` with the adapter's own words, if it brings any, where the model answers in words alone;
    `UserError` for a bad prompt or name, `GuideError` where the answer is cancelled, cut off or not a guide.
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
