"""Answering with adapters: an agent that switches them by name, how they are chosen and weighed in words, and which
fit a bundle.

Knows the registry and agents. Does not know the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.folder import MANIFEST_FILE, StoredAdapter, load_adapter
from adapters.registry import MOST_WEIGHT, Adapters, check_one_world
from vlm.agent import ChatAgent, load_agent
from vlm.bundle import fingerprint
from vlm.errors import UserError


@dataclass(frozen=True)
class Choice:
    """One adapter of an answer, and how strongly it counts."""

    folder: Path
    weight: float = 1.0

    def __str__(self) -> str:
        name = self.folder.resolve().name
        return name if self.weight == 1 else f"{name}={self.weight:g}"


def parse_choice(text: str) -> Choice:
    """`FOLDER` or `FOLDER=WEIGHT`.

    A folder that is there by the whole name is meant as such, whatever its name holds; `a=0.5=0.5` weighs the folder
    `a=0.5`. Otherwise what follows the last `=` is the weight, where it is a number. Raises `UserError` on a weight
    that cannot be.
    """
    folder, equals, said = text.rpartition("=")
    if not folder or Path(text).is_dir():
        return Choice(Path(text))
    try:
        weight = float(said)
    except ValueError:
        if Path(folder).is_dir():
            raise UserError(f"--adapter {text}: {said!r} is no weight, expected a number such as 0.5") from None
        return Choice(Path(text))
    if not abs(weight) < MOST_WEIGHT:
        raise UserError(f"--adapter {text}: the weight is {said}, expected between -{MOST_WEIGHT} and {MOST_WEIGHT}")
    return Choice(Path(folder), weight)


def load_combined_agent(
    bundle: Path | str | None, choices: Sequence[Choice], **options: Any
) -> tuple[ChatAgent, Adapters, str]:
    """An agent, its adapters, and the name under which the chosen ones answer together, each times its weight.

    options: of `vlm.agent.load_agent`. Raises `UserError` as `load_adapted_agent` and `Adapters.combine` do, and for a
    folder that is given twice.
    """
    folders = [choice.folder for choice in choices]
    twice = [folder for number, folder in enumerate(folders) if _same(folder, folders[:number])]
    if twice:
        raise UserError(f"the adapter {twice[0]} is given twice; give it once, with a weight: {twice[0]}=2")
    stored = _stored(folders)
    weights = dict(zip(stored, (choice.weight for choice in choices), strict=True))
    check_one_world({name: stored[name].manifest.world for name, weight in weights.items() if weight})
    agent, adapters = _agent_with(bundle, stored, options)
    if list(weights.values()) == [1.0]:
        return agent, adapters, adapters.names[0]
    return agent, adapters, adapters.combine(weights, " + ".join(map(str, choices)))


def load_adapted_agent(
    bundle: Path | str | None, folders: Sequence[Path | str], **options: Any
) -> tuple[ChatAgent, Adapters]:
    """An agent whose answers may name an adapter (`reply(…, adapter=NAME)`), and the adapters of these folders.

    options: of `vlm.agent.load_agent`. One answer at a time may run on such an agent, see `Adapters.use`. Raises
    `UserError` on a bundle or an adapter that cannot be used. Each is called by its folder's name, one whose name is
    taken by its number too.
    """
    return _agent_with(bundle, _stored(folders), options)


def fitting_adapters(bundle: Path | str | None, places: Sequence[Path]) -> tuple[Path, ...]:
    """The adapters of a bundle among folders and the folders directly in them.

    Raises `UserError` for a broken one, and for a weight: each adapter found is a choice of its own.
    """
    for place in places:
        if not place.is_dir() and parse_choice(str(place)).folder != place:
            raise UserError(f"--adapter {place}: a weight has no place here, each adapter is an entry of its own")
    base = fingerprint(bundle)
    found: dict[Path, Path] = {}
    for place in places:
        inside = sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
        for folder in (place, *inside):
            if (folder / MANIFEST_FILE).is_file() and load_adapter(folder).manifest.base == base:
                found.setdefault(folder.resolve(), folder)
    return tuple(found.values())


def adapter_names(folders: Sequence[Path | str]) -> list[str]:
    """What adapters are called: by their folders' names, one whose name is taken by its number (from 1) too."""
    names: list[str] = []
    for number, folder in enumerate(folders, start=1):
        name = Path(folder).resolve().name
        names.append(f"{name} ({number})" if name in names else name)
    return names


def _same(folder: Path, others: Sequence[Path]) -> bool:
    return any(folder.resolve() == other.resolve() for other in others)


def _stored(folders: Sequence[Path | str]) -> dict[str, StoredAdapter]:
    """Adapters by name, read before the model loads: a wrong folder is told at once."""
    return {name: load_adapter(folder) for name, folder in zip(adapter_names(folders), folders, strict=True)}


def _agent_with(
    bundle: Path | str | None, stored: Mapping[str, StoredAdapter], options: Mapping[str, Any]
) -> tuple[ChatAgent, Adapters]:
    plain = load_agent(bundle, **options)
    adapters = Adapters(plain.model, plain.fingerprint)
    for name, adapter in stored.items():
        adapters.add(adapter, name)
    backbone = replace(
        plain.backbone, use_adapter=adapters.use, speaker_of=adapters.speaker, decoding=adapters.decoding
    )
    return ChatAgent(backbone, seed=plain.seed), adapters
