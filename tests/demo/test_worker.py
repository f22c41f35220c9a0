"""An answer in its own thread: batches in order, errors handed on, ended when the reader goes."""

from __future__ import annotations

import threading
import time

import pytest

from demo.worker import ended_aside, in_thread
from vlm.events import ImageStarted, TextDelta


def test_events_come_in_order_and_each_event_of_a_picture_ends_a_batch():
    given = [TextDelta("a"), TextDelta("b"), ImageStarted(0, 1), ImageStarted(1, 1), TextDelta("c")]
    batches = list(in_thread((event for event in given), threading.Event()))
    assert [event for batch in batches for event in batch] == given
    assert all(not isinstance(event, ImageStarted) for batch in batches for event in batch[:-1])


def test_text_that_comes_without_a_pause_is_handed_on_while_it_comes():
    shown, ended = threading.Event(), threading.Event()

    def running():
        for _ in range(20_000):
            if shown.is_set():
                return
            yield TextDelta("a")
            time.sleep(0.001)
        ended.set()

    batches = in_thread(running(), threading.Event())
    first = next(batches)
    assert not ended.is_set() and set(first) == {TextDelta("a")}
    shown.set()
    list(batches)


def test_text_that_is_due_does_not_wait_for_the_queue_to_be_empty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("demo.worker.PAUSE", 0.0)
    given = [TextDelta("a"), TextDelta("b"), TextDelta("c"), ImageStarted(0, 1)]
    assert list(in_thread((event for event in given), threading.Event())) == [[event] for event in given]


def test_an_error_is_raised_after_what_came_before_it():
    def running():
        yield TextDelta("a")
        raise MemoryError("too much")

    seen = []
    with pytest.raises(MemoryError, match="too much"):
        for batch in in_thread(running(), threading.Event()):
            seen += batch
    assert seen == [TextDelta("a")]


def test_closing_sets_cancel_and_waits_for_the_end():
    cancel = threading.Event()
    ended = threading.Event()

    def running():
        yield TextDelta("a")
        cancel.wait(60)
        ended.set()

    batches = in_thread(running(), cancel)
    next(batches)
    batches.close()
    assert cancel.is_set() and ended.is_set()


def test_whoever_closes_does_not_wait_for_the_end():
    ending, end, ended = threading.Event(), threading.Event(), threading.Event()

    def running():
        try:
            yield 1
            yield 2
        finally:
            ending.set()
            assert end.wait(60)
            ended.set()

    aside = ended_aside(running())
    assert next(aside) == 1
    aside.close()
    assert ending.wait(60) and not ended.is_set()
    end.set()
    assert ended.wait(60)


def test_what_is_not_closed_is_handed_on_whole_errors_too():
    assert list(ended_aside(number for number in range(3))) == [0, 1, 2]

    def running():
        yield 1
        raise MemoryError("too much")

    seen = []
    with pytest.raises(MemoryError, match="too much"):
        for one in ended_aside(running()):
            seen.append(one)
    assert seen == [1]
