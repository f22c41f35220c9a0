"""Rooms: what a visitor sees, alone and beside others, today and after a restart."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from agent_fixtures import GUIDE, script, tiny_agent
from demo_fixtures import ASK, NAME, OTHER, QUICK, VISITOR, contents, pictures, run, tiny_rooms, words
from transformers import DynamicCache

from demo.history import new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.rooms import Rooms
from vlm.errors import UserError
from vlm.session import StreamSession


def test_an_answer_grows_and_its_pictures_sharpen_in_place(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("demo.worker.PAUSE", 0.0)
    room = rooms.room(VISITOR, NAME)
    shown = run(room, room.say(ASK, [], QUICK))
    assert words(shown[0][0]) == ASK, "the question is there before the answer begins"
    first = [pictures(messages[1])[0] for messages in shown if pictures(messages[1])]
    assert len(dict.fromkeys(first)) == 5, "paper, three scales, the finished picture"
    lengths = [len(words(messages[1])) for messages in shown if not pictures(messages[1])]
    assert lengths == sorted(lengths) and len({*lengths}) > 10, "text is shown as it comes, before any picture"
    assert len(pictures(shown[-1][1])) == 2 and "You are done!" in words(shown[-1][1])


def test_what_is_shown_is_what_the_conversation_holds(room):
    drawn = [part["image"] for part in room.session.messages()[1]["content"] if part["type"] == "image"]
    from PIL import Image

    for path, image in zip(pictures(room.messages()[1]), drawn, strict=True):
        assert Image.open(path).tobytes() == image.tobytes()


def test_a_finished_picture_is_not_shown_under_another_name_afterwards(room):
    before = pictures(room.messages()[1])
    room.refresh()
    assert pictures(room.messages()[1]) == before


def test_files_of_earlier_scales_go_when_the_next_answer_begins(rooms: Rooms, room):
    run(room, room.retry(0, QUICK))
    run(room, room.retry(0, QUICK))
    # The two answers' pictures, and the scales of the last one alone.
    assert len(list(rooms.files.folder.iterdir())) <= 2 * 5 + 2


def test_stopping_keeps_what_was_written_and_the_room_goes_on(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    running = room.say(ASK, [], QUICK)
    for _ in running:
        if pictures(room.messages()[1]):
            room.stop()
    assert "1. Attach leg 1." in words(room.messages()[1]) and "Stopped." in words(room.messages()[1])
    assert len(pictures(room.messages()[1])) <= 1, "a picture half drawn does not stay"
    assert not room.busy and room.guide_turn is None
    run(room, room.say(ASK, [], QUICK))
    assert len(pictures(room.messages()[3])) == 2


def test_stopping_frees_the_memory_of_the_answer(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    room = rooms.room(VISITOR, NAME)
    made: list[weakref.ref[DynamicCache]] = []
    new_cache = StreamSession._new_cache

    def noted(session: StreamSession) -> DynamicCache:
        cache = new_cache(session)
        # Servers of other tests may be drawing still; their models are others.
        if session.model is room.session.backbone.model:
            made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(StreamSession, "_new_cache", noted)

    def held() -> bool:
        gc.collect()
        return any(one() is not None for one in made)

    running = room.say(ASK, [], QUICK)
    while not pictures(room.messages()[-1] if room.turns else {"content": []}):
        next(running)
    assert held()
    room.stop()
    list(running)
    assert made and not held()


def test_a_tab_closed_in_mid_drawing_stops_the_answer_and_keeps_it(rooms: Rooms, tmp_path: Path):
    room = rooms.room(VISITOR, NAME)
    running = room.say(ASK, [], QUICK)
    while not (room.turns and room.turns[0].parts):
        next(running)
    running.close()
    assert not room.busy
    again = tiny_rooms(tmp_path).room(VISITOR, NAME)
    assert [turn.reason for turn in again.session.turns] == ["cancelled"]


def test_one_answer_at_a_time_in_a_room(room):
    running = room.say(ASK, [], QUICK)
    next(running)
    with pytest.raises(UserError, match="still under way"):
        next(room.say(ASK, [], QUICK))
    with pytest.raises(UserError, match="still under way"):
        room.undo()
    running.close()
    run(room, room.say(ASK, [], QUICK))


def test_a_second_tab_finds_the_answer_that_is_under_way(rooms: Rooms):
    running = rooms.room(VISITOR, NAME).say(ASK, [], QUICK)
    next(running)
    assert rooms.enter(VISITOR) == NAME and rooms.enter(OTHER) != NAME
    running.close()


def test_those_who_wait_are_told_their_place_and_may_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, GUIDE)
    monkeypatch.setattr("demo.room.WAIT", 0.01)
    rooms = tiny_rooms(tmp_path, line=Line(1, longest=1))
    first, second, third = rooms.room(VISITOR, NAME), rooms.room(OTHER, NAME), rooms.room("d" * 32, NAME)
    running = first.say(ASK, [], QUICK)
    next(running), next(running)
    waiting = second.say(ASK, [], QUICK)
    next(waiting), next(waiting)
    assert "Busy: you are 1st in line." in words(second.messages()[-1])
    run(third, third.say(ASK, [], QUICK))
    assert "waiting already" in words(third.messages()[-1])
    second.stop()
    list(waiting)
    assert second.unsent == ASK and second.session.turns == []
    for _ in running:
        pass
    assert first.guide_turn == 0


def test_visitors_never_meet(rooms: Rooms, room):
    other = rooms.room(OTHER, NAME)
    assert other.messages() == [] and rooms.entries(OTHER) == []
    other.stop()
    run(other, other.say("Mine?", [], QUICK))
    assert words(room.messages()[0]) == ASK
    assert [entry.title for entry in rooms.entries(VISITOR)] == [ASK]
    assert not {*pictures(room.messages()[1])} & {*pictures(other.messages()[1])}


def test_history_survives_a_restart_pictures_too(room, tmp_path: Path):
    before = contents(pictures(room.messages()[1]))
    again = tiny_rooms(tmp_path)
    name = again.enter(VISITOR)
    assert name == NAME
    back = again.room(VISITOR, name)
    assert contents(pictures(back.messages()[1])) == before and back.guide_turn == 0
    run(back, back.redraw(1, QUICK))


def test_a_conversation_whose_files_were_cleaned_away_is_shown_whole(rooms: Rooms, room):
    before = contents(pictures(room.messages()[1]))
    rooms.files.age = -60
    assert rooms.files.clean() > 0
    room.refresh()
    assert contents(pictures(room.messages()[1])) == before


def test_a_deleted_conversation_is_gone(rooms: Rooms, room):
    rooms.delete(VISITOR, NAME)
    assert rooms.entries(VISITOR) == [] and not room.folder.exists()
    run(room, room.say(ASK, [], QUICK))
    assert rooms.entries(VISITOR) == [], "a tab that still shows it does not bring it back"


def test_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, "Yes.")
    rooms = tiny_rooms(tmp_path, most_open=2, most_kept=3)
    names = [new_token() for _ in range(5)]
    for name in names:
        room = rooms.room(VISITOR, name)
        run(room, room.say(f"Number {name[:4]}?", [], QUICK))
    assert len(rooms._open) == 2, "rooms that nobody is in leave the memory"
    rooms.enter(VISITOR)
    assert [entry.name for entry in rooms.entries(VISITOR)] == names[:1:-1]


def test_another_model_goes_on_with_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, GUIDE)
    gone = []

    def vanished():
        gone.append(True)
        raise UserError("the folder is missing")

    menu = ModelMenu({"one": tiny_agent, "two": lambda: tiny_agent(seed=1), "gone": vanished})
    room = Rooms(tmp_path, menu, Line()).room(VISITOR, NAME)
    run(room, room.say(ASK, [], QUICK))
    with pytest.raises(UserError, match="'gone' cannot be loaded"):
        room.switch("gone")
    assert room.model == "one" and gone and len(room.messages()) == 2
    room.switch("two")
    shown = run(room, room.say("And now?", [], QUICK))
    assert any("Another model wrote" in words(messages[-1]) for messages in shown)
    assert len(room.session.turns) == 2
