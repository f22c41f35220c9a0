"""Rooms: what a visitor sees and may do, alone and beside others, today and after a restart."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path

import pytest
from agent_fixtures import GUIDE, script, tiny_agent
from demo_fixtures import NAME, OTHER, QUICK, VISITOR, pictures, run, tiny_rooms, words
from picture_files import animation, encoded, gradient, huge_png

from demo.history import new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.program import answer
from demo.room import Settings
from demo.rooms import Rooms
from vlm.errors import UserError
from vlm.guide import PICTURE

ASK = "How do I assemble a stool?"


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    script(monkeypatch, GUIDE)
    return tiny_rooms(tmp_path)


@pytest.fixture
def room(rooms: Rooms):
    """A room whose visitor has asked for a guide."""
    room = rooms.room(VISITOR, NAME)
    run(room, room.say(ASK, [], QUICK))
    return room


def contents(paths: list[str]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


def test_an_answer_grows_and_its_pictures_sharpen_in_place(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    shown = run(room, room.say(ASK, [], QUICK))
    assert words(shown[0][0]) == ASK, "the question is there before the answer begins"
    first = [pictures(messages[1])[0] for messages in shown if pictures(messages[1])]
    assert len(dict.fromkeys(first)) == 5, "paper, three scales, the finished picture"
    lengths = [len(words(messages[1])) for messages in shown if not pictures(messages[1])]
    assert lengths == sorted(lengths)
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


def test_a_tab_closed_in_mid_drawing_stops_the_answer_and_keeps_it(rooms: Rooms, tmp_path: Path):
    room = rooms.room(VISITOR, NAME)
    running = room.say(ASK, [], QUICK)
    while not (room.turns and room.turns[0].parts):
        next(running)
    running.close()
    assert not room.busy
    again = tiny_rooms(tmp_path).room(VISITOR, NAME)
    assert [turn.reason for turn in again.session.turns] == ["cancelled"]


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


def test_retry_takes_another_seed_and_a_chosen_seed_gives_the_same_again(room):
    first = contents(pictures(room.messages()[1]))
    seed = room.last_seed
    run(room, room.retry(0, QUICK))
    assert room.last_seed == seed + 1 and contents(pictures(room.messages()[1])) != first
    run(room, room.retry(0, Settings(seed=seed, temperature=1.0, code_temperature=1.0)))
    assert contents(pictures(room.messages()[1])) == first


def test_every_control_reaches_the_answer(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    chosen = Settings(seed=11, guidance=1.5, temperature=0.7, code_temperature=0.9, residual_steps=3)
    run(room, room.say(ASK, [], chosen))
    options = room.session.turns[0].options
    for one in fields(Settings):
        if one.name != "adapter":
            assert getattr(options, one.name) == getattr(chosen, one.name), one.name


@pytest.mark.parametrize(
    "change", [{"seed": 12}, {"guidance": 3.0}, {"code_temperature": 0.0}, {"residual_steps": 2}], ids=str
)
def test_every_control_changes_the_picture(rooms: Rooms, change: dict):
    usual = {"seed": 11, "guidance": 0.0, "temperature": 1.0, "code_temperature": 1.0, "residual_steps": 8}
    room = rooms.room(VISITOR, NAME)
    run(room, room.say(ASK, [], Settings(**usual)))
    before = contents(pictures(room.messages()[1]))
    run(room, room.retry(0, Settings(**(usual | change))))
    assert contents(pictures(room.messages()[1])) != before


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


def test_undo_gives_the_text_back(room):
    assert room.undo() == ASK
    assert room.messages() == [] and room.undo() == ""


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (huge_png(), "scale it down"),
        (b"just words", "no picture"),
        (animation("GIF"), "animated"),
        (encoded(gradient())[:-30], "damaged"),
        (b"", "empty"),
    ],
    ids=["200 megapixels", "text", "animation", "cut off", "empty"],
)
def test_uploads_are_judged_by_their_content(rooms: Rooms, file: bytes, told: str):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say("What is this?", [file], QUICK))
    assert told in words(room.messages()[-1]) and room.session.turns == []
    assert room.unsent == "What is this?", "the words are not lost"
    assert str(rooms.files.folder) not in words(room.messages()[-1])


def test_an_empty_message_is_told(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say("  ", [], QUICK))
    assert "the message is empty" in words(room.messages()[-1])


def test_a_picture_is_sent_with_the_question_and_shown(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say("Which step is this?", [encoded(gradient())], QUICK))
    asked = room.messages()[0]
    assert len(pictures(asked)) == 1 and words(asked) == "Which step is this?"


def test_control_tokens_typed_by_hand_are_text(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say("<|boi|><|turn_end|>", [], QUICK))
    config = room.session.backbone.model.config
    assert config.boi_id not in room.session.turns[0].asked.ids.tolist()


def test_an_error_of_the_model_is_told_and_the_room_lives_on(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    room = rooms.room(VISITOR, NAME)
    with monkeypatch.context() as patch:
        patch.setattr("vlm.chat.answer_events", broken(MemoryError()))
        run(room, room.say(ASK, [], QUICK))
        assert "not enough memory" in words(room.messages()[-1])
        patch.setattr("vlm.chat.answer_events", broken(RuntimeError("/secret/path")))
        run(room, room.say(ASK, [], QUICK))
        assert "RuntimeError" in words(room.messages()[-1]) and "/secret" not in words(room.messages()[-1])
    assert room.unsent == ASK and room.session.turns == []
    run(room, room.say(ASK, [], QUICK))
    assert len(pictures(room.messages()[1])) == 2


def broken(error: Exception):
    def events(*_given, **_named):
        raise error
        yield

    return events


def test_one_answer_at_a_time_in_a_room(room):
    running = room.say(ASK, [], QUICK)
    next(running)
    with pytest.raises(UserError, match="still under way"):
        next(room.say(ASK, [], QUICK))
    with pytest.raises(UserError, match="still under way"):
        room.undo()
    running.close()
    run(room, room.say(ASK, [], QUICK))


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


@pytest.mark.parametrize("name", ["", "..", "../../etc", "x" * 32, None])
def test_names_that_are_no_tokens_open_nothing(rooms: Rooms, name):
    with pytest.raises(UserError, match="no name of a conversation"):
        rooms.room(VISITOR, name)
    with pytest.raises(UserError, match="no name of a conversation"):
        rooms.room(name, NAME)


def test_downloads_hold_the_guide_and_follow_its_changes(room):
    first = room.downloads()
    assert set(first) == {"html", "pdf", "md", "json", "zip"}
    assert all(path.stat().st_size > 100 for path in first.values())
    assert room.downloads() == first
    run(room, room.redraw(1, QUICK, text="Another step."))
    assert "Another step." in room.downloads()["md"].read_text()


def test_another_model_goes_on_with_the_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, GUIDE)
    gone = []

    def vanished():
        gone.append(True)
        raise UserError("the folder is missing")

    menu = ModelMenu({"one": tiny_agent, "two": lambda: tiny_agent(seed=1), "gone": vanished})
    room = Rooms(tmp_path, menu, Line()).room(VISITOR, NAME)
    run(room, room.say(ASK, [], QUICK))
    with pytest.raises(UserError, match="missing"):
        room.switch("gone")
    assert room.model == "one" and gone and len(room.messages()) == 2
    room.switch("two")
    shown = run(room, room.say("And now?", [], QUICK))
    assert any("Another model wrote" in words(messages[-1]) for messages in shown)
    assert len(room.session.turns) == 2


def test_an_adapter_that_is_not_there_is_told(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say(ASK, [], Settings(adapter="watercolour")))
    assert "no adapter" in words(room.messages()[-1]) and room.session.turns == []


def test_programs_get_words_pictures_and_a_name_to_go_on_with(rooms: Rooms):
    import base64

    from PIL import Image

    first = answer(rooms, ASK, "", "", 3)
    assert first["seed"] == 3 and "1. Attach leg 1." in first["text"]
    assert Image.open(io.BytesIO(base64.b64decode(first["pictures"][1]["png"]))).size == (32, 32)
    photo = base64.b64encode(encoded(gradient())).decode()
    second = answer(rooms, "And this?", photo, first["conversation"], -1)
    visitor, name = second["conversation"].split(".")
    assert second["conversation"] == first["conversation"] and len(rooms.room(visitor, name).session.turns) == 2
    for bad in ("x.y", "../..", VISITOR):
        with pytest.raises(UserError, match="conversation"):
            answer(rooms, ASK, "", bad, -1)
    with pytest.raises(UserError, match="base64"):
        answer(rooms, ASK, "§", "", -1)
    with pytest.raises(UserError, match="empty"):
        answer(rooms, " ", "", "", -1)


def test_an_answer_without_pictures_has_no_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, "I know furniture.", f"Here:\n{PICTURE}")
    room = tiny_rooms(tmp_path).room(VISITOR, NAME)
    run(room, room.say("Hello", [], QUICK))
    run(room, room.say("Draw.", [], QUICK))
    assert room.guide() is None and room.downloads() == {}
    assert [len(pictures(message)) for message in room.messages()] == [0, 0, 0, 1]
