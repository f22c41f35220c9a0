"""The models to choose from, each loaded when it is first asked for, and the adapters that fit each.

Knows names and how to get an agent; knows no files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from vlm.agent import ChatAgent
from vlm.errors import UserError

Load = Callable[[], ChatAgent]


class ModelMenu:
    """loaders: how to get each model, by the name it is shown under; the first is where everyone begins.

    adapters: names of the adapters that each model's own `use_adapter` knows. Raises ValueError without any model.
    """

    def __init__(self, loaders: Mapping[str, Load], adapters: Mapping[str, Sequence[str]] | None = None) -> None:
        if not loaders:
            raise ValueError("expected at least one model")
        self.names = tuple(loaders)
        self._loaders = dict(loaders)
        self._adapters = {name: tuple(found) for name, found in (adapters or {}).items()}
        self._agents: dict[str, ChatAgent] = {}
        self._loading = threading.Lock()

    @staticmethod
    def of(agent: ChatAgent, name: str = "bundled model", adapters: Sequence[str] = ()) -> ModelMenu:
        """A menu of one model that is loaded already."""
        return ModelMenu({name: lambda: agent}, {name: adapters})

    def agent(self, name: str) -> ChatAgent:
        """The agent of this name. Raises `UserError` for an unknown one, or if it cannot be loaded (any more)."""
        if name not in self._loaders:
            raise UserError(f"there is no model {name[:80]!r}, expected one of {', '.join(self.names)}")
        with self._loading:
            if name not in self._agents:
                self._agents[name] = self._loaders[name]()
            return self._agents[name]

    def adapters(self, name: str) -> tuple[str, ...]:
        """Names of the adapters that fit a model."""
        return self._adapters.get(name, ())
