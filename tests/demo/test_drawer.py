"""What is chosen in the sidebar reaches the answer, and makes a difference to it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from agent_fixtures import tiny_agent
from demo_fixtures import ASK, NAME, QUICK, VISITOR, contents, pictures, run
from stream_fixtures import model, processor

from demo.line import Line
from demo.menu import ModelMenu
from demo.rooms import Rooms
from demo.settings import Settings
from vlm.agent import ChatAgent, agent_of


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


def test_the_first_seed_of_a_conversation_is_the_agents_and_stays_its_own(tmp_path: Path):
    for seed in (40, 7):
        menu = ModelMenu.of(ChatAgent(tiny_agent().backbone, seed=seed))
        room = Rooms(tmp_path, menu, Line()).room(VISITOR, NAME)
        run(room, room.say(ASK, [], QUICK))
    assert [turn.options.seed for turn in room.session.turns] == [40, 41]


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


def test_the_temperature_of_words_changes_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a model that is not scripted, and writes: the likeliest words are the same for every seed, others are not."""
    built = model()
    menu = ModelMenu.of(agent_of(built, processor(built), "0" * 16))
    room = Rooms(tmp_path, menu, Line()).room(VISITOR, NAME)
    plain = room.session.options
    monkeypatch.setattr(room.session, "options", lambda base, changes: plain(base, {**changes, "max_new_tokens": 8}))

    def said(temperature: float, seed: int) -> list[int]:
        run(room, room.say(ASK, [], replace(QUICK, temperature=temperature, seed=seed)))
        ids = room.session.turns[-1].answer.ids.tolist()
        room.undo()
        assert built.config.boi_id not in ids, "a picture would depend on the seed in other ways"
        return ids

    likeliest = said(0.0, 1)
    assert said(0.0, 2) == likeliest
    assert said(1.5, 1) != likeliest and said(1.5, 2) != said(1.5, 1)


@pytest.mark.parametrize(
    "change", [{"seed": 12}, {"guidance": 3.0}, {"code_temperature": 0.0}, {"residual_steps": 2}], ids=str
)
@pytest.mark.parametrize("text", [None, "Lay the seat down."])
def test_every_control_of_pictures_changes_a_step_that_is_drawn_anew(room, change: dict, text: str | None):
    usual = {"seed": 11, "guidance": 0.0, "temperature": 1.0, "code_temperature": 1.0, "residual_steps": 8}

    def drawn(settings: dict) -> list[bytes]:
        run(room, room.redraw(2, Settings(**settings), text=text))
        return contents(pictures(room.messages()[1]))

    before = drawn(usual)
    after = drawn(usual | change)
    assert after[0] == before[0] and after[1] != before[1]
    assert drawn(usual) == before, "the same settings draw the same again"


def test_a_step_drawn_anew_without_settings_keeps_those_of_its_guide(rooms: Rooms):
    room = rooms.room(VISITOR, NAME)
    run(
        room, room.say(ASK, [], Settings(seed=3, guidance=2.0, temperature=1.0, code_temperature=1.0, residual_steps=3))
    )
    run(room, room.redraw(1, Settings(seed=9)))
    kept = contents(pictures(room.messages()[1]))
    run(room, room.redraw(1, Settings(seed=9, guidance=2.0, code_temperature=1.0, residual_steps=3)))
    assert contents(pictures(room.messages()[1])) == kept
    run(room, room.redraw(1, Settings(seed=9, guidance=0.0)))
    assert contents(pictures(room.messages()[1])) != kept
