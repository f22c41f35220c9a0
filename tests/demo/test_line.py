"""The waiting line: order, limits, and leaving it however one leaves."""

from __future__ import annotations

import threading

import pytest

from demo.line import Line, ordinal
from vlm.errors import UserError


def test_as_many_as_there_are_places_go_at_once_and_the_others_are_told_their_number():
    line = Line(places=2)
    first, second, third, fourth = (line.join() for _ in range(4))
    assert [ticket.position for ticket in (first, second, third, fourth)] == [0, 0, 1, 2]
    assert first.wait(0) and second.wait(0) and not third.wait(0)
    with second:
        pass
    assert third.wait(0) and fourth.position == 1


def test_one_who_gives_up_is_passed_over():
    line = Line()
    first, second, third = (line.join() for _ in range(3))
    with pytest.raises(KeyError), second:
        raise KeyError
    with first:
        pass
    assert third.wait(0)


def test_a_full_line_refuses():
    line = Line(places=1, longest=1)
    with line.join():
        line.join()
        with pytest.raises(UserError, match="1 others are waiting"):
            line.join()


def test_waiting_ends_as_soon_as_a_place_is_free():
    line = Line()
    first, second = line.join(), line.join()
    came = threading.Event()
    waiting = threading.Thread(target=lambda: second.wait(60) and came.set())
    waiting.start()
    with first:
        assert not came.is_set()
    assert came.wait(30)
    waiting.join()


def test_ordinals():
    said = [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 112)]
    assert said == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th"]
