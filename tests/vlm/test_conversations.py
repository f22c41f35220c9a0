"""Saved conversations: they go on to the bit, survive any kill, and say clearly what is wrong with a damaged folder."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
from pathlib import Path

import pytest
from agent_fixtures import BRIEF, GUIDE, pixels, script, tiny_agent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import vlm.backbone
import vlm.conversations
from vlm.agent import ChatAgent
from vlm.chat import ChatSession
from vlm.conversations import save_conversation
from vlm.errors import UserError
from vlm.events import Finished, LoadedFromMessages
from vlm.guide_edits import EditableGuide
from vlm.record import record_of

PHOTO = Image.new("RGB", (40, 20), (200, 30, 30))


def talk(session: ChatSession, *messages) -> None:
    for message in messages:
        list(session.reply(message, **BRIEF))


def streams(session: ChatSession) -> list[str]:
    return [turn.stream.fingerprint() for turn in session.turns]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A conversation of two turns with a sent picture and drawn ones. Not to be changed."""
    session = tiny_agent().session(system="Be brief.")
    talk(session, "One?", ["Two <b>bold</b>\n# three", PHOTO])
    assert sum(len(turn.answer.residuals) for turn in session.turns) >= 2
    return save_conversation(session, tmp_path_factory.mktemp("saved") / "talk")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """The same, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "talk"))


def test_a_loaded_conversation_goes_on_to_the_bit(saved):
    live = tiny_agent().session(system="Be brief.")
    talk(live, "One?", ["Two <b>bold</b>\n# three", PHOTO])
    loaded = tiny_agent().load_session(saved)
    assert streams(loaded) == streams(live) and loaded.turns == loaded.turns
    assert record_of(loaded) == record_of(live) and loaded.notices == []
    talk(live, "Three?")
    events = list(loaded.reply("Three?", **BRIEF))
    assert isinstance(events[-1], Finished) and not any(isinstance(event, LoadedFromMessages) for event in events)
    assert streams(loaded) == streams(live)


def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path):
    again = save_conversation(tiny_agent().load_session(saved), tmp_path / "again")
    assert files(again) == files(saved)


def test_the_folder_holds_every_picture_and_a_transcript(saved):
    session = tiny_agent().load_session(saved)
    written = files(saved)
    shown = [
        part["image"] for message in session.messages() for part in message["content"] if part["type"] == "image"
    ]
    on_disk = [Image.open(path).convert("RGB") for path in sorted(saved.glob("pictures/*.png"))]
    assert sorted(pixels(shown)) == sorted(pixels(on_disk)) and len(shown) >= 3
    transcript = written["transcript.md"].decode()
    assert "> Two &lt;b&gt;bold&lt;/b&gt;\n> # three\n" in transcript and "**System**" in transcript
    assert all(f"![picture]({name})" in transcript for name in written if name.endswith(".png"))


def test_a_changed_guide_is_saved_as_changed(monkeypatch, tmp_path):
    script(monkeypatch, GUIDE)
    guide = tiny_agent().guide("A red stool?", previews=False)
    folder = save_conversation(guide.session, tmp_path / "talk")
    before = files(folder)
    guide.redraw(2)
    guide.edit_step(1, "Attach leg 12.")
    save_conversation(guide.session, folder)
    loaded = EditableGuide(tiny_agent().load_session(folder), 0)
    assert loaded.guide == guide.guide and pixels(loaded.pictures) == pixels(guide.pictures)
    assert [action.do for action in loaded.session.actions] == ["answer", "redraw", "edit"]
    # What only the earlier state needed is gone.
    assert len(files(folder)) == len(before) and len(set(files(folder)) & set(before)) == 2
    loaded.redraw(2)
    guide.redraw(2)
    assert pixels(loaded.pictures) == pixels(guide.pictures)


def test_saving_after_each_turn_decodes_each_picture_once(monkeypatch, tmp_path):
    decoded = []
    original = vlm.backbone.decode_picture
    monkeypatch.setattr(vlm.backbone, "decode_picture", lambda *given: decoded.append(1) or original(*given))
    session = tiny_agent().session()
    for number in range(4):
        talk(session, f"{number}?")
        save_conversation(session, tmp_path / "talk")
    assert len(decoded) == sum(len(turn.answer.residuals) for turn in session.turns) > 2


def test_another_model_goes_on_from_the_messages_and_says_so(saved, tmp_path):
    agent = tiny_agent(seed=1)
    session = agent.load_session(saved)
    here = LoadedFromMessages("0" * 16, agent.fingerprint)
    assert session.notices == [here]
    original = tiny_agent().load_session(saved)
    texts = [
        [[part.get("text") for part in message["content"]] for message in one.messages()] for one in (session, original)
    ]
    assert texts[0] == texts[1] and session.system == "Be brief."
    assert {turn.origin for turn in session.turns} == {"0" * 16}
    events = list(session.reply("Three?", **BRIEF))
    assert events[0] == here and session.notices == []
    assert not any(isinstance(event, LoadedFromMessages) for event in session.reply("Four?", **BRIEF))
    folder = save_conversation(session, tmp_path / "talk")
    assert streams(agent.load_session(folder)) == streams(session)
    with pytest.raises(UserError, match="turn 1 was written by model 0000000000000000"):
        agent.replay(record_of(session))


def test_another_model_shows_and_keeps_the_pictures_as_they_were_drawn(saved, tmp_path, monkeypatch):
    def pictures(session: ChatSession) -> list[bytes]:
        return pixels([part["image"] for turn in session.turns for part in session.answer_parts(turn)
                       if part["type"] == "image"])  # fmt: skip

    drawn = pictures(tiny_agent().load_session(saved))
    assert drawn
    folder = saved
    # Through two other models, each of which says something, and back.
    for seed in (1, 2, 0):
        session = tiny_agent(seed=seed).load_session(folder)
        assert pictures(session)[: len(drawn)] == drawn
        script(monkeypatch, "You are welcome.")
        list(session.reply("Thanks", **BRIEF))
        folder = save_conversation(session, tmp_path / "talk")
    files_then = {path.read_bytes() for path in (saved / "pictures").iterdir()}
    assert files_then <= {path.read_bytes() for path in (folder / "pictures").iterdir()}


def test_an_empty_conversation_is_saved_too(tmp_path):
    folder = save_conversation(tiny_agent().session(), tmp_path / "talk")
    assert sorted(files(folder)) == ["conversation.json", "transcript.md"]
    assert tiny_agent().load_session(folder).turns == []


class Killed(BaseException):
    """No handler of the program sees this."""


def test_a_kill_at_any_write_leaves_the_old_conversation_or_the_new(saved, tmp_path, monkeypatch):
    session = tiny_agent().load_session(saved)
    old = streams(session)
    talk(session, "Three?")
    new = streams(session)
    whole = vlm.conversations.output_file
    outcomes = []
    for at in itertools.count():
        folder = Path(shutil.copytree(saved, tmp_path / str(at)))
        calls = itertools.count()

        def killed(target, at=at, calls=calls):
            if next(calls) == at:
                raise Killed
            return whole(target)

        monkeypatch.setattr(vlm.conversations, "output_file", killed)
        try:
            save_conversation(session, folder)
        except Killed:
            found = streams(tiny_agent().load_session(folder))
            assert found in (old, new)
            outcomes.append(found == new)
        else:
            break
    assert outcomes == [False] * (len(outcomes) - 1) + [True] and len(outcomes) >= 3


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(earlier, saved, tmp_path, monkeypatch):
    session = tiny_agent().load_session(saved)
    talk(session, "Three?")
    folder = Path(shutil.copytree(saved, tmp_path / "talk")) if earlier else tmp_path / "talk"

    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_conversation(session, folder)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    if earlier:
        assert len(tiny_agent().load_session(folder).turns) == 2
    else:
        assert not folder.exists()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        save_conversation(tiny_agent().session(), tmp_path)
    assert sorted(files(tmp_path)) == ["thesis.txt"]


def test_saving_waits_for_the_answer(tmp_path):
    session = tiny_agent().session()
    events = session.reply("One?", **BRIEF)
    next(events)
    with pytest.raises(RuntimeError, match="still running"):
        save_conversation(session, tmp_path / "talk")


def change(folder: Path, **fields) -> None:
    path = folder / "conversation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_turn(folder: Path, **fields) -> None:
    turns = json.loads((folder / "conversation.json").read_text())["turns"]
    change(folder, turns=[turns[0] | fields, *turns[1:]])


DAMAGE = {
    "no folder": (lambda f: shutil.rmtree(f), "cannot read .*conversation.json"),
    "no json": (lambda f: (f / "conversation.json").write_text("{"), "is no JSON"),
    "a list": (lambda f: (f / "conversation.json").write_text("[]"), "version None"),
    "deep json": (lambda f: (f / "conversation.json").write_text("[" * 100_000), "is no JSON"),
    "later version": (lambda f: change(f, version=2), "version 2, this program reads version 1; read its transcript"),
    "unknown field": (lambda f: change(f, mood="good"), "no valid conversation: mood"),
    "no stream": (lambda f: next(f.glob("stream-*")).unlink(), "cannot read .*stream-"),
    "short stream": (lambda f: cut(next(f.glob("stream-*"))), "its header promises"),
    "name that climbs": (lambda f: change(f, stream="../x"), "no valid conversation: stream"),
    "picture that climbs": (lambda f: change_turn(f, message=[{"picture": "../../x.png"}]), "message.0.picture"),
    "part of neither kind": (lambda f: change_turn(f, answer=[{}]), "expected a text or a picture"),
    "wrong count": (lambda f: change_turn(f, asked_ids=3), "does not hold the conversation's stream"),
    "huge count": (lambda f: change_turn(f, asked_ids=10**18), "does not hold the conversation's stream"),
    "wrong settings": (lambda f: change_turn(f, options={"sede": 3}), "settings do not fit"),
    "wrong seed": (lambda f: change_turn(f, options={"seed": -3}), "settings do not fit"),
    "half a character": (lambda f: change_turn(f, message=[{"text": "\ud800"}]), "Invalid JSON"),
    "binary system": (lambda f: change(f, system="a\x00"), "control character"),
    "own future": (lambda f: change_turn(f, context=[1]), "expected earlier turns in order"),
    "no picture": (lambda f: [path.unlink() for path in f.glob("pictures/*")], "is missing"),
    "text as picture": (lambda f: [path.write_text("x") for path in f.glob("pictures/*")], "no readable PNG"),
    "fewer turns": (lambda f: change(f, turns=[], actions=[]), "expected a stream where there are turns"),
    "foreign action": (lambda f: change(f, actions=[{"do": "answer", "turn": 9}]), "beyond the 2"),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_one_clear_error(damage: str, copy):
    harm, told = DAMAGE[damage]
    harm(copy)
    with pytest.raises(UserError, match=told) as error:
        tiny_agent().load_session(copy)
    assert "\n" not in str(error.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_gives_a_clear_error_or_a_conversation(saved, tmp_path, data):
    seed = data.draw(st.sampled_from([0, 1]))
    agent = AGENTS.setdefault(seed, tiny_agent(seed=seed))
    folder = tmp_path / "talk"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    names = sorted(name for name in files(folder) if name != "transcript.md")
    path = folder / data.draw(st.sampled_from(names))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        session = agent.load_session(folder)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(session.messages()) == 5


AGENTS: dict[int, ChatAgent] = {}
