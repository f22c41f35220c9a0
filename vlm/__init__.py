"""A chat model whose answer is one stream of text and pictures.

Importing this package is cheap: torch and transformers load with the modules that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm.agent import load_agent

__version__ = "0.1.0"
__all__ = ["__version__", "load_agent"]


def __getattr__(name: str) -> Any:
    """`vlm.load_agent`, imported when it is first asked for."""
    if name == "load_agent":
        from vlm.agent import load_agent

        return load_agent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
