"""The demo's tests use the tiny, scripted model of the agent's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vlm"))
sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from agent_fixtures import GUIDE, script
from demo_fixtures import ASK, NAME, QUICK, VISITOR, run, tiny_rooms

from demo.room import Room
from demo.rooms import Rooms


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    """Rooms whose model answers everything with a guide."""
    script(monkeypatch, GUIDE)
    return tiny_rooms(tmp_path)


@pytest.fixture
def room(rooms: Rooms) -> Room:
    """A room whose visitor has asked for a guide."""
    room = rooms.room(VISITOR, NAME)
    run(room, room.say(ASK, [], QUICK))
    return room
