"""Answering with adapters: an agent that switches them by name, and which adapters fit a bundle.

Knows the registry and agents. Does not know the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.folder import MANIFEST_FILE, load_adapter
from adapters.registry import Adapters
from vlm.agent import ChatAgent, load_agent
from vlm.bundle import fingerprint


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
    backbone = replace(plain.backbone, use_adapter=adapters.use, speaker_of=adapters.speaker)
    return ChatAgent(backbone, seed=plain.seed), adapters


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
