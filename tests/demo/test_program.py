"""What programs get: an answer as it grows, as plain JSON values, and a name to go on with."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from demo_fixtures import ASK, OTHER, QUICK, VISITOR, run
from picture_files import encoded, gradient
from PIL import Image

from demo.program import State, answer
from demo.rooms import Rooms
from vlm.errors import UserError


def whole(*given: Any) -> State:
    """The last state of an answer."""
    *_, last = answer(*given)
    return last


def test_words_pictures_and_a_name_to_go_on_with(rooms: Rooms):
    first = whole(rooms, ASK, "", "", 3)
    assert first["seed"] == 3 and "1. Attach leg 1." in first["text"] and first["note"] == ""
    assert Image.open(io.BytesIO(base64.b64decode(first["pictures"][1]["png"]))).size == (32, 32)
    photo = base64.b64encode(encoded(gradient())).decode()
    second = whole(rooms, "And this?", photo, first["conversation"], -1)
    visitor, name = second["conversation"].split(".")
    assert second["conversation"] == first["conversation"] and len(rooms.room(visitor, name).session.turns) == 2


@pytest.mark.parametrize("bad", ["x.y", "../..", VISITOR])
def test_conversations_that_nobody_named_are_refused(rooms: Rooms, bad: str):
    with pytest.raises(UserError, match="conversation"):
        whole(rooms, ASK, "", bad, -1)


def test_what_cannot_be_answered_is_told(rooms: Rooms):
    with pytest.raises(UserError, match="base64"):
        whole(rooms, ASK, "§", "", -1)
    with pytest.raises(UserError, match="empty"):
        whole(rooms, " ", "", "", -1)


def test_an_answer_grows(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("demo.worker.PAUSE", 0.0)
    states = list(answer(rooms, ASK, "", "", 3))
    last = states[-1]
    json.dumps(states)
    assert all(state.keys() == last.keys() for state in states)
    assert {state["conversation"] for state in states} == {last["conversation"]}
    assert [state["seed"] for state in states] == [None] * (len(states) - 1) + [3]
    texts = [state["text"] for state in states]
    assert texts == sorted(texts, key=len) and len({*texts}) > 10
    assert all(last["text"].startswith(text) for text in texts)
    counts = [len(state["pictures"]) for state in states]
    assert counts == sorted(counts) and {*counts} == {0, 1, 2}
    first = [state["pictures"][0] for state in states if state["pictures"]]
    assert all(picture == last["pictures"][0] for picture in first), "a picture comes once, and finished"
    notes = list(dict.fromkeys(state["note"] for state in states))
    drawn = [f"Step {step}: {stage}" for step in (1, 2) for stage in ("scale 1 of 3", "scale 2 of 3", "last details")]
    assert [note for note in notes if note] == drawn


def test_an_earlier_answer_is_never_taken_for_the_one_that_begins(rooms: Rooms):
    first = whole(rooms, ASK, "", "", 3)
    states = list(answer(rooms, "And another?", "", first["conversation"], -1))
    assert states[0]["text"] == "" and states[0]["pictures"] == []


def test_one_who_waits_is_told_and_one_who_goes_frees_the_room(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("demo.room.WAIT", 0.01)
    other = rooms.room(OTHER, VISITOR)
    running = other.say(ASK, [], QUICK)
    next(running), next(running)
    states = answer(rooms, ASK, "", "", -1)
    assert next(states)["note"] == ""
    waiting = next(states)
    assert waiting["note"] == "Busy: you are 1st in line." and waiting["pictures"] == []
    running.close()
    while not next(states)["text"]:
        pass
    visitor, name = waiting["conversation"].split(".")
    room = rooms.room(visitor, name)
    assert room.busy
    states.close()
    assert not room.busy and [turn.reason for turn in room.session.turns] == ["cancelled"]
    assert len(whole(rooms, "Again.", "", waiting["conversation"], -1)["pictures"]) == 2
    run(other, other.say(ASK, [], QUICK))
