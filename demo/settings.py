"""What a visitor chose for an answer.

Knows no page: `demo.controls` reads one off it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What the visitor chose. None means the model's own; adapter None: none."""

    seed: int | None = None
    guidance: float | None = None
    temperature: float | None = None
    code_temperature: float | None = None
    residual_steps: int | None = None
    adapter: str | None = None

    def changes(self) -> dict[str, Any]:
        """As `ChatSession.reply` takes them, the adapter left out."""
        return self._chosen("temperature") | self.drawing()

    def drawing(self) -> dict[str, Any]:
        """What of it decides how one step is drawn anew; its adapter is that of the guide."""
        return self._chosen("seed", "guidance", "code_temperature", "residual_steps")

    def _chosen(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
