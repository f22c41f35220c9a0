"""A disk that fills up, told as what it is.

Knows how the libraries that write here say that they cannot. Does not know what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vlm.errors import UserError


@contextmanager
def writing(place: Path, advice: str) -> Iterator[None]:
    """Turn a write that failed into a `UserError` that names `place`."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch says a full disk as a RuntimeError of its file writer; any other is no matter of disks.
        torchs = isinstance(error, RuntimeError)
        if torchs and "inline_container" not in str(error):
            raise
        reason = "the disk took no more" if torchs else getattr(error, "strerror", None) or error
        raise UserError(f"cannot write in {place} ({' '.join(str(reason).split())}); {advice}") from error
