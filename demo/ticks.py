"""Which steps of its guides a visitor has ticked off, kept beside a conversation.

Knows one small file. A tick is of a step as it reads, number and text: a picture drawn anew keeps it, another text
takes it away, since what was done is no longer what the guide says. Each guide of a conversation has its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from vlm.errors import UserError
from vlm.files import output_file

log = logging.getLogger(__name__)

TICKS_FILE = "ticks.json"
MAX_BYTES = 1 << 20


class Ticks:
    """folder: of a saved conversation; read here, once. A file that cannot be read is as good as none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TICKS_FILE
        self._done: dict[int, list[str]] = _read(self._path)

    def of(self, turn: int, steps: Sequence[str]) -> list[str]:
        """The ticked ones among the steps of the guide in a turn."""
        done = self._done.get(turn, [])
        return [step for step in steps if step in done]

    def put(self, turn: int, steps: Sequence[str], done: Collection[str]) -> None:
        """Just these steps of the guide in a turn are done; texts that are no steps are left out. `UserError`."""
        self._done[turn] = [step for step in steps if step in done]
        self._write()

    def keep(self, turns: int) -> None:
        """Forget what is ticked in turns that are no longer there, from number `turns` on. Raises `UserError`."""
        if any(turn >= turns for turn in self._done):
            self._done = {turn: done for turn, done in self._done.items() if turn < turns}
            self._write()

    def _write(self) -> None:
        # A folder that is gone, its conversation deleted, is not brought back.
        if self._path.parent.is_dir():
            with output_file(self._path) as staging:
                staging.write_text(json.dumps({str(turn): done for turn, done in self._done.items()}), encoding="utf-8")


def _read(path: Path) -> dict[int, list[str]]:
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MAX_BYTES:
            raise UserError("it is too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        return {int(turn): [str(step) for step in done] for turn, done in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, UserError) as error:
        log.warning("what was ticked off is lost: %s: %s", path, error)
        return {}
