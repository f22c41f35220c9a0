"""Which model a conversation is opened with, and that loading one holds up nobody but those who wait for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from agent_fixtures import GUIDE, script, tiny_agent
from demo_fixtures import ASK, NAME, OTHER, QUICK, VISITOR, contents, pictures, run

from demo.history import new_token
from demo.line import Line
from demo.menu import ModelMenu
from demo.rooms import Rooms
from vlm.errors import UserError


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes rooms over two models, the same after a restart."""
    script(monkeypatch, GUIDE)

    def made(**changes) -> Rooms:
        return Rooms(tmp_path, ModelMenu({"one": tiny_agent, "two": lambda: tiny_agent(seed=1)}), Line(), **changes)

    return made


def test_after_a_restart_a_conversation_is_with_the_model_that_wrote_it(two):
    room = two().room(VISITOR, NAME, "two")
    run(room, room.say(ASK, [], QUICK))
    before = contents(pictures(room.messages()[1]))
    back = two().room(VISITOR, NAME, "one")
    assert back.model == "two" and contents(pictures(back.messages()[1])) == before
    run(back, back.say("And another?", [], QUICK))
    assert contents(pictures(back.messages()[1])) == before, "the answer of before is kept to the byte"
    assert [turn.origin for turn in back.session.turns] == [None, None]


def test_a_room_that_left_the_memory_comes_back_with_its_model(two):
    rooms = two(most_open=1)
    room = rooms.room(VISITOR, NAME, "two")
    run(room, room.say(ASK, [], QUICK))
    rooms.room(OTHER, NAME)
    back = rooms.room(VISITOR, NAME)
    assert back is not room and back.model == "two"


def test_a_conversation_of_a_model_that_has_gone_is_opened_with_the_one_asked_for(two, tmp_path: Path):
    room = two().room(VISITOR, NAME, "two")
    run(room, room.say(ASK, [], QUICK))

    def vanished():
        raise UserError("the folder is missing")

    later = Rooms(tmp_path, ModelMenu({"one": tiny_agent, "two": vanished}), Line())
    assert later.room(VISITOR, NAME).model == "one"
    with pytest.raises(UserError, match="'two' cannot be loaded"):
        later.room(VISITOR, new_token(), "two")


def test_no_model_is_loaded_to_find_one_whose_fingerprint_is_known():
    loaded: list[str] = []

    def loader(name: str, seed: int):
        return lambda: loaded.append(name) or tiny_agent(seed=seed)

    names = ("one", "two", "three", "gone")
    known = {name: f"{seed:016x}" for seed, name in enumerate(names)}

    def vanished():
        raise UserError("the folder is missing")

    loaders = {name: loader(name, seed) for seed, name in enumerate(names[:3])} | {"gone": vanished}
    menu = ModelMenu(loaders, fingerprints=known)
    assert menu.of_fingerprint("0" * 15 + "9") is None and loaded == []
    assert menu.of_fingerprint(known["two"]) == "two" and loaded == ["two"]
    assert menu.of_fingerprint(known["gone"]) is None and loaded == ["two"]
    unknown = ModelMenu(loaders)
    assert unknown.of_fingerprint(known["three"]) == "three" and loaded == ["two", "one", "two", "three"]


def test_a_model_that_changed_on_disk_is_not_taken_for_what_it_was():
    menu = ModelMenu({"one": lambda: tiny_agent(seed=1)}, fingerprints={"one": f"{2:016x}"})
    assert menu.of_fingerprint(f"{2:016x}") is None
    assert menu.of_fingerprint(f"{1:016x}") == "one", "once it is loaded it is known by what it is"


def test_others_go_on_while_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script(monkeypatch, GUIDE)
    loading, load = threading.Event(), threading.Event()

    def slow():
        loading.set()
        assert load.wait(300)
        return tiny_agent(seed=1)

    rooms = Rooms(tmp_path, ModelMenu({"one": tiny_agent, "slow": slow}), Line())
    waiting = threading.Thread(target=lambda: rooms.room(VISITOR, NAME, "slow"))
    switched = rooms.room(VISITOR, new_token())
    switching = threading.Thread(target=lambda: switched.switch("slow"))
    others: list[object] = []
    other = threading.Thread(target=lambda: others.append(rooms.room(OTHER, NAME)), daemon=True)
    try:
        waiting.start(), switching.start()
        assert loading.wait(300)
        other.start()
        other.join(120)
        assert others, "another visitor's room opens meanwhile"
    finally:
        load.set()
        waiting.join(), switching.join()
    assert rooms.room(VISITOR, NAME).model == switched.model == "slow"
