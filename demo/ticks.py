"""Which steps of its guides a visitor has ticked off, kept beside a conversation.

Knows guides and one small file. A tick is of a step as it reads, number and text: a picture drawn anew keeps it,
another text takes it away, since what was done is no longer what the guide says. Each guide has ticks of its own.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from vlm.errors import UserError
from vlm.files import output_file
from vlm.guide import Guide
from vlm.guide_edits import EditableGuide

log = logging.getLogger(__name__)

TICKS_FILE = "ticks.json"
MAX_BYTES = 1 << 20


class Ticks:
    """folder: of a saved conversation; read here, once. A file that cannot be read is as good as none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TICKS_FILE
        self._done: dict[int, list[str]] = _read(self._path)
        self._changing = threading.Lock()

    def of(self, editable: EditableGuide) -> list[str]:
        """The ticked ones among the lines of a guide."""
        done = self._done.get(editable.turn, [])
        return [line for line in lines(editable.guide) if line in done]

    def put(self, editable: EditableGuide, line: str, done: bool) -> None:
        """One line of a guide is done, or is not; nothing happens if it is no line of it. Raises `UserError`.

        One at a time, so that tabs which know nothing of one another's ticks take none away.
        """
        with self._changing:
            others = {*self._done.get(editable.turn, [])} - {line}
            ticked = others | {line} if done else others
            self._done[editable.turn] = [one for one in lines(editable.guide) if one in ticked]
            self._write()

    def keep(self, turns: int) -> None:
        """Forget what is ticked in turns that are no longer there, from number `turns` on. Raises `UserError`."""
        with self._changing:
            if any(turn >= turns for turn in self._done):
                self._done = {turn: done for turn, done in self._done.items() if turn < turns}
                self._write()

    def _write(self) -> None:
        # A folder that is gone, its conversation deleted, is not brought back.
        if self._path.parent.is_dir():
            with output_file(self._path) as staging:
                staging.write_text(json.dumps({str(turn): done for turn, done in self._done.items()}), encoding="utf-8")


def lines(guide: Guide) -> list[str]:
    """The steps of a guide as they are listed to be ticked off."""
    return [f"{step.number}. {step.text}" for step in guide.steps]


def _read(path: Path) -> dict[int, list[str]]:
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MAX_BYTES:
            raise UserError("it is too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        return {int(turn): [str(line) for line in done] for turn, done in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, UserError) as error:
        log.warning("what was ticked off is lost: %s: %s", path, error)
        return {}
