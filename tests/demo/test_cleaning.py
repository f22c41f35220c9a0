"""What goes, and when: files that were served, conversations beyond the bounds, what was deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_fixtures import script
from demo_fixtures import ASK, NAME, QUICK, VISITOR, pictures, run, tiny_rooms
from picture_files import encoded, gradient

from demo.files import ServedFiles
from demo.history import History, browser_key, is_token, new_token
from demo.program import answer
from demo.rooms import Rooms
from vlm.errors import UserError
from vlm.saved import CONVERSATION_FILE


def test_a_server_that_only_programs_use_cleans_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, "Yes.")
    rooms = tiny_rooms(tmp_path)
    unused, left = rooms.history.folder(VISITOR, NAME), rooms.files.folder / f"a0-{'0' * 32}"
    unused.mkdir(parents=True), left.mkdir()
    (unused / CONVERSATION_FILE).write_text("{}")
    for old in (unused / CONVERSATION_FILE, left):
        os.utime(old, (0, 0))
    for _ in answer(rooms, "Hello?", "", "", -1):
        pass
    assert not left.exists() and not unused.parent.exists()


def test_conversations_are_bounded_without_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, "Yes.")
    rooms = tiny_rooms(tmp_path, most_kept=2)
    names = [new_token() for _ in range(4)]
    for name in names:
        run(rooms.room(VISITOR, name), rooms.room(VISITOR, name).say("Hello?", [], QUICK))
    assert [entry.name for entry in rooms.entries(VISITOR)] == names[:1:-1]


def test_a_conversation_that_is_being_answered_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, "Yes.")
    rooms = tiny_rooms(tmp_path, most_kept=1)
    first, second = rooms.room(VISITOR, NAME), rooms.room(VISITOR, new_token())
    run(first, first.say("Hello?", [], QUICK))
    running = first.say("Hello again?", [], QUICK)
    next(running)
    run(second, second.say("Hello?", [], QUICK))
    assert first.folder.is_dir()
    running.close()


def test_downloads_of_an_earlier_state_of_the_guide_go(rooms: Rooms, room):
    first = room.downloads()
    run(room, room.redraw(1, QUICK))
    second = room.downloads()
    assert not any(path.exists() for path in first.values())
    assert all(path.is_file() for path in second.values())


def test_what_others_remove_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files, listed = ServedFiles(tmp_path / "served", age=-60), Path.iterdir
    (files.folder / f"a0-{'0' * 32}").mkdir()
    (files.folder / "holiday").mkdir()  # what somebody else keeps there
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda self: [self / "gone", *listed(self)])
        assert files.clean() == 1
    assert [entry.name for entry in files.folder.iterdir()] == ["holiday"]
    history = History(tmp_path / "kept", most=1)
    for name in (NAME, new_token()):
        history.folder(VISITOR, name).mkdir(parents=True)
        (history.folder(VISITOR, name) / CONVERSATION_FILE).symlink_to("gone")
    history.clean()
    history.trim(VISITOR)
    assert history.entries(VISITOR) == []


def test_a_deleted_conversation_takes_its_pictures_with_it(rooms: Rooms, room):
    run(room, room.say("And this?", [encoded(gradient())], QUICK))
    room.downloads()
    other = rooms.room(VISITOR, new_token())
    run(other, other.say(ASK, [], QUICK))
    rooms.delete(VISITOR, NAME)
    kept = pictures(other.messages()[1])
    assert {*rooms.files.folder.rglob("*.png")} >= {Path(path) for path in kept}
    rooms.delete(VISITOR, other.folder.name)
    assert list(rooms.files.folder.iterdir()) == []


def test_pictures_of_a_room_that_left_the_memory_go_with_it(room, tmp_path: Path):
    later = tiny_rooms(tmp_path)
    later.delete(VISITOR, NAME)
    assert list(later.files.folder.iterdir()) == [] and not room.folder.exists()


def test_nothing_is_saved_again_under_the_name_of_a_deleted_conversation(rooms: Rooms, room):
    rooms.delete(VISITOR, NAME)
    with pytest.raises(UserError, match="was deleted; begin a new one"):
        rooms.room(VISITOR, NAME)
    assert rooms.enter(VISITOR) != NAME


def test_the_key_of_browsers_is_kept_and_an_empty_one_made_anew(tmp_path: Path):
    key = browser_key(tmp_path)
    assert is_token(key) and browser_key(tmp_path) == key
    (tmp_path / "secret").write_text("")
    assert is_token(browser_key(tmp_path)) and browser_key(tmp_path) != key
