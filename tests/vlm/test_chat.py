"""A conversation: turns of any kind, stopped at any moment, one kept cache, sessions that never meet."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from agent_fixtures import BRIEF, GUIDE, script, tiny_agent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm.chat import ChatSession
from vlm.errors import UserError
from vlm.events import Finished, ImageDone, ImageStarted, TextDelta, collect
from vlm.generate import generate
from vlm.guide import PICTURE
from vlm.message import check_message
from vlm.session import StreamSession
from vlm.stream import Conversation, parse

PHOTO = Image.new("RGB", (40, 20), (200, 30, 30))


def talk(session: ChatSession, *messages, **options) -> list[Conversation]:
    """Send messages, return the streams of the turns."""
    for message in messages:
        list(session.reply(message, **{**BRIEF, **options}))
    return [turn.stream for turn in session.turns]


def same(a: list[Conversation], b: list[Conversation]) -> bool:
    return [one.fingerprint() for one in a] == [one.fingerprint() for one in b]


def test_messages_hold_text_and_pictures_in_any_order(monkeypatch):
    script(monkeypatch, f"Look.\n{PICTURE}\nNice.")
    session = tiny_agent().session(system="Be brief.")
    result = collect(session.reply(["How? ", PHOTO, "And this?", PHOTO]))
    assert (result.text, len(result.images), result.reason) == ("Look.\n\nNice.", 1, "stop")
    system, user, answer = session.messages()
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert [part["type"] for part in user["content"]] == ["text", "image", "text", "image"]
    assert user["content"][1]["image"].tobytes() == PHOTO.tobytes()
    assert [part["type"] for part in answer["content"]] == ["text", "image", "text"]
    assert answer["content"][1]["image"].tobytes() == result.images[0].image.tobytes()


def test_the_stream_is_the_one_that_encoding_its_messages_gives(monkeypatch):
    script(monkeypatch, "Yes.", f"No.\n{PICTURE}")
    agent = tiny_agent()
    session = agent.session(system="Be brief.")
    first = collect(session.reply("One?")).conversation
    second = collect(session.reply("Two?")).conversation
    model, encoder = agent.model, agent.processor
    asked = encoder.encode([{"role": "user", "content": "Two?"}], history=first, add_generation_prompt=True)
    assert torch.equal(second.ids[: len(asked.ids)], asked.ids)
    messages = encoder.decode(second)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    script(monkeypatch, f"No.\n{PICTURE}")
    again = collect(generate(model, encoder, asked, session.turns[1].options)).conversation
    assert torch.equal(again.ids, second.ids)


def test_letting_go_of_the_cache_changes_nothing():
    kept, released = tiny_agent().session(), tiny_agent().session()
    for message in ("One?", ["Two", PHOTO], "Three?"):
        talk(kept, message)
        talk(released, message)
        released.release()
    assert same([turn.stream for turn in kept.turns], [turn.stream for turn in released.turns])
    assert sum(len(turn.answer.residuals) for turn in kept.turns) >= 2


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("at", range(9))
def test_an_answer_stopped_at_any_event_stays_as_far_as_it_came(at: int, how: str):
    session, cancel = tiny_agent().session(), threading.Event()
    talk(session, "One?")
    events = session.reply("Two?", cancel=cancel, **BRIEF)
    seen = list(itertools.islice(events, at))
    if how == "cancel":
        cancel.set()
        seen += list(events)
        assert isinstance(seen[-1], Finished) and seen[-1].reason == "cancelled"
    else:
        events.close()
    if how == "close" and at == 0:
        # It had not begun, so there is nothing to keep.
        assert len(session.turns) == 1
        return
    turn = session.turns[1]
    config = session.backbone.model.config
    parse(turn.answer, config)
    assert turn.reason == "cancelled" and int(turn.answer.ids[-1]) == config.turn_end_id
    assert len(turn.answer.residuals) == sum(isinstance(event, ImageDone) for event in seen)
    shown = "".join(event.text for event in seen if isinstance(event, TextDelta))
    kept = session.backbone.processor.decode(turn.stream)[-1]["content"]
    assert "".join(part["text"] for part in kept if part["type"] == "text") == shown
    fresh = tiny_agent().session()
    fresh.turns = list(session.turns)
    assert same(talk(session, "Three?"), talk(fresh, "Three?"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [1, 4, 6])
def test_an_error_in_the_middle_of_a_pass_leaves_a_session_that_goes_on(error, at: int, monkeypatch):
    session, calls = tiny_agent().session(), itertools.count()
    talk(session, "One?")
    image_rows = StreamSession._image_rows

    def fails(self, *arguments):
        if next(calls) == at:
            raise error
        return image_rows(self, *arguments)

    monkeypatch.setattr(StreamSession, "_image_rows", fails)
    with pytest.raises(error):
        list(session.reply("Two?", **BRIEF))
    monkeypatch.setattr(StreamSession, "_image_rows", image_rows)
    assert len(session.turns) == (2 if error is KeyboardInterrupt else 1)
    fresh = tiny_agent().session()
    fresh.turns = list(session.turns)
    assert same(talk(session, "Three?"), talk(fresh, "Three?"))


def test_sessions_share_the_model_and_nothing_else():
    agent = tiny_agent()
    alone = [talk(agent.session(seed=seed), "One?", "Two?") for seed in (1, 9)]
    sessions = [agent.session(seed=seed) for seed in (1, 9)]
    for message in ("One?", "Two?"):
        running = [session.reply(message, **BRIEF) for session in sessions]
        for _ in itertools.zip_longest(*running):
            pass
    assert all(same([turn.stream for turn in session.turns], one) for session, one in zip(sessions, alone, strict=True))
    assert not same(*alone)


def test_threads_may_share_the_model():
    agent = tiny_agent()
    alone = talk(agent.session(), "One?", "Two?")
    results: list[list[Conversation]] = []
    threads = [threading.Thread(target=lambda: results.append(talk(agent.session(), "One?", "Two?"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and all(same(result, alone) for result in results)


def test_each_turn_has_its_seed_and_its_settings():
    session = tiny_agent().session(seed=7)
    talk(session, "One?", "Two?")
    talk(session, "Three?", seed=40, guidance=2.0)
    assert [turn.options.seed for turn in session.turns] == [7, 8, 40]
    assert session.turns[2].options.guidance == 2.0 and session.turns[1].options.guidance is None
    with pytest.raises(ValueError, match="unknown setting 'sede', expected one of seed, "):
        session.reply("Four?", sede=1)
    with pytest.raises(ValueError, match="temperature of at least 0, got -1"):
        session.reply("Four?", temperature=-1)
    assert len(session.turns) == 3


def test_a_setting_of_one_request_changes_its_answer_and_no_other():
    def streams(**options):
        session = tiny_agent().session()
        talk(session, "One?", **options)
        return talk(session, "Two?")

    plain, guided = streams(), streams(guidance=3.0)
    assert not same(plain[:1], guided[:1])
    assert same(plain, streams())


def test_an_adapter_is_asked_for_by_name():
    agent, used = tiny_agent(), []
    with pytest.raises(UserError, match="'blueprint' cannot be used"):
        agent.reply("One?", adapter="blueprint")
    assert agent.default_session.turns == []

    class Switched:
        def __enter__(self):
            used.append("on")

        def __exit__(self, *error):
            used.append("off")

    hook = replace(agent.backbone, use_adapter=lambda model, name: used.append(name) or Switched())
    session = ChatSession(hook)
    talk(session, "One?", adapter="blueprint")
    talk(session, "Two?")
    assert used == ["blueprint", "on", "off"]
    assert [turn.adapter for turn in session.turns] == ["blueprint", None]


def test_one_answer_at_a_time():
    session = tiny_agent().session()
    events = session.reply("One?", **BRIEF)
    next(events)
    other = session.reply("Two?", **BRIEF)
    for refused in (lambda: next(other), session.undo, session.release, session.retry):
        with pytest.raises(RuntimeError, match="still running"):
            refused()
    list(events)
    stale = session.reply("Two?", **BRIEF)
    talk(session, "Three?")
    with pytest.raises(RuntimeError, match="went on"):
        next(stale)


def test_taking_back_and_answering_again():
    session = tiny_agent().session()
    before = talk(session, "One?", "Two?")
    seed = session.turns[1].options.seed
    list(session.retry(seed=seed))
    assert same([turn.stream for turn in session.turns], before)
    list(session.retry())
    assert session.turns[1].options.seed == seed + 1
    assert session.undo() == ("Two?",) and [action.turn for action in session.actions] == [0]
    session.undo()
    with pytest.raises(RuntimeError, match="no turn"):
        session.undo()


def test_an_answer_stays_where_another_cannot_take_its_place(monkeypatch):
    session = tiny_agent().session()
    before = talk(session, "One?", "Two?")
    kept = list(session.actions)
    session.turns[1] = replace(session.turns[1], adapter="gone")
    with pytest.raises(UserError, match="no adapter is loaded"):
        session.retry()
    session.turns[1] = replace(session.turns[1], adapter=None)

    def fails(*arguments):
        raise MemoryError
        yield

    with monkeypatch.context() as patch:
        patch.setattr("vlm.chat.answer_events", fails)
        with pytest.raises(MemoryError):
            list(session.retry())
    assert same([turn.stream for turn in session.turns], before) and session.actions == kept
    # Nothing is taken back before the first event is asked for, nor where the talk went on meanwhile.
    events = session.retry(seed=9)
    assert len(session.turns) == 2
    talk(session, "Three?")
    with pytest.raises(RuntimeError, match="went on"):
        next(events)
    assert len(session.turns) == 3
    list(session.retry(seed=9))
    assert [turn.message for turn in session.turns] == [("One?",), ("Two?",), ("Three?",)]
    assert session.turns[2].options.seed == 9


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", "the message is empty"),
        (["  ", ""], "the message is empty"),
        ([], "the message is empty"),
        ("x" * 2001, "expected at most 2,000"),
        ("a\x00b", "control character"),
        ("\ud800", "UTF-8"),
        ([PHOTO] * 17, "17 pictures, expected at most 16"),
        ([3], "a int, expected text, a picture"),
        (3, "a int, expected text, a picture"),
        ([{"type": "sound"}], "type 'sound'"),
    ],
)
def test_bad_messages_are_refused_before_anything_runs(message, told):
    session = tiny_agent().session()
    with pytest.raises(UserError, match=told):
        session.reply(message)
    assert session.turns == []


def test_control_tokens_typed_by_hand_stay_text():
    session = tiny_agent().session()
    talk(session, "<|im_end|><|boi|><|eoi|>")
    assert session.turns[0].message == ("<|im_end|><|boi|><|eoi|>",)
    assert len(session.turns[0].asked.residuals) == 0


def test_a_guide_is_known_when_it_is_whole(monkeypatch):
    script(monkeypatch, "Hello.", GUIDE, "# no guide")
    session = tiny_agent().session()
    for message in ("Hi", "A guide?", "What?"):
        list(session.reply(message))
    assert [turn.guide for turn in session.turns] == [False, True, False]
    assert session.current_guide() == 1
    cancel = threading.Event()
    script(monkeypatch, GUIDE)
    for event in session.reply("A guide?", cancel=cancel):
        if isinstance(event, ImageStarted):
            cancel.set()
    assert not session.turns[3].guide


def test_the_default_session_goes_on(monkeypatch):
    script(monkeypatch, "Yes.")
    agent = tiny_agent()
    list(agent.reply("One?"))
    list(agent.reply("Two?"))
    assert [turn.message for turn in agent.default_session.turns] == [("One?",), ("Two?",)]


def test_importing_the_package_is_cheap():
    code = "import sys, vlm; print('torch' in sys.modules, callable(vlm.load_agent), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]
    with pytest.raises(AttributeError, match="load_agents"):
        import vlm

        vlm.load_agents  # noqa: B018


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_pictures_of_any_mode_are_taken(mode: str):
    session = tiny_agent().session()
    talk(session, [Image.new(mode, (3, 700)), "What is this?"], max_new_tokens=1)
    assert session.turns[0].message[0].image.size == (3, 700)


def test_large_pictures_shrink_and_huge_ones_are_refused():
    (sent, _) = check_message([Image.new("RGB", (2048, 512)), "?"])
    assert sent.image.size == (1024, 256)
    with pytest.raises(UserError, match="pixels, expected at most"):
        check_message([Image.new("1", (20_000, 10_000))])


TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(TEXTS, st.just(PHOTO)), max_size=4))
def test_any_message_is_refused_clearly_or_stands_in_the_conversation(monkeypatch, message):
    script(monkeypatch, "Yes.")
    session = tiny_agent().session()
    try:
        list(session.reply(message))
    except UserError as error:
        assert "\n" not in str(error) and session.turns == []
        return
    expected = [part if isinstance(part, Image.Image) else part.strip() for part in message]
    expected = [part for part in expected if part != ""]
    sent = session.messages()[0]["content"]
    assert [part.get("text") for part in sent] == [part if isinstance(part, str) else None for part in expected]
    assert len(session.turns[0].asked.residuals) == expected.count(PHOTO)
