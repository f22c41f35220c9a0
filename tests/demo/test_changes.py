"""What may be changed of a conversation: a step drawn anew or reworded, a message, an undo; and the downloads of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_fixtures import script
from demo_fixtures import ASK, NAME, OTHER, QUICK, VISITOR, contents, pictures, run, tiny_rooms, words

from demo.room import Room
from demo.ticks import TICKS_FILE
from vlm.guide import PICTURE


def test_redrawing_a_step_leaves_the_others_to_the_byte(room):
    before = contents(pictures(room.messages()[1]))
    shown = run(room, room.redraw(2, QUICK))
    assert {tuple(contents(pictures(messages[1])[:1])) for messages in shown} == {(before[0],)}
    after = contents(pictures(room.messages()[1]))
    assert after[0] == before[0] and after[1] != before[1]


def test_stopping_a_redraw_brings_the_old_picture_back(room):
    before = pictures(room.messages()[1])
    for _ in room.redraw(1, QUICK):
        room.stop()
    assert pictures(room.messages()[1]) == before


def test_editing_a_step_changes_its_words_and_picture(room):
    run(room, room.redraw(1, QUICK, text="Lay the seat down."))
    editable = room.guide()
    assert [step.text for step in editable.guide.steps] == ["Lay the seat down.", "Attach leg 2."]
    assert "1. Lay the seat down." in words(room.messages()[1])


def test_a_step_that_is_not_there_is_told_and_changes_nothing(room):
    before = room.messages()
    run(room, room.redraw(9, QUICK))
    assert "steps 1 to 2" in words(room.messages()[-1]) and room.messages()[:2] == before


def test_editing_an_earlier_message_replaces_it_and_what_came_after(room):
    run(room, room.say("Another?", [], QUICK))
    run(room, room.edit(0, "How do I assemble a bench?", QUICK))
    assert [words(message) for message in room.messages()[::2]] == ["How do I assemble a bench?"]


def test_an_edit_that_cannot_be_answered_loses_nothing(room):
    run(room, room.say("Another?", [], QUICK))
    before = room.messages()
    run(room, room.edit(0, "x" * 100_000, QUICK))
    assert room.messages()[:4] == before and "100,000 characters" in words(room.messages()[-1])
    assert len(room.session.turns) == 2 and len(room.session.actions) == 2


def test_undo_gives_the_text_back(rooms, room):
    assert [entry.title for entry in rooms.entries(VISITOR)] == [ASK]
    assert room.undo() == ASK
    assert room.messages() == [] and room.undo() == ""
    assert rooms.entries(VISITOR) == [], "there is nothing to come back to"


def test_downloads_hold_the_guide_and_follow_its_changes(room):
    first = room.downloads()
    assert set(first) == {"html", "pdf", "md", "json", "zip"}
    assert all(path.stat().st_size > 100 for path in first.values())
    assert room.downloads() == first
    run(room, room.redraw(1, QUICK, text="Another step."))
    assert "Another step." in room.downloads()["md"].read_text()


def test_an_answer_without_pictures_has_no_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, "I know furniture.", f"Here:\n{PICTURE}")
    room = tiny_rooms(tmp_path).room(VISITOR, NAME)
    run(room, room.say("Hello", [], QUICK))
    run(room, room.say("Draw.", [], QUICK))
    assert room.guide() is None and room.downloads() == {}
    assert [len(pictures(message)) for message in room.messages()] == [0, 0, 0, 1]


LINES = ["1. Attach leg 1.", "2. Attach leg 2."]


def tick_all(room: Room) -> None:
    for line in LINES:
        room.tick(line, True)


def test_ticks_come_back_after_a_restart(room, tmp_path: Path):
    room.tick(LINES[1], True)
    room.tick("3. No step.", True)
    assert room.ticked() == [LINES[1]], "only what is a step"
    back = tiny_rooms(tmp_path).room(VISITOR, NAME)
    assert back.ticked() == [LINES[1]]
    back.tick(LINES[1], False)
    assert tiny_rooms(tmp_path).room(VISITOR, NAME).ticked() == []


def test_a_redrawn_step_stays_ticked_and_a_reworded_one_does_not(room, tmp_path: Path):
    tick_all(room)
    run(room, room.redraw(1, QUICK))
    assert room.ticked() == LINES
    run(room, room.redraw(1, QUICK, text="Lay the seat down."))
    assert room.ticked() == [LINES[1]]
    assert tiny_rooms(tmp_path).room(VISITOR, NAME).ticked() == [LINES[1]]


def test_each_guide_and_each_conversation_has_ticks_of_its_own(rooms, room):
    room.tick(LINES[0], True)
    run(room, room.say("And another?", [], QUICK))
    assert room.ticked() == [], "another guide, though it reads the same"
    room.tick(LINES[1], True)
    room.undo()
    assert room.ticked() == LINES[:1]
    run(room, room.say("And another?", [], QUICK))
    assert room.ticked() == [], "those of a turn that was taken back are gone"
    other = rooms.room(OTHER, NAME)
    run(other, other.say(ASK, [], QUICK))
    assert other.ticked() == []


def test_ticking_works_while_a_step_is_drawn_and_moves_the_conversation_up(rooms, room):
    second = rooms.room(VISITOR, "e" * 32)
    run(second, second.say("Another?", [], QUICK))
    assert rooms.enter(VISITOR) == "e" * 32
    assert room.ticked() == []
    running = room.redraw(1, QUICK)
    next(running)
    room.tick(LINES[1], True)
    for _ in running:
        pass
    assert room.ticked() == LINES[1:] and rooms.enter(VISITOR) == NAME


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"x": []}', '{"0": 3}', "[" * 100_000])
def test_a_damaged_file_of_ticks_is_as_good_as_none(room, tmp_path: Path, content: str):
    tick_all(room)
    (room.folder / TICKS_FILE).write_text(content)
    back = tiny_rooms(tmp_path).room(VISITOR, NAME)
    assert back.ticked() == [] and len(back.messages()) == 2
    tick_all(back)
    assert tiny_rooms(tmp_path).room(VISITOR, NAME).ticked() == LINES


def test_a_tick_does_not_bring_a_deleted_conversation_back(rooms, room):
    assert room.ticked() == []
    rooms.delete(VISITOR, NAME)
    tick_all(room)
    assert not room.folder.exists()
