"""A session over one cache that is kept between turns, so that a turn costs what is new in it.

Knows pieces of stream and which of them the cache holds. Does not know messages, turns or guides.

What generation adds to the cache is cut off again before the next feed, and the finished answer is fed as part of the
next piece. So the cache is a function of the pieces alone: a conversation that was saved and loaded, or whose cache was
let go of, goes on to the bit like one that was kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlm.model import HartVLM
from vlm.session import Mark, StreamSession
from vlm.stream import Conversation


class KeptStream:
    """Feeds a stream given as pieces, running only those that are new or come after a change."""

    def __init__(self, model: HartVLM) -> None:
        self._model = model
        self._session: StreamSession | None = None
        self._fed: list[tuple[str, Mark]] = []
        self._adapter: str | None = None

    def feed(self, pieces: Sequence[Conversation], adapter: str | None = None) -> tuple[StreamSession, Tensor]:
        """The session with just these pieces in it, and the logits (1, text vocab) after the last.

        adapter: rows that were run with another are run again. Raises ValueError when there is no piece.
        """
        if not pieces:
            raise ValueError("expected at least one piece of stream, got none")
        if self._session is None or adapter != self._adapter:
            self.release()
            self._session, self._adapter = StreamSession(self._model), adapter
        keys = [piece.fingerprint() for piece in pieces]
        same = 0
        # The last piece is always run: its logits are wanted.
        while same < min(len(self._fed), len(pieces) - 1) and self._fed[same][0] == keys[same]:
            same += 1
        del self._fed[same:]
        self._session.rewind(self._fed[-1][1] if self._fed else Mark(0, 0, 0))
        for key, piece in zip(keys[same:], pieces[same:], strict=True):
            logits = self._session.feed(piece)
            self._fed.append((key, self._session.mark()))
        return self._session, logits

    def release(self) -> None:
        """Let go of the cache; the next feed runs everything again. Needed after an error in the middle of a pass."""
        if self._session is not None:
            self._session.close()
        self._session, self._fed = None, []
