"""What a visitor is told of an error: a sentence, and nothing of the server's own."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from demo_fixtures import ASK, NAME, QUICK, VISITOR, pictures, run, tiny_rooms, words
from safetensors import SafetensorError

from demo.rooms import Rooms
from demo.told import told
from vlm.errors import UserError
from vlm.saved import CONVERSATION_FILE

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/private/served/x")
NO_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("cannot read /srv/private/web/conversation.json (gone)"), "cannot read conversation.json (gone)"),
        (UserError("/srv/private/model is not there; choose another"), "model is not there; choose another"),
        (UserError("send 1/2 of it and/or less; see http://example.org/help"), "1/2 of it and/or less"),
        (FULL, "No space left on device"),
        (SafetensorError("I/O error at /srv/private/x"), "SafetensorError"),
        (NO_MEMORY, "not enough memory"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("/srv/private/path"), "RuntimeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_sentence_without_paths(error: Exception, said: str):
    assert said in told(error) and "private" not in told(error)


def test_folders_with_spaces_in_their_names_are_left_out_too():
    place = Path("/srv/my private data/conversations")
    assert told(UserError(f"cannot read {place}/x/conversation.json (gone)"), place) == (
        "cannot read conversation.json (gone)"
    )


@pytest.mark.parametrize("error", [FULL, SafetensorError("I/O error: No space left"), NO_MEMORY], ids=type)
@pytest.mark.parametrize("broken", ["demo.room.save_conversation", "demo.room.shown_turns"])
def test_what_cannot_be_kept_is_told_and_the_room_lives_on(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception
):
    room = rooms.room(VISITOR, NAME)

    def fails(*_given):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(broken, fails)
        run(room, room.say(ASK, [], QUICK))
        assert words(room.messages()[-1]).startswith("*Not kept: ") and not room.busy
        assert len(pictures(room.messages()[1])) == 2, "what was drawn is still shown"
    run(room, room.say("And another?", [], QUICK))
    assert [words(message) for message in room.messages()[::2]] == [ASK, "And another?"]
    assert (room.folder / CONVERSATION_FILE).is_file()


def test_a_full_disk_while_pictures_are_drawn_is_told(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    room = rooms.room(VISITOR, NAME)

    def full(*_given):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(room.files, "keep", full)
        run(room, room.say(ASK, [], QUICK))
        assert "No space left on device" in words(room.messages()[-1]) and "private" not in words(room.messages()[-1])
    run(room, room.say(ASK, [], QUICK))
    assert len(pictures(room.messages()[-1])) == 2


def test_a_conversation_that_cannot_be_kept_does_not_name_the_server_s_folder(rooms: Rooms, room, tmp_path: Path):
    (room.folder / "pictures").rename(room.folder / "elsewhere")
    (room.folder / "pictures").write_text("in the way")
    run(room, room.say("And another?", [], QUICK))
    said = words(room.messages()[-1])
    assert "Not kept" in said and str(tmp_path) not in said and room.folder.parent.name not in said
    damaged = room.folder / CONVERSATION_FILE
    damaged.write_text("{")
    with pytest.raises(UserError) as refused:
        tiny_rooms(tmp_path).room(VISITOR, NAME)
    assert str(tmp_path) not in told(refused.value, rooms.history.root)
