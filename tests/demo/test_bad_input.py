"""What a visitor should not send, and what should not happen: told in a sentence, and the room lives on."""

from __future__ import annotations

import pytest
from demo_fixtures import ASK, NAME, QUICK, VISITOR, pictures, run, words
from picture_files import animation, encoded, gradient, huge_png

from demo.rooms import Rooms
from demo.settings import Settings
from vlm.errors import UserError
from vlm.message import MAX_PICTURES, check_message


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


@pytest.mark.parametrize(
    ("text", "told"), [("  ", "the message is empty"), ("x" * 100_000, "100,000 characters")], ids=["empty", "endless"]
)
def test_a_message_that_cannot_be_answered_is_told_and_given_back(rooms: Rooms, text: str, told: str):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say(text, [], QUICK))
    assert told in words(room.messages()[-1])
    assert room.session.turns == [] and room.unsent == text


def test_pictures_are_counted_before_any_is_decoded(rooms: Rooms):
    many = [b"just words"] * (MAX_PICTURES + 1)
    with pytest.raises(UserError, match=f"{MAX_PICTURES + 1} pictures"):
        check_message(many)
    with pytest.raises(UserError, match="no picture that can be read"):
        check_message(many[1:])
    room = rooms.room(VISITOR, NAME)
    run(room, room.say("What are these?", many, QUICK))
    assert f"{MAX_PICTURES + 1} pictures" in words(room.messages()[-1])


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


def test_an_adapter_that_is_not_there_is_told(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    run(room, room.say(ASK, [], Settings(adapter="watercolour")))
    assert "no adapter" in words(room.messages()[-1]) and room.session.turns == []


@pytest.mark.parametrize("name", ["", "..", "../../etc", "x" * 32, None])
def test_names_that_are_no_tokens_open_nothing(rooms: Rooms, name):
    with pytest.raises(UserError, match="no name of a conversation"):
        rooms.room(VISITOR, name)
    with pytest.raises(UserError, match="no name of a conversation"):
        rooms.room(name, NAME)
