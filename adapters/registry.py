"""The adapters of one loaded model: load, choose for a request, weigh and combine, merge, unload.

Knows folders and models. Does not know agents or the command line. The base is never changed: `model_for` gives a
second tree of modules over the base's own tensors, so requests with different adapters may run side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.folder import StoredAdapter, World, load_adapter
from adapters.lora import apply, merge, shared_copy
from vlm.backbone import Speaker
from vlm.errors import UserError
from vlm.flatpack.style import COLOURS
from vlm.model import HartVLM

MOST_WEIGHT = 100


def check_one_world(worlds: Mapping[str, World]) -> None:
    """Raise `UserError` where two of the adapters, by name, say differently what is outside what they know."""
    answers = {world.outside: name for name, world in worlds.items() if world.outside is not None}
    if len(answers) > 1:
        raise UserError(
            f"the adapters {' and '.join(map(repr, answers.values()))} each bring a world of their own (what they "
            "say of prompts outside it differs), expected one that does; use one of them at a time"
        )


@dataclass(frozen=True)
class _Entry:
    """A named choice: adapters with their weights, and the model that has them."""

    parts: tuple[tuple[StoredAdapter, float], ...]
    model: HartVLM

    @property
    def world(self) -> World:
        """The worlds of its adapters together: all colours, the first name, the one answer to what is outside."""
        worlds = [adapter.manifest.world for adapter, weight in self.parts if weight]
        colours = dict.fromkeys(colour for world in worlds for colour in world.colours)
        outside = next((world.outside for world in worlds if world.outside is not None), None)
        return World(name=next((w.name for w in worlds if w.name), ""), colours=tuple(colours), outside=outside)


class Adapters:
    """Adapters by name, over one base model, whose fingerprint is given. May be used from several threads."""

    def __init__(self, model: HartVLM, fingerprint: str) -> None:
        self.base = model
        self.fingerprint = fingerprint
        self._entries: dict[str, _Entry] = {}
        # The base may be lent (`use`) when the next adapter is loaded.
        self._origin = shared_copy(model)
        self._lending = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What can be chosen, in the order in which it came."""
        return tuple(self._entries)

    def load(self, folder: Path | str, name: str | None = None) -> str:
        """Load the adapter in `folder` under `name`, by default the folder's; returns the name.

        Raises `UserError` for a folder that is none or not safe, an adapter of another base, a name that is taken.
        """
        name = name or Path(folder).resolve().name
        self._check_free(name)
        return self.add(load_adapter(folder), name)

    def add(self, stored: StoredAdapter, name: str) -> str:
        """The same for an adapter that is in memory."""
        self._check_free(name)
        stored.check_base(self.fingerprint)
        self._add(name, ((stored, 1.0),))
        return name

    def combine(self, weights: Mapping[str, float], name: str) -> str:
        """A new choice that adds loaded adapters, each times its weight: {"blueprint": 0.5, "trolley": 1}.

        A weight of 0 leaves an adapter out, a negative one takes it away. Raises `UserError` on a name, and where two
        answer in different words of their own what is outside: an answer is given in one world.
        """
        self._check_free(name)
        if not weights or not all(abs(weight) < MOST_WEIGHT for weight in weights.values()):
            raise UserError(
                f"cannot combine {dict(weights)}, expected names with a weight each, between -{MOST_WEIGHT} and "
                f"{MOST_WEIGHT}"
            )
        used = {one: self._entry(one) for one, weight in weights.items() if weight}
        check_one_world({one: entry.world for one, entry in used.items()})
        parts = [(stored, weights[one] * own) for one, entry in used.items() for stored, own in entry.parts]
        self._add(name, tuple(parts))
        return name

    def model_for(self, name: str | None) -> HartVLM:
        """The model with an adapter, or the base for None; shared by all who ask. Raises `UserError` on a name."""
        return self.base if name is None else self._entry(name).model

    def decoding(self, name: str | None) -> HartVLM:
        """The model whose image tokenizer turns tokens that were drawn with an adapter (None: without any) into
        pictures. Never one that is lent, see `use`. Raises `UserError` on a name."""
        return self._origin if name is None else self._entry(name).model

    def stored(self, name: str) -> StoredAdapter:
        """What was loaded under a name. Raises `UserError` on a name, or where it is a combination of several."""
        parts = self._entry(name).parts
        if len(parts) != 1:
            raise UserError(f"{name!r} is a combination of {len(parts)} adapters, expected one that was loaded")
        return parts[0][0]

    def world(self, name: str | None) -> World:
        """What an adapter (None: the base) brings beside weights, the base's colours included."""
        own = World() if name is None else self._entry(name).world
        return own.model_copy(update={"colours": tuple(dict.fromkeys((*COLOURS, *own.colours)))})

    def fingerprint_of(self, name: str | None) -> str:
        """What the model with an adapter is known by: the base's fingerprint, and each adapter's with its weight."""
        parts = () if name is None else self._entry(name).parts
        added = (stored.fingerprint() + ("" if weight == 1 else f"*{weight:g}") for stored, weight in parts)
        return "+".join([self.fingerprint, *added])

    def speaker(self, name: str) -> Speaker:
        """Who answers with an adapter: the hook of `vlm.backbone.Backbone`. Raises `UserError` on a name."""
        world = self.world(name)
        return Speaker(self.fingerprint_of(name), world.colours, world.outside)

    def merged(self, name: str) -> HartVLM:
        """A plain model of its own whose weights hold the adapter's. Raises `UserError` on a name."""
        return merge(self._entry(name).model)

    def unload(self, name: str) -> None:
        """Forget an adapter; combinations made of it stay. Raises `UserError` on a name."""
        self._entry(name)
        del self._entries[name]

    def use(self, model: HartVLM, name: str) -> AbstractContextManager[None]:
        """Let the base object itself be the adapted model for a while: the hook of `vlm.backbone.Backbone`.

        The object is one, so only one may do so at a time, and nobody else may use it meanwhile: where threads share a
        model, take `model_for`. Raises `UserError` on a name, at once; RuntimeError, on entering, while it is lent.
        """
        if model is not self.base:
            raise ValueError("this model is not the base of these adapters")
        return self._lend(self._entry(name).model)

    @contextmanager
    def _lend(self, view: HartVLM) -> Iterator[None]:
        if not self._lending.acquire(blocking=False):
            raise RuntimeError("an answer with an adapter is still running on this model; let it end first")
        own = dict(self.base._modules)
        try:
            self.base._modules.update(view._modules)
            yield
        finally:
            # Each name is set anew and none is ever missing: other threads encode pictures meanwhile.
            self.base._modules.update(own)
            self._lending.release()

    def _add(self, name: str, parts: tuple[tuple[StoredAdapter, float], ...]) -> None:
        model = apply(self._origin, [(stored.settings, stored.tensors, weight) for stored, weight in parts])
        self._entries[name] = _Entry(parts, model)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries) or "none"
            raise UserError(f"no adapter {name!r} is loaded, expected one of: {known}") from None

    def _check_free(self, name: str) -> None:
        if not name or name in self._entries or not name.isprintable():
            raise UserError(f"the name {name!r} is taken or none; choose another")
