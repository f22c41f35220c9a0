"""The models to choose from, each loaded when it is first asked for, and the adapters that fit each.

Knows names and how to get an agent; knows no files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from vlm.agent import ChatAgent
from vlm.backbone import Backbone
from vlm.errors import UserError

log = logging.getLogger(__name__)

Load = Callable[[], ChatAgent]


class ModelMenu:
    """loaders: how to get each model, by the name it is shown under; the first is where everyone begins.

    adapters: names of the adapters that each model's own `use_adapter` knows. fingerprints: of models, as far as they
    are known before they are loaded. While one model is loaded, the others can be asked for. Raises ValueError without
    any model.
    """

    def __init__(
        self,
        loaders: Mapping[str, Load],
        adapters: Mapping[str, Sequence[str]] | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        if not loaders:
            raise ValueError("expected at least one model")
        self.names = tuple(loaders)
        self._loaders = dict(loaders)
        self._adapters = {name: tuple(found) for name, found in (adapters or {}).items()}
        self._fingerprints = dict(fingerprints or {})
        self._agents: dict[str, ChatAgent] = {}
        self._loading = {name: threading.Lock() for name in self.names}

    @staticmethod
    def of(agent: ChatAgent, name: str = "bundled model", adapters: Sequence[str] = ()) -> ModelMenu:
        """A menu of one model that is loaded already."""
        return ModelMenu({name: lambda: agent}, {name: adapters})

    def agent(self, name: str) -> ChatAgent:
        """The agent of this name. Raises `UserError` for an unknown one, or if it cannot be loaded (any more)."""
        self._check(name)
        with self._loading[name]:
            if name not in self._agents:
                self._agents[name] = self._loaders[name]()
            return self._agents[name]

    def backbone(self, name: str) -> Backbone:
        """What sessions with a model share. Raises `UserError`, which says no more than its name, if it cannot be
        loaded (any more)."""
        self._check(name)
        try:
            return self.agent(name).backbone
        except Exception as error:  # Whatever a model's files make its loader raise.
            log.error("the model %s cannot be loaded", name, exc_info=error)
            raise UserError(f"the model {name!r} cannot be loaded; choose another") from error

    def of_fingerprint(self, fingerprint: str) -> str | None:
        """The name of the model with this fingerprint; None if there is none that can be loaded.

        Those that are loaded already are looked at first; only then others are loaded, one after another, but none
        that is known to have another fingerprint.
        """
        for name in sorted(self.names, key=lambda name: name not in self._agents):
            if name not in self._agents and self._fingerprints.get(name, fingerprint) != fingerprint:
                continue
            try:
                if self.agent(name).backbone.fingerprint == fingerprint:
                    return name
            except Exception as error:  # Whatever a model's files make its loader raise: it is another's conversation.
                log.warning("the model %s cannot be loaded: %s", name, error)
        return None

    def adapters(self, name: str) -> tuple[str, ...]:
        """Names of the adapters that fit a model."""
        return self._adapters.get(name, ())

    def _check(self, name: str) -> None:
        if name not in self._loaders:
            raise UserError(f"there is no model {name[:80]!r}, expected one of {', '.join(self.names)}")
