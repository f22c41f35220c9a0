"""A waiting line in front of the model: so many at once, the others in the order they came, no more than fit.

Knows threads and order. Does not know what is waited for.
"""

from __future__ import annotations

import threading
from types import TracebackType

from vlm.errors import UserError


class Line:
    """places: how many may go at once. longest: how many may wait."""

    def __init__(self, places: int = 1, longest: int = 16) -> None:
        if places < 1 or longest < 0:
            raise ValueError(f"expected at least one place and no negative length, got {places} and {longest}")
        self.places = places
        self.longest = longest
        self._changed = threading.Condition()
        self._line: list[Ticket] = []

    def join(self) -> Ticket:
        """A ticket, to be used as a context that leaves the line. Raises `UserError` when the line is full."""
        ticket = Ticket(self)
        with self._changed:
            if len(self._line) >= self.places + self.longest:
                raise UserError(
                    f"the model is busy and {self.longest} others are waiting already; send it again in a minute"
                )
            self._line.append(ticket)
        return ticket


class Ticket:
    """A place in a line, from joining to leaving."""

    def __init__(self, line: Line) -> None:
        self._of = line

    @property
    def position(self) -> int:
        """How many must leave before this one may go; 0: it may go now."""
        line = self._of
        with line._changed:
            return max(0, line._line.index(self) - line.places + 1)

    def wait(self, seconds: float) -> bool:
        """Wait for this one's turn, at most so long; True: it has come."""
        line = self._of
        with line._changed:
            return line._changed.wait_for(lambda: line._line.index(self) < line.places, seconds)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._of._changed:
            self._of._line.remove(self)
            self._of._changed.notify_all()


def ordinal(number: int) -> str:
    """1 → "1st"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
