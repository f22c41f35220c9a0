"""A running answer in a thread of its own, so that a slow or vanished reader never holds the model half-way.

Knows events and threads. Does not know what the events are for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

from vlm.events import Event, Events, TextDelta

PAUSE = 0.05
"""Seconds in which text is gathered, from its first token on, before it is handed on: a page cannot be repainted for
every token."""

T = TypeVar("T")


def in_thread(running: Events, cancel: threading.Event) -> Generator[list[Event], None, None]:
    """The events of `running`, drawn in another thread, in batches that end with at most one event of a picture.

    cancel: the event that stops `running`. It is set when this generator is closed, and the thread has ended by the
    time this returns, however it ends. What `running` raises is raised here, after the events before it.
    """
    events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            with closing(running):
                for event in running:
                    events.put(event)
        except BaseException as error:  # Handed to the reader, which raises it.
            events.put(error)
        else:
            events.put(None)

    thread = threading.Thread(target=work, name="answer", daemon=True)
    thread.start()
    try:
        yield from _batches(events)
    finally:
        cancel.set()
        thread.join()


def _batches(events: queue.SimpleQueue[Event | BaseException | None]) -> Generator[list[Event], None, None]:
    batch: list[Event] = []
    due = 0.0
    while True:
        try:
            event = events.get(timeout=max(0.0, due - time.monotonic()) if batch else None)
        except queue.Empty:
            yield batch
            batch = []
            continue
        if isinstance(event, BaseException) or event is None:
            if batch:
                yield batch
            if event is not None:
                raise event
            return
        if not batch:
            due = time.monotonic() + PAUSE
        batch.append(event)
        if not isinstance(event, TextDelta) or time.monotonic() >= due:
            yield batch
            batch = []


def ended_aside(running: Generator[T, None, None]) -> Generator[T, None, None]:
    """The same, but whoever closes it does not wait: an answer ends only at its next event, in a thread of its own."""
    try:
        for one in running:  # noqa: UP028 - `yield from` would close it here.
            yield one
    except GeneratorExit:
        threading.Thread(target=running.close, name="closing").start()
        raise
