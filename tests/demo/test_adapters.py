"""Adapters are one visitor's choice: who has none is answered as if there were none on the server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from agent_fixtures import GUIDE, script
from demo_fixtures import ASK, NAME, OTHER, QUICK, VISITOR, adapted_menu, contents, pictures, run, tiny_rooms, words

from demo.line import Line
from demo.room import Room
from demo.rooms import Rooms

STYLED = replace(QUICK, adapter="style")


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    """Rooms over the model of `tiny_rooms`, with an adapter that changes every place."""
    script(monkeypatch, GUIDE)
    return Rooms(tmp_path / "adapted", adapted_menu(), Line())


def drawn(room: Room) -> list[bytes]:
    """All pictures of a conversation."""
    return [content for message in room.messages() for content in contents(pictures(message))]


def test_a_visitor_without_an_adapter_is_answered_as_on_a_server_without_any(adapted: Rooms, tmp_path: Path):
    alone = tiny_rooms(tmp_path / "plain").room(VISITOR, NAME)
    plain, styled = adapted.room(VISITOR, NAME), adapted.room(OTHER, NAME)
    for act in (
        lambda room, settings: room.say(ASK, [], settings),
        lambda room, settings: room.redraw(1, settings),
        lambda room, settings: room.say("And another?", [], settings),
        lambda room, settings: room.redraw(2, settings, text="Lay the seat down."),
        lambda room, settings: room.retry(1, settings),
    ):
        run(styled, act(styled, STYLED))
        for room in (plain, alone):
            run(room, act(room, QUICK))
        assert drawn(plain) == drawn(alone)
        assert [words(message) for message in plain.messages()] == [words(message) for message in alone.messages()]
        assert len(drawn(styled)) == len(drawn(plain)) and not {*drawn(styled)} & {*drawn(plain)}
    assert [turn.adapter for turn in styled.session.turns] == ["style", "style"]
    assert [turn.adapter for turn in plain.session.turns] == [None, None]


def test_an_answer_with_an_adapter_that_is_left_half_way_leaves_the_model_as_it_was(adapted: Rooms, tmp_path: Path):
    plain, styled = adapted.room(VISITOR, NAME), adapted.room(OTHER, NAME)
    running = styled.say(ASK, [], STYLED)
    while not (styled.turns and styled.turns[0].parts):
        next(running)
    running.close()
    alone = tiny_rooms(tmp_path / "plain").room(VISITOR, NAME)
    for room in (plain, alone):
        run(room, room.say(ASK, [], QUICK))
    assert drawn(plain) == drawn(alone)


def test_a_step_drawn_anew_keeps_the_adapter_of_its_guide(adapted: Rooms):
    room, other = adapted.room(VISITOR, NAME), adapted.room(OTHER, NAME)
    again = replace(QUICK, seed=9)
    for one, settings in ((room, STYLED), (other, QUICK)):
        run(one, one.say(ASK, [], settings))
        run(one, one.redraw(1, again))
    kept = drawn(room)
    run(room, room.redraw(1, replace(again, adapter="style")))
    assert drawn(room) == kept and kept[0] != drawn(other)[0]
    run(other, other.redraw(1, replace(again, adapter="style")))
    assert {turn.adapter for turn in other.session.turns} == {None}
