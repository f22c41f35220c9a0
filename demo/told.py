"""What went wrong, in a sentence for the visitor: without this machine's paths, without a traceback.

Knows errors. Who is told, and where, is decided elsewhere.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from safetensors import SafetensorError

from vlm.errors import GuideError, UserError

log = logging.getLogger(__name__)

_PATH = re.compile(r"(?<![\w<|/])(?:[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])*([^\s/\\]+)")


def told(error: Exception, *places: Path) -> str:
    """A sentence without its full stop; what the visitor did not cause is also logged, with its traceback.

    places: folders of the server that are left out even where there are spaces in their names.
    """
    if isinstance(error, UserError | GuideError):
        return without_paths(" ".join(str(error).split()), *places)
    log.error("an action failed", exc_info=error)
    if _no_memory(error):
        return "there was not enough memory; begin a new conversation, or try again later"
    if isinstance(error, OSError | SafetensorError):
        reason = getattr(error, "strerror", None) or type(error).__name__
        return f"the server cannot write or read a file ({reason}); try again later"
    return f"something went wrong in the model ({type(error).__name__}); try again"


def without_paths(text: str, *places: Path) -> str:
    """A text with each path cut down to its last name."""
    for place in sorted(map(str, places), key=len, reverse=True):
        text = text.replace(place, "")
    return _PATH.sub(r"\1", text)


def _no_memory(error: Exception) -> bool:
    # On a CPU torch raises a RuntimeError of its allocator where others raise MemoryError.
    told_by_torch = isinstance(error, RuntimeError) and "allocate" in str(error)
    return told_by_torch or isinstance(error, MemoryError | torch.OutOfMemoryError)
